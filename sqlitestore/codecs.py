"""Chunk bytes <-> stored bytes. Pure functions; safe from any thread.

A codec is a number in the file: 0 raw, 1 one zstd frame. New numbers may come, old ones stay.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from sqlitestore.errors import Damaged
from sqlitestore.model import Buffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RAW, ZSTD = 0, 1

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

SAMPLE = 16 * 1024
"""[bytes] Of a large chunk that are tried first."""

WORTHWHILE = 0.9
"""Stored compressed only if that leaves at most this part; decoding costs every reader."""

_local = threading.local()


def encode(data: Buffer) -> tuple[int, Buffer]:
    """Return the codec and the bytes to store for ``data``; with RAW that is ``data`` itself, not copied."""
    if not seems_compressible(data):
        return RAW, data
    view = memoryview(data)
    compressor = _compressor()
    packed = compressor.compress(view, compressor.FLUSH_FRAME)
    return (ZSTD, packed) if len(packed) <= WORTHWHILE * view.nbytes else (RAW, data)


def seems_compressible(data: Buffer) -> bool:
    """Return whether it is worth trying; a sample of what is large tells noise at a twentieth of the cost."""
    view = memoryview(data)
    size = view.nbytes
    if size <= 4 * SAMPLE:
        return size >= SMALLEST
    middle = size // 2
    compressor = _compressor()
    sample = compressor.compress(view[middle : middle + SAMPLE], compressor.FLUSH_FRAME)
    return len(sample) <= WORTHWHILE * SAMPLE


def decode(codec: Any, stored: Any, size: Any) -> bytes:
    """Return the ``size`` bytes that ``stored`` holds.

    Never makes more than ``size`` + 1 bytes, whatever a frame from a stranger claims. Raises Damaged if the codec is
    unknown or the outcome has another size.
    """
    # A damaged row may hold anything, and to zstd a negative size means: as much as there is.
    if not isinstance(stored, bytes) or not isinstance(size, int) or size < 0:
        raise Damaged(f"a chunk is a {type(stored).__name__} with the size {size!r}")
    if codec == RAW:
        data = stored
    elif codec == ZSTD:
        decompressor = zstd.ZstdDecompressor()
        try:
            data = decompressor.decompress(stored, size + 1)
        except (zstd.ZstdError, MemoryError, ValueError, OverflowError) as error:
            raise Damaged(f"a compressed chunk cannot be decoded ({error})") from error
        if not decompressor.eof:
            raise Damaged(f"a compressed chunk does not end after its {size} bytes")
        if decompressor.unused_data:  # no digest covers it, and merge would hand it on
            raise Damaged("a compressed chunk has more behind its frame")
    else:
        raise Damaged(f"a chunk has the unknown codec {codec}")
    if len(data) != size:
        raise Damaged(f"a chunk has {len(data)} bytes where {size} belong")
    return data


def _compressor() -> Any:
    """Return this thread's compressor: making one for each value costs more than a small value's compression."""
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstd.ZstdCompressor(options=PARAMETERS)
    return compressor
