"""Every row that the pages of a file hold, each with where it stands and how sure it is that it belongs to the file.

First the trees are walked from the roots that the schema names: what they reach is ATTACHED. Where an inner page is
damaged, SQL loses all that is below it; so every other page that looks like one of a b-tree is read too, and its rows
say of which table they are. Such a page is ORPHANED: no healthy file has one, so it hung in a tree that is damaged
now. But pages on the list of free pages hold what was deleted, and are left alone: a pruned run, old tags and what a
user scrubbed do not come back. What is free is told by the header's list, and, in files that can shrink, by the map of
pages that SQLite keeps for it. If both are lost, it is UNCERTAIN whether an orphaned page is free, and its rows count
only where nothing else is known. Cells of a page that its array of cells does not list are deleted rows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from xxhash import xxh3_64_intdigest

from sqlitestore.maintenance.page_cells import (
    INDEX_INNER,
    INDEX_LEAF,
    TABLE_INNER,
    TABLE_LEAF,
    Page,
    decode_record,
    parse_page,
    whole_payload,
)
from sqlitestore.maintenance.page_file import PageFile
from sqlitestore.maintenance.row_shapes import HEADS, INDEXES, OTHER_INDEXES, SHAPES, fits, real_numbers, tables_of
from sqlitestore.maintenance.verification import Findings
from sqlitestore.progress import Progress
from sqlitestore.schema import FORMAT_3, SCHEMAS

ATTACHED, ORPHANED, UNCERTAIN = 0, 2, 4
"""How sure a row is; odd numbers are for what an index says of it."""

FREE_PAGE = 2
"""In the map of pages (https://www.sqlite.org/fileformat2.html, "Pointer Map Pages")."""

KIND_OF_LEAF = {TABLE_LEAF: True, INDEX_LEAF: False, INDEX_INNER: False}


Records: TypeAlias = Sequence[tuple[int, list[Any]]]
"""The rows in a page: each cell's index, and the values."""

LOOK_LIKE_OTHERS = {"blob", "chunk", "blob_chunk", "blob_chunk_by_chunk"}
"""Tables and indexes that take more than the types of their columns to be told from each other."""


class Row(NamedTuple):
    """A row of the table or index ``name``. In tables with a rowid that is the first value; content is left out."""

    name: str
    rank: int
    page: int
    cell: int
    values: list[Any]


class Carver:
    """Reads the pages of a file once. ``hurt`` names the tables and indexes of whose trees something is damaged."""

    def __init__(self, pages: PageFile, findings: Findings, progress: Progress) -> None:
        self.hurt: set[str] = set()
        self.schema_whole: bool = False
        self._pages = pages
        self._findings = findings
        self._progress = progress
        self._reached = bytearray(pages.count + 1)
        self._free = bytearray(pages.count + 1)
        self._knows_free = False
        self.roots: dict[str, int] = {}
        # Content is fetched row by row, in the order of its pages.
        self._parsed = lru_cache(maxsize=16)(self._parse)

    def rows(self) -> Iterator[Row]:
        """Yield all rows, the attached ones first."""
        self._progress.start("Reading the pages", self._pages.count, "pages")
        try:
            yield from self._attached()
            if self._knows_free or self.hurt or not self.schema_whole:
                yield from self._orphaned()
        finally:
            self._progress.finish()

    def payload(self, page: int, cell: int) -> list[Any] | None:
        """Return all values of the row at a place, None if it cannot be read."""
        found = self._parsed(page).cells.get(cell)
        payload = None if found is None else whole_payload(found, self._pages.page)
        return None if payload is None else decode_record(payload)

    def _parse(self, number: int) -> Page:
        return parse_page(self._pages.page(number), number)

    def _attached(self) -> Iterator[Row]:
        for row in self._tree("sqlite_schema", 1):
            kind, name, _, root, _ = row.values
            if kind in {"table", "index"} and isinstance(root, int) and name in SHAPES:
                self.roots[name] = root
        known = {name for name in self.roots if name in FORMAT_3}
        complete = any(known == set(tables) for tables in SCHEMAS.values())
        self.schema_whole = complete and "sqlite_schema" not in self.hurt and bool(self._pages.header)
        if not self.schema_whole:
            self._findings.add(
                "structure", "the first page, which says where the tables are, is damaged", name="page 1"
            )
        self._find_free_pages()
        for name, root in self.roots.items():
            yield from self._tree(name, root)

    def _tree(self, name: str, root: int) -> Iterator[Row]:
        """Yield the rows of a tree; what is no page of it is left for later, and makes it hurt."""
        waiting = [root]
        seen: set[int] = set()
        while waiting:
            number = waiting.pop()
            found = self._page_of(name, number)
            if found is None:
                self._report(name, number, "is lost")
                continue
            page, records = found
            self._reached[number] = 1
            self._progress.advance(1)
            if page.hurt:
                self._report(name, number, "is damaged")
            # No row is in a tree twice: what stood here before was overwritten, and nothing else may tell of it.
            content = xxh3_64_intdigest(self._pages.page(number))
            if page.cells and content in seen:
                self._report(name, number, "is a copy of another")
            seen.add(content)
            yield from self._rows_of(name, ATTACHED, number, page, records)
            if page.kind in {TABLE_INNER, INDEX_INNER}:
                waiting.append(page.right)
                waiting.extend(cell.child for cell in page.cells.values())

    def _page_of(self, name: str, number: int) -> tuple[Page, Records] | None:
        """Return a page of a tree, and its rows; None if it is none, is in a tree already, or is of another table."""
        if not 0 < number <= self._pages.count or self._reached[number]:
            return None
        page = self._parse(number)
        kinds = {INDEX_LEAF, INDEX_INNER} if _is_index(name) else {TABLE_LEAF, TABLE_INNER}
        if page.kind not in kinds:
            return None
        records = [] if page.kind == TABLE_INNER else list(self._records(page))
        rows = [values for _, values in records]
        likely = name not in LOOK_LIKE_OTHERS and 2 * sum(fits(name, values) for values in rows) >= len(rows)
        if rows and not likely:
            others = tables_of(rows, rowid=page.kind == TABLE_LEAF)
            if others and name not in others and not _same_shape(name, others):
                return None
        return page, records

    def _report(self, name: str, number: int, what: str) -> None:
        self.hurt.add(name)
        if name in OTHER_INDEXES or name in INDEXES:
            return  # an index says nothing that its table does not say
        self._findings.add("structure", f"a page of the table {name} {what}", name=f"page {number}")

    def _records(self, page: Page) -> Iterator[tuple[int, list[Any]]]:
        """Yield (cell, values) of the rows in a page; of content that overflows, only the values before its bytes."""
        for index, cell in page.cells.items():
            limit = None
            payload: bytes | None = cell.local
            if len(cell.local) < cell.size:
                head = decode_record(cell.local, limit=4, size=cell.size)
                if head is not None and page.kind == TABLE_LEAF and any(fits(name, head) for name in HEADS):
                    limit = 4
                else:
                    payload = whole_payload(cell, self._pages.page)
            if payload is not None:
                values = decode_record(payload, limit=limit, size=cell.size)
                if values is not None:
                    yield index, values

    def _rows_of(self, name: str, rank: int, number: int, page: Page, records: Records) -> Iterator[Row]:
        count = 0
        for index, values in records:
            if not fits(name, values):
                continue
            count += 1
            row = real_numbers(name, values)
            if page.kind == TABLE_LEAF and row[0] is None:
                row[0] = page.cells[index].rowid
            yield Row(name, rank + (name in INDEXES), number, index, row)
        if count < len(page.cells) and rank == ATTACHED and page.kind != TABLE_INNER:
            self._report(name, number, "has rows that are damaged")

    def _orphaned(self) -> Iterator[Row]:
        """Yield the rows of pages that hang in no tree; if these may be free, of the tables that are damaged alone."""
        rank = ORPHANED if self._knows_free else UNCERTAIN
        for number in range(1, self._pages.count + 1):
            if self._reached[number] or self._free[number]:
                continue
            self._progress.advance(1)
            page = self._parse(number)
            if page.kind not in KIND_OF_LEAF or not page.cells:
                continue
            records = list(self._records(page))
            if not self.hurt and self.schema_whole:
                self._findings.add("structure", "it hangs in no tree, as if one had been cut", name=f"page {number}")
            for name in tables_of([values for _, values in records], rowid=KIND_OF_LEAF[page.kind]):
                lost = name in self.hurt or name not in self.roots or not self.schema_whole
                if name not in OTHER_INDEXES and (lost or self._knows_free):
                    yield from self._rows_of(name, rank, number, page, records)

    def _find_free_pages(self) -> None:
        """Mark the pages on the list of free pages, if it is whole, and those that the map of pages says are free."""
        header = self._pages.header
        following, expected = (int.from_bytes(header[place : place + 4], "big") for place in (32, 36))
        free: set[int] = set()
        while 0 < following <= self._pages.count and following not in free and len(free) <= expected:
            trunk = self._pages.page(following)
            count = min(int.from_bytes(trunk[4:8], "big"), len(trunk) // 4 - 2)
            leaves = [int.from_bytes(trunk[place : place + 4], "big") for place in range(8, 8 + 4 * count, 4)]
            free.update([following], leaves)
            following = int.from_bytes(trunk[:4], "big")
        # A list that begins or goes on at a wrong page would hide rows that are not free.
        self._knows_free = (
            bool(header) and len(free) == expected and all(0 < page <= self._pages.count for page in free)
        )
        for page in free if self._knows_free else ():
            self._free[page] = 1
        self._knows_free = self._read_page_map() or self._knows_free

    def _read_page_map(self) -> bool:
        """Mark what the map of pages says is free; False if the file has none."""
        first = self._pages.page(2)
        if first[:5] != b"\x01\0\0\0\0":  # the page behind it, the third, is the root of the first table
            return False
        per_page = self._pages.page_size // 5
        for number in range(2, self._pages.count + 1, per_page + 1):
            data = self._pages.page(number)
            for index in range(min(per_page, self._pages.count - number)):
                if data[5 * index] == FREE_PAGE:
                    self._free[number + 1 + index] = 1
            self._reached[number] = 1
        return True


def _is_index(name: str) -> bool:
    return SHAPES[name][0] != "N" and name not in {"sqlite_schema", "sqlite_sequence"}


def _same_shape(name: str, others: Sequence[str]) -> bool:
    return SHAPES[name] in {SHAPES[other] for other in others}
