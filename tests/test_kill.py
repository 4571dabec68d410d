"""A writer that is killed at any instruction leaves a file that is sound and whole."""

from __future__ import annotations

from pathlib import Path

import helpers_kill
import pytest
from helpers_processes import run
from helpers_store import assert_sound, beside


@pytest.mark.parametrize(("kills", "seed"), [(12, 1), pytest.param(100, 2, marks=pytest.mark.long)])
def test_killed_writers_leave_whole_tasks_or_none(tmp_path: Path, kills: int, seed: int) -> None:
    """Integrity and foreign keys in order, every blob complete, what was acknowledged there; and writing goes on."""
    path = str(tmp_path / "runs.db")
    seen = run(helpers_kill.kill_again_and_again, path, kills, seed, timeout=3000)
    assert seen["done"] > kills
    assert seen["not done"] > 0
    assert seen["data"] > 0
    assert seen["acknowledged"] > kills
    assert_sound(path)
    assert beside(path) == ["runs.db"]
