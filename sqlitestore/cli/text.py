"""Values as text for people: cleaned names, sizes, times, types and previews. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# Controls (C0, DEL, C1), line separators, what turns the direction of writing, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LOGS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_CLASS = re.compile(r"<class '(.+)'>", re.DOTALL).fullmatch
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def clean(text: object) -> str:
    r"""Return ``text`` on one line and harmless to a terminal: ``\x1b`` stands as these four characters."""
    return _UNSAFE.sub(_escaped, str(text))


def clean_lines(text: str) -> str:
    """Return the text of a log for a terminal: lines and tabs stay, colours go, other controls are shown."""
    text = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _UNSAFE_IN_LOGS.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def human_size(size: float) -> str:
    """Return a size [bytes] in three digits: ``1.23 MB`` (powers of 1000, as in the prices of disks)."""
    for unit in _UNITS:
        if abs(size) < 1000 or unit == _UNITS[-1]:  # noqa: PLR2004
            break
        size /= 1000
    if unit == "B":
        return f"{size:.0f} B"
    digits = 2 if abs(size) < 10 else 1 if abs(size) < 100 else 0  # noqa: PLR2004
    return f"{size:.{digits}f} {unit}"


def iso_time(seconds: float | None) -> str | None:
    """Return a time [s since 1970] in ISO 8601 and UTC; None for none, or one that no calendar has."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


def local_time(seconds: float | None) -> str:
    """Return a time [s since 1970] as this place's clock shows it, empty for none."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


def type_name(kind: str) -> str:
    """Return ``numpy.ndarray`` for ``<class 'numpy.ndarray'>``."""
    match = _CLASS(kind)
    return match[1] if match else kind


def preview_line(preview: Mapping[str, Any]) -> str:
    """Return a preview on one line: dtype, shape, columns, and what the value begins with."""
    parts = []
    if dtype := preview.get("dtype"):
        parts.append(str(dtype))
    shape = preview.get("shape")
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        parts.append(f"({', '.join(map(str, shape))})")
    if columns := preview.get("columns"):
        parts.append(", ".join(_column(column) for column in columns) if isinstance(columns, Sequence) else "")
    if "repr" in preview:
        parts.append(str(preview["repr"]))
    elif not parts and "length" in preview:
        parts.append(f"length {preview['length']}")
    return " ".join(parts)


def _column(column: Any) -> str:
    return ": ".join(map(str, column)) if isinstance(column, Sequence) and not isinstance(column, str) else str(column)


def plain_value(value: Any) -> Any:
    """Return ``value`` as JSON has it: a stranger's previews may hold bytes, odd keys or infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return repr(value)
