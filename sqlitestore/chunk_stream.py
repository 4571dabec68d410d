"""A large blob on its way into the store.

Chunks go in first, in bounded transactions; then one transaction writes the blob's row and list. A chunk that vanished
in between (pruned by another process, since nothing referenced it yet) makes SQLite's foreign key refuse that
transaction: ChunkVanished, and the payload is put again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, TypeAlias

import apsw
from xxhash import xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.background import begin
from sqlitestore.blob_reader import ChunkedReader
from sqlitestore.chunking import Chunker
from sqlitestore.continuation import Continuation
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException
from sqlitestore.holds import ON_ITS_WAY, hold, hold_at_least_once, release
from sqlitestore.model import Buffer

BATCH = 8 * 2**20
"""[bytes] Of content that one transaction writes: what bounds both memory and how long others wait."""

LARGE = 4 * 2**20
"""[bytes] What comes after these of a blob is compressed by other threads. Noise is not, nor is anything cut, copied or
hashed there: Python's lock ate what that gained."""

INSERT_BLOB = "INSERT INTO blob(key, size, codec, bytes) VALUES (?, ?, ?, ?) ON CONFLICT(key) DO NOTHING"
SELECT_CHUNK = "SELECT id, size, codec, bytes FROM chunk WHERE digest = ?"
INSERT_CHUNK = "INSERT INTO chunk(digest, size, codec, bytes) VALUES (?, ?, ?, ?) ON CONFLICT(digest) DO NOTHING"
INSERT_CHUNK_OF = "INSERT INTO blob_chunk(blob, position, chunk) VALUES (?, ?, ?)"
DELETE_CHUNK = "DELETE FROM chunk WHERE id = ? AND NOT EXISTS (SELECT 1 FROM blob_chunk WHERE chunk = ?1)"

Root: TypeAlias = Callable[[apsw.Connection, bytes], object]
"""What refers to a blob, by its key, in the transaction that stores it."""


class ChunkVanished(DataException):
    """A chunk of a blob in the making was pruned before the blob could reference it; never leaves this module."""


