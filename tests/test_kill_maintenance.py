"""SIGKILL at random moments of prune, purge, restore, compact, import and export: nothing is lost, or half there."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_kill_maintenance import kill
from helpers_processes import run


@pytest.mark.parametrize("kills", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_killed_work_harms_nothing(tmp_path: Path, kills: int) -> None:
    """Runs are whole or gone, archives whole or not there; what was under way goes on, and no space is lost."""
    seen = run(kill, str(tmp_path / "killed"), kills, 11, timeout=3000)
    assert min(seen["pruned"], seen["imported"]) > 0, seen
