"""Runs that are looked at while they go on."""

from __future__ import annotations

from typing import Any

import pytest
from runs import Once, Place


def look(run_id: str, signal: str) -> dict[str, Any]:
    """Return what the client sees of a run of WaitingFlow that waits, and, after it was told to go on, when it is done.

    The same objects are asked all the time.
    """
    import time
    from pathlib import Path

    from metaflow import Flow, Run

    flow = Flow("WaitingFlow")
    run = Run(f"WaitingFlow/{run_id}")
    start, wait = run["start"].task, run["wait"].task

    def state() -> dict[str, Any]:
        return {
            "latest": [flow.latest_run.id, getattr(flow.latest_successful_run, "id", None)],
            "run": [run.finished, run.successful, run.finished_at is not None],
            "steps": [step.id for step in run],
            "end": run.end_task and run.end_task.pathspec,
            "start": [start.finished, start.successful, start.data.before, start.stdout],
            "wait": [wait.finished, wait.successful, wait.current_attempt, wait.exception],
            "artifacts": sorted(artifact.id for artifact in wait),
            "waited": "waited" in wait,
            "metadata": sorted(each.name for each in wait.metadata if each.name.startswith("attempt")),
            "children": list(start.child_task_pathspecs),
            "user_tags": sorted(run.user_tags),
        }

    before = state()
    run.add_tag("seen while it waits")
    Path(f"{signal}.go").touch()
    deadline = time.monotonic() + 60
    while not run.finished:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    after = state()
    return {"before": before, "after": after, "waits": wait.stdout, "result": run.data.after}


@pytest.fixture(scope="module")
def live(once: Once) -> Any:
    """A run that waits; seen by a client meanwhile and after."""

    def make(place: Place) -> Any:
        signal = str(place.outside / "signal")
        process = place.start_flow("waiting_flow.py", "run", "--note", "all well", env={"SIGNAL": signal})
        process.until((place.outside / "signal.there").exists)
        seen = place.client(look, process.run_id(), signal)
        process.finish()
        return {"id": process.run_id(), **seen}

    return once("live", make).facts


def test_a_run_that_goes_on(live: Any) -> None:
    """It is the latest run, but neither finished nor successful, and ends nowhere."""
    seen = live["before"]
    assert seen["latest"] == [live["id"], None]
    assert seen["run"] == [False, False, False]
    assert seen["steps"] == ["wait", "start"]
    assert seen["end"] is None


def test_a_task_that_is_done_meanwhile(live: Any) -> None:
    """The artifacts and logs of a task that is done are there while the run goes on."""
    assert live["before"]["start"] == [True, True, "ready", "before the wait\n"]
    assert live["before"]["children"] == [f"WaitingFlow/{live['id']}/wait/2"]


def test_a_task_that_goes_on(live: Any) -> None:
    """It has begun its first attempt, and has no artifacts yet."""
    seen = live["before"]
    assert seen["wait"] == [False, False, 0, None]
    assert (seen["artifacts"], seen["waited"], seen["metadata"]) == ([], False, ["attempt"])


def test_objects_show_what_happened_since(live: Any) -> None:
    """Objects that were made before show the state of now: finished, with artifacts, logs and the last step."""
    seen = live["after"]
    assert seen["run"] == [True, True, True]
    assert seen["latest"] == [live["id"], live["id"]]
    assert seen["steps"] == ["end", "wait", "start"]
    assert seen["wait"] == [True, True, 0, None]
    assert {"before", "note", "waited"} <= set(seen["artifacts"])
    assert seen["metadata"] == ["attempt", "attempt-done", "attempt_ok"]
    assert seen["end"] == f"WaitingFlow/{live['id']}/end/3"
    assert live["waits"] == "waiting\n"
    assert live["result"] == "ready, all well"


def test_tags_change_while_a_run_goes_on(live: Any) -> None:
    """A tag that is added meanwhile stays."""
    assert live["after"]["user_tags"] == ["seen while it waits"]
