"""What is saved: the same for every store, and made again to check what was loaded."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd


def noise(size: int, seed: int = 1) -> np.ndarray:
    """Return ``size`` bytes of float64 that nothing compresses."""
    return np.random.Generator(np.random.SFC64(seed)).random(size // 8)


def integers(size: int) -> np.ndarray:
    """Return ``size`` bytes of int64 below 1000, which compress to a quarter or less."""
    return np.random.default_rng(2).integers(0, 1000, size // 8)


def changed(array: np.ndarray) -> np.ndarray:
    """Return a copy with one element changed, in the middle."""
    copy = array.copy()
    copy[len(copy) // 2] += 1
    return copy


def appended(array: np.ndarray) -> np.ndarray:
    """Return a copy with 1 % of other elements at its end."""
    return np.concatenate([array, array[: len(array) // 100][::-1]])


def frame(size: int) -> pd.DataFrame:
    """Return a table of numbers, strings and categories of about ``size`` bytes."""
    rows = size // 40
    rng = np.random.default_rng(3)
    names = np.array([f"customer {number:05}" for number in range(5000)])
    return pd.DataFrame({
        "price": rng.gamma(2, 20, rows).round(2),
        "weight": rng.random(rows),
        "count": rng.integers(0, 1000, rows),
        "name": names[rng.integers(0, len(names), rows)],
        "kind": pd.Categorical.from_codes(rng.integers(0, 4, rows), ["new", "used", "broken", "lost"]),
    })  # fmt: skip


def same(found: Any, expected: Any) -> bool:
    """Return whether what was loaded is what was saved, in type and content."""
    if isinstance(expected, np.ndarray):
        return isinstance(found, np.ndarray) and found.dtype == expected.dtype and np.array_equal(found, expected)
    if isinstance(expected, pd.DataFrame):
        return isinstance(found, pd.DataFrame) and found.equals(expected)
    return type(found) is type(expected) and found == expected


def small_artifacts(number: int) -> dict[str, Any]:
    """Return the five artifacts of a small task."""
    return {
        "number": number,
        "text": f"text of task {number}",
        "numbers": [number] * 10,
        "mapping": {"loss": number * 1.5},
        "nothing": None,
    }


def blobs(count: int) -> list[bytes]:
    """Return different blobs of 1 KB of noise."""
    rng = random.Random(4)
    return [rng.randbytes(1000) for _ in range(count)]
