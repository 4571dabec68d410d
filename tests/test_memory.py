"""Memory beyond the object itself stays below 64 MiB, whatever its size; and above 2 GiB all works."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import helpers_memory
import pytest
from helpers_processes import run
from helpers_store import rows

LIMIT = 64 * 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures in /proc")


def _check(outcome: dict[str, Any]) -> None:
    print({name: value if name == "same" else f"{value / 2**20:.1f} MiB" for name, value in outcome.items()})
    assert outcome["same"]
    assert {name: value for name, value in outcome.items() if name != "same" and value >= LIMIT} == {}


@pytest.mark.parametrize("kind", ["noise", "range", "mixed", "bytes", "list of arrays", "frame"])
def test_a_large_artifact_needs_little_memory_beside_itself(tmp_path: Path, kind: str) -> None:
    """Saving, saving again (compared with what is stored), and loading."""
    size = 400_000_000 if kind == "noise" else 160_000_000
    _check(run(helpers_memory.artifact, str(tmp_path / "runs.db"), size, kind))


def test_an_object_of_many_small_ones_needs_little_memory_beside_itself(tmp_path: Path) -> None:
    """Saving adds what pickle remembers of each object; that is pickle's own, and not counted against loading."""
    outcome = run(helpers_memory.artifact, str(tmp_path / "runs.db"), 40_000_000, "deep list")
    assert outcome["same"]
    assert outcome["loading"] < LIMIT


def test_large_data_need_little_memory_beside_themselves(tmp_path: Path) -> None:
    """``save_data`` of one large blob, and ``load_data``."""
    _check(run(helpers_memory.data, str(tmp_path / "runs.db"), 160_000_000))


def test_a_stream_of_blobs_is_never_in_memory(tmp_path: Path) -> None:
    """Neither on its way in nor out."""
    _check(run(helpers_memory.many_blobs, str(tmp_path / "runs.db"), 200))


def test_a_large_log_is_never_in_memory(tmp_path: Path) -> None:
    """Given as a file."""
    _check(run(helpers_memory.log, str(tmp_path / "runs.db"), 200_000_000))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["noise", "mixed", "bytes"])
def test_more_than_two_gibibytes_work(tmp_path: Path, kind: str) -> None:
    """Where 32-bit sizes end, for arrays of bytes and of floats, and for plain bytes."""
    path = str(tmp_path / "runs.db")
    size = 2**31 + 2**28
    _check(run(helpers_memory.artifact, path, size, kind, timeout=1200))
    assert rows(path, "SELECT COUNT(*) FROM blob WHERE size > 2147483648") == [(1,)]


@pytest.mark.long
def test_more_than_two_gibibytes_of_data_work(tmp_path: Path) -> None:
    """``save_data`` and ``load_data`` of one blob."""
    _check(run(helpers_memory.data, str(tmp_path / "runs.db"), 2**31 + 2**28, timeout=1200))
