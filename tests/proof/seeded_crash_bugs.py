"""Mistakes of the kinds that kills are to find, each put into the package by a function, in a child that is killed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import crash_scenarios
from crash_trials import Trial, nothing

from sqlitestore import chunk_stream, schema, tasks
from sqlitestore.archive import export, merge, records
from sqlitestore.artifact_rows import rows_of
from sqlitestore.chunk_stream import INSERT_BLOB, INSERT_CHUNK_OF, ChunkStream
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.files import Data
from sqlitestore.holds import hold
from sqlitestore.maintenance import prune, purge, reclaim
from sqlitestore.task_records import Logs
from sqlitestore.tasks import Finished, Tasks, attempt_id, digest_of
from sqlitestore.trash import Trash


class Seeded(NamedTuple):
    """A mistake: what puts it in, and the scenario and place at which a kill shows it."""

    name: str
    put_in: Callable[[], object]
    scenario: str
    point: str


def _finish_in_two(*, done_first: bool) -> Callable[[], object]:
    """Have the done marker and the artifact rows written in two transactions."""

    def put_in() -> None:
        def finish(self: Tasks, task: Any, number: int, artifacts: Any, done: float, pending: Any) -> None:
            self._blobs.put_what_waits(pending)
            finished = Finished(artifacts, done, ".".join(map(str, sys.version_info[:3])))
            rows = rows_of(task, artifacts)

            def mark() -> None:
                with self._database.write() as connection:
                    attempt, started, _ = attempt_id(connection, task, number)
                    of = digest_of(*rows)
                    digest = digest_of(*task, number, started, done, finished.python, of)
                    connection.execute(tasks.FINISH_ATTEMPT, (done, finished.python, of, digest, attempt))

            def insert() -> None:
                with self._database.write() as connection:
                    attempt = attempt_id(connection, task, number)[0]
                    for position, (name, key, *rest) in enumerate(rows):
                        [(blob,)] = connection.execute(tasks.SELECT_BLOB_ID, (key,)).fetchall()
                        connection.execute(tasks.INSERT_ARTIFACT, (attempt, name, position, blob, *rest))

            for step in (mark, insert) if done_first else (insert, mark):
                step()
                crash_point("attempt-artifacts-inserted")

        Tasks.finish = finish  # type: ignore[method-assign]

    return put_in


def _version_apart() -> None:
    """Have a migration's version set in a transaction of its own."""

    def migrate(connection: Any, found: int) -> None:
        for step in range(found, schema.NEWEST_FORMAT):
            schema.MIGRATIONS[step](connection)
        connection.execute("COMMIT")
        connection.execute("BEGIN EXCLUSIVE")
        connection.pragma("user_version", schema.NEWEST_FORMAT)
        crash_point("migration-versioned")

    schema.migrate = migrate


def _named_at_once() -> None:
    """Have a new file called by its name before it is filled."""

    @contextmanager
    def new_file(path: str, *, replace: bool = False) -> Iterator[str]:
        del replace
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        yield path

    export.new_file = new_file  # type: ignore[attr-defined]


def _log_acknowledged_early() -> None:
    """Have a log written when the next one comes, or the file is closed."""
    save, close = Logs.save, Database.close
    waiting: list[tuple[Any, ...]] = []

    def write() -> None:
        while waiting:
            save(*waiting.pop(0))

    def later(*arguments: Any) -> None:
        write()
        waiting.append((*arguments[:-1], io.BytesIO(arguments[-1].read())))

    def close_after(self: Database) -> None:
        write()
        close(self)

    Logs.save, Database.close = later, close_after  # type: ignore[method-assign, assignment]


def _purge_in_two(*, blobs_first: bool) -> Callable[[], object]:
    """Have blobs and what refers to them deleted in two transactions, without foreign keys."""

    def put_in() -> None:
        in_turn = purge._in_turn

        def in_two(database: Database, run: Any, delete: Any) -> int:
            if delete is not purge._delete_some_attempts:
                return in_turn(database, run, delete)
            database.alone(lambda connection: connection.execute("PRAGMA foreign_keys=OFF"))
            attempts = [row for row, _ in database.query(purge.SELECT_ATTEMPTS, (run.row, purge.AT_ONCE))]
            blobs = {blob for attempt in attempts for (blob,) in database.query(purge.SELECT_BLOBS, (attempt,))}

            def delete_blobs() -> None:
                if not blobs_first:  # nothing refers to them any more
                    with database.write() as connection:
                        reclaim.drop(connection, blobs)
                    return
                with database.write() as connection:
                    for blob in blobs:
                        connection.execute("DELETE FROM blob WHERE id = ?", (blob,))
                        connection.execute("DELETE FROM blob_chunk WHERE blob = ?", (blob,))

            def delete_rows() -> None:
                with database.write() as connection:
                    for attempt in attempts:
                        for statement in purge.DELETE_OF_ATTEMPT:
                            connection.execute(statement, (attempt,))

            for step in (delete_blobs, delete_rows) if blobs_first else (delete_rows, delete_blobs):
                step()
                crash_point("purge-attempt-rows-deleted")
            return len(attempts)

        purge._in_turn = in_two

    return put_in


