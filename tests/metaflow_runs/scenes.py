"""What several test modules look at: ``once("linear", linear)`` gives it to each."""

from __future__ import annotations

from typing import Any

from flows.values import BYTES
from runs import WITH_CODE, Place

ARGUMENTS = ("--count", "7", "--title", "", "--loud", "true", "--options", '{"b": null}', "--tag", "first")
GIVEN = {"count": 7, "rate": 0.25, "title": "", "loud": True, "options": {"b": None}}
"""The parameters of the run of LinearFlow: those of ARGUMENTS, and one by default."""


def linear(place: Place) -> dict[str, Any]:
    """Run LinearFlow once, with arguments of its own."""
    (place.outside / "blob").write_bytes(BYTES)
    run = place.run("linear_flow.py", *ARGUMENTS, "--blob", str(place.outside / "blob"), env=WITH_CODE)
    return {"id": run.run_id}


def retried(place: Place) -> dict[str, Any]:
    """Run RetryFlow twice: first it succeeds in the third attempt, then it fails for good."""
    done = place.run("retry_flow.py")
    failed = place.run("retry_flow.py", "--hopeless", "true", code=1)
    return {"done": done.run_id, "failed": failed.run_id, "out": failed.out, "err": failed.err}


def large(place: Place) -> dict[str, Any]:
    """Run LargeFlow."""
    return {"id": place.run("large_flow.py").run_id}
