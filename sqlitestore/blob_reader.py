"""Files to read a blob from. Every chunk is checked before a byte of it is handed out, and the whole at the end."""

import json
from array import array
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from types import TracebackType
from typing import Any, NamedTuple, Self

from xxhash import xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.background import in_order
from sqlitestore.database import Database
from sqlitestore.errors import BlobNotFound, Damaged
from sqlitestore.memory_pages import ask_for_large_pages

MAX_CHUNK = 16 * 2**20
"""[bytes] Format limit of a chunk; what a file claims beyond it is damage, or an attack on our memory."""

MAX_INLINE = 2**20
"""[bytes] Format limit of a blob that sits in its row."""

LARGE = 4 * 2**20
"""[bytes] What is read at once from here on is read to where it belongs, by several threads where that helps."""

CHUNKS_AHEAD = 4

SELECT_PLACES = """SELECT asked.value, c.size, c.codec, c.digest FROM json_each(?) AS asked
 LEFT JOIN chunk AS c ON c.id = asked.value"""
SELECT_CHUNK_BY_ID = "SELECT size, codec, bytes, digest FROM chunk WHERE id = ?"
IS_MADE_OF = "SELECT 1 FROM blob AS b JOIN blob_chunk AS c ON c.blob = b.id WHERE b.key = ? AND c.chunk = ? LIMIT 1"


class _Place(NamedTuple):
    """A chunk as its row says, and where its bytes are wanted."""

    chunk_id: int
    codec: Any
    digest: Any
    target: memoryview


def _for_threads(place: _Place) -> int:
    return codecs.for_threads(place.codec, place.target.nbytes)


class InlineReader(BytesIO):
    """A small blob, checked before it was made into a file."""

    @property
    def size(self) -> int:
        """Return the size of the whole [bytes]."""
        return self.getbuffer().nbytes


