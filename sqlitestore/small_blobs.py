"""Small blobs on their way into the table ``blob``: many in a transaction, or with the attempt that refers to them.

The bytes of a blob whose key is in the file already are compared with those: a match of the key alone is never trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TypeAlias, cast

import apsw

from sqlitestore import codecs
from sqlitestore.chunk_stream import INSERT_BLOB, Root
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import BlobNotFound
from sqlitestore.holds import hold
from sqlitestore.model import Buffer
from sqlitestore.new_chunks import BATCH, check_equal, collision
from sqlitestore.pickling import ReadFile

ROOM = 2**20
"""[bytes] Of small blobs that may wait in memory for the end of one attempt."""

OVERHEAD = 100
"""[bytes] That a blob counts for beside its content."""

INSERT_SMALL_BLOB = f"{INSERT_BLOB} RETURNING key"
SELECT_BLOB = "SELECT id, size, codec, bytes FROM blob WHERE key = ?"

Opener: TypeAlias = Callable[[str], AbstractContextManager[ReadFile]]
"""Opens a blob of the file by its key; raises BlobNotFound."""

Row: TypeAlias = tuple[bytes, int, int, Buffer]
"""Key, size [bytes], codec and stored bytes of a small blob."""


class Pending:
    """What the writer of one attempt has saved, and nothing refers to yet.

    Small blobs wait in memory and go in together with the attempt's rows: without a transaction of their own, and
    without being held, for nobody can see them. Of blobs that are in the file, the holds that are to be released then
    are counted.
    """

    def __init__(self) -> None:
        self.waiting: dict[bytes, bytes] = {}
        """Content by key."""
        self.held: Counter[bytes] = Counter()
        """How often each key is held for this attempt."""
        self._bytes = 0
        self._put: set[bytes] = set()
        """Those that wait which are in the file all the same, since somebody asked for one."""
        self._is_done = False

    def take(self, key: bytes, data: bytes) -> bool:
        """Have a small blob wait; False if there is no room for it. Raises Damaged if another has its key."""
        known = self.waiting.get(key)
        if known is not None:
            check_equal(key, known, data)
            return True
        size = self._bytes + len(data) + OVERHEAD
        if size > ROOM:
            return False
        self._bytes = size
        self.waiting[key] = data
        return True

    def rows(self, keys: Iterable[bytes]) -> list[Row]:
        """Return the rows, encoded, of those of the keys whose blobs wait; each once."""
        waiting = self.waiting
        return [
            (key, len(data), *codecs.encode(data))
            for key in dict.fromkeys(keys)
            if (data := waiting.get(key)) is not None
        ]

    # These are called inside the transaction in which they are true. So of two threads, of which one makes the attempt
    # done and the other reads a blob of it, the second sees what the first did. What they return takes it back.

    def to_put(self, rows: Iterable[Row]) -> list[Row]:
        """Return those of the rows that are not in the file yet."""
        return [] if self._is_done else [row for row in rows if row[0] not in self._put]

    def were_put(self, keys: Collection[bytes]) -> Callable[[], object]:
        """Note that blobs that wait are in the file, held."""

        def take_back() -> None:
            self._put.difference_update(keys)
            self.held.subtract(keys)

        self._put.update(keys)
        self.held.update(keys)
        return take_back

    def are_referenced(self) -> Callable[[], object]:
        """Note that the attempt is done, and holds nothing any more."""
        held, self.held, self._is_done = self.held, Counter(), True

        def take_back() -> None:
            self.held, self._is_done = held, False

        return take_back

    def forget(self) -> None:
        """Let go of the content, after that transaction."""
        self.waiting = {}


def insert_small_blobs(connection: apsw.Connection, rows: Iterable[Row], opened: Opener) -> dict[bytes, int]:
    """Insert small blobs in a transaction of the caller; return the ids of their rows by key.

    Raises Damaged if other bytes stand under a key.
    """
    ids: dict[bytes, int] = {}
    for row in rows:
        connection.execute(INSERT_BLOB, row)
        if connection.changes():
            ids[row[0]] = connection.last_insert_rowid()
        else:
            ids[row[0]] = _id_of_equal(connection, row, opened)
    return ids


def _id_of_equal(connection: apsw.Connection, row: Row, opened: Opener) -> int:
    """Return the id of the stored blob that has a row's key, after comparing the bytes."""
    key, size, codec, encoded = row
    [(blob_id, *stored)] = connection.execute(SELECT_BLOB, (key,)).fetchall()
    if stored != [size, codec, encoded]:  # it may be encoded otherwise, or cut into chunks
        if stored[0] != size:
            raise collision(key)
        with opened(key.hex()) as file:
            check_equal(key, file.read(), codecs.decode(codec, encoded, size))
    return cast("int", blob_id)


class SmallBatch:
    """Small blobs on their way in by themselves, a transaction for many."""

    def __init__(self, opened: Opener, database: Database, root: Root | None) -> None:
        self._opened = opened
        self._database = database
        self._root = root
        self._waiting: dict[bytes, bytes] = {}
        self.times: Counter[bytes] = Counter()
        """How often each blob that waits is to be held."""
        self._bytes = 0

    def add(self, key: bytes, data: bytes, times: int = 1) -> None:
        """Take a blob that is to be held ``times`` times."""
        self.times[key] += times
        known = self._waiting.setdefault(key, data)
        if known is not data:
            check_equal(key, known, data)
            return
        self._bytes += len(data) + OVERHEAD
        if self._bytes >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Insert what waits, comparing bytes wherever the key is known already."""
        if not self._waiting:
            return
        rows = [(key, len(data), *codecs.encode(data)) for key, data in self._waiting.items()]
        with self._database.write() as connection:
            new = {key for (key,) in connection.executemany(INSERT_SMALL_BLOB, rows)}
            crash_point("small-blobs-inserted")
            hold(connection, self.times)
            if self._root is not None:
                for key in self._waiting:
                    self._root(connection, key)
        crash_point("small-blobs-committed")
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        self.times = Counter()
        if len(new) < len(waiting):
            self._compare({key: data for key, data in waiting.items() if key not in new})
            self.flush()

    def _compare(self, known: Mapping[bytes, bytes]) -> None:
        """Compare with what is stored under the keys; take again what is there no more."""
        for key, data in known.items():
            try:
                with self._opened(key.hex()) as stored:
                    check_equal(key, stored.read(), data)
            except BlobNotFound:  # scrubbed since: nothing else removes what is held
                self.add(key, data, 0)
