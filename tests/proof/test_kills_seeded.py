"""Mistakes that are put into the package are found by kills: what would miss one of them proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_processes import run
from seeded_crash_bugs import SEEDED, Seeded, find


@pytest.mark.parametrize("seeded", SEEDED, ids=lambda seeded: seeded.name)
def test_a_mistake_is_found(seeded: Seeded, tmp_path: Path) -> None:
    """A kill between the two steps that the mistake has taken apart shows it, and says where."""
    found = run(find, seeded.name, str(tmp_path / "trial"))
    assert found.startswith(f"{seeded.scenario}, killed at {seeded.point}")
    assert "it was not killed" not in found
