"""Odd artifacts, made afresh on every call, and what it means that two of them are the same."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import threading
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from hypothesis import strategies as st


class Frame(NamedTuple):
    """A frame of ``_foreach_stack``, as Metaflow's runtime has them."""

    step: str
    var: str
    num_splits: int
    index: int


class Point:
    """An instance of a class of somebody's own."""

    def __init__(self, x: float, y: float) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None


def _cyclic() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    return cycle


def _shared() -> list[Any]:
    inner = ["shared"]
    return [inner, inner, (inner,)]


def _frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "carrier": ["UA", "AA", None],
            "delay": [1.5, float("nan"), -0.0],
            "day": pd.to_datetime(["2013-01-01", "2013-01-02", None]),
            "kind": pd.Categorical(["a", "b", "a"]),
            "größe": np.array([1, 2, 3], dtype=np.int16),
        },
        index=["x", "y", "ü"],
    )


def _masked() -> np.ma.MaskedArray:
    return np.ma.MaskedArray([1, 2, 3], mask=[False, True, False])


ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "empty": lambda: np.empty((0, 3)),
    "scalar": lambda: np.array(3.5),
    "c": lambda: np.arange(12.0).reshape(3, 4),
    "fortran": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": lambda: np.arange(24)[::2],
    "reversed": lambda: np.arange(24)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "large": lambda: np.arange(40_000, dtype=np.float64),
    "large fortran": lambda: np.asfortranarray(np.arange(40_000, dtype=np.float32).reshape(200, 200)),
    "large strided": lambda: np.arange(80_000, dtype=np.uint16)[::2],
    "bool": lambda: np.array([True, False]),
    "complex": lambda: np.array([1 + 2j, float("nan")]),
    "half": lambda: np.array([1, 2], dtype=np.float16),
    "datetime": lambda: np.array(["2013-01-01", "NaT"], dtype="datetime64[ns]"),
    "timedelta": lambda: np.array([1, 2], dtype="timedelta64[ms]"),
    "unicode": lambda: np.array(["größe", "データ"]),
    "bytes": lambda: np.array([b"a", b"bc"]),
    "structured": lambda: np.array([(1, 2.0, "x")], dtype=[("a", "<i2"), ("b", "<f8"), ("c", "<U3")]),
    "aligned": lambda: np.zeros(3, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "subarrays": lambda: np.zeros(2, dtype=[("m", "f4", (2, 2))]),
    "objects": lambda: np.array([None, "x", (1, 2)], dtype=object),
    "void": lambda: np.zeros(2, dtype="V5"),
    "record": lambda: np.rec.array([(1, "a")], dtype=[("n", "i4"), ("s", "U1")]),
    "masked": _masked,
}
"""NumPy arrays of many layouts and types."""


def _read_only() -> np.ndarray:
    array = np.arange(5)
    array.flags.writeable = False
    return array


KEPT: dict[str, Callable[[], np.ndarray]] = {
    "swapped axes": lambda: np.arange(24, dtype=np.int8).reshape(2, 3, 4).swapaxes(0, 1),
    "big endian": lambda: np.arange(5, dtype=">i4"),
    "read only": _read_only,
}
"""Arrays that a pickle of protocol 5 keeps as they are, and Metaflow's of protocol 4 changes."""

