"""The files that are damaged: with rows in every table, trees of several levels, free pages, and a past."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import helpers_everything
from damage_answers import expected
from damage_kinds import Whole
from helpers_inventory import Items, pages_of
from helpers_store import FLOW, save_task

from sqlitestore import FlowDataStore
from sqlitestore.blobs import payload_of
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import RegisteredMetadatum, Registrations
from sqlitestore.trash import Trash

PAGE_SIZES = (8192, 512)
"""[bytes] That of our own files, and the smallest, with which even small tables have several levels."""


class Subject(NamedTuple):
    """A file at rest: the right answers to everything now, and those that were right at earlier times."""

    whole: Whole
    answers: Items
    earlier: tuple[Items, ...]


def make_subject(folder: str, page_size: int) -> Subject:
    """Make a file that changed three times."""
    path = helpers_everything.make(os.path.join(folder, f"made-{page_size}.db"), tasks=4, size=70_000)
    _more_rows(path)
    run(path, f"PRAGMA journal_mode=DELETE; PRAGMA page_size={page_size}; VACUUM; PRAGMA journal_mode=WAL")
    states = []
    for number in range(4):
        if number:
            change(path, number)
        states.append((Path(path).read_bytes(), expected(path)))
    (content, answers), before = states[-1], states[:-1]
    assert int.from_bytes(content[16:18], "big") == page_size
    assert int.from_bytes(content[36:40], "big") > 2, "there are no free pages"
    whole = Whole(content, page_size, pages_of(path), tuple(state for state, _ in before))
    return Subject(whole, answers, tuple(each for _, each in before))


def run(path: str, statements: str) -> None:
    """Execute statements to the end of the last, on a connection that is not ours."""
    connection = apsw.Connection(path)
    connection.execute(statements).fetchall()
    connection.close()


def _more_rows(path: str) -> None:
    """Add runs, registrations, files and data, so that small tables are not of one page."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        storage: Any = flow._storage_impl
        registrations = Registrations(storage.database)
        for number in range(8):
            name = f"more-{number}"
            storage.start_attempt(TaskAddress(FLOW, name, "a", "1"), 0, 1_700_000_000.0 + number)
            registrations.add_run(FLOW, name, "ada", 1_700_000_000_000 + number, {f"tag {number}"}, {"sys"})
            registrations.add_task(FLOW, name, "a", "1", "ada", 1_700_000_000_000 + number)
            found = RegisteredMetadatum("a", "1", "field", number, "t", ("tag",), "ada", 1_700_000_000_000)
            registrations.add_metadata(FLOW, name, [found, found._replace(value="last")])
            storage.save_file(f"more/{number}", payload_of(b"file %d" % number), f'{{"number": {number}}}')
        flow.save_data([b"more data %d" % number for number in range(20)])
        for number in (6, 7):
            Trash(storage.database).put(FLOW, f"more-{number}")
    distrust = "INSERT INTO untrusted SELECT id, 'elsewhere' FROM run WHERE name IN ('more-1', 'more-2')"
    run(path, f"PRAGMA foreign_keys=ON; {distrust}")


