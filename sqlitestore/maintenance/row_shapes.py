"""What rows of each table look like in a page, so that a page without a tree above it can be told by its rows.

In a shape a letter stands for a column: N is NULL, I an integer, R a real number (of which SQLite writes the whole ones
as integers), T a text, B bytes, D a digest (16 bytes), K a key (16 or 20 bytes); small letters may be NULL too. The
id of a table's row stands in its cell, and in the record is NULL.
https://www.sqlite.org/fileformat2.html, "Record Format".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

TABLES = {
    "store": "NTTRT",
    "blob": "NKIib",
    "chunk": "NDIIB",
    "flow": "NT",
    "run": "NIT",
    "attempt": "NITTIrrtdD",
    "registered_run": "NtITTID",
    "trash": "NTRI",
    "garbage": "N",
    "untrusted": "NT",
}
"""Tables with a rowid."""

WITHOUT_ROWID = {
    "blob_chunk": "III",
    "artifact": "ITIIITTbb",
    "stub": "ITIKITTbb",
    "task_metadata": "ITTITTD",
    "log": "ITTIIID",
    "data": "II",
    "file": "TIItD",
    "trashed_file": "ITIItD",
    "held": "BBIR",
    "registered_step": "ITtID",
    "registered_task": "ITTtID",
    "registered_metadata": "ITTITTTTtID",
    "registered_artifact": "ITTITTTTTtID",
}
INDEXES = {
    "sqlite_autoindex_flow_1": "TI",
    "sqlite_autoindex_run_1": "ITI",
    "sqlite_autoindex_attempt_1": "ITTII",
    "sqlite_autoindex_blob_1": "KI",
    "sqlite_autoindex_chunk_1": "DI",
    "blob_chunk_by_chunk": "III",
    "log_by_blob": "IITTI",
}
"""Those from which a lost row, or what names it, can be had; that of logs tells how many parts there were."""

OTHER_INDEXES = {
    "artifact_by_blob": "IIT",
    "file_by_blob": "IT",
    "trashed_file_by_blob": "IIT",
}
SQLITE = {"sqlite_schema": "TTTIt", "sqlite_sequence": "TI"}
SHAPES = TABLES | WITHOUT_ROWID | INDEXES | OTHER_INDEXES | SQLITE

_TESTS: dict[str, Callable[[Any], bool]] = {
    "N": lambda value: value is None,
    "I": lambda value: isinstance(value, int),
    "R": lambda value: isinstance(value, int | float),
    "T": lambda value: isinstance(value, str),
    "B": lambda value: isinstance(value, bytes),
    "D": lambda value: isinstance(value, bytes) and len(value) == 16,  # noqa: PLR2004
    "K": lambda value: isinstance(value, bytes) and len(value) in {16, 20},
}
HEADS = {"blob": 4, "chunk": 4}
"""Columns of a row that are read before its bytes are wanted: those stand last, and may be large."""


def _column(letter: str) -> Callable[[Any], bool]:
    test = _TESTS[letter.upper()]
    return test if letter.isupper() else lambda value: value is None or test(value)


_COLUMNS = {
    name: [_column(letter) for letter in shape[: HEADS.get(name, len(shape))]] for name, shape in SHAPES.items()
}


def fits(name: str, values: Sequence[Any]) -> bool:
    """Whether values can be a row of the table or index; of a blob or chunk, without its bytes."""
    if len(values) != len(SHAPES[name]):
        return False
    return all(test(value) for test, value in zip(_COLUMNS[name], values, strict=False))


def real_numbers(name: str, values: Sequence[Any]) -> list[Any]:
    """Return the values as SQL gives them: real numbers where whole ones were written as integers."""
    return [
        float(value) if letter in "rR" and isinstance(value, int) else value
        for letter, value in zip(SHAPES[name], values, strict=True)
    ]


def tables_of(rows: Iterable[Sequence[Any]], *, rowid: bool) -> list[str]:
    """Return the tables and indexes that most rows of a page can be of; several where nothing tells them apart."""
    votes: Counter[str] = Counter()
    names = [*TABLES, "sqlite_sequence", "sqlite_schema"] if rowid else [*WITHOUT_ROWID, *INDEXES, *OTHER_INDEXES]
    rows = list(rows)
    for values in rows:
        votes.update(name for name in names if fits(name, values))
    most = max(votes.values(), default=0)
    found = [name for name in names if most and votes[name] == most and 2 * most >= len(rows)]
    if "blob_chunk" in found:
        return ["blob_chunk"] if _are_lists(rows) else ["blob_chunk_by_chunk"]
    if "chunk" in found and "blob" in found and any(_is_large(values) for values in rows):
        found.remove("blob")
    return found


def _are_lists(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether rows of three integers are (blob, position, chunk), not (chunk, blob, position)."""
    steps = 0
    for before, row in pairwise(rows):
        if len(before) == len(row) == 3 and all(isinstance(value, int) for value in (*before, *row)):  # noqa: PLR2004
            follows = row[0] == before[0] and row[1] == before[1] + 1
            steps += 1 if follows or (row[0] > before[0] and row[1] == 0) else -1
    return steps > 0 or (not steps and len(rows) == 1 and rows[0][1] == 0)


def _is_large(values: Sequence[Any]) -> bool:
    return len(values) > 2 and isinstance(values[2], int) and values[2] > 64 * 1024  # noqa: PLR2004 - none in its row