class ChunkedReader:
    """A large blob, one chunk in memory at a time.

    Use it in ``with``: leaving the block reads what was left and raises Damaged if the whole is not what the key says.
    Chunks are immutable, so no transaction stays open between two of them. A blob that is pruned meanwhile raises
    BlobNotFound.
    """

    def __init__(self, database: Database, key: str, size: int, chunks: "array[int]", hasher: Any) -> None:
        self._database = database
        self._key = key
        self.size = size
        """[bytes]"""
        self._chunks = chunks
        self._next = 0
        self._hasher = hasher
        self._delivered = 0
        self._view = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        # Also after an error: whoever could not make sense of the bytes may have been given damaged ones.
        if kind is None or issubclass(kind, Exception):
            while self._fill():
                self._view = memoryview(b"")
            if self._delivered != self.size or self._hasher.hexdigest() != self._key:
                raise self._damaged("the whole has another digest")

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, or as much of it as there is left; return how much [bytes]."""
        target = memoryview(buffer).cast("B")
        done, wanted = 0, target.nbytes
        if wanted >= LARGE and not self._view.nbytes:
            done = self._read_together(target)
        while done < wanted and self._fill():
            some = min(wanted - done, self._view.nbytes)
            target[done : done + some] = self._view[:some]
            self._view = self._view[some:]
            done += some
        return done

    def read(self, size: int = -1, /) -> bytes:
        """Return ``size`` bytes, all that are left if negative; fewer only at the end."""
        if 0 <= size <= self._view.nbytes:
            data = self._view[:size]
            self._view = self._view[size:]
            return bytes(data)
        # BytesIO hands over its buffer without copying it, so even gigabytes are in memory once.
        joined = BytesIO()
        left = self.size if size < 0 else size
        while left > 0 and self._fill():
            some = joined.write(self._view[:left])
            self._view = self._view[some:]
            left -= some
        return joined.getvalue()

    def readline(self, size: int = -1, /) -> bytes:
        """Return bytes up to and with the next newline."""
        line = bytearray()
        while (size < 0 or len(line) < size) and (byte := self.read(1)):
            line += byte
            if byte == b"\n":
                break
        return bytes(line)

    def _fill(self) -> bool:
        """Have at least a byte at hand; return False at the end."""
        while not self._view.nbytes:
            if self._next >= len(self._chunks):
                return False
            data, _, _ = self._decoded(self._chunks[self._next])
            self._next += 1
            self._took(data)
            self._view = memoryview(data)
        return True

    def _read_together(self, target: memoryview) -> int:
        """Fill ``target`` with the chunks that fit in as a whole, read to where they belong; return how much [bytes].

        Not inside a transaction, whose snapshot other threads would not see.
        """
        if self._database.is_in_transaction:
            return 0
        places: list[_Place] = []
        end = 0
        ids = json.dumps(self._chunks[self._next :].tolist())
        for chunk_id, size, codec, digest in self._database.query(SELECT_PLACES, (ids,)):
            if not isinstance(size, int) or size <= 0 or end + size > target.nbytes:
                break  # ``_fill`` says what is wrong with it
            places.append(_Place(chunk_id, codec, digest, target[end : end + size]))
            end += size
        ask_for_large_pages(target)
        with closing(in_order(self._read_to, places, CHUNKS_AHEAD, _for_threads)) as filled:
            for place in filled:
                self._next += 1
                self._took(place)
        return end

    def _read_to(self, place: _Place) -> memoryview:
        """Read a chunk to where it belongs."""
        chunk_id, codec, digest, target = place
        is_read = False
        if codec == codecs.RAW:
            # SQLite itself reads there: each copy in between would cost as much as reading it.
            is_read = self._database.read_into(target, "chunk", "bytes", chunk_id)
        elif codec == codecs.SHUFFLED:
            is_read = self._unshuffle_to(target, chunk_id)
        if is_read and xxh3_128_digest(target) == digest:
            return target
        data, _, _ = self._decoded(chunk_id)  # or it says what is wrong
        if len(data) != target.nbytes:
            raise self._damaged(f"chunk {chunk_id} has {len(data)} bytes now")
        # As ``target[:] = data``, but the other threads can work meanwhile: most of the time goes into new pages. (The
        # unpickler's buffer is not kept alive by views of it, so nobody may be at work here after an error.)
        import ctypes  # 2 ms, and only needed for what is large

        ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(target)), data, len(data))
        return target

    def _unshuffle_to(self, target: memoryview, chunk_id: int) -> bool:
        for _, _, stored, _ in self._database.query(SELECT_CHUNK_BY_ID, (chunk_id,)):
            try:
                target[:] = codecs.unshuffled(stored, target.nbytes)
            except Damaged:
                return False
            return True
        return False

    def encoded_chunks(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield each chunk, checked, with its codec and its bytes as stored; instead of reading."""
        for chunk_id in self._chunks[self._next :]:
            data, codec, stored = self._decoded(chunk_id)
            self._next += 1
            self._took(data)
            yield data, codec, stored

    def _took(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self._delivered += len(data)
        if not isinstance(self.size, int) or self._delivered > self.size:
            raise self._damaged(f"its chunks have more than its {self.size} bytes")

    def _decoded(self, chunk_id: int) -> tuple[bytes, int, bytes]:
        rows = self._database.query(SELECT_CHUNK_BY_ID, (chunk_id,))
        if not rows and not self._database.query(IS_MADE_OF, (bytes.fromhex(self._key), chunk_id)):
            raise BlobNotFound(f"Blob {self._key} was pruned from {self._database.path} while it was being read.")
        if not rows:
            raise self._damaged(f"chunk {chunk_id} is missing")
        size, codec, stored, digest = rows[0]
        if not isinstance(size, int) or not 0 < size <= MAX_CHUNK:
            raise self._damaged(f"chunk {chunk_id} claims {size} bytes")
        try:
            data = codecs.decode(codec, stored, size)
        except Damaged as error:
            raise self._damaged(f"chunk {chunk_id}: {error}") from error
        if xxh3_128_digest(data) != digest:
            raise self._damaged(f"chunk {chunk_id} has another digest")
        return data, codec, stored

    def _damaged(self, what: str) -> Damaged:
        return Damaged(f"Blob {self._key} in {self._database.path} is damaged: {what}.")
