"""Giving space back to the file system, in short steps beside others, without a second copy of the file.

First goes what nothing needs: garbage that an interrupted purge left, what crashed writers put, and names without
content. Then SQLite moves pages from the file's end into free ones and cuts the end off, some hundred in a transaction
(https://www.sqlite.org/pragma.html#pragma_incremental_vacuum). Files that were made before format 3 lack what that
takes; ``full`` rebuilds the file, and they have it afterwards.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import DiskFull, Refused, StoreReadOnly
from sqlitestore.holds import LONGEST_HOLD, LONGEST_WAY, ON_ITS_WAY
from sqlitestore.maintenance.purge import purge
from sqlitestore.maintenance.reclaim import collect_garbage, drop, unneeded
from sqlitestore.pragmas import cut_off_free_pages, move_the_log, rebuild, size_of_file
from sqlitestore.progress import SILENT, Progress
from sqlitestore.tables import Tables, tables_of

PAGES_AT_ONCE = 1000
"""Of a transaction: 8 MiB, 10 to 40 ms."""

ROWS_AT_ONCE = 2000

FORGET_HOLDS = "DELETE FROM held WHERE since < ?"
IS_ON_ITS_WAY = "SELECT 1 FROM held WHERE key = ? AND since >= ?"
COUNT_ROWS = "SELECT (SELECT COUNT(1) FROM blob), (SELECT COUNT(1) FROM chunk)"
SELECT_BLOBS = "SELECT id FROM blob WHERE id > ? ORDER BY id LIMIT ?"
SELECT_CHUNKS = "SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT ?"
NOTE_LONELY_CHUNKS = """INSERT INTO garbage(chunk) SELECT c.id FROM chunk AS c WHERE c.id BETWEEN ? AND ?
 AND NOT EXISTS (SELECT 1 FROM blob_chunk AS p WHERE p.chunk = c.id) ON CONFLICT DO NOTHING"""
DELETE_EMPTY_FLOWS = """DELETE FROM flow WHERE id NOT IN (SELECT flow FROM run) AND id NOT IN (SELECT flow FROM data)"""
SELECT_QUIET_FLOWS = """SELECT f.name FROM flow AS f WHERE NOT EXISTS (SELECT 1 FROM run AS r
 JOIN registered_run AS g ON g.run = r.id WHERE r.flow = f.id AND g.ts_epoch >= ?)"""
SELECT_DESCRIPTORS = """SELECT DISTINCT lower(hex(b.key)) FROM artifact AS x JOIN blob AS b ON b.id = x.blob
 WHERE x.type = ? AND b.size <= ?"""


class Compacted(NamedTuple):
    """What became of the file: its size before and after [bytes], the runs that were purged from the trash.

    ``is_waiting`` is True if a large artifact was on its way, so that what crashed writers left of such ones stayed.
    """

    before: int
    after: int
    purged: tuple[str, ...]
    is_waiting: bool


def compact(
    store: Any,
    *,
    full: bool = False,
    empty_trash: bool = False,
    grace: float = LONGEST_HOLD,
    progress: Progress = SILENT,
) -> Compacted:
    """Give back to the file system what an open store does not need; others go on reading and writing.

    ``empty_trash`` purges pruned runs first. ``full`` rebuilds the file instead of moving pages: it ends up in order,
    and takes a lock, room for a copy in the temporary folder and as much beside the file. ``grace`` is how long a
    writer may have been silent and still come back to what it put [s]; 0 if nobody writes.

    Interrupted at any moment, nothing is lost and the rest can be done later. Raises Refused for a file from before
    format 3 that needs ``full`` once, StoreReadOnly, DiskFull.
    """
    tables = tables_of(store)
    database = tables.database
    if not database.writable:
        raise StoreReadOnly(f"{database.path} can only be read here, so it cannot be compacted.")
    before = _size(database)
    purged = purge(database, progress=progress).runs if empty_trash else ()
    crash_point("compact-trash-emptied")
    is_waiting = not sweep(tables, grace, progress)
    crash_point("compact-swept")
    if full:
        _rebuild(database)
    else:
        _shrink(database, progress)
    return Compacted(before, _size(database), purged, is_waiting)


def sweep(tables: Tables, grace: float = LONGEST_HOLD, progress: Progress = SILENT) -> bool:
    """Delete what nothing needs, anywhere in the file; False if chunks had to stay since a large blob is on its way."""
    database = tables.database
    now = time.time()
    with database.write() as connection:
        connection.execute(FORGET_HOLDS, (now - grace,))
        crash_point("sweep-holds-forgotten")
        connection.execute(DELETE_EMPTY_FLOWS)
    crash_point("sweep-begun")
    _forget_included_files(tables, grace)
    [(blobs, chunks)] = database.query(COUNT_ROWS)
    is_waiting = bool(database.query(IS_ON_ITS_WAY, (ON_ITS_WAY, now - min(grace, LONGEST_WAY))))
    progress.start("Looking for what nothing needs", blobs + (0 if is_waiting else chunks), "rows")
    try:
        _sweep_blobs(database, grace, progress)
        if not is_waiting:
            _sweep_chunks(database, progress)
    finally:
        progress.finish()
    collect_garbage(database, progress)
    return not is_waiting


def _sweep_blobs(database: Database, grace: float, progress: Progress) -> None:
    last = 0
    while rows := database.query(SELECT_BLOBS, (last, ROWS_AT_ONCE)):
        ids = [row for (row,) in rows]
        with database.read() as connection:
            gone = unneeded(connection, ids, grace=grace).blobs
        if gone:
            with database.write() as connection:
                drop(connection, gone, grace)
            crash_point("sweep-blobs-gone")
        last = ids[-1]
        progress.advance(len(ids))


def _sweep_chunks(database: Database, progress: Progress) -> None:
    last = 0
    while rows := database.query(SELECT_CHUNKS, (last, ROWS_AT_ONCE)):
        first, last = rows[0][0], rows[-1][0]
        with database.write() as connection:
            connection.execute(NOTE_LONELY_CHUNKS, (first, last))
        crash_point("sweep-chunks-noted")
        progress.advance(len(rows))


def _forget_included_files(tables: Tables, grace: float) -> None:
    """Remove files of Metaflow's IncludeFile that no artifact names, of flows that nothing ran in for long.

    Metaflow puts the file before the artifact that names it, and does not put one that is there.
    """
    paths = tables.files.below(layout.INCLUDED)
    if not paths:
        return
    since = int((time.time() - grace) * 1000)
    quiet = {flow for (flow,) in tables.database.query(SELECT_QUIET_FLOWS, (since,))}
    keys = [key for (key,) in tables.database.query(SELECT_DESCRIPTORS, layout.DESCRIPTORS)]
    named = {path for _, blob in tables.blobs.load(keys) for path in layout.included_paths(blob)}
    for path in paths:
        if path not in named and path.split("/")[1] in quiet:
            tables.files.delete(path)
            crash_point("sweep-included-file-gone")


def _shrink(database: Database, progress: Progress) -> None:
    with database.read() as connection:
        free, mode = int(connection.pragma("freelist_count")), int(connection.pragma("auto_vacuum"))
    if not free:
        database.alone(move_the_log)
        return
    if not mode:
        raise Refused(
            f"{database.path} was made before format 3, and cannot shrink step by step: `compact --full` (full=True) "
            "rebuilds it, once. Its free pages are used again in any case."
        )
    progress.start("Moving pages", free, "pages")
    try:
        while free:
            with database.write() as connection:
                cut_off_free_pages(connection, PAGES_AT_ONCE)
                crash_point("compact-pages-moved")
                left = int(connection.pragma("freelist_count"))
            crash_point("compact-pages-cut-off")
            progress.advance(free - left)
            if left >= free:  # others freed pages meanwhile; they are for the next time
                break
            free = left
    finally:
        progress.finish()
    database.alone(move_the_log)
    crash_point("compact-log-moved")


def _rebuild(database: Database) -> None:
    """Write the file anew. SQLite makes a copy in the temporary folder, and writes that back as one transaction."""
    size = _size(database)
    for folder in {tempfile.gettempdir(), os.path.dirname(database.path)}:
        if shutil.disk_usage(folder).free < size:
            raise DiskFull(
                f"Rebuilding {database.path} takes {size:,} bytes in {folder}, which has not as many. Nothing was "
                "changed; without --full no copy is made."
            )
    crash_point("before-rebuild")
    database.alone(rebuild)
    crash_point("after-rebuild")
    database.alone(move_the_log)
    crash_point("rebuild-log-moved")


def _size(database: Database) -> int:
    with database.read() as connection:
        return size_of_file(connection)
