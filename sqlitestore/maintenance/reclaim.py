"""Taking content out of a file: what nothing needs any more, in short transactions, and never what somebody holds.

The rows of a large blob go in one transaction, which notes its chunks in the table ``garbage``; they go after that, a
few at a time, since freeing pages is what takes long. A crash in between loses nothing of the work: the table is the
list of what is left to do. A chunk that somebody began to share meanwhile is left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.holds import LONGEST_HOLD
from sqlitestore.progress import SILENT, Progress

BATCH = 32 * 2**20
"""[bytes] Of content that one transaction frees: what bounds how long others wait."""

AT_ONCE = 500
"""Rows or blobs that one transaction looks at."""

# Who needs a blob, each by an index. Not counted: runs in the JSON array ?2, paths in ?3, what save_data keeps of the
# blobs in ?4, and holds from before ?5.
_NEEDED = """
 EXISTS (SELECT 1 FROM artifact AS x JOIN attempt AS a ON a.id = x.attempt
  WHERE x.blob = b.id AND a.run NOT IN (SELECT value FROM json_each(?2)))
 OR EXISTS (SELECT 1 FROM log AS l JOIN attempt AS a ON a.id = l.attempt
  WHERE l.blob = b.id AND a.run NOT IN (SELECT value FROM json_each(?2)))
 OR EXISTS (SELECT 1 FROM trashed_file AS t WHERE t.blob = b.id AND t.run NOT IN (SELECT value FROM json_each(?2)))
 OR EXISTS (SELECT 1 FROM file AS f WHERE f.blob = b.id AND f.path NOT IN (SELECT value FROM json_each(?3)))
 OR EXISTS (SELECT 1 FROM data AS d WHERE d.blob = b.id AND d.blob NOT IN (SELECT value FROM json_each(?4)))
 OR EXISTS (SELECT 1 FROM held AS h WHERE h.key = b.key AND h.since >= ?5)"""
SELECT_UNNEEDED = f"""SELECT b.id, length(b.bytes) FROM json_each(?1) AS asked JOIN blob AS b ON b.id = asked.value
 WHERE NOT ({_NEEDED})"""
SELECT_UNNEEDED_CHUNKS = """SELECT c.id, length(c.bytes) FROM chunk AS c WHERE c.id IN
  (SELECT p.chunk FROM json_each(?1) AS gone JOIN blob_chunk AS p ON p.blob = gone.value)
 AND NOT EXISTS (SELECT 1 FROM blob_chunk AS p
  WHERE p.chunk = c.id AND p.blob NOT IN (SELECT value FROM json_each(?1)))"""
NOTE_CHUNKS = "INSERT INTO garbage(chunk) SELECT DISTINCT chunk FROM blob_chunk WHERE blob = ? ON CONFLICT DO NOTHING"
DELETE_BLOB = "DELETE FROM blob WHERE id = ?"
COUNT_GARBAGE = "SELECT COUNT(1) FROM garbage"
SELECT_GARBAGE = """SELECT g.chunk, COALESCE(length(c.bytes), 0) FROM garbage AS g
 LEFT JOIN chunk AS c ON c.id = g.chunk ORDER BY g.chunk LIMIT ?"""
DELETE_CHUNK = "DELETE FROM chunk WHERE id = ? AND NOT EXISTS (SELECT 1 FROM blob_chunk WHERE chunk = ?1)"
DELETE_GARBAGE = "DELETE FROM garbage WHERE chunk = ?"


class Unneeded(NamedTuple):
    """Content that could go: ids of blobs, and the stored bytes that would come back."""

    blobs: list[int]
    size: int


def unneeded(
    connection: apsw.Connection,
    blobs: Iterable[int],
    runs: Sequence[int] = (),
    paths: Sequence[str] = (),
    data: Sequence[int] = (),
    grace: float = LONGEST_HOLD,
) -> Unneeded:
    """Return which of the blobs nothing would need, were the runs (by their rows) and named files not there.

    ``data`` are blobs that ``save_data`` would not keep any more. ``grace`` is how long ago a writer that never came
    back may have put something that is still left alone [s].
    """
    ids = list(blobs)
    without = (json.dumps(list(runs)), json.dumps(list(paths)), json.dumps(list(data)), time.time() - grace)
    gone: list[int] = []
    large: list[int] = []
    size = 0
    for start in range(0, len(ids), AT_ONCE):
        some = json.dumps(ids[start : start + AT_ONCE])
        rows: list[Any] = connection.execute(SELECT_UNNEEDED, (some, *without)).fetchall()
        for blob, stored in rows:
            gone.append(blob)
            if stored is None:
                large.append(blob)
            else:
                size += stored
    if large:
        chunks: list[Any] = connection.execute(SELECT_UNNEEDED_CHUNKS, (json.dumps(large),)).fetchall()
        size += sum(stored for _, stored in chunks)
    return Unneeded(gone, size)


def drop(connection: apsw.Connection, blobs: Iterable[int], grace: float = LONGEST_HOLD) -> None:
    """Delete those of the blobs that nothing needs, in a transaction of the caller; their chunks become garbage."""
    for blob in unneeded(connection, blobs, grace=grace).blobs:
        connection.execute(NOTE_CHUNKS, (blob,))
        crash_point("unneeded-chunks-noted")
        connection.execute(DELETE_BLOB, (blob,))


def collect_garbage(database: Database, progress: Progress = SILENT) -> int:
    """Delete the chunks that are garbage, a batch in a transaction; return the bytes that were freed."""
    [(left,)] = database.query(COUNT_GARBAGE)
    if not left:
        return 0
    freed = 0
    progress.start("Freeing", left, "chunks")
    try:
        while rows := database.query(SELECT_GARBAGE, (AT_ONCE,)):
            some = some_of(rows)
            with database.write() as connection:
                for chunk, size in some:
                    connection.execute(DELETE_CHUNK, (chunk,))
                    crash_point("garbage-chunk-deleted")
                    freed += size if connection.changes() else 0
                    connection.execute(DELETE_GARBAGE, (chunk,))
            crash_point("garbage-batch-gone")
            progress.advance(len(some))
    finally:
        progress.finish()
    return freed


def some_of(rows: Sequence[tuple[Any, ...]]) -> list[tuple[int, int]]:
    """Return the first of rows of an id and a size [bytes], as many as one transaction may free."""
    some: list[tuple[int, int]] = []
    size = 0
    for row, stored in rows:
        some.append((row, stored))
        size += stored
        if size >= BATCH:
            break
    return some