OBJECTS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "int": lambda: 7,
    "big int": lambda: 10**400,
    "negative big int": lambda: -(2**64),
    "nan": lambda: float("nan"),
    "minus zero": lambda: -0.0,
    "complex": lambda: 1 - 2j,
    "empty text": lambda: "",
    "surrogate": lambda: "\ud800 lone",
    "long text": lambda: "größe " * 20_000,
    "empty bytes": lambda: b"",
    "zeros": lambda: bytes(100_000),
    "bytearray": lambda: bytearray(b"mutable") * 20_000,
    "cyclic": _cyclic,
    "shared": _shared,
    "nested": lambda: {"a": [1, (2, {3: {4, 5}}), frozenset({6})], ("k", 1): None, None: b"\0\xff"},
    "ordered": lambda: collections.OrderedDict([("b", 1), ("a", 2)]),
    "counter": lambda: collections.Counter("aab"),
    "default dict": lambda: collections.defaultdict(list, {"a": [1]}),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "range": lambda: range(0, 10, 3),
    "slice": lambda: slice(1, None, 2),
    "ellipsis": lambda: ...,
    "type": lambda: dict,
    "function": lambda: len,
    "decimal": lambda: decimal.Decimal("1.10"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "date": lambda: datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC),
    "uuid": lambda: uuid.UUID(int=7),
    "error": lambda: ValueError("kept"),
    "own class": lambda: Point(1, 2.5),
    "stack": lambda: [Frame("start", "carriers", 3, 1)],
    "numpy number": lambda: np.float32(1.5),
    "dtype": lambda: np.dtype("<i4"),
    "generator": lambda: np.random.default_rng(0).bit_generator.state,
    "frame": _frame,
    "empty frame": pd.DataFrame,
    "indexed frame": lambda: _frame().set_index(["carrier", "delay"]),
    "series": lambda: pd.Series([1, 2, None], name="größe", dtype="Int64"),
    "index": lambda: pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None]),
    "timestamp": lambda: pd.Timestamp("2013-01-01", tz="UTC"),
    "interval": lambda: pd.Interval(0, 1),
    **{f"array, {name}": make for name, make in ARRAYS.items()},
}
"""Artifacts that a store may be given, by a word for each."""

UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: None,
    "generator": lambda: (i for i in ()),
    "lock": threading.Lock,
    "inside a list": lambda: [1, lambda: None],
}
"""Artifacts that pickle refuses."""

# Sets are left out where order shows: equal sets may be pickled in different orders.
_plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=-(2**90), max_value=2**90), st.floats(), st.text(),
    st.binary(max_size=40),
)  # fmt: skip
_nested = st.recursive(
    _plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)
artifacts = st.one_of(
    st.tuples(st.just("value"), _nested), st.tuples(st.just("object"), st.sampled_from(list(OBJECTS)))
)
"""Recipes for ``made``."""


def made(recipe: tuple[str, Any]) -> Any:
    """Return the artifact of a recipe, afresh if it is one of OBJECTS."""
    kind, value = recipe
    return OBJECTS[value]() if kind == "object" else value


blobs = st.one_of(
    st.binary(max_size=20),
    st.tuples(st.sampled_from([b"\0", b"0123456789abcdef", b"row,1\n"]), st.sampled_from([1, 60_000])),
).map(lambda blob: blob if isinstance(blob, bytes) else blob[0] * blob[1])
"""Bytes, small and large."""


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(2**70, 2**80), st.floats(), st.text(max_size=5),
        st.just("\ud800"), st.just(0.1 + 0.2),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
"""Values that JSON can hold."""


def same(one: Any, other: Any, depth: int = 0) -> bool:  # noqa: PLR0911 - a case for each kind of value
    """Return whether two values are of the same type and content; NaN is like NaN, 0.0 unlike -0.0."""
    if type(one) is not type(other) or depth > 20:
        return type(one) is type(other)  # a cycle this deep is the same cycle
    if isinstance(one, np.ma.MaskedArray):
        return same(one.filled(0).view(np.ndarray), other.filled(0).view(np.ndarray)) and same(one.mask, other.mask)
    if isinstance(one, np.ndarray):
        return _same_array(one, other, depth)
    if isinstance(one, pd.DataFrame | pd.Series | pd.Index):
        return _same_pandas(one, other)
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()), depth + 1)
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(same(*pair, depth + 1) for pair in zip(one, other, strict=True))
    if isinstance(one, BaseException):
        return same(one.args, other.args)
    if isinstance(one, float | complex | np.generic):
        return repr(one) == repr(other)
    return bool(one == other)


def _same_array(one: np.ndarray, other: np.ndarray, depth: int) -> bool:
    layout = ("C_CONTIGUOUS", "F_CONTIGUOUS")
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if [one.flags[flag] for flag in layout] != [other.flags[flag] for flag in layout]:
        return False
    if one.dtype.hasobject:
        return same(one.tolist(), other.tolist(), depth + 1)
    return one.tobytes() == other.tobytes()


def _same_pandas(one: Any, other: Any) -> bool:
    kinds = {pd.DataFrame: "frame", pd.Series: "series"}
    compare = getattr(pd.testing, f"assert_{kinds.get(type(one), 'index')}_equal")
    try:
        compare(one, other, check_exact=True)
    except AssertionError:
        return False
    return True
