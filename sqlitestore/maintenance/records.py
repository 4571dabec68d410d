"""The tables whose rows belong to a run and carry a digest of their own, described once for verify and salvage.

In all of them the digest is over the names of flow and run and then the columns in their order, as FORMAT.md lists.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from sqlitestore.errors import InvalidName, InvalidType
from sqlitestore.model import check_name
from sqlitestore.tasks import digest_of

JSON = ("value", "tags", "system_tags")
"""Columns of these tables that hold JSON; those with tags hold arrays of text."""


class RecordTable(NamedTuple):
    """A table: its ``columns`` between ``run`` and ``digest``, of which the first ``keys`` are, with ``run``, its key.

    ``kind`` is what a problem in it is called, ``label`` the column that names a row within its task ("" if none).
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    keys: int
    label: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return ("run", *self.columns[: self.keys])

    def place(self, flow: Any, run: Any, values: Sequence[Any]) -> tuple[list[Any], str]:
        """Return the names in a row's pathspec, and what names it there."""
        row = dict(zip(self.columns, values, strict=True))
        names = [flow, run, *(row[column] for column in ("step", "task") if column in row)]
        return names, str(row.get(self.label, ""))

    def json_error(self, values: Sequence[Any]) -> str:
        """Return what is wrong with the JSON in a row, "" if nothing is."""
        for column, value in zip(self.columns, values, strict=True):
            if column not in JSON:
                continue
            try:
                found = json.loads(value)
            except (ValueError, TypeError, RecursionError):
                return f"its {column} is no JSON"
            if "tags" in column and not (isinstance(found, list) and all(isinstance(tag, str) for tag in found)):
                return f"its {column} are no array of text"
        return ""


RECORD_TABLES = (
    RecordTable("task_metadata", "metadata", ("step", "task", "attempt", "name", "value"), 4, "name"),
    RecordTable("registered_run", "registration", ("user_name", "ts_epoch", "tags", "system_tags", "task_ids"), 0),
    RecordTable("registered_step", "registration", ("step", "user_name", "ts_epoch"), 1),
    RecordTable("registered_task", "registration", ("step", "task", "user_name", "ts_epoch"), 2),
    RecordTable(
        "registered_metadata",
        "registration",
        ("step", "task", "position", "field_name", "value", "type", "tags", "user_name", "ts_epoch"),
        3,
        "field_name",
    ),
    RecordTable(
        "registered_artifact",
        "registration",
        ("step", "task", "attempt", "name", "content_type", "sha", "ds_type", "location", "user_name", "ts_epoch"),
        4,
        "name",
    ),
)


def is_digest(digest: Any, *fields: Any) -> bool:
    """Whether ``digest`` is that of the fields, which damage may have made anything."""
    try:
        return bool(digest_of(*fields) == digest)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError):
        return False


def is_legal(*names: Any) -> bool:
    """Whether these are names that a store gives."""
    try:
        for name in names:
            check_name("", name)
    except (InvalidName, InvalidType):
        return False
    return True


def is_json(text: Any) -> bool:
    """Whether this is a JSON text."""
    try:
        json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def is_map(packed: Any) -> bool:
    """Whether the bytes are a msgpack map, or there are none."""
    try:
        return packed is None or isinstance(msgpack.unpackb(packed, strict_map_key=False), dict)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException):
        return False
