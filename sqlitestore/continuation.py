"""What the store probably has of a blob on its way in: what came next where its latest chunk was met.

Content that comes again mostly comes as a whole, or all but a part. So once a chunk was found, the chunks that follow
it in that blob are read, by several threads where that helps, and compared with what comes, byte by byte: until they
differ, nothing has to be cut and looked up. (Expecting the order in which the same chunks came before is an idea of
Zhu, Li and Patterson, FAST 2008, "Avoiding the Disk Bottleneck in the Data Domain Deduplication File System".)
"""

from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple, TypeAlias, cast

from xxhash import xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.background import in_order
from sqlitestore.blob_reader import MAX_CHUNK, SELECT_CHUNK_BY_ID
from sqlitestore.database import Database
from sqlitestore.errors import Damaged

WORTHWHILE = 2**20
"""[bytes] Where less is to come, finding it chunk by chunk is as fast."""

AHEAD = 4
"""Chunks that are compared before it is known that the one before is the same."""

MISSES = 2
"""So many new chunks in a row may have taken the place of as many; after more of them nothing is expected."""

AT_ONCE = 1000
"""Chunks that are looked up together once the first of them was the same."""

SELECT_PLACE = """SELECT blob, min(position) FROM blob_chunk
 WHERE chunk = ?1 AND blob = (SELECT max(blob) FROM blob_chunk WHERE chunk = ?1)"""
SELECT_NEXT = """SELECT n.position, c.id, c.size, c.codec, c.digest FROM blob_chunk AS n
 JOIN chunk AS c ON c.id = n.chunk WHERE n.blob = ? AND n.position > ? ORDER BY n.position LIMIT ?"""


Stored: TypeAlias = bytes | memoryview
"""A chunk's bytes; a view is of memory that is used again."""


class _Expected(NamedTuple):
    """A chunk that probably comes, as its row says, and the bytes that do come."""

    place: tuple[int, int]
    chunk_id: int
    codec: object
    digest: object
    coming: memoryview


def _for_threads(expected: _Expected) -> int:
    """Return what other threads could do of a chunk [bytes]; the caller's has memory for noise that it uses again.

    On two cores two threads took 65 ms to compare 100 MB of noise, and 94 of processor time; one takes 51.
    """
    return codecs.for_threads(expected.codec, expected.coming.nbytes)


class Continuation:
    """Where in the store a blob on its way in was met, and what follows there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: int | None = None
        self._place: tuple[int, int] | None = None  # blob and position; looked up only if it is needed
        self._misses = 0
        self._memory = bytearray()

    def found(self, chunk_id: int) -> None:
        """Take note of a chunk that came and that the store has."""
        self._found, self._place, self._misses = chunk_id, None, 0

    def missed(self) -> None:
        """Take note of a chunk that came and that the store does not have."""
        self._misses += 1
        self._found = None
        if self._place is not None:
            blob, position = self._place
            self._place = None if self._misses > MISSES else (blob, position + 1)

    def chunks(self, coming: memoryview) -> Generator[tuple[int, Stored]]:
        """Yield id and bytes of each chunk of the store that comes next, as far as the content goes on the same.

        The bytes may be gone when the next ones come. Close it (``contextlib.closing``): no thread looks at ``coming``
        any more then. Inside a transaction, whose snapshot the other threads do not see, nothing is expected.
        """
        if coming.nbytes < WORTHWHILE or self._database.is_in_transaction:
            return
        if self._found is not None:
            [(blob, position)] = self._database.query(SELECT_PLACE, (self._found,))
            self._found, self._place = None, (blob, position) if _are_numbers(blob, position) else None
        first = self._expected(coming, 1)
        if not first:
            self._place = None
        for each in first:  # alone: content that only begins as something else does is to cost little
            same = self._same(each)
            if same is None:
                return
            yield self._taken(each), same
        rest = self._expected(coming[sum(each.coming.nbytes for each in first) :], AT_ONCE)
        with closing(in_order(self._same, rest, AHEAD, _for_threads)) as results:
            for each, same in zip(rest, results, strict=False):  # what is not taken is not waited for
                if same is None:
                    return
                yield self._taken(each), same

    def _taken(self, expected: _Expected) -> int:
        self._place, self._misses = expected.place, 0
        return expected.chunk_id

    def _expected(self, coming: memoryview, most: int) -> list[_Expected]:
        """Return up to ``most`` chunks that follow in the store, as far as all of their bytes are at hand."""
        if self._place is None:
            return []
        blob, _ = self._place
        expected = []
        begin = 0
        for position, chunk_id, size, codec, digest in self._database.query(SELECT_NEXT, (*self._place, most)):
            if not _are_numbers(position, size) or not 0 < size <= min(MAX_CHUNK, coming.nbytes - begin):
                break
            expected.append(_Expected((blob, position), chunk_id, codec, digest, coming[begin : begin + size]))
            begin += size
        return expected

    def _same(self, expected: _Expected) -> Stored | None:
        """Return the chunk's bytes if they are those that come; None if not, or if the chunk is gone or damaged."""
        stored = self._stored(expected)
        if stored is None or len(stored) != expected.coming.nbytes:
            return None
        # Of equal sizes it is equality, by memcmp; "==" of bytes and a view of others goes byte by byte.
        memory = cast("bytes | bytearray", stored.obj) if isinstance(stored, memoryview) else stored
        is_same = memory.startswith(expected.coming)
        return stored if is_same and xxh3_128_digest(stored) == expected.digest else None

    def _stored(self, expected: _Expected) -> Stored | None:
        size = expected.coming.nbytes
        if expected.codec == codecs.RAW:
            return self._read(size, expected.chunk_id)
        for _, _, packed, _ in self._database.query(SELECT_CHUNK_BY_ID, (expected.chunk_id,)):
            try:
                if expected.codec == codecs.SHUFFLED:
                    return codecs.unshuffled(packed, size)
                return codecs.decode(expected.codec, packed, size)
            except Damaged:
                return None
        return None

    def _read(self, size: int, chunk_id: int) -> memoryview | None:
        """Return a chunk that is stored as it is, in memory that is used again: only the caller's thread comes here."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        stored = memoryview(self._memory)[:size]
        return stored if self._database.read_into(stored, "chunk", "bytes", chunk_id) else None


def _are_numbers(*values: object) -> bool:
    """Return whether a row holds what SQLite would have checked when it was written by us; a forged one may not."""
    return all(isinstance(value, int) for value in values)