class ChunkStream:
    """A large blob on its way in: cuts it, finds the chunks that the store has, and inserts the new ones in batches."""

    def __init__(self, database: Database, new_hasher: Callable[[], Any]) -> None:
        self._database = database
        self._new_hasher = new_hasher
        self._hasher = new_hasher()
        self._chunker = Chunker(self._take_known)
        self._continuation = Continuation(database)
        self._order = array("q")  # chunk ids; 0 where the chunk still waits
        self._waiting: dict[bytes, tuple[bytes, list[int]]] = {}
        self._rows: list[tuple[bytes, int, Callable[[], tuple[int, Buffer]]]] = []
        self._bytes = 0
        self._size = 0
        self._inserted: list[int] = []
        self._is_announced = False

    def write(self, view: memoryview) -> None:
        """Take bytes, which may change again after the call."""
        for chunk in self._chunker.write(view):
            self._take(chunk)

    def write_chunk(self, data: bytes, codec: int, stored: bytes) -> None:
        """Take a chunk that was cut and encoded before, in another file; the caller has checked it."""
        for chunk in self._chunker.flush():
            self._take(chunk)
        self._take(memoryview(data), (codec, stored))

    def finish_chunks(self) -> bytes:
        """Store the last chunks; return the digest of all."""
        for chunk in self._chunker.flush():
            self._take(chunk)
        self._flush()
        digest: bytes = self._hasher.digest()
        return digest

    def _take(self, view: memoryview, encoded: tuple[int, bytes] | None = None) -> None:
        # A copy of our own: another thread, or the object's own pickling, may change the buffer between hashing and
        # inserting, and the chunk would be stored under the digest of something else.
        data = bytes(view)
        self._hasher.update(data)
        digest = xxh3_128_digest(data)
        self._size += len(data)
        if digest in self._waiting:
            waiting, positions = self._waiting[digest]
            check_equal(digest, waiting, data)
            positions.append(len(self._order))
            self._order.append(0)
            return
        known = self._find(digest, data)
        if known:
            self._order.append(known)
            self._continuation.found(known)
            return
        self._continuation.missed()
        self._waiting[digest] = data, [len(self._order)]
        self._rows.append((digest, len(data), (lambda: encoded) if encoded else self._encoding(data)))
        self._order.append(0)
        self._bytes += len(data)
        if self._bytes >= BATCH:
            self._flush()

    def _take_known(self, coming: memoryview) -> int:
        """Take what the store has, if it goes on there as here; return how much that was [bytes]."""
        taken = 0
        with closing(self._continuation.chunks(coming)) as chunks:
            for chunk_id, stored in chunks:
                self._hasher.update(stored)  # it is ours: ``coming`` may have changed since it was compared
                self._order.append(chunk_id)
                taken += len(stored)
        self._size += taken
        return taken

    def _encoding(self, data: bytes) -> Callable[[], tuple[int, Buffer]]:
        """Return what gives codec and bytes to store. What lasts begins now, in another thread."""
        if self._size <= LARGE:
            return partial(codecs.encode, data)
        if not codecs.seems_compressible(data):
            return lambda: (codecs.RAW, data)
        return begin(partial(codecs.encode, data)).result

    def _find(self, digest: bytes, data: bytes) -> int:
        """Return the id of the chunk in the store, 0 if there is none. Raises Damaged if it has other bytes."""
        for chunk_id, size, codec, stored in self._database.query(SELECT_CHUNK, (digest,)):
            compare(digest, data, size, codec, stored)
            return int(chunk_id)
        return 0

    def _flush(self) -> None:
        if not self._rows:
            return
        rows = [(digest, size, *encoding()) for digest, size, encoding in self._rows]
        found: dict[bytes, int] = {}
        inserted = []
        with self._database.write() as connection:
            self._announce(connection)
            crash_point("chunks-announced")
            for row in rows:
                connection.execute(INSERT_CHUNK, row)
                if connection.changes():
                    found[row[0]] = connection.last_insert_rowid()
                    inserted.append(found[row[0]])
            crash_point("chunks-inserted")
        crash_point("chunks-committed")
        self._inserted += inserted
        for digest, (data, positions) in self._waiting.items():
            chunk_id = found.get(digest) or self._find(digest, data)  # another process was faster
            if not chunk_id:
                raise ChunkVanished
            for position in positions:
                self._order[position] = chunk_id
        self._waiting, self._rows, self._bytes = {}, [], 0

    def _announce(self, connection: apsw.Connection) -> None:
        """Say that chunks without a blob are none that a crash left (see ``holds.ON_ITS_WAY``)."""
        if self._is_announced:
            hold_at_least_once(connection, [ON_ITS_WAY])
        else:
            hold(connection, {ON_ITS_WAY: 1})
            self._is_announced = True

    def _arrive(self, connection: apsw.Connection) -> None:
        if self._is_announced:
            release(connection, [ON_ITS_WAY])
            self._is_announced = False

    def insert_blob(self, key: bytes, size: int, root: Root | None = None) -> bool:
        """Write the blob's row and list, False if there is a blob of that key; hold either, and call ``root``.

        Raises ChunkVanished if a chunk is gone; then nothing was written.
        """
        try:
            with self._database.write() as connection:
                hold(connection, {key: 1})
                crash_point("blob-held")
                connection.execute(INSERT_BLOB, (key, size, None, None))
                if not connection.changes():
                    if root is not None:
                        root(connection, key)
                    return False
                blob_id = connection.last_insert_rowid()
                crash_point("blob-row-inserted")
                rows = ((blob_id, position, chunk) for position, chunk in enumerate(self._order))
                connection.executemany(INSERT_CHUNK_OF, rows)
                crash_point("blob-chunks-listed")
                if root is not None:
                    root(connection, key)
                self._arrive(connection)
        except apsw.ConstraintError as error:
            raise ChunkVanished from error
        crash_point("blob-committed")
        return True

    def is_made_of(self, chunks: list[int]) -> bool:
        """Return whether the chunks are ours, in order; each was compared when it was found."""
        return self._order.tolist() == chunks

    def reader(self, key: bytes, size: int) -> ChunkedReader:
        """Return a file of what was written, from the store."""
        return ChunkedReader(self._database, key.hex(), size, self._order, self._new_hasher())

    def undo(self) -> None:
        """Delete the chunks that this stream inserted and nothing references."""
        inserted, self._inserted = self._inserted, []
        if self._is_announced:
            with self._database.write() as connection:
                self._arrive(connection)
            crash_point("undo-released")
        for start in range(0, len(inserted), 1000):
            with self._database.write() as connection:
                connection.executemany(DELETE_CHUNK, ((chunk,) for chunk in inserted[start : start + 1000]))
            crash_point("undo-chunks-deleted")


def compare(digest: bytes, data: bytes, size: Any, codec: Any, stored: Any) -> None:
    """Raise Damaged if a row of ``chunk`` does not hold ``data``, which has its digest."""
    if size != len(data):
        raise collision(digest)
    check_equal(digest, codecs.decode(codec, stored, size), data)


def check_equal(digest: bytes, stored: bytes, data: bytes) -> None:
    """Raise Damaged if bytes differ though their digests do not."""
    if stored != data:
        raise collision(digest)


def collision(digest: bytes) -> Damaged:
    """Return the error for different bytes of one digest."""
    return Damaged(
        f"The store has other bytes under the digest {digest.hex()}: they were damaged, or made to collide. "
        "Nothing was shared; verify the store."
    )
