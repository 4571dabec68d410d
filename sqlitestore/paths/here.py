"""The root of the file in what is registered: a mark on the way in, and on the way out where the file is then.

Metaflow records roots in two metadata: ``ds-root`` is one, and the location of a ``code-package`` begins with one.
"""

from __future__ import annotations

import json
from typing import Any

from sqlitestore import layout
from sqlitestore.paths.reading import TYPE

HERE = "."
"""Stands for the root of this file in what is registered."""


def relative(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum as it is registered: the root of this file becomes HERE."""
    return _moved(field, value, root, HERE)


def absolute(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum with the root of the file as it is now."""
    return _moved(field, value, HERE, root)


def _moved(field: str, value: Any, old: str, new: str) -> Any:
    if field == "ds-root":
        return new if value == old else value
    if field == layout.CODE_PACKAGE:
        package = layout.code_package(value)
        location = package.get("location")
        if package.get("ds_type") == TYPE and isinstance(location, str) and location.startswith(f"{old}/"):
            return json.dumps(package | {"location": new + location[len(old) :]})
    return value
