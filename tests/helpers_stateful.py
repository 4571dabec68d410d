"""What the stateful machine draws its steps from, and what it thinks of each attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hypothesis import strategies as st

TASKS = [("1", "start", "2"), ("1", "start", "1"), ("1", "end", "1"), ("run 2", "start", "1")]
NUMBERS = st.integers(0, 1)
NAMES = st.sampled_from(["a", "_b", "имя"])
NAMED = st.lists(NAMES, max_size=3)
PLACES = st.tuples(st.sampled_from(TASKS), NUMBERS)
SOURCES = st.sampled_from(["runtime", "task"])
STREAMS = st.sampled_from(["stdout", "stderr"])
STORES = st.integers(0, 1)
NO_BLOB = "0123456789abcdef" * 2


@cache
def large(seed: int, size: int, change: int) -> bytes:
    """Return bytes that share chunks with those of the same seed."""
    data = bytearray(random.Random(seed).randbytes(size))
    data[change % size] ^= 1
    return bytes(data)


LARGE = st.builds(
    large, st.integers(0, 2), st.sampled_from([100_000, 700_000, 1_500_000]), st.sampled_from([0, 80_000, 1_234_567])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALUES = st.one_of(JSON, st.binary(max_size=50), st.tuples(st.integers(), st.text(max_size=5)), LARGE)
ARTIFACTS = st.dictionaries(NAMES, VALUES, max_size=3)
LOGS = st.text(max_size=20).map(str.encode) | st.sampled_from([b"", b"one", b"one two", b"one two three"]) | LARGE


@dataclass
class Model:
    """An attempt as it should be."""

    started: int = 0  # counts starts, over all attempts; 0 for one that has not
    done: dict[str, Any] | None = None
    logs: dict[tuple[str, str], bytes] = field(default_factory=dict)


@dataclass
class Writer:
    """A datastore that writes, and what it has saved so far."""

    place: tuple[tuple[str, str, str], int]
    datastore: Any
    saved: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


class Unpicklable:
    """Cannot be saved."""

    def __reduce__(self):
        raise ZeroDivisionError
