"""Emptying the trash: the rows of pruned runs, and the content that only they needed.

A run goes in transactions of some hundred attempts, each with the content that became unneeded by it. The first marks
the run, so that one whose purge was interrupted is not taken for whole; the next purge goes on with it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import apsw

from sqlitestore.blobs import INLINE
from sqlitestore.database import Database
from sqlitestore.maintenance.reclaim import AT_ONCE, collect_garbage, drop, some_of
from sqlitestore.progress import SILENT, Progress
from sqlitestore.trash import Trash, TrashedRun

MARK = "UPDATE trash SET purging = 1 WHERE run = ?"
COUNT_ATTEMPTS = "SELECT COUNT(*) FROM attempt WHERE run = ?"
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
    with database.write() as connection:
        connection.execute(MARK, (run.row,))
    before = _free(database)
    [(attempts,)] = database.query(COUNT_ATTEMPTS, (run.row,))
    progress.start(f"Purging {run.pathspec}", attempts, "attempts")
    try:
        while rows := database.query(SELECT_ATTEMPTS, (run.row, AT_ONCE)):
            some = some_of(rows)
            with database.write() as connection:
                _delete_attempts(connection, [row for row, _ in some])
            progress.advance(len(some))
        while files := database.query(SELECT_FILES, (run.row, AT_ONCE)):
            with database.write() as connection:
                for path, _ in files:
                    connection.execute(DELETE_FILE, (run.row, path))
                drop(connection, dict.fromkeys(blob for _, blob in files))
        for statement in DELETE_OF_TASKS:
            deleted = 1
            while deleted:
                with database.write() as connection:
                    connection.execute(statement, (run.row,))
                    deleted = connection.changes()
        with database.write() as connection:
            for statement in DELETE_OF_RUN:
                connection.execute(statement, (run.row,))
    finally:
        progress.finish()
    collect_garbage(database, progress)
    return max(0, _free(database) - before)


def _delete_attempts(connection: apsw.Connection, attempts: list[int]) -> None:
    blobs: dict[int, None] = {}
    for attempt in attempts:
        found: list[Any] = connection.execute(SELECT_BLOBS, (attempt,)).fetchall()
        blobs.update(dict.fromkeys(blob for (blob,) in found))
        for statement in DELETE_OF_ATTEMPT:
            connection.execute(statement, (attempt,))
    drop(connection, blobs)


def _free(database: Database) -> int:
    """Return the size of the free pages [bytes]."""
    with database.read() as connection:
        return int(connection.pragma("freelist_count")) * int(connection.pragma("page_size"))
