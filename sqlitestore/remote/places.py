"""Where data is, in the words of metadata: a datastore's type and root, exchanged for others on the way."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.paths.here import HERE
from sqlitestore.paths.reading import TYPE

ROOT = ":root:"
"""Begins the location of an artifact that is in a datastore."""


class Place(NamedTuple):
    """A datastore: its type and root."""

    type: str
    root: str

    def location(self) -> str:
        """Return the location of artifacts in it."""
        return f"{ROOT}{self.root}"


FILE = Place(TYPE, HERE)
"""The file, in what is registered in it."""


def moved(field: str, value: Any, flow: str, here: Place, there: Place) -> Any:
    """Return the value of a metadatum of a task whose data is taken from ``here`` to ``there``.

    What was recorded as the root here does not count: a folder may have been moved since.
    """
    if field == "ds-type":
        return there.type if value == here.type else value
    if field == "ds-root":
        return there.root
    if field == layout.CODE_PACKAGE:
        package = layout.code_package(value)
        sha = package.get("sha")
        if package.get("ds_type") == here.type and isinstance(sha, str):
            location = f"{there.root}/{flow}/data/{sha[:2]}/{sha}"
            return json.dumps(package | {"ds_type": there.type, "location": location})
    return value


def code_package(field: str, value: Any, datastore: str) -> str | None:
    """Return the key of the code package that a metadatum names, if that is in a datastore of this type."""
    package = layout.code_package(value) if field == layout.CODE_PACKAGE else {}
    sha = package.get("sha")
    return sha if isinstance(sha, str) and package.get("ds_type") == datastore else None
