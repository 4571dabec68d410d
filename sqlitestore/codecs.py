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

LEVEL = 3
"""zstd's own default."""

SMALLEST = 256
"""[bytes] Below this the frame's header eats what a small value could save."""

SAMPLE = 16 * 1024
"""[bytes] Of a large chunk that are tried first: 16 KiB tell noise from the rest at a twentieth of the cost."""

WORTHWHILE = 0.9
"""Stored compressed only if that leaves at most this part; decoding costs every reader."""

_local = threading.local()


def encode(data: Buffer) -> tuple[int, Buffer]:
    """Return the codec and the bytes to store for ``data``; with RAW that is ``data`` itself, not copied."""
    view = memoryview(data)
    size = view.nbytes
    if size < SMALLEST:
        return RAW, data
    compressor = _compressor()
    if size > 4 * SAMPLE:
        middle = size // 2
        sample = compressor.compress(view[middle : middle + SAMPLE], compressor.FLUSH_FRAME)
        if len(sample) > WORTHWHILE * SAMPLE:
            return RAW, data
    packed = compressor.compress(view, compressor.FLUSH_FRAME)
    return (ZSTD, packed) if len(packed) <= WORTHWHILE * size else (RAW, data)


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
        compressor = _local.compressor = zstd.ZstdCompressor(LEVEL)
    return compressor
