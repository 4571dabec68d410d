"""The pages of a database file, read without SQLite: also of a file that SQLite refuses. Nothing is written.

https://www.sqlite.org/fileformat2.html says what stands where. A write-ahead log beside the file counts as far as it
was committed: the latest frame of a page takes the page's place. A rollback journal holds the pages as they were before
a transaction that did not end: they take the place of what it left half written.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Self

from sqlitestore.maintenance.page_cells import parse_page

MAGIC = b"SQLite format 3\0"
PAGE_SIZES = tuple(2**power for power in range(9, 17))
"""[bytes] That SQLite knows; ours is 8192."""

BTREE_KINDS = (2, 5, 10, 13)
"""First byte of a page of a b-tree: of an index, inner; of a table, inner; of an index, leaf; of a table, leaf."""

SAMPLE = 400
"""Places at which a page size is tried out."""

LOG_MAGIC = (0x377F0682, 0x377F0683)
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
LOG_HEADER, FRAME_HEADER = 32, 24


class PageFile:
    """Gives the pages by their numbers, from 1. Use it in ``with``.

    ``page_size`` [bytes] is what the header says or, if that cannot be, what the pages look like. ``count`` is how many
    there are, ``cut`` whether the header counts more. ``header`` is that of page 1, b"" if it is none.
    """

    def __init__(self, path: str) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by the with of the caller
        self._beside: list[BinaryIO] = []
        self._places: dict[int, tuple[BinaryIO, int]] = {}
        """Where a page stands that is not in the file itself."""
        size = os.fstat(self._file.fileno()).st_size
        first = self._file.read(100)
        self.page_size = self._choose_page_size(first, size)
        self.count = -(-size // self.page_size)
        for suffix, smallest, read in (("-wal", LOG_HEADER, self._read_log), ("-journal", 512, self._read_journal)):
            if _is_plain_file(path + suffix) and os.path.getsize(path + suffix) > smallest:
                self._beside.append(open(path + suffix, "rb"))  # noqa: SIM115
                read(self._beside[-1])
        # A damaged journal may claim billions of pages; each stands in the file or beside it.
        self.count = min(self.count, -(-size // self.page_size) + len(self._places))
        self.header = self.page(1)[:100]
        if not self.header.startswith(MAGIC):
            self.header = b""
        self.cut = bool(self.header) and int.from_bytes(self.header[28:32], "big") > self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._file, *self._beside):
            file.close()

    def page(self, number: int) -> bytes:
        """Return a page, b"" if there is none of that number; zeros stand for what is cut off."""
        if not 0 < number <= self.count:
            return b""
        if number in self._places:
            file, place = self._places[number]
            file.seek(place)
            return file.read(self.page_size)
        self._file.seek((number - 1) * self.page_size)
        return self._file.read(self.page_size).ljust(self.page_size, b"\0")

    def _choose_page_size(self, first: bytes, size: int) -> int:
        """Return the header's page size, unless another makes many more pages look like pages."""
        scores = {page_size: self._plausible_pages(page_size, size) for page_size in PAGE_SIZES}
        best = max(PAGE_SIZES, key=lambda page_size: scores[page_size])
        if first.startswith(MAGIC):
            (said,) = struct.unpack(">H", first[16:18])
            said = 65536 if said == 1 else said
            if said in scores and 2 * scores[said] >= scores[best]:
                return int(said)
        return best if scores[best] else 8192

    def _plausible_pages(self, page_size: int, size: int) -> int:
        pages = size // page_size
        count = 0
        for number in range(1, pages, max(1, pages // SAMPLE)):
            self._file.seek(number * page_size)
            if self._file.read(1)[0] not in BTREE_KINDS:
                continue
            # Its cells and its free space must add up: in half a page, or in two, they would not.
            self._file.seek(number * page_size)
            page = parse_page(self._file.read(page_size), number + 1)
            count += bool(page.cells and not page.hurt)
        return count

    def _read_log(self, log: BinaryIO) -> None:
        """Note where the committed frames are. The salts and the running checksum tell which belong to this log."""
        header = log.read(LOG_HEADER)
        magic, _, page_size = struct.unpack(">III", header[:12])
        order = ">" if magic & 1 else "<"
        checksum = _log_checksum(header[:24], (0, 0), order)
        if magic not in LOG_MAGIC or checksum != struct.unpack(">II", header[24:]) or page_size != self.page_size:
            return
        waiting: dict[int, tuple[BinaryIO, int]] = {}
        while len(head := log.read(FRAME_HEADER)) == FRAME_HEADER:
            place = log.tell()
            data = log.read(page_size)
            checksum = _log_checksum(data, _log_checksum(head[:8], checksum, order), order)
            if len(data) < page_size or head[8:16] != header[16:24] or checksum != struct.unpack(">II", head[16:]):
                break
            number, committed = struct.unpack(">II", head[:8])
            waiting[number] = (log, place)
            if committed:
                self._places |= waiting
                waiting = {}
                self.count = committed

    def _read_journal(self, journal: BinaryIO) -> None:
        """Note where the pages are that an interrupted transaction changed ("The Rollback Journal")."""
        size = os.fstat(journal.fileno()).st_size
        start = 0
        while start + 28 <= size:
            journal.seek(start)
            header = journal.read(28)
            records, _, count, sector, page_size = struct.unpack(">5I", header[8:])
            if header[:8] != JOURNAL_MAGIC or page_size != self.page_size or sector < 28:  # noqa: PLR2004
                return
            if start == 0:
                self.count = count
            start += sector
            # 0xFFFFFFFF means: as many as there are; damage may claim more than that, too.
            records = min(records, max(0, size - start) // (page_size + 8))
            for place in range(start, start + records * (page_size + 8), page_size + 8):
                journal.seek(place)
                number = int.from_bytes(journal.read(4), "big")
                self._places.setdefault(number, (journal, place + 4))
            start = -(-(start + records * (page_size + 8)) // sector) * sector


def _is_plain_file(path: str) -> bool:
    """Whether it is there, and neither a link, a folder nor a pipe, which a stranger may have put there."""
    return os.path.isfile(path) and not os.path.islink(path)


def _log_checksum(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    """Return SQLite's checksum of a log, going on from ``start``."""
    one, two = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
    for index in range(0, len(words) - 1, 2):
        one = (one + words[index] + two) & 0xFFFFFFFF
        two = (two + words[index + 1] + one) & 0xFFFFFFFF
    return one, two
