"""Mistakes that are put into the package are found by kills: what would miss one of them proves nothing."""

from __future__ import annotations

import pytest
from helpers_processes import run
from seeded_crash_bugs import SEEDED, Seeded, find_all


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what was found with each mistake."""
    return dict(run(find_all, str(tmp_path_factory.mktemp("seeded"))))


@pytest.mark.parametrize("seeded", SEEDED, ids=lambda seeded: seeded.name)
def test_a_mistake_is_found(seeded: Seeded, found: dict[str, str]) -> None:
    """A kill between the two steps that the mistake has taken apart shows it, and says where; without it, nothing."""
    assert found[seeded.name].startswith(f"{seeded.scenario}, killed at {seeded.point}")
    assert "it was not killed" not in found[seeded.name]
