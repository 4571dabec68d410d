"""Files of old formats are migrated in one transaction, whoever looks on or gets in the way; newer ones are refused."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import golden_content
import pytest
import sqlite_oracle
from helpers_processes import fork, wait_for
from helpers_store import dump
from old_files import FORMATS, GOLDEN, NEWEST, STATES, OldFile, make
from proof_old_files import prove

from sqlitestore import (
    Damaged,
    DiskFull,
    FlowDataStore,
    NewerFormat,
    StoreUnavailable,
    schema,
)

OLD = range(1, NEWEST)


@pytest.fixture
def opened_connections() -> Iterator[Callable[[Callable[[apsw.Connection], object]], None]]:
    """Have a function called with every connection that is opened until the test's end."""
    hooks = list(apsw.connection_hooks)
    yield apsw.connection_hooks.append
    apsw.connection_hooks[:] = hooks


def test_a_migration_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Some of the moments that the long run has all: before and after the commit, of files in every state."""
    figures = prove(45, 5, str(tmp_path))
    assert figures["crashes"] == 45
    assert figures["moments that there are"] > 800
    for number in OLD:
        assert figures[f"found as format {number}, was {number}"] > 0
        assert figures[f"found as format {NEWEST}, was {number}"] > 0
    for state in STATES:
        assert figures[f"crashes of a file {state}"] > 0


# Seeded faults


def _commit(connection: apsw.Connection) -> None:
    connection.execute("COMMIT")
    connection.execute("BEGIN EXCLUSIVE")


def _commit_between_steps(connection: apsw.Connection, found: int) -> None:
    for step in range(found, NEWEST):
        schema.MIGRATIONS[step](connection)
        connection.pragma("user_version", step + 1)
        _commit(connection)


def _commit_within_a_step(connection: apsw.Connection, found: int) -> None:
    for step in range(found, NEWEST):
        schema.MIGRATIONS[step](connection)
        _commit(connection)
    connection.pragma("user_version", NEWEST)


def _version_first(connection: apsw.Connection, found: int) -> None:
    connection.pragma("user_version", NEWEST)
    _commit(connection)
    for step in range(found, NEWEST):
        schema.MIGRATIONS[step](connection)


def _trust_archives(connection: apsw.Connection, found: int) -> None:
    _whole(connection, found)
    connection.execute("DELETE FROM untrusted")


def _lose_a_row(connection: apsw.Connection, found: int) -> None:
    _whole(connection, found)
    connection.execute("DELETE FROM task_metadata WHERE name = 'none'")


_whole = schema.migrate

FAULTS = {
    "commits between the steps": _commit_between_steps,
    "commits within a step": _commit_within_a_step,
    "sets the version before the steps": _version_first,
    "trusts archives": _trust_archives,
    "loses a row": _lose_a_row,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A migration that does it otherwise is found out, and the error says with which seed."""
    monkeypatch.setattr(schema, "migrate", FAULTS[fault])
    with pytest.raises(AssertionError, match=r"seed 3, .*killed at event \d+: "):
        prove(150, 3, str(tmp_path))


# One transaction


@pytest.mark.parametrize("fault", [None, *list(FAULTS)[:3]])
@pytest.mark.parametrize("number", OLD)
def test_a_migration_is_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_connections: Any, number: int, fault: str | None
) -> None:
    """The one commit of opening an old file comes after all that it changes; not so with a seeded fault."""
    path = str(tmp_path / "runs.db")
    make(path, number, "as it was made")
    events: list[str] = []

    def watch(connection: apsw.Connection) -> None:
        connection.set_commit_hook(lambda: bool(events.append("(commit)")))
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: events.append(event["sql"]))

    opened_connections(watch)
    if fault:
        monkeypatch.setattr(schema, "migrate", FAULTS[fault])
    FlowDataStore("GoldenFlow", ds_root=path).close()
    changes = [event for event in events if event.startswith(("CREATE", "(commit)")) or "user_version=" in event]
    new = [sql for name, sql in FORMATS[NEWEST].items() if name not in FORMATS[number]]
    assert sorted(event for event in changes if event.startswith("CREATE")) == sorted(new)
    assert (changes.count("(commit)") == 1 and changes[-1] == "(commit)") == (fault is None), changes


@pytest.mark.parametrize("number", OLD)
def test_a_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path, number: int) -> None:
    """Its schema is to the letter, and in the order, that of a file that this version makes; the rows are the old."""
    path, new = str(tmp_path / "runs.db"), str(tmp_path / "new.db")
    make(path, number, "as it was made")
    before = dump(path)
    FlowDataStore("GoldenFlow", ds_root=path).close()
    FlowDataStore("GoldenFlow", ds_root=new).close()
    statement = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
    found = []
    for file in (path, new):
        connection = sqlite_oracle.connect(file)
        found.append(connection.execute(statement).fetchall())
        connection.close()
    assert found[0] == found[1]
    after = dump(path)
    assert after == before | {name: [] for name in after.keys() - before.keys()}
    assert (len(after) > len(before)) == (number < 3)  # format 4 has no table more
    sqlite_oracle.check_file(path)


# Others at the same time


