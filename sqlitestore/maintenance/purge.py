"""Emptying the trash: the rows of pruned runs, and the content that only they needed.

A run goes in transactions of some hundred attempts, each with the content that became unneeded by it. The first marks
the run, so that one whose purge was interrupted is not taken for whole; the next purge goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import apsw

from sqlitestore.blobs import INLINE
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.maintenance.reclaim import AT_ONCE, collect_garbage, drop, some_of
from sqlitestore.pragmas import size_of_free_pages
from sqlitestore.progress import SILENT, Progress
from sqlitestore.trash import Trash, TrashedRun

IS_THE_SAME = "SELECT 1 FROM trash WHERE run = ? AND trashed = ?"
MARK = "UPDATE trash SET purging = 1 WHERE run = ?"
COUNT_ATTEMPTS = "SELECT COUNT(1) FROM attempt WHERE run = ?"
# What an attempt may free at once: the blobs in rows; those of chunks go later.
SELECT_ATTEMPTS = f"""SELECT a.id, (SELECT COALESCE(SUM(min(x.size, {INLINE})), 0) FROM artifact AS x
 WHERE x.attempt = a.id) FROM attempt AS a WHERE a.run = ? LIMIT ?"""
SELECT_BLOBS = "SELECT blob FROM artifact WHERE attempt = ?1 UNION SELECT blob FROM log WHERE attempt = ?1"
DELETE_OF_ATTEMPT = (
    "DELETE FROM artifact WHERE attempt = ?",
    "DELETE FROM stub WHERE attempt = ?",
    "DELETE FROM log WHERE attempt = ?",
    "DELETE FROM attempt WHERE id = ?",
)
SELECT_FILES = "SELECT path, blob FROM trashed_file WHERE run = ? LIMIT ?"
DELETE_FILE = "DELETE FROM trashed_file WHERE run = ? AND path = ?"
DELETE_OF_TASKS = tuple(
    f"""DELETE FROM {table} WHERE run = ?1 AND (step, task) IN (SELECT DISTINCT step, task FROM {table}
 WHERE run = ?1 LIMIT {AT_ONCE})"""
    for table in ("task_metadata", "registered_artifact", "registered_metadata", "registered_task")
)
DELETE_OF_RUN = (
    "DELETE FROM registered_step WHERE run = ?",
    "DELETE FROM registered_run WHERE run = ?",
    "DELETE FROM untrusted WHERE run = ?",
    "DELETE FROM trash WHERE run = ?",
    "DELETE FROM run WHERE id = ?",
)


class Purged(NamedTuple):
    """What a purge did: the runs that are gone for good, and the content that was freed [bytes]."""

    runs: tuple[str, ...]
    size: int


def purge(database: Database, *, older_than: float = 0.0, progress: Progress = SILENT) -> Purged:
    """Empty the trash of what went there at least ``older_than`` ago [s]; the space becomes free pages of the file.

    Content that others need stays, and so does what a writer in flight has put. Others go on working meanwhile.
    """
    latest = time.time() - older_than
    gone = [each for each in Trash(database).runs() if each.purging or each.trashed <= latest]
    freed = 0
    for run in gone:
        freed += _purge_run(database, run, progress)
    return Purged(tuple(each.pathspec for each in gone), freed)


def _purge_run(database: Database, run: TrashedRun, progress: Progress) -> int:
    if not _in_turn(database, run, _mark):
        return 0
    crash_point("purge-marked")
    before = _free(database)
    [(attempts,)] = database.query(COUNT_ATTEMPTS, (run.row,))
    progress.start(f"Purging {run.pathspec}", attempts, "attempts")
    try:
        while done := _in_turn(database, run, _delete_some_attempts):
            progress.advance(done)
            crash_point("purge-attempts-gone")
        while _in_turn(database, run, _delete_some_files):
            crash_point("purge-files-gone")
        for statement in DELETE_OF_TASKS:
            while _in_turn(database, run, partial(_delete_by, statement)):
                crash_point("purge-tasks-gone")
        _in_turn(database, run, _delete_the_run)
        crash_point("purge-run-gone")
    finally:
        progress.finish()
    collect_garbage(database, progress)
    return max(0, _free(database) - before)


def _in_turn(database: Database, run: TrashedRun, delete: Callable[[apsw.Connection, int], int]) -> int:
    """Delete some of the run in a transaction of its own; return how much, 0 if nothing is left or the run is gone.

    Another purge may have finished it, or somebody restored it. Then its row's id may be another run's by now, and so
    may the ids of its attempts: they are looked up in the transaction that deletes them.
    """
    with database.write() as connection:
        if not connection.execute(IS_THE_SAME, (run.row, run.trashed)).fetchone():
            return 0
        return delete(connection, run.row)


def _mark(connection: apsw.Connection, run: int) -> int:
    connection.execute(MARK, (run,))
    return 1


def _delete_some_attempts(connection: apsw.Connection, run: int) -> int:
    rows: list[Any] = connection.execute(SELECT_ATTEMPTS, (run, AT_ONCE)).fetchall()
    some = some_of(rows)
    _delete_attempts(connection, [row for row, _ in some])
    return len(some)


def _delete_some_files(connection: apsw.Connection, run: int) -> int:
    files: list[Any] = connection.execute(SELECT_FILES, (run, AT_ONCE)).fetchall()
    for path, _ in files:
        connection.execute(DELETE_FILE, (run, path))
    crash_point("purge-file-rows-deleted")
    drop(connection, dict.fromkeys(blob for _, blob in files))
    return len(files)


def _delete_by(statement: str, connection: apsw.Connection, run: int) -> int:
    connection.execute(statement, (run,))
    return connection.changes()


def _delete_the_run(connection: apsw.Connection, run: int) -> int:
    for statement in DELETE_OF_RUN:
        connection.execute(statement, (run,))
        crash_point("purge-run-row-deleted")
    return 1


def _delete_attempts(connection: apsw.Connection, attempts: list[int]) -> None:
    blobs: dict[int, None] = {}
    for attempt in attempts:
        found: list[Any] = connection.execute(SELECT_BLOBS, (attempt,)).fetchall()
        blobs.update(dict.fromkeys(blob for (blob,) in found))
        for statement in DELETE_OF_ATTEMPT:
            connection.execute(statement, (attempt,))
        crash_point("purge-attempt-rows-deleted")
    drop(connection, blobs)


def _free(database: Database) -> int:
    """Return the size of the free pages [bytes]."""
    with database.read() as connection:
        return size_of_free_pages(connection)
