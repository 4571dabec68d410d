"""Fuzzing: every parser is given inputs that mutation makes of a small corpus, and each has an invariant to keep."""

from __future__ import annotations

import os
import tempfile
from collections import Counter

import fuzz_bytes
import fuzz_pages
import fuzz_stores
import fuzz_text
from fuzz_engine import fuzz

UNIT = "executions"
LONG = 40_000
IN_MEMORY = True

TARGETS = (*fuzz_text.TARGETS, *fuzz_bytes.TARGETS, *fuzz_pages.TARGETS, *fuzz_stores.TARGETS)


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Run about ``amount`` inputs, shared out by the targets' weights; return how often each outcome came.

    Raises AssertionError that names the target, the seed and the input itself. Scratch files are made in ``folder``.
    """
    figures: Counter[str] = Counter()
    total = sum(target.weight for target in TARGETS)
    before, tempfile.tempdir = tempfile.tempdir, os.path.abspath(folder)
    try:
        for target in TARGETS:
            found = fuzz(target, max(1, amount * target.weight // total), seed)
            figures["executions"] += found.total()
            figures.update({f"{target.name}: {outcome}": count for outcome, count in found.items()})
    finally:
        tempfile.tempdir = before
    return dict(figures)
