"""The table ``held``: blobs that a writer has put, or found, and that nothing references yet.

Between putting a blob and the transaction that references it (a task's ``done``, a log, a file) nothing but this table
says that somebody counts on it. Prune and compact leave held blobs alone, so a writer in flight never loses what it
put. Holds are counted by writer, a writer being a process. Those of one that crashed end by age: ``LONGEST_HOLD``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

import apsw

ON_ITS_WAY = b""
"""In the place of a key: a large blob is being put, whose chunks nothing references until it is whole."""

LONGEST_WAY = 3600.0
"""How long after its latest chunks a large blob counts as on its way [s]."""

LONGEST_HOLD = 7 * 86400.0
"""How long after the latest put a blob is held for a writer that never came back [s]."""

HOLD = """INSERT INTO held(key, writer, count, since) VALUES (?, ?, ?, ?)
 ON CONFLICT DO UPDATE SET count = count + excluded.count, since = excluded.since"""
HOLD_AT_LEAST_ONCE = """INSERT INTO held(key, writer, count, since) VALUES (?, ?, 1, ?)
 ON CONFLICT DO UPDATE SET since = excluded.since"""
RELEASE_LAST = "DELETE FROM held WHERE key = ? AND writer = ? AND count = 1"
RELEASE_ONE = "UPDATE held SET count = count - 1 WHERE key = ? AND writer = ?"
IS_HELD_BY_OTHERS = "SELECT 1 FROM held WHERE key = ? AND writer != ? LIMIT 1"

_writer: tuple[int, bytes] = (0, b"")


def writer() -> bytes:
    """Return what names this process in the table: random, and another in a forked child."""
    global _writer  # noqa: PLW0603 - one name per process is the point
    if _writer[0] != os.getpid():
        _writer = os.getpid(), os.urandom(8)
    return _writer[1]


def hold(connection: apsw.Connection, counts: Mapping[bytes, int]) -> None:
    """Hold blobs, by key, as often as each was put; inside the transaction that puts or finds them."""
    now, name = time.time(), writer()
    connection.executemany(HOLD, ((key, name, count, now) for key, count in counts.items()))


def hold_at_least_once(connection: apsw.Connection, keys: Iterable[bytes]) -> None:
    """Hold blobs that were found, whose references will be counted by others."""
    now, name = time.time(), writer()
    connection.executemany(HOLD_AT_LEAST_ONCE, ((key, name, now) for key in keys))


def release(connection: apsw.Connection, keys: Iterable[bytes]) -> None:
    """Let go of each key once; inside the transaction that references the blobs, or gives them up."""
    name = writer()
    for key in keys:
        connection.execute(RELEASE_LAST, (key, name))
        if not connection.changes():
            connection.execute(RELEASE_ONE, (key, name))


def is_held_by_others(connection: apsw.Connection, key: bytes) -> bool:
    """Return whether another process than this one holds the blob."""
    return connection.execute(IS_HELD_BY_OTHERS, (key, writer())).fetchone() is not None