@pytest.mark.parametrize("processes", [2, 8])
@pytest.mark.parametrize("number", OLD)
def test_processes_that_open_an_old_file_at_once_migrate_it_once(tmp_path: Path, number: int, processes: int) -> None:
    """All of them read everything, and the file is migrated and whole."""
    path = str(tmp_path / "runs.db")
    make(path, number, "as it was made")
    old = OldFile(path, number, "as it was made", str(tmp_path))
    barrier = multiprocessing.get_context("fork").Barrier(processes)

    def open_and_read() -> None:
        barrier.wait(60)
        golden_content.check(path)

    wait_for(*(fork(open_and_read) for _ in range(processes)))
    old.check_opened(path)


@pytest.mark.parametrize("state", ["as it was made", "in rollback mode"])
@pytest.mark.parametrize("holds", ["BEGIN; SELECT * FROM flow", "BEGIN IMMEDIATE"])
def test_an_old_version_that_has_the_file_open_is_waited_for(tmp_path: Path, state: str, holds: str) -> None:
    """It reads its snapshot to the end, or writes and commits; then (or beside a reader's log) the file is migrated."""
    path = str(tmp_path / "runs.db")
    make(path, 1, state)
    old = apsw.Connection(path)
    old.execute(holds).fetchall()
    times: list[float] = []

    def end() -> None:
        time.sleep(1.5)
        assert old.execute("SELECT name FROM flow").fetchall() == [("GoldenFlow",)]
        assert old.pragma("user_version") == 1
        if "IMMEDIATE" in holds:
            old.execute("INSERT INTO flow(name) VALUES ('of the old version')")
        times.append(time.monotonic())
        old.execute("COMMIT")

    thread = threading.Thread(target=end)
    thread.start()
    with FlowDataStore("GoldenFlow", ds_root=path) as flow:
        migrated = time.monotonic()
        thread.join()
        flows = flow._storage_impl.flows()
    old.close()
    assert ("of the old version" in flows) == ("IMMEDIATE" in holds)
    if state == "in rollback mode" or "IMMEDIATE" in holds:
        assert migrated > times[0]
    golden_content.check(path)
    sqlite_oracle.check_file(path)


def test_a_newer_version_that_is_faster_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_connections: Any
) -> None:
    """It migrates the file between our look and our lock: refused, and the file keeps its newer format."""
    path = str(tmp_path / "runs.db")
    make(path, 1, "in rollback mode")

    def be_faster(connection: apsw.Connection) -> None:
        def before(_: object) -> None:
            connection.trace_v2(0, None)
            newer = sqlite_oracle.apsw.Connection(path)
            newer.execute(f"CREATE TABLE later(x); PRAGMA user_version={NEWEST + 1}")
            newer.close()

        connection.trace_v2(
            apsw.SQLITE_TRACE_STMT, lambda event: before(event) if event["sql"] == "BEGIN EXCLUSIVE" else None
        )
        apsw.connection_hooks.remove(be_faster)

    opened_connections(be_faster)
    with pytest.raises(NewerFormat, match=rf"format {NEWEST + 1}.* to {NEWEST}"):
        FlowDataStore("GoldenFlow", ds_root=path)
    connection = sqlite_oracle.connect(path)
    assert connection.pragma("user_version") == NEWEST + 1
    connection.close()


# What cannot be migrated


@pytest.mark.parametrize("state", ["as it was made", "in rollback mode"])
def test_a_migration_that_finds_no_room_changes_nothing(tmp_path: Path, state: str) -> None:
    """Wherever the disk is full: an error that says so, and the old file, which is migrated when there is room."""
    path = str(tmp_path / "runs.db")
    make(path, 1, state)
    old = OldFile(path, 1, state, str(tmp_path))

    def open_in(limit: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with pytest.raises((DiskFull, StoreUnavailable)):
            FlowDataStore("GoldenFlow", ds_root=path)

    for limit in (512, 1000, 8192, 30_000):
        wait_for(fork(open_in, limit))
        assert old.check_after_a_crash(path) == 1
    old.check_opened(path)


@pytest.mark.parametrize("sql", ["CREATE TABLE trash(x)", "CREATE VIEW v AS SELECT 1", "DROP INDEX file_by_blob"])
def test_an_old_file_that_was_altered_is_refused_as_it_is(tmp_path: Path, sql: str) -> None:
    """Nothing is migrated in a file that does not have the tables of its format."""
    path = str(tmp_path / "runs.db")
    make(path, 1, "in rollback mode")
    connection = apsw.Connection(path)
    connection.execute(sql)
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(Damaged, match="format 1"):
        FlowDataStore("GoldenFlow", ds_root=path)
    assert Path(path).read_bytes() == before


def test_an_old_file_with_a_log_is_read_where_nothing_can_be_written(tmp_path: Path, as_nobody: Any) -> None:
    """What the old version had committed before it was killed is seen, also where only reading is allowed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = str(folder / "runs.db")
    make(path, 1, "with a log left")
    for entry in folder.iterdir():
        entry.chmod(0o444)

    def read() -> None:
        with FlowDataStore("GoldenFlow", ds_root=path) as flow:
            assert flow._storage_impl.flows() == ["GoldenFlow", "in the log"]
        golden_content.check(path)

    as_nobody(read)


def test_the_formats_here_are_those_of_the_package() -> None:
    """The schemas that the golden files have are what the package checks files against."""
    assert FORMATS == schema.SCHEMAS
    assert os.path.exists(GOLDEN / f"format-{schema.NEWEST_FORMAT}.db")
