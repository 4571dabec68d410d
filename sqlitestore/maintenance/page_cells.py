"""What a page of a b-tree holds: its cells, and the records in them. Pure functions but for pages that overflow.

Pages may hold anything: whatever does not fit is left out and counted, never an error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

LARGEST_PAYLOAD = 48 * 2**20
"""[bytes] Of a row; the limit of our own connections."""

INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13

_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""[bytes] Of a value, by serial types 0 to 9."""


class Cell(NamedTuple):
    """A cell: its row's id (tables), its child (inner pages), and its payload, of which ``local`` is in the page."""

    rowid: int | None
    child: int
    size: int
    local: bytes
    overflow: int


class Page(NamedTuple):
    """A page: its ``kind`` (0 if it is none of a b-tree), its cells by their index, and its rightmost child.

    ``hurt`` tells that cells are damaged, or that the page's free space is not what its cells leave.
    """

    kind: int
    cells: dict[int, Cell]
    right: int
    hurt: bool


NO_PAGE = Page(0, {}, 0, True)  # noqa: FBT003


def parse_page(data: bytes, number: int) -> Page:
    """Return what a page holds; the first begins behind the file's header."""
    start = 100 if number == 1 else 0
    if len(data) < 512 or data[start] not in {INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF}:  # noqa: PLR2004
        return NO_PAGE
    kind = data[start]
    free, count, content, fragments = struct.unpack(">HHHB", data[start + 1 : start + 8])
    inner = kind in {INDEX_INNER, TABLE_INNER}
    array = start + (12 if inner else 8)
    right = int.from_bytes(data[start + 8 : start + 12], "big") if inner else 0
    if array + 2 * count > len(data):
        return Page(kind, {}, right, hurt=True)
    pointers = struct.unpack(f">{count}H", data[array : array + 2 * count])
    cells: dict[int, Cell] = {}
    places: list[tuple[int, int]] = []
    for index, pointer in enumerate(pointers):
        parsed = _parse_cell(data, pointer, kind) if pointer >= array + 2 * count else None
        if parsed is not None:
            cells[index], size = parsed
            places.append((pointer, size))
    used = sum(size for _, size in places)
    unused = (content or 65536) - array - 2 * count + fragments + _free_blocks(data, free)
    fits = len(cells) == count and used + unused + array + 2 * count == len(data)
    return Page(kind, cells, right, hurt=not fits or _overlap(places))


def _overlap(places: list[tuple[int, int]]) -> bool:
    """Return whether cells share bytes: a pointer that damage turned to another cell of the same size hides one."""
    return any(start + size > following for (start, size), (following, _) in pairwise(sorted(places)))


def _free_blocks(data: bytes, block: int) -> int:
    """Return how many bytes the page's list of free blocks has."""
    total = 0
    while block:
        if block + 4 > len(data):
            return -1
        following, size = struct.unpack(">HH", data[block : block + 4])
        total += size
        if following and following <= block:
            return -1
        block = following
    return total


def _parse_cell(data: bytes, place: int, kind: int) -> tuple[Cell, int] | None:
    """Return a cell, and how many bytes it takes in the page; None if it cannot be one."""
    start, child, rowid = place, 0, None
    if kind in {INDEX_INNER, TABLE_INNER}:
        child = int.from_bytes(data[place : place + 4], "big")
        place += 4
    if kind == TABLE_INNER:
        rowid, place = read_varint(data, place)
        return (Cell(rowid, child, 0, b"", 0), place - start) if place <= len(data) else None
    size, place = read_varint(data, place)
    if kind == TABLE_LEAF:
        rowid, place = read_varint(data, place)
    local = local_size(size, len(data), kind)
    end = place + local
    if not 0 <= size <= LARGEST_PAYLOAD or end > len(data):
        return None
    overflow = 0
    if local < size:
        overflow = int.from_bytes(data[end : end + 4], "big")
        end += 4
        if end > len(data):
            return None
    return Cell(rowid, child, size, data[place : place + local], overflow), max(4, end - start)


def local_size(size: int, usable: int, kind: int) -> int:
    """Return how much of a payload of ``size`` stands in the page ("B-tree Cell Format") [bytes]."""
    largest = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
    if size <= largest:
        return size
    smallest = (usable - 12) * 32 // 255 - 23
    some = smallest + (size - smallest) % (usable - 4)
    return some if some <= largest else smallest


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a signed integer of 1 to 9 bytes and the place behind it; beyond the end, a place that is outside."""
    value = 0
    for index in range(9):
        if place >= len(data):
            return 0, len(data) + 1
        byte = data[place]
        place += 1
        if index == 8:  # noqa: PLR2004 - the ninth byte counts in full
            value = value << 8 | byte
            break
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004
            break
    return value - 2**64 if value >= 2**63 else value, place


def whole_payload(cell: Cell, page: Callable[[int], bytes]) -> bytes | None:
    """Return a payload with what stands in overflow pages; None if their chain is broken."""
    parts, length, following = [cell.local], len(cell.local), cell.overflow
    while length < cell.size:
        data = page(following)
        if not data:
            return None
        following = int.from_bytes(data[:4], "big")
        parts.append(data[4 : 4 + cell.size - length])
        length += len(parts[-1])
    return b"".join(parts)


def decode_record(payload: bytes, limit: int | None = None, size: int | None = None) -> list[Any] | None:
    """Return the values of a record (the first ``limit``); None if it is none.

    ``size`` is that of the whole payload, where ``payload`` is only its beginning. Texts that are no UTF-8 come with
    replacement characters, so they fit no digest.
    """
    header_size, place = read_varint(payload, 0)
    if not place <= header_size <= len(payload):
        return None
    types = []
    while place < header_size:
        serial, place = read_varint(payload, place)
        if serial < 0 or serial in {10, 11}:
            return None
        types.append(serial)
    if place != header_size or header_size + sum(map(_size_of, types)) != (len(payload) if size is None else size):
        return None
    values: list[Any] = []
    for serial in types[:limit]:
        end = place + _size_of(serial)
        if end > len(payload):
            return None
        values.append(_value(serial, payload[place:end]))
        place = end
    return values + [None] * (len(types) - len(values))


def _size_of(serial: int) -> int:
    return _SIZES[serial] if serial < 12 else (serial - 12) // 2  # noqa: PLR2004


def _value(serial: int, data: bytes) -> Any:
    if serial == 0:
        return None
    if serial == 7:  # noqa: PLR2004
        number = struct.unpack(">d", data)[0]
        return None if math.isnan(number) else number  # as SQLite reads it
    if serial in {8, 9}:
        return serial - 8
    if serial < 12:  # noqa: PLR2004
        return int.from_bytes(data, "big", signed=True)
    return data.decode(errors="replace") if serial % 2 else data
