"""Whether errors and problems name what is hurt."""

from __future__ import annotations

import re
from typing import Any

import apsw
from damage_answers import Item
from damage_kinds import Whole

from sqlitestore import DataException
from sqlitestore.errors import Damaged, NotFound
from sqlitestore.maintenance.verification import MAX_PROBLEMS, Problem, Verification

NAMED = {"flow", "run", "trash", "untrusted"}
ATTEMPT = NAMED | {"attempt", "artifact", "stub", "blob"}
BYTES = {"blob", "chunk", "blob_chunk"}
TABLES = {
    "attempt": ATTEMPT,
    "artifact": ATTEMPT,
    "value": ATTEMPT | BYTES,
    "log": NAMED | BYTES | {"attempt", "log"},
    "file": BYTES | {"file"},
    "data": BYTES | {"data", "flow"},
    "flow": {"flow"},
    "run": {"flow", "run"},
    "trash": NAMED,
    "untrusted": ATTEMPT,
    "blob": BYTES,
}
"""Tables that the answer to an item needs; the others need the one that is called as they are."""


def needs(item: Item) -> set[str]:
    """Return the tables that the answer to an item needs."""
    return TABLES.get(item[0], NAMED | {item[0]})


def check_error(path: str, item: Item, error: DataException) -> None:
    """Fail unless the message says which file is hurt; and if our own digests told, what in it."""
    message = str(error)
    if isinstance(error, NotFound):
        return  # what is not there is not hurt: verify is asked about that
    assert path in message, f"the error of {item} does not name the file: {message}"
    if not isinstance(error, Damaged) or isinstance(error.__cause__, apsw.Error | UnicodeDecodeError):
        return
    if (
        "is truncated" in message
        or "does not have the tables" in message
        or "rows in the table 'store'" in message
        or "a row of more" in message
    ):
        return
    if item[0] in {"flow", "run"}:
        return  # of a list, not of one thing
    names = [str(name) for name in item[1:] if isinstance(name, str)]
    assert not names or any(name in message for name in names) or "Blob " in message, (
        f"the error of {item} names nothing: {message}"
    )


def names_it(whole: Whole, found: Verification, item: Item) -> bool:
    """Whether one of the problems that verify found names an item, its owner, or a table that it needs."""
    if len(found.problems) >= MAX_PROBLEMS:
        return True  # more than are listed
    return any(_names(whole, problem, item) for problem in found.problems)


def _names(whole: Whole, problem: Problem, item: Item) -> bool:
    tables = needs(item)
    if problem.kind == "store":
        return True
    if problem.kind in {"table", "reference"}:
        return problem.name.split()[0] in tables or problem.name == "the check of SQLite"
    if problem.kind == "structure":
        return _structure_names(whole, problem.message if not problem.name else problem.name, tables)
    names = {str(name) for name in item[1:]}
    parts = set(problem.pathspec.split("/"))
    return bool(parts & names - {""}) or problem.name in names or problem.kind in tables


def _structure_names(whole: Whole, message: str, tables: set[str]) -> bool:
    """Whether SQLite's own words are of a tree of the tables: it says the number of a root or page, or an index."""
    if any(_table_of(word) in tables for word in re.findall(r"\w+", message)):
        return True
    numbers: list[Any] = [
        int(number) for number in re.findall(r"[Tt]ree (\d+)|[Pp]age (\d+)", message) for number in number if number
    ]
    trees = {_table_of(whole.pages[number][0]) for number in numbers if number in whole.pages}
    return bool(trees & tables) or any(number not in whole.pages for number in numbers) or "reelist" in message


def _table_of(tree: str) -> str:
    """Return the table that an index belongs to."""
    if tree.startswith("sqlite_autoindex_"):
        return tree[len("sqlite_autoindex_") :].rsplit("_", 1)[0]
    return tree.split("_by_", maxsplit=1)[0]


def check_not_swallowed(found: Verification, item: Item) -> None:
    """Fail if an item is answered with nothing, though verify could read its row and says that it is damaged.

    A row that a page lost is nothing to a reader; one that is there and damaged must be an error. Where pages are hurt
    too, a look-up may lose its way to a row that a scan comes by.
    """
    if any(problem.kind in {"store", "structure", "table"} for problem in found.problems):
        return
    kind, *names = item
    place, attempt, name = "/".join(map(str, names[:4])), None, ""
    if kind == "file":
        place, name = "", names[0]
    elif kind == "log":
        attempt, name = names[4], f"{names[5]}/{names[6]}"
    elif kind == "task_metadata":
        kind, name = "metadata", names[5]
    elif kind == "attempt":
        attempt = names[4]
    else:
        return
    for problem in found.problems:
        same = (problem.kind, problem.pathspec, problem.attempt, problem.name) == (kind, place, attempt, name)
        assert not same, f"{item} is answered with nothing, and verify reads it: {problem}"
