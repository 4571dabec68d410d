"""Opening and closing again and again leaves nothing behind; and what would be left behind is seen."""

from __future__ import annotations

import os
from pathlib import Path

import proof_open_and_close
import pytest

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list descriptors")


def test_hundreds_of_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    """Neither descriptors nor memory, in whatever way the file was used and let go of."""
    figures = proof_open_and_close.prove(220, 1, str(tmp_path))
    ways = {way.__name__.replace("_", " ") for way in proof_open_and_close.WAYS}
    assert not [way for way in ways if figures[way] < 10], figures
    assert sum(figures[way] for way in ways) == 220


@pytest.mark.parametrize(
    ("bug", "error"), [("open_for_ever", "descriptors grew"), ("remembered_for_ever", "blocks grew")]
)
def test_what_is_left_behind_is_seen(bug: str, error: str, tmp_path: Path) -> None:
    """A connection, or a few bytes, for each that was opened."""
    with pytest.raises(AssertionError, match=f"seed 2: .*{error}"):
        proof_open_and_close.cycle(130, 2, str(tmp_path), bug)
