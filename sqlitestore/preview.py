"""A short description of a value, made when it is saved, so that looking at it later never needs the pickle.

A preview is a mapping of plain values, below 1 KiB as msgpack:

==========  ============================================================================
``repr``    a bounded text of built-in values, and of what arrays and tables begin with
``length``  number of items, where the type is a built-in or well-known container
``shape``   list of ints, for arrays and tables
``dtype``   text, for arrays and series
``columns`` ``[[name, dtype], ...]`` of a table, the first of them if there are many
==========  ============================================================================

Only built-in types and those of known libraries are asked: ``repr`` of anything else is somebody's code, of unknown
cost and size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import msgpack
from msgpack import fallback

from sqlitestore.errors import Damaged

MAX_BYTES = 1000
"""[bytes] Largest preview as msgpack; the promise to users is "below 1 KiB"."""

MAX_UNPACKED_AT_ONCE = 1024
"""[bytes] Above it a description is unpacked by slower code, which believes no claimed lengths."""

MAX_COLUMNS = 20
MAX_ITEMS = 8
MAX_TEXT = 200

# By their ids: a metaclass may have an __eq__ or __hash__ of its own, which is somebody's code.
_SCALARS = frozenset(map(id, (int, float, bool, complex, type(None))))
_SIZED = frozenset(map(id, (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)))


def describe(value: Any) -> dict[str, Any]:
    """Return the preview of ``value``; empty where nothing is known. Never raises."""
    kind = type(value)
    try:
        if id(kind) in _SCALARS:
            return {"repr": _bounded(value)}
        if id(kind) in _SIZED:
            return {"repr": _bounded(value), "length": len(value)}
        describe_known = _LIBRARIES.get(_library_of(kind))
        return _fitting(describe_known(value)) if describe_known else {}
    except Exception:  # noqa: BLE001 - a description must never lose the artifact
        return {}


# The plain ones: a metaclass may have properties of these names.
_MODULE = type.__dict__["__module__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__


def _library_of(kind: type) -> str:
    """Return the package that really has the type, "" if it only says so."""
    module, name = _MODULE(kind), _QUALNAME(kind)
    if type(module) is not str or getattr(sys.modules.get(module), name, None) is not kind:
        return ""
    return module.partition(".")[0]


def pack(preview: Mapping[str, Any]) -> bytes | None:
    """Return the stored form, or None for an empty preview."""
    if not preview:
        return None
    packed: bytes = msgpack.packb(dict(preview), unicode_errors="replace")
    return packed if len(packed) <= MAX_BYTES else None


class Packed(Mapping[str, Any]):
    """A preview as it is stored, decoded when it is looked at: a listing of 100,000 artifacts looks at few.

    ``of`` and ``where`` say whose it is, for the error if it cannot be decoded.
    """

    __slots__ = ("_of", "_packed", "_where")

    def __init__(self, packed: bytes, of: str, where: str) -> None:
        self._packed = packed
        self._of = of
        self._where = where

    def _unpacked(self) -> dict[str, Any]:
        try:
            return unpack(self._packed)
        except Damaged as error:
            raise Damaged(f"The preview of {self._of!r} of {self._where} is damaged: {error}.") from error

    def __getitem__(self, name: str) -> Any:
        return self._unpacked()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked())

    def __len__(self) -> int:
        return len(self._unpacked())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(dict(self))


def unpack(packed: bytes | None) -> dict[str, Any]:
    """Return a msgpack map of text keys as it stands in a row; empty for None. Raises Damaged for anything else."""
    try:
        unpacked = _unpacked(packed) if packed else {}
    except Exception as error:  # msgpack raises many kinds
        raise Damaged(f"a stored description is no msgpack ({type(error).__name__}: {error})") from error
    if not isinstance(unpacked, dict):
        raise Damaged(f"a stored description is a {type(unpacked).__name__}, not a map")
    if not all(isinstance(name, str) for name in unpacked):
        raise Damaged("a stored description has names that are no text")
    return unpacked


def _unpacked(packed: bytes) -> Any:
    """Return what msgpack says. Its C code makes room for as many items as an array claims, in each of 1,000 levels."""
    if len(packed) <= MAX_UNPACKED_AT_ONCE:
        return msgpack.unpackb(packed)
    unpacker = fallback.Unpacker(max_buffer_size=len(packed))  # in Python: takes room as items come
    unpacker.feed(packed)
    unpacked = unpacker.unpack()
    if unpacker.tell() != len(packed):
        raise ValueError("there is more behind it")
    return unpacked


def stored(packed: bytes | None, of: str, where: str) -> Mapping[str, Any]:
    """Return the preview that ``pack`` made of the artifact ``of``; empty for None. Looking at it may raise Damaged."""
    return Packed(packed, of, where) if packed else {}


def _bounded(value: Any, limit: int = MAX_TEXT) -> str:
    """Return ``repr`` of a built-in value in at most ``limit`` characters, without ever making a long one."""
    kind = type(value)
    if kind is int and value.bit_length() > 400:  # noqa: PLR2004 - int to text is quadratic
        text = f"<int of {value.bit_length()} bits>"
    elif kind in {str, bytes, bytearray}:
        text = repr(value[:limit])
        text += "..." if len(value) > limit else ""
    elif kind in _BRACKETS:
        text = _short(value)
    else:
        text = repr(value)
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if text.isascii() else text.encode(errors="replace").decode()


def _short(value: Any, depth: int = 3) -> str:
    """Return a text like ``repr``, of at most 8 items a level (reprlib would sort a set of millions first)."""
    kind = type(value)
    if id(kind) not in _BRACKETED:
        known = id(kind) in _SCALARS or id(kind) in _SIZED
        return _bounded(value, 60) if known else f"<{_QUALNAME(kind)}>"
    opening, closing = _BRACKETS[kind] if value or kind is not set else ("set(", ")")
    if not depth and value:
        return f"{opening}...{closing}"
    if kind is dict:
        items = [
            f"{_short(key, depth - 1)}: {_short(item, depth - 1)}" for key, item in islice(value.items(), MAX_ITEMS)
        ]
    else:
        items = [_short(item, depth - 1) for item in islice(value, MAX_ITEMS)]
    if len(value) > MAX_ITEMS:
        items.append("...")
    comma = "," if kind is tuple and len(value) == 1 else ""
    return f"{opening}{', '.join(items)}{comma}{closing}"


_BRACKETS: dict[type, Any] = {list: "[]", tuple: "()", dict: "{}", set: "{}", frozenset: ("frozenset({", "})")}
_BRACKETED = frozenset(map(id, _BRACKETS))


def _describe_numpy(value: Any) -> dict[str, Any]:
    preview: dict[str, Any] = {}
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        preview["shape"] = [int(n) for n in value.shape]
        preview["dtype"] = str(value.dtype)[:MAX_TEXT]
        if value.dtype.kind in "biufcSUMm":
            with suppress(RuntimeError):  # flat takes up to 32 dimensions; it copies nothing, whatever the layout
                items = [str(item)[:24] for item in islice(value.flat, 6)]
                more = ", ..." if value.size > len(items) else ""
                preview["repr"] = f"[{', '.join(items)}{more}]" if value.shape else items[0]
    return preview


def _describe_table(value: Any) -> dict[str, Any]:
    """Pandas and Polars: frames and series share these names."""
    preview: dict[str, Any] = {}
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        preview["shape"] = [int(n) for n in value.shape]
        dtypes = list(value.dtypes)
        names = list(value.columns[: MAX_COLUMNS + 1])[:MAX_COLUMNS]
        preview["columns"] = [[_label(name), str(dtype)[:24]] for name, dtype in zip(names, dtypes, strict=False)]
        preview["length"] = int(value.shape[0])
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        preview["shape"] = [int(n) for n in value.shape]
        preview["dtype"] = str(value.dtype)[:MAX_TEXT]
        preview["length"] = len(value)
    return preview


def _label(name: Any) -> str:
    """Return a column's label in at most 60 characters; a label may be any object, with a ``str`` of its own."""
    if type(name) is str:
        return name[:60]
    return str(name)[:60] if _library_of(type(name)) in {"numpy", "pandas", "datetime"} else _short(name)[:60]


def _describe_arrow(value: Any) -> dict[str, Any]:
    preview: dict[str, Any] = {}
    if hasattr(value, "schema") and hasattr(value, "num_rows"):
        fields = [value.schema.field(i) for i in range(min(len(value.schema), MAX_COLUMNS))]
        preview["shape"] = [int(value.num_rows), len(value.schema)]
        preview["columns"] = [[str(field.name)[:60], str(field.type)[:24]] for field in fields]
        preview["length"] = int(value.num_rows)
    return preview


def _describe_torch(value: Any) -> dict[str, Any]:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return {"shape": [int(n) for n in value.shape], "dtype": str(value.dtype)}
    return {}


_LIBRARIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "numpy": _describe_numpy,
    "pandas": _describe_table,
    "polars": _describe_table,
    "pyarrow": _describe_arrow,
    "torch": _describe_torch,
}


def _fitting(preview: dict[str, Any]) -> dict[str, Any]:
    """Shorten the list of columns until the whole fits."""
    while preview.get("columns") and len(msgpack.packb(preview, unicode_errors="replace")) > MAX_BYTES:
        preview["columns"] = preview["columns"][: len(preview["columns"]) // 2]
    return preview