def _list_apart() -> None:
    """Have a large blob's row committed before the list of its chunks."""

    def insert_blob(self: ChunkStream, key: bytes, size: int, root: Any = None) -> bool:
        del root
        with self._database.write() as connection:
            hold(connection, {key: 1})
            connection.execute(INSERT_BLOB, (key, size, None, None))
            if not connection.changes():
                return False
            blob = connection.last_insert_rowid()
        crash_point("blob-row-inserted")
        with self._database.write() as connection:
            connection.executemany(INSERT_CHUNK_OF, ((blob, *each) for each in enumerate(self._order)))
            self._new.arrive(connection)
        return True

    chunk_stream.ChunkStream.insert_blob = insert_blob  # type: ignore[method-assign]


def _kept_later() -> None:
    """Have what is kept as it is become a root only in a transaction after the one that stores it."""
    Data.root = lambda self, flow_name: lambda connection, key: None  # type: ignore[method-assign]


def _restored_one_by_one() -> None:
    """Have several runs restored in a transaction each."""

    def restore(store: Any, pathspecs: list[str]) -> list[str]:
        for pathspec in pathspecs:
            Trash(store._storage_impl.database).restore(*pathspec.split("/"))
            crash_point("restore-run-back")
        return pathspecs

    import crash_upkeep

    crash_upkeep.restore = restore  # type: ignore[assignment]
    prune.restore = restore  # type: ignore[assignment]


def _imported_in_parts() -> None:
    """Have a run imported in several transactions."""

    def write_run(tables: Any, run: Any, origin: Any) -> None:
        with tables.database.write() as connection:
            tables.tasks.insert(connection, run.flow_name, run.run_id, run.attempts)
        crash_point("run-attempts-written")
        original(tables, run._replace(attempts=()), origin)

    original = records.write_run
    merge.write_run = write_run  # type: ignore[attr-defined]


SEEDED = (
    Seeded("done marker before artifacts", _finish_in_two(done_first=True), "artifacts", "attempt-artifacts-inserted"),
    Seeded("done marker after artifacts", _finish_in_two(done_first=False), "artifacts", "attempt-artifacts-inserted"),
    Seeded("chunks listed apart", _list_apart, "artifacts", "blob-row-inserted"),
    Seeded("log acknowledged early", _log_acknowledged_early, "logs", "log-part-inserted"),
    Seeded("blobs purged first", _purge_in_two(blobs_first=True), "purge", "purge-attempt-rows-deleted"),
    Seeded("blobs purged later", _purge_in_two(blobs_first=False), "purge", "purge-attempt-rows-deleted"),
    Seeded("restored one by one", _restored_one_by_one, "restore", "restore-run-back"),
    Seeded("named before it is filled", _named_at_once, "export", "archive-blobs-copied"),
    Seeded("imported in parts", _imported_in_parts, "import", "run-attempts-written"),
    Seeded("version set apart", _version_apart, "migration of format 1", "migration-versioned"),
    Seeded("version set apart, format 2", _version_apart, "migration of format 2", "migration-versioned"),
    Seeded("kept later, by Metaflow", _kept_later, "Metaflow writes by paths", "paths-blob-put"),
    Seeded("kept later, by pull", _kept_later, "pull", "pull-blobs-put"),
)


def find_all(folder: str) -> dict[str, str]:
    """Return what a kill finds with each mistake in the package; "" for nothing."""
    trials: dict[str, Trial] = {}
    found = {}
    for seeded in SEEDED:
        if seeded.scenario not in trials:
            place = os.path.join(folder, str(len(trials)))
            trials[seeded.scenario] = Trial.made(crash_scenarios.named(seeded.scenario), place)
        trial = trials[seeded.scenario]
        trial.patch = seeded.put_in
        found[seeded.name] = ""
        try:
            trial.kill_at(seeded.point, 1)
        except AssertionError as error:
            found[seeded.name] = str(error)
        trial.patch = nothing
        trial.kill_at(seeded.point, 1)  # without the mistake there is nothing to be found
    return found
