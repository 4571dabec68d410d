"""What the flows store, and the tests expect to get back. Knows neither Metaflow nor the tests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = os.path.join(HERE, "words.txt")
BYTES = bytes(range(256)) * 40
"""Of the binary file that a flow includes: not UTF-8."""
LARGE = 20_000_000
"""Size of the large array [bytes]."""

STORED: dict[str, Any] = {
    "nothing": None,
    "truth": True,
    "number": 10**30,
    "fraction": 0.1,
    "text": "grüße ✓\n",
    "empty": "",
    "raw": b"\x00\xff\x1f\x8b",
    "pair": (1, "two"),
    "nested": {"list": [1, [2.5, None]], "tuple keys": {(1, 2): "three"}},
    "letters": {"a"},
    "array": np.arange(12, dtype=np.int16).reshape(3, 4),
    "fortran": np.asfortranarray(np.linspace(0, 1, 6).reshape(2, 3)),
}
"""Artifacts by name; each is compared by type and ``repr``."""


def large_array() -> np.ndarray:
    """Return noise of LARGE bytes, always the same."""
    return np.random.default_rng(7).random(LARGE // 8)
