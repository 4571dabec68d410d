"""What a folder with files of ours says, unit by unit, read with SQL of our own past the package.

A unit is the smallest thing that is there or not there: an attempt with its artifacts, a log, a metadatum, a tag set, a
named file. Its value leaves out what differs from one time to the next: ids of rows, and when it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
from sqlite_oracle import bytes_of, check_file, connect

Unit = tuple[Any, ...]
State = dict[Unit, Any]

COMPANIONS = ("-wal", "-shm", "-journal")
THEIR_PARTIAL = re.compile(r"tmp[a-z0-9_]{8}")
"""What Metaflow's local storage writes to before it gives a file its name; a kill leaves it, and nobody looks at it."""

HOT = bytes.fromhex("d9d505f920a163d7")
"""How a journal begins that is to be rolled back (https://www.sqlite.org/fileformat2.html#the_rollback_journal)."""

GOLDEN = Path(__file__).parent.parent / "golden"

LOGS = """SELECT a.run, a.step, a.task, a.number, l.source, l.stream, b.id FROM log l JOIN attempt a ON a.id = l.attempt
 JOIN blob b ON b.id = l.blob ORDER BY l.attempt, l.source, l.stream, l.part"""
PLAIN = {
    "metadata": "SELECT run, step, task, attempt, name, value FROM task_metadata",
    "registered run": "SELECT run, tags || ' ' || system_tags || ' ' || task_ids FROM registered_run",
    "registered step": "SELECT run, step, 'there' FROM registered_step",
    "registered task": "SELECT run, step, task, 'there' FROM registered_task",
    "registered metadata": "SELECT run, step, task, position, field_name || '=' || value || ' ' || type || ' ' || tags"
    " FROM registered_metadata",
    "registered artifact": "SELECT run, step, task, attempt, name, content_type || ' ' || sha || ' ' || ds_type || ' '"
    " || location FROM registered_artifact",
    "untrusted": "SELECT run, origin FROM untrusted",
    "trashed file": "SELECT t.run, t.path, lower(hex(b.key)) FROM trashed_file t JOIN blob b ON b.id = t.blob",
}
"""By the kind of unit: the run's row, the rest of its name, and its value."""


