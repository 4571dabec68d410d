"""A large blob on its way into the store.

Chunks go in first, in bounded transactions; then one transaction writes the blob's row and list. A chunk that vanished
in between (pruned by another process, since nothing referenced it yet) makes SQLite's foreign key refuse that
transaction: ChunkVanished, and the payload is put again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeAlias

import apsw
from xxhash import xxh3_128_digest

from sqlitestore.blob_reader import ChunkedReader
from sqlitestore.chunking import Chunker
from sqlitestore.continuation import Continuation
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.holds import hold
from sqlitestore.new_chunks import ChunkVanished, NewChunks, find_chunk

INSERT_BLOB = "INSERT INTO blob(key, size, codec, bytes) VALUES (?, ?, ?, ?) ON CONFLICT(key) DO NOTHING"
INSERT_CHUNK_OF = "INSERT INTO blob_chunk(blob, position, chunk) VALUES (?, ?, ?)"

Root: TypeAlias = Callable[[apsw.Connection, bytes], object]
"""What refers to a blob, by its key, in the transaction that stores it."""


class ChunkStream:
    """A large blob on its way in: cuts it, and finds the chunks that the store has."""

    def __init__(self, database: Database, new_hasher: Callable[[], Any]) -> None:
        self._database = database
        self._new_hasher = new_hasher
        self._hasher = new_hasher()
        self._chunker = Chunker(self._take_known)
        self._continuation = Continuation(database)
        self._order = array("q")  # chunk ids; 0 where a new one is not stored yet
        self._new = NewChunks(database, self._order)

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
        self._new.finish()
        digest: bytes = self._hasher.digest()
        return digest

    def _take(self, view: memoryview, encoded: tuple[int, bytes] | None = None) -> None:
        # A copy of our own: another thread, or the object's own pickling, may change the buffer between hashing and
        # inserting, and the chunk would be stored under the digest of something else.
        data = bytes(view)
        self._hasher.update(data)
        digest = xxh3_128_digest(data)
        if self._new.repeat(digest, data):
            return
        known = 0 if self._new.only_new else find_chunk(self._database, digest, data)
        if known:
            self._order.append(known)
            self._new.note_known()
            self._continuation.found(known)
        else:
            self._continuation.missed()
            self._new.add(digest, data, encoded)

    def _take_known(self, coming: memoryview) -> int:
        """Take what the store has, if it goes on there as here; return how much that was [bytes]."""
        taken = 0
        with closing(self._continuation.chunks(coming)) as chunks:
            for chunk_id, stored in chunks:
                self._hasher.update(stored)  # it is ours: ``coming`` may have changed since it was compared
                self._order.append(chunk_id)
                taken += len(stored)
        if taken:
            self._new.note_known()
        return taken

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
                self._new.arrive(connection)
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
        self._new.undo()
