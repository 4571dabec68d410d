"""Bytes -> chunks whose boundaries follow the content, so that an insertion moves only the boundaries near it.

Boundaries are not part of the format: any cut of a blob is valid. Another cut only finds fewer chunks to share.
The method is FastCDC (Xia et al., USENIX ATC 2016, "FastCDC: a Fast and Efficient Content-Defined Chunking Approach").
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import cache
from typing import Any

from sqlitestore.forking import unforked

SMALLEST = 128 * 1024
AVERAGE = 256 * 1024
LARGEST = 1024 * 1024
"""[bytes] A chunk's sizes. 200 MB of noise with 256 KiB, 512 KiB and 1 MiB on average: 570, 300 and 140 rows, and
0.1 %, 0.3 % and 0.6 % new after an insertion at the front; all are cut at 3,000 to 5,000 MB/s. With 512 KiB the C
library gives memory back to the system after each chunk, and gets it again for the next: compressed chunks took 1.5
times as long to compare and to load."""

SEGMENT = 192 * 1024
"""[bytes] From here on a single ``write`` is a segment: it begins a chunk, so that equal arrays give equal chunks
wherever they stand. Above the 128 KiB that a frame of CPython's pickler can reach: frames are not content."""

WINDOW = 4 * LARGEST
"""[bytes] Of small writes that are gathered before they are cut."""


class Chunker:
    """Cuts what is written to it. ``write`` and ``flush`` return the chunks that became complete, in order.

    A chunk is a view either of the buffer written just now, valid while the caller keeps that unchanged, or of bytes
    that the chunker lets go of. ``taken`` is asked between two chunks, once the one before was consumed, how many of
    the bytes to come need no cutting [bytes]; none is a fine answer.
    """

    def __init__(self, taken: Callable[[memoryview], int] = lambda _: 0) -> None:
        self._taken = taken
        self._gathered = bytearray()

    def write(self, data: memoryview) -> Iterator[memoryview]:
        """Take ``data`` (one-dimensional bytes)."""
        if data.nbytes >= SEGMENT:
            yield from self.flush()
            yield from self._cut(data)
            return
        self._gathered += data
        if len(self._gathered) >= WINDOW:
            yield from self._cut_gathered()

    def flush(self) -> Iterator[memoryview]:
        """Cut what is left."""
        gathered, self._gathered = self._gathered, bytearray()
        yield from self._cut(memoryview(gathered))

    def _cut_gathered(self) -> Iterator[memoryview]:
        """Cut all but the last chunk, which ends only because the window does."""
        rest = yield from self._cut(memoryview(self._gathered), but_the_last=True)
        self._gathered = bytearray(rest)

    def _cut(self, data: memoryview, *, but_the_last: bool = False) -> Generator[memoryview, None, memoryview]:
        """Yield the chunks of ``data``; return what is left."""
        while data.nbytes:
            if taken := self._taken(data):
                data = data[taken:]
                continue
            size = next(_chunker().cut_buf(data)).length
            if but_the_last and size == data.nbytes:
                break
            yield data[:size]
            data = data[size:]
        return data


@cache
def _chunker() -> Any:
    with unforked():
        from pyfastcdc import FastCDC  # 15 ms, and only needed for the first large blob

    return FastCDC(avg_size=AVERAGE, min_size=SMALLEST, max_size=LARGEST)