def change(path: str, number: int) -> None:
    """Do what people do: finish tasks, let logs grow, overwrite, tag, prune; and leave free pages."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        change_open(flow, number)
    connection = apsw.Connection(path)
    connection.execute("PRAGMA foreign_keys=OFF; CREATE TABLE passing(bytes)").fetchall()
    connection.execute("INSERT INTO passing VALUES (zeroblob(30000)); DROP TABLE passing").fetchall()
    connection.close()


def change_open(flow: FlowDataStore, number: int) -> None:
    """Do it in an open store: several transactions."""
    storage: Any = flow._storage_impl
    for task in range(3):
        save_task(
            flow,
            "1",
            "later",
            f"{number}-{task}",
            text=f"later {number} {task}",
            own=os.fsencode(path_noise(number, task)),
        )
    address = TaskAddress(FLOW, "1", "a", "0")
    storage.save_metadata(address, 0, {"note": f'"changed {number}"', f"new {number}": "1"}, overwrite=True)
    log = helpers_everything.LOG + f"end of 1 0{' and more' * number}".encode()
    storage.save_log(address, 0, "task", "stdout", io.BytesIO(log))
    Registrations(storage.database).change_tags(FLOW, "1", lambda tags, _: tags | {f"tag {number}"})
    storage.save_file("cards/1.html", payload_of(b"<html>%d" % number), None, overwrite=True)
    flow.save_data([b"saved %d" % number])


def path_noise(number: int, task: int) -> str:
    """Return a text of some kilobytes, different for each task."""
    return " ".join(str(number * 7919 + task * 104_729 + word) for word in range(800))


class Beside(NamedTuple):
    """A file with a log or journal beside it, and the answers that are right at one of its transactions."""

    content: bytes
    beside: bytes
    suffix: str
    states: tuple[Items, ...]


def make_log(folder: str) -> Beside:
    """Make a file whose last transactions are only in the write-ahead log beside it."""
    path, copy = os.path.join(folder, "made-log.db"), os.path.join(folder, "made-copy.db")
    helpers_everything.make(path, tasks=1, size=70_000)
    logs: list[bytes] = []
    with FlowDataStore(FLOW, ds_root=path) as flow:
        content = Path(path).read_bytes()
        database: Any = flow._storage_impl.database  # type: ignore[attr-defined]
        commits = _each_commit(database, lambda: logs.append(Path(path + "-wal").read_bytes()))
        with commits:
            change_open(flow, 1)
        logs.append(Path(path + "-wal").read_bytes())
        assert Path(path).read_bytes() == content, "the log has been moved into the file"
    states = []
    for log in [b"", *logs]:
        Path(copy).write_bytes(content)
        Path(copy + "-wal").write_bytes(log)
        run(copy, "PRAGMA wal_checkpoint(TRUNCATE)")
        states.append(expected(copy))
    assert len(logs) > 5
    return Beside(content, logs[-1], "-wal", tuple(states))


class _each_commit:  # noqa: N801 - reads as a statement
    """Call something after each outermost transaction."""

    def __init__(self, database: Any, call: Any) -> None:
        self._database, self._call, self._write = database, call, database.write

    def __enter__(self) -> None:
        from contextlib import contextmanager

        @contextmanager
        def write() -> Any:
            with self._write() as connection:
                yield connection
            self._call()

        self._database.write = write

    def __exit__(self, *_: object) -> None:
        del self._database.write


def make_journal(folder: str) -> Beside:
    """Make a file with half a transaction in it, and the rollback journal that undoes it beside."""
    path = os.path.join(folder, "made-journal.db")
    helpers_everything.make(path, tasks=2, size=70_000)
    run(path, "PRAGMA journal_mode=DELETE")
    state = expected(path)
    connection = apsw.Connection(path)
    connection.execute("PRAGMA cache_size=1").fetchall()
    connection.execute("BEGIN; UPDATE attempt SET started = 1.0; DELETE FROM artifact; DELETE FROM chunk").fetchall()
    connection.cache_flush()
    content, journal = Path(path).read_bytes(), Path(path + "-journal").read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    assert journal[:2] == b"\xd9\xd5"
    return Beside(content, journal, "-journal", (state,))


def lay(beside: Beside, path: str, damaged: bytes) -> None:
    """Put the file and what is beside it at a path."""
    Path(path).write_bytes(beside.content)
    Path(path + beside.suffix).write_bytes(damaged)


def clear(path: str) -> None:
    """Remove a file with all that may be beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def copied(path: str, to: str) -> str:
    """Copy a file with all that is beside it."""
    clear(to)
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(path + suffix):
            shutil.copy(path + suffix, to + suffix)
    return to
