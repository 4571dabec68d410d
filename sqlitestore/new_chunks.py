"""New chunks of a large blob on their way into the store: gathered, then inserted in bounded transactions.

One thread inserts a batch while the caller's cuts, copies and hashes what comes next, and others compress.
"""

import os
from array import array
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import apsw

from sqlitestore import codecs, pragmas
from sqlitestore.background import begin, begin_writing, wait_for
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException
from sqlitestore.holds import ON_ITS_WAY, hold, hold_at_least_once, release
from sqlitestore.log_moving import LogMover
from sqlitestore.model import Buffer

if TYPE_CHECKING:
    from concurrent.futures import Future

BATCH = 8 * 2**20
"""[bytes] Of content that one transaction writes: what bounds both memory and how long others wait."""

LARGE = 4 * 2**20
"""[bytes] What is new of a blob after these is compressed and inserted by other threads. Nothing is cut, copied,
hashed, sampled or shuffled there: Python's lock ate what that gained."""

SELECT_CHUNK = "SELECT id, size, codec, bytes FROM chunk WHERE digest = ?"
INSERT_CHUNK = "INSERT INTO chunk(digest, size, codec, bytes) VALUES (?, ?, ?, ?) ON CONFLICT(digest) DO NOTHING"
DELETE_CHUNK = "DELETE FROM chunk WHERE id = ? AND NOT EXISTS (SELECT 1 FROM blob_chunk WHERE chunk = ?1)"

Encoded: TypeAlias = tuple[int, Buffer]
"""Codec, and the bytes to store."""


class ChunkVanished(DataException):
    """A chunk of a blob in the making was pruned before the blob could reference it; never leaves ``blobs``."""


class _New(NamedTuple):
    """A chunk that is not in the store yet, and where in the blob it stands."""

    data: bytes
    encoding: Callable[[], Encoded]
    positions: list[int]


