"""A large artifact, as the client sees it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import scenes
from flows.values import LARGE, large_array
from runs import Once


def look(run_id: str) -> dict[str, Any]:
    """Return digests and sizes of the arrays of a run of LargeFlow."""
    import hashlib

    from metaflow import Run

    run = Run(f"LargeFlow/{run_id}")
    artifacts = [run["start"].task["large"], run["end"].task["large"], run["end"].task["again"]]
    first = artifacts[0].data
    return {
        "digest": [hashlib.sha256(each.data.tobytes()).hexdigest() for each in artifacts],
        "sizes": [each.size for each in artifacts],
        "shas": [each.sha for each in artifacts],
        "total": run.data.total,
        "array": [str(first.dtype), list(first.shape), bool(first.flags.writeable), float(first.sum())],
    }


@pytest.fixture(scope="module")
def seen(once: Once) -> Any:
    """What the client sees of a run."""
    scene = once("large", scenes.large)
    return scene.place.client(look, scene.facts["id"])


def test_a_large_array_comes_back(seen: Any) -> None:
    """Every byte of it is what it was, in whichever task and under whichever name; it can be written to."""
    array = large_array()
    assert seen["digest"] == [hashlib.sha256(array.tobytes()).hexdigest()] * 3
    assert seen["array"] == ["float64", [LARGE // 8], True, float(array.sum())]
    assert seen["total"] == float(array.sum())


def test_its_size_and_key(seen: Any) -> None:
    """Its size is that of the pickle, and equal arrays have one key."""
    assert len(set(seen["sizes"])) == 1
    assert 0 < seen["sizes"][0] - LARGE < 1000
    assert len(set(seen["shas"])) == 1
