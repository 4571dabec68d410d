"""Files of old formats in every state in which somebody may find them, and what each must hold after it was opened."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import golden_content
import sqlite_oracle
from helpers_processes import fork
from helpers_store import dump

from sqlitestore import FlowDataStore, Untrusted, schema, verify

GOLDEN = Path(__file__).parent.parent / "golden"
NEWEST = 4

State = Callable[[str], object]


def _by_a_killed_process(work: Callable[[], apsw.Connection]) -> None:
    """Kill a process that has worked, with its connection open."""

    def child() -> None:
        connection = work()
        assert connection.in_transaction
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(child), 0)[1]) == -signal.SIGKILL


def _log_left(path: str) -> None:
    """The old version was killed with a commit in its log, and in the middle of a further one."""

    def write() -> apsw.Connection:
        connection = apsw.Connection(path)
        connection.execute("PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=1; PRAGMA journal_mode=WAL").fetchall()
        connection.execute("INSERT INTO flow(name) VALUES ('in the log')")
        connection.execute(
            "BEGIN; INSERT INTO flow(name) VALUES ('not committed'); UPDATE chunk SET bytes = zeroblob(length(bytes))"
        )
        return connection

    _by_a_killed_process(write)
    assert os.path.getsize(path + "-wal") > 100_000


def _rollback_mode(path: str) -> None:
    connection = apsw.Connection(path)
    assert connection.pragma("journal_mode", "delete") == "delete"
    connection.close()


def _journal_left(path: str) -> None:
    """The old version was killed while it wrote the file itself: what was there is in the journal."""
    _rollback_mode(path)

    def write() -> apsw.Connection:
        connection = apsw.Connection(path)
        connection.execute("PRAGMA cache_size=1; BEGIN").fetchall()
        connection.execute("UPDATE chunk SET bytes = zeroblob(length(bytes)); UPDATE blob SET size = 0")
        return connection

    before = Path(path).read_bytes()
    _by_a_killed_process(write)
    assert os.path.getsize(path + "-journal") > 100_000
    assert Path(path).read_bytes() != before


def _archive(path: str) -> None:
    _rollback_mode(path)
    connection = apsw.Connection(path)
    connection.execute("UPDATE store SET kind = 'archive'")
    connection.close()


STATES: dict[str, State] = {
    "as it was made": lambda path: None,
    "with a log left": _log_left,
    "in rollback mode": _rollback_mode,
    "with a journal left": _journal_left,
    "an archive": _archive,
}


def make(path: str, number: int, state: str) -> None:
    """Make a file of format ``number`` in a state."""
    shutil.copy(GOLDEN / f"format-{number}.db", path)
    STATES[state](path)


def copy(source: str, target: str) -> None:
    """Copy a file with what a crash left beside it; the shared memory is SQLite's to make again."""
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(source + suffix):
            shutil.copy(source + suffix, target + suffix)


class OldFile:
    """What a file held before anything of ours opened it, by SQL."""

    def __init__(self, path: str, number: int, state: str, folder: str) -> None:
        self.number, self.state = number, state
        self._folder = folder
        self._rows = self._raw(path)[2]

    def _raw(self, path: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Return version, schema and rows, read by SQLite from a copy, which may bring it to rest."""
        with_rest = os.path.join(self._folder, "raw.db")
        copy(path, with_rest)
        connection = apsw.Connection(with_rest)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            version = connection.pragma("user_version")
            tables = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
            tables.pop("sqlite_sequence", None)
        finally:
            connection.close()
        found = version, tables, dump(with_rest)
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(with_rest + suffix).unlink(missing_ok=True)
        return found

    def check_after_a_crash(self, path: str) -> int:
        """Raise AssertionError unless the file is the old one entirely, or the new one; return its version."""
        version, tables, rows = self._raw(path)
        assert version in {self.number, NEWEST}, f"it has format {version}"
        expected = FORMATS[version]
        assert tables == expected, f"with format {version} it has {sorted(tables.keys() ^ expected.keys())}"
        if version == self.number:
            assert rows == self._rows, f"with format {version} it has other rows"
        else:
            self._check_migrated(rows)
        return int(version)

    @property
    def _is_distrusted(self) -> bool:
        """Whether the migration says of each run that it came from an archive; from format 3 on they said it."""
        return self.state == "an archive" and self.number < 3

    def _check_migrated(self, rows: dict[str, Any]) -> None:
        """All rows are there, and the new tables are empty; but of an archive, no run is trusted."""
        new = {name: found for name, found in rows.items() if name not in self._rows}
        assert {name: found for name, found in rows.items() if name in self._rows} == self._rows
        origin = self._rows["store"][0][1]
        if self._is_distrusted:
            assert new.pop("untrusted") == [(run[0], origin) for run in self._rows["run"]]
        assert all(found == [] for found in new.values()), new

    def check_opened(self, path: str) -> None:
        """Raise AssertionError unless the file opens with all of its content, migrated and sound."""
        try:
            golden_content.check(path)
            assert not self._is_distrusted, "an archive is trusted"
        except Untrusted:
            assert self._is_distrusted
        with FlowDataStore("GoldenFlow", ds_root=path) as flow:
            outcome = verify(flow)
            assert outcome.ok, outcome.problems
        sqlite_oracle.check_file(path)
        version, tables, rows = self._raw(path)
        assert (version, tables) == (NEWEST, FORMATS[NEWEST])
        self._check_migrated(rows)


def _golden_schema(number: int) -> dict[str, str]:
    connection = sqlite_oracle.connect(GOLDEN / f"format-{number}.db")
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
    connection.close()
    del found["sqlite_sequence"]
    return found


FORMATS = {number: _golden_schema(number) for number in range(1, NEWEST + 1)}
"""What the schema of a format is, by the files that were written in its day."""

assert schema.NEWEST_FORMAT == NEWEST, "a new format needs its golden file, and a place here"