class NewChunks:
    """The new chunks of one blob. ``order`` lists all of its chunks by id; these have 0 there until they are stored.

    What goes wrong with a batch is raised when the next one is ready, or by ``finish``. ``undo`` takes all out again.
    """

    def __init__(self, database: Database, order: "array[int]") -> None:
        self._database = database
        self._order = order
        self._process = os.getpid()
        self._waiting: dict[bytes, _New] = {}
        self._bytes = 0
        self._size = 0
        self._going_in: dict[bytes, _New] = {}
        self._insertion: Future[dict[bytes, int]] | None = None
        self._inserted: list[int] = []
        self._is_announced = False
        self._log = LogMover(database)
        self._came_known = False
        self.only_new = False
        """Whether nothing but new chunks came for so long that the store need not be asked about the next: if it has
        that after all, inserting will tell."""

    def note_known(self) -> None:
        """Take note that the store has what came."""
        self._came_known = True

    def repeat(self, digest: bytes, data: bytes) -> bool:
        """Take the chunk if it came before and is not stored yet; return whether. Damaged: with other bytes."""
        new = self._waiting.get(digest) or self._going_in.get(digest)
        if new is None:
            return False
        check_equal(digest, new.data, data)
        new.positions.append(len(self._order))
        self._order.append(0)
        return True

    def add(self, digest: bytes, data: bytes, encoded: Encoded | None = None) -> None:
        """Take a chunk that the store does not have, as far as is known; ``encoded`` if it comes from another store."""
        self._size += len(data)
        self._bytes += len(data)
        encoding = partial(_same, encoded) if encoded else self._encoding(data)
        self._waiting[digest] = _New(data, encoding, [len(self._order)])
        self._order.append(0)
        if self._bytes >= BATCH:
            # Inside a transaction another thread would wait for its end.
            self._insert_batch(beside=self._size > LARGE and not self._database.is_in_transaction)

    def finish(self) -> None:
        """Have all of them in the store."""
        self._log.last()
        self._insert_batch(beside=False)

    def _encoding(self, data: bytes) -> Callable[[], Encoded]:
        """Return what gives codec and bytes to store. What lasts begins now, where it helps in another thread."""
        if self._size <= LARGE:
            return partial(codecs.encode, data)
        codec = codecs.best_codec(data)
        if codecs.for_threads(codec, len(data)):
            return begin(partial(codecs.compress, data, codec)).result
        return partial(_same, codecs.compress(data, codec))

    def _insert_batch(self, *, beside: bool) -> None:
        """Insert what waits, ``beside`` the caller or before it returns; one batch at a time."""
        self._settle()
        self.only_new = self.only_new or not self._came_known
        self._came_known = False
        size = self._bytes
        self._going_in, self._waiting, self._bytes = self._waiting, {}, 0
        batch = list(self._going_in.items())
        if beside:
            self._insertion = begin_writing(partial(self._insert_beside, batch))
            self._log.added(size)
        else:
            self._list(self._insert(batch))

    def _insert_beside(self, batch: list[tuple[bytes, _New]]) -> dict[bytes, int]:
        self._database.beside(pragmas.let_the_log_grow)
        return self._insert(batch)

    def _insert(self, batch: list[tuple[bytes, _New]]) -> dict[bytes, int]:
        """Insert chunks; return the ids of those that were new indeed."""
        rows = [(digest, len(new.data), *new.encoding()) for digest, new in batch]
        inserted: dict[bytes, int] = {}
        if not rows:
            return inserted
        with self._database.write() as connection:
            self._announce(connection)
            crash_point("chunks-announced")
            for row in rows:
                connection.execute(INSERT_CHUNK, row)
                if connection.changes():
                    inserted[row[0]] = connection.last_insert_rowid()
            crash_point("chunks-inserted")
        crash_point("chunks-committed")
        return inserted

    def _settle(self) -> None:
        """Wait for the batch that is going in beside us, and list its chunks."""
        if self._insertion is not None:
            # A forked child has none of the threads; what its parent inserted it finds.
            is_ours = self._process == os.getpid()
            inserted = self._insertion.result() if is_ours else self._insert(list(self._going_in.items()))
            self._insertion = None
            self._list(inserted)

    def _list(self, inserted: dict[bytes, int]) -> None:
        """Enter the chunks of the batch that went in where they stand in the blob."""
        self._inserted += inserted.values()
        for digest, new in self._going_in.items():
            chunk_id = inserted.get(digest, 0)
            if not chunk_id:  # it was not asked about, or another process was faster
                self.only_new = False
                chunk_id = find_chunk(self._database, digest, new.data)
            if not chunk_id:
                raise ChunkVanished
            for position in new.positions:
                self._order[position] = chunk_id
        self._going_in = {}

    def _announce(self, connection: apsw.Connection) -> None:
        """Say that chunks without a blob are none that a crash left (see ``holds.ON_ITS_WAY``)."""
        if self._is_announced:
            hold_at_least_once(connection, [ON_ITS_WAY])
        else:
            hold(connection, {ON_ITS_WAY: 1})
            self._is_announced = True

    def arrive(self, connection: apsw.Connection) -> None:
        """Say that none of them is on its way any more, in the transaction that references them."""
        if self._is_announced:
            release(connection, [ON_ITS_WAY])
            self._is_announced = False

    def undo(self) -> None:
        """Delete those that were inserted and that nothing references; a forked child leaves that to its parent."""
        if self._process != os.getpid():
            return
        if self._insertion is not None:
            wait_for([self._insertion])
            if self._insertion.exception() is None:
                self._inserted += self._insertion.result().values()
            self._insertion = None
        inserted, self._inserted = self._inserted, []
        if self._is_announced:
            with self._database.write() as connection:
                self.arrive(connection)
            crash_point("undo-released")
        for start in range(0, len(inserted), 1000):
            with self._database.write() as connection:
                connection.executemany(DELETE_CHUNK, ((chunk,) for chunk in inserted[start : start + 1000]))
            crash_point("undo-chunks-deleted")


def _same(encoded: Encoded) -> Encoded:
    return encoded


def find_chunk(database: Database, digest: bytes, data: bytes) -> int:
    """Return the id of the chunk in the store, 0 if there is none. Raises Damaged if it has other bytes."""
    for chunk_id, size, codec, stored in database.query(SELECT_CHUNK, (digest,)):
        _compare(digest, data, size, codec, stored)
        return int(chunk_id)
    return 0


def _compare(digest: bytes, data: bytes, size: Any, codec: Any, stored: Any) -> None:
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
