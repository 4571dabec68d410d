"""The root of the file in what is registered: a mark on the way in, and on the way out where the file is then.

Metaflow records roots in two metadata: ``ds-root`` is one, and the location of a ``code-package`` begins with one.
"""

from __future__ import annotations

import json
from typing import Any

from sqlitestore.paths.reading import TYPE

HERE = "."
"""Stands for the root of this file in what is registered."""


def relative(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum as it is registered: the root of this file becomes HERE."""
    if field == "ds-root":
        return HERE if value == root else value
    if field == "code-package" and isinstance(value, str):
        package = _mapping(value)
        location = package.get("location")
        if package.get("ds_type") == TYPE and isinstance(location, str) and location.startswith(f"{root}/"):
            return json.dumps(package | {"location": HERE + location[len(root) :]})
    return value


def absolute(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum with the root of the file as it is now."""
    if field == "ds-root":
        return root if value == HERE else value
    if field == "code-package" and isinstance(value, str):
        package = _mapping(value)
        location = package.get("location")
        if package.get("ds_type") == TYPE and isinstance(location, str) and location.startswith(f"{HERE}/"):
            return json.dumps(package | {"location": root + location[len(HERE) :]})
    return value


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
