"""Chunk bytes <-> stored bytes. No SQL, no I/O; safe from any thread, each of which has memory of its own.

A codec is a number in the file: 0 raw, 1 one zstd frame, 2 one zstd frame of shuffled bytes. Shuffling (a filter that
HDF5 and Blosc have, too) takes the bytes as numbers of 8 bytes, and puts the first bytes of all first, then the second
ones, and so on: the high bytes of most numbers are much the same. New codecs may come with a new format, old ones stay.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any, cast

from sqlitestore.errors import Damaged
from sqlitestore.model import Buffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RAW, ZSTD, SHUFFLED = 0, 1, 2

WIDTH = 8
"""[bytes] Of what is shuffled. Numbers of 4 and 2 bytes are nearly as small so as shuffled by their own width: int32
below 5,000 leave 39 % (zstd alone: 54), a random walk of int16 51 % (58)."""

PARAMETERS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.hash_log: 17,
    zstd.CompressionParameter.min_match: 7,
}
"""Of 256 KiB each of int64 below 1000, a random walk, a CSV of flights, JSON, and source code, level 1 leaves 20, 37,
27, 20, and 30 %, level 3 (zstd's default) 24, 38, 27, 22, and 28 %, and takes 1.2 to 1.6 times as long. The table
of level 1 is for less: with one of 2^17 places, and only longer matches looked for, 360 KiB of the CSV, JSON, source
code, and int32 below 50 leave 25.0, 10.0, 27.9, and 26.1 instead of 26.6, 10.1, 28.5, and 28.0 %, as fast."""

SMALLEST = 256
"""[bytes] Below this the frame's header eats what a small value could save."""

SAMPLE = 8 * 1024
"""[bytes] From the middle of what is larger; they tell which codec is worth trying."""

SMALLEST_SAMPLED = 64 * 1024
"""[bytes] From here on what seems to be noise in its sample is not compressed at all."""

SMALLEST_SHUFFLED = 4 * 1024
"""[bytes] Below this shuffling is not tried."""

WORTHWHILE = 0.9
"""Stored compressed only if that leaves at most this part; decoding costs every reader."""

AS_SMALL = 1.05
"""Shuffled if that leaves at most so much of what zstd alone does, where that is below a quarter of the sample: then
most of the shuffled bytes are zeros, and decoded in no time. Of a random walk of int64 12.7 instead of 12.4 %, decoded
in a quarter of the time; of the flights' fractions and whole numbers 14.1 and 8.7 instead of 14.5 and 8.9 with 0.9.
Where it is more, WORTHWHILE: to put bytes in order takes longer than to copy what zstd leaves as it is."""

ZEROS = bytes(2**20)
"""As many as the largest chunk that our chunker makes."""

_local = threading.local()


def encode(data: Buffer) -> tuple[int, Buffer]:
    """Return the codec and the bytes to store for ``data``; with RAW that is ``data`` itself, not copied."""
    return compress(data, best_codec(data))


def best_codec(data: Buffer) -> int:
    """Return the codec that seems best; a sample tells noise at a twentieth of the cost of trying."""
    view = memoryview(data)
    size = view.nbytes
    if size < SMALLEST:
        return RAW
    if size < SMALLEST_SHUFFLED:
        return ZSTD
    begin = max(0, size - SAMPLE) // 2
    sample = bytes(view[begin : begin + SAMPLE])
    alone = len(_zstd(sample))
    if size >= SMALLEST_SAMPLED and alone > WORTHWHILE * len(sample):
        return RAW
    most = (AS_SMALL if alone < len(sample) / 4 else WORTHWHILE) * alone
    return SHUFFLED if len(_shuffled(sample)) <= most else ZSTD


def compress(data: Buffer, codec: int) -> tuple[int, Buffer]:
    """Return ``data`` in that codec, with the codec; with RAW if it would hardly be smaller."""
    if codec == RAW:
        return RAW, data
    packed = _zstd(data) if codec == ZSTD else _shuffled(bytes(data))
    return (codec, packed) if len(packed) <= WORTHWHILE * memoryview(data).nbytes else (RAW, data)


def _zstd(data: Buffer) -> bytes:
    compressor = _compressor()
    packed: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return packed


def _shuffled(data: bytes) -> bytes:
    """Return a frame with a block for the first bytes of all numbers, one for the second ones, ..., and what is left.

    Blocks of their own, because each of them has its own statistics.
    """
    compressor = _compressor()
    _local.compressor = None  # one that is interrupted within a frame is not used again
    end = len(data) - len(data) % WIDTH
    blocks = [compressor.compress(column, compressor.FLUSH_BLOCK) for column in _columns(data, end)]
    blocks.append(compressor.compress(data[end:], compressor.FLUSH_FRAME))
    _local.compressor = compressor
    return b"".join(blocks)


def _columns(data: bytes, end: int) -> Iterable[bytes]:
    """Return the first bytes of all numbers up to ``end``, the second ones, and so on.

    NumPy, which is loaded wherever arrays are, copies 48 MB so in 25 ms, Python's slices in 61. (To put them in order
    again it is no gain.)
    """
    as_array = getattr(sys.modules.get("numpy"), "frombuffer", None)
    if as_array is None:  # or it is being loaded just now
        return (data[place:end:WIDTH] for place in range(WIDTH))
    array = as_array(data, "u1")
    return (array[place:end:WIDTH].tobytes() for place in range(WIDTH))


def for_threads(codec: object, size: int) -> int:
    """Return what other threads encode or decode faster of a chunk of ``size`` bytes: all of it, or 0.

    Of a shuffled chunk half the time is spent with Python's lock. Of 48 MB of those, which one thread decodes in 38 ms,
    two took 55: each waits to be woken whenever the other lets go of the lock. Chunks that are stored as they are have
    nothing to decode: on two cores two threads read 100 MB of them in 69 ms, and 100 of processor time, one in 57. And
    the few bytes with which a pickle ends are not worth the first use of the threads, of which the imports alone take
    7 ms.
    """
    return size if codec == ZSTD and size >= SMALLEST_SAMPLED else 0


def decode(codec: Any, stored: Any, size: Any) -> bytes:
    """Return the ``size`` bytes that ``stored`` holds.

    Never unpacks more than ``size`` + 1 bytes, whatever a frame from a stranger claims. Raises Damaged if the codec is
    unknown or the outcome has another size.
    """
    if codec == SHUFFLED:
        return bytes(unshuffled(stored, size))
    _check(stored, size)
    if codec == ZSTD:
        return _Frame(stored, size).last(size)
    if codec != RAW:
        raise Damaged(f"a chunk has the unknown codec {codec}")
    if len(stored) != size:
        raise Damaged(f"a chunk has {len(stored)} bytes where {size} belong")
    return cast("bytes", stored)


def unshuffled(stored: Any, size: Any) -> memoryview:
    """Return what ``decode`` does for a shuffled chunk, in memory that this thread's next call uses again."""
    _check(stored, size)
    count = size // WIDTH
    end = count * WIDTH
    frame = _Frame(stored, size)
    column = frame.read(count)  # before there is room for all that a stranger claims
    numbers = _zeroed(size)
    for place in range(WIDTH):
        if place:
            column = frame.read(count)
        if not ZEROS.startswith(column):  # of small whole numbers most are zeros, and are there already
            numbers[place:end:WIDTH] = column
    numbers[end:size] = frame.last(size - end)
    return memoryview(numbers)[:size]


def _check(stored: Any, size: Any) -> None:
    # A damaged row may hold anything, and to zstd a negative size means: as much as there is.
    if not isinstance(stored, bytes) or not isinstance(size, int) or size < 0:
        raise Damaged(f"a chunk is a {type(stored).__name__} with the size {size!r}")


def _zeroed(size: int) -> bytearray:
    """Return memory that begins with ``size`` zeros: the same each time, unless more is wanted than any chunk of ours.

    With new memory for each chunk a new process loaded 48 MB in 290 instead of 90 ms: the C library gave it back and
    asked for it again, and the first touch of a page costs more than all that is done with it.
    """
    if size > len(ZEROS):
        return bytearray(size)
    numbers: bytearray | None = getattr(_local, "numbers", None)
    if numbers is None:
        numbers = _local.numbers = bytearray(len(ZEROS))
    else:
        memoryview(numbers)[:size] = memoryview(ZEROS)[:size]
    return numbers


class _Frame:
    """A zstd frame of ``size`` bytes, read part by part. Raises Damaged where it is none, or has fewer or more."""

    def __init__(self, stored: bytes, size: int) -> None:
        self._decompressor = zstd.ZstdDecompressor()
        self._stored = stored
        self._size = size
        self._read = 0

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        part = self._up_to(size)
        if len(part) < size:
            raise self._has_other_size()
        return part

    def last(self, size: int) -> bytes:
        """Return the last ``size`` bytes."""
        part = self._up_to(size + 1)  # one more than there ought to be, so that the end is seen
        if not self._decompressor.eof:
            raise Damaged(f"a compressed chunk does not end after its {self._size} bytes")
        if self._decompressor.unused_data:  # no digest covers it, and merge would hand it on
            raise Damaged("a compressed chunk has more behind its frame")
        if len(part) != size:
            raise self._has_other_size()
        return part

    def _up_to(self, size: int) -> bytes:
        if self._decompressor.eof:
            return b""
        try:
            part: bytes = self._decompressor.decompress(self._stored, size)
        except (zstd.ZstdError, MemoryError, ValueError, OverflowError) as error:
            raise Damaged(f"a compressed chunk cannot be decoded ({error})") from error
        self._stored = b""
        self._read += len(part)
        return part

    def _has_other_size(self) -> Damaged:
        return Damaged(f"a chunk has {self._read} bytes where {self._size} belong")


def _compressor() -> Any:
    """Return this thread's compressor: making one for each value costs more than a small value's compression."""
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstd.ZstdCompressor(options=PARAMETERS)
    return compressor