def recovered(folder: str, copy: str) -> State:
    """Copy a folder that nobody works in, have SQLite itself recover its files, check them; return what they say."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    for path in databases(copy):
        connection = apsw.Connection(path)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        connection.close()
        _remove_cold_journal(f"{path}-journal")
        for suffix in COMPANIONS:
            assert not os.path.exists(path + suffix), f"{path}{suffix} is left by SQLite's own recovery"
    return state_of(copy)


def _remove_cold_journal(path: str) -> None:
    """Remove a journal that has nothing to undo, which SQLite leaves for the next writer to overwrite."""
    if os.path.exists(path):
        assert Path(path).read_bytes()[: len(HOT)] != HOT, f"{path} was not rolled back"
        os.unlink(path)


def databases(folder: str) -> list[str]:
    """Return the paths of the files of ours in a folder, but for those on their way."""
    return sorted(
        os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".db") and not name.startswith(".")
    )


def state_of(folder: str) -> State:
    """Return what the closed files in a folder say; each is checked to keep the invariants first."""
    state: State = {}
    for path in databases(folder):
        if is_only_begun(path):
            continue  # for everybody it is a file that is not there yet
        name = os.path.basename(path)
        assert not [other for other in os.listdir(folder) if other.startswith(name) and other != name]
        state |= {(name, *unit): value for unit, value in _state_of_file(path).items()}
    for path in _others(folder):
        state[os.path.relpath(path, folder), "bytes"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return state


_seen: dict[bytes, State] = {}


def _state_of_file(path: str) -> State:
    """Return what a file says after checking it; once for files of the same bytes, since most do not change."""
    content = hashlib.sha256(Path(path).read_bytes()).digest()
    if content not in _seen:
        check_file(path)
        connection = connect(path)
        try:
            _seen[content] = dict(_units(connection))
        finally:
            connection.close()
    return _seen[content]


def objects_of(path: str, unit: Unit) -> dict[str, bytes]:
    """Return the serialized artifacts of an attempt by name."""
    connection = connect(path)
    try:
        [found] = [attempt for attempt, of in _attempts(connection, _runs(connection)) if of == unit]
        rows = connection.execute("SELECT name, blob FROM artifact WHERE attempt = ? ORDER BY position", (found,))
        return {name: bytes_of(connection, blob) for name, blob in rows.fetchall()}
    finally:
        connection.close()


def names_in(folder: str) -> list[str]:
    """Return every name in a folder, the hidden ones too."""
    found = [
        os.path.relpath(os.path.join(above, name), folder) for above, _, names in os.walk(folder) for name in names
    ]
    return sorted(name for name in found if not THEIR_PARTIAL.fullmatch(os.path.basename(name)))


def is_only_begun(path: str) -> bool:
    """Whether a file has nothing yet, not even tables: whoever opens it to write makes them."""
    if not os.path.getsize(path):
        return True
    connection = connect(path)
    try:
        empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
        assert not empty or (connection.pragma("user_version"), connection.pragma("application_id")) == (0, 0)
        return bool(empty)
    finally:
        connection.close()


def _others(folder: str) -> Iterator[str]:
    for above, _, names in os.walk(folder):
        for name in names:
            is_ours = above == folder and (name.startswith(".") or name.removesuffix("-wal").endswith(".db"))
            if not is_ours and not name.endswith(COMPANIONS) and not THEIR_PARTIAL.fullmatch(name):
                yield os.path.join(above, name)


def _units(connection: apsw.Connection) -> Iterator[tuple[Unit, Any]]:
    runs = _runs(connection)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    yield ("schema",), _schema(connection)
    for flow, run in filter(None, runs.values()):
        yield ("run", flow, run), "there"
    for attempt, unit in _attempts(connection, runs):
        yield unit, _attempt(connection, attempt, tables)
    logs: dict[Unit, bytes] = {}
    for run, *rest, blob in connection.execute(LOGS).fetchall():
        if runs[run]:
            unit = ("log", *runs[run], *rest)
            logs[unit] = logs.get(unit, b"") + bytes_of(connection, blob)
    yield from logs.items()
    for kind, statement in PLAIN.items():
        if kind.replace(" ", "_").replace("metadata", "task_metadata" if kind == "metadata" else "metadata") in tables:
            for run, *rest, value in connection.execute(statement).fetchall():
                if runs[run]:
                    yield (kind, *runs[run], *rest), value
    if "trash" in tables:
        of_trash = (
            "SELECT f.name, t.name, t.purging FROM trash t JOIN run r ON r.id = t.run JOIN flow f ON f.id = r.flow"
        )
        for flow, name, purging in connection.execute(of_trash).fetchall():
            yield ("trash", flow, name), "purging" if purging else "whole"
    for path, key, metadata in connection.execute(
        "SELECT p.path, lower(hex(b.key)), p.metadata FROM file p JOIN blob b ON b.id = p.blob"
    ).fetchall():
        yield ("file", path), (key, metadata)
    for flow, key in connection.execute(
        "SELECT f.name, lower(hex(b.key)) FROM data d JOIN flow f ON f.id = d.flow JOIN blob b ON b.id = d.blob"
    ).fetchall():
        yield ("data", flow, key), "there"


def _runs(connection: apsw.Connection) -> dict[int, tuple[str, str] | None]:
    """Return flow and name of each run by its row: "trash/..." for one in the trash, None for one being purged."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    runs: dict[int, tuple[str, str] | None] = {
        row: (flow, name)
        for row, flow, name in connection.execute("SELECT r.id, f.name, r.name FROM run r JOIN flow f ON f.id = r.flow")
    }
    if "trash" in tables:
        for row, name, purging in connection.execute("SELECT run, name, purging FROM trash").fetchall():
            known = runs[row]
            assert known is not None
            runs[row] = None if purging else (known[0], f"trash/{name}")
    return runs


def _attempts(connection: apsw.Connection, runs: dict[int, tuple[str, str] | None]) -> Iterator[tuple[int, Unit]]:
    for row, run, *rest in connection.execute("SELECT id, run, step, task, number FROM attempt").fetchall():
        names = runs[run]
        if names:
            yield row, ("attempt", *names, *rest)


def _attempt(connection: apsw.Connection, attempt: int, tables: set[str]) -> tuple[Any, ...]:
    [times] = connection.execute("SELECT started, done FROM attempt WHERE id = ?", (attempt,)).fetchall()
    artifacts = connection.execute(
        "SELECT x.name, lower(hex(b.key)) FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.attempt = ?", (attempt,)
    ).fetchall()
    if "stub" in tables:
        artifacts += connection.execute(
            "SELECT name, 'left out ' || lower(hex(key)) FROM stub WHERE attempt = ?", (attempt,)
        ).fetchall()
    return (*(time is not None for time in times), tuple(sorted(artifacts)))


_known: dict[int, Any] = {}


def _schema(connection: apsw.Connection) -> int:
    """Return the format, after checking that the tables are those of the golden file of that format."""
    found = connection.pragma("user_version")
    if not _known:
        for path in GOLDEN.glob("format-*.db"):
            golden = connect(str(path))
            _known[int(path.stem.removeprefix("format-"))] = _tables_of(golden)
            golden.close()
    assert _tables_of(connection) == _known[found], f"the tables are not those of format {found}"
    return int(found)


def _tables_of(connection: apsw.Connection) -> Any:
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'").fetchall()
    return connection.pragma("application_id"), sorted(rows)
