"""Kills at random, of every kind; ``scripts/prove`` does the same a thousand times."""

from __future__ import annotations

from pathlib import Path

import proof_kills
import pytest
from helpers_processes import run


@pytest.mark.parametrize(
    ("amount", "seed"),
    [pytest.param(20, 1, id="some"), pytest.param(400, 2, id="many", marks=pytest.mark.long)],
)
def test_nothing_is_lost_or_torn_by_kills(tmp_path: Path, amount: int, seed: int) -> None:
    """What was acknowledged is there, what was not begun is not, all of it whole; and work goes on as ever."""
    seen = run(proof_kills.prove, amount, seed, str(tmp_path), timeout=3000)
    assert seen["kills"] == amount
    for what in ("kills in the middle of something", "kills at places", "writers: done", "writers: acknowledged"):
        assert seen[what] > 0, seen
    assert list(tmp_path.iterdir()) == []
    if amount >= proof_kills.ONE_RUN_IN:
        assert seen["runs killed"] > 0, seen
        assert seen["kills at later arrivals"] + seen["kills at places"] > amount // 3, seen
