"""Attempts that fail, steps that fail for good, and failures that are caught."""

from __future__ import annotations

from typing import Any

import looks
import pytest
import scenes
from runs import Once, Place, Scene


@pytest.fixture(scope="module")
def scene(once: Once) -> Scene:
    """Two runs, of which the second fails for good."""
    return once("retried", scenes.retried)


@pytest.fixture(scope="module")
def retried(scene: Scene) -> Any:
    """A step that succeeds in its third attempt; seen by the client."""
    return scene.place.client(looks.at_attempts, "RetryFlow", scene.facts["done"])


@pytest.fixture(scope="module")
def failed(scene: Scene) -> Any:
    """A step that fails for good; seen by the client."""
    return scene.place.client(looks.at_attempts, "RetryFlow", scene.facts["failed"])


@pytest.fixture(scope="module")
def caught(once: Once) -> Any:
    """Failures that are caught; seen by the client."""

    def make(place: Place) -> Any:
        run = place.run("catch_flow.py")
        return {"id": run.run_id, **place.client(looks.at_attempts, "CatchFlow", run.run_id)}

    return once("caught", make).facts


def attempt(number: int, *, ok: bool) -> dict[str, Any]:
    """Return what is expected of one attempt of the step that is retried."""
    failure = ["MetaflowExceptionWrapper", f"attempt {number} fails", "builtins.RuntimeError", True]
    complaints = [f"bad luck {number}", f"RuntimeError: attempt {number} fails"]
    return {
        "state": [ok, ok, number],
        "exception": None if ok else failure,
        "stdout": f"attempt {number}\n",
        "stderr": [] if ok else complaints,
        "metadata": [["attempt", f"{number}"], ["attempt-done", f"{number}"], ["attempt_ok", str(ok)]],
        "has_time": True,
    }


def parts(facts: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return of the facts what is expected."""
    return {name: facts[name] for name in expected}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_attempt_is_kept(retried: Any, number: int) -> None:
    """Each attempt of a task has its own artifacts, state, exception, metadata and logs."""
    expected = attempt(number, ok=number == 2)
    seen = retried["attempts"]["start"][number]
    assert parts(seen, expected) == expected
    assert seen["artifacts"] == {"tried": number, "hopeless": False}
    assert seen["sizes"] == {"tried": 5, "hopeless": 4}


def test_the_latest_attempt_counts(retried: Any) -> None:
    """Without a number a task shows its latest attempt, and the metadata of all."""
    seen = retried["latest_attempt"]["start"]
    assert (seen["state"], seen["exception"], seen["stdout"]) == ([True, True, 2], None, "attempt 2\n")
    assert seen["artifacts"]["tried"] == 2
    assert seen["metadata"] == sorted(
        line for number in range(3) for line in attempt(number, ok=number == 2)["metadata"]
    )


def test_a_run_succeeds_after_retries(scene: Scene, retried: Any) -> None:
    """The step after it gets the artifacts of the attempt that succeeded, and the run is successful."""
    assert retried["run"] == [True, True, True, f"RetryFlow/{scene.facts['done']}/end/2"]
    assert retried["latest_attempt"]["end"]["artifacts"]["tried"] == 2


def test_a_run_that_failed_for_good(scene: Scene, failed: Any) -> None:
    """It is neither finished nor successful, has no end, and is the latest run but not the latest successful one."""
    assert failed["run"] == [False, False, False, None]
    assert failed["latest"] == [scene.facts["failed"], scene.facts["done"]]
    assert list(failed["latest_attempt"]) == ["start"]
    assert "Step start (task-id 1) failed." in scene.facts["err"]
    assert "attempt 2" in scene.facts["out"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_attempts_of_a_task_that_failed_for_good(failed: Any, number: int) -> None:
    """Artifacts and logs of failed attempts are kept, the exception among them."""
    expected = attempt(number, ok=False)
    assert parts(failed["attempts"]["start"][number], expected) == expected
    assert failed["attempts"]["start"][number]["artifacts"]["tried"] == number


def test_a_caught_exception(caught: Any) -> None:
    """The task is finished but not successful; what it had stored is there, and the exception is an artifact."""
    seen = caught["latest_attempt"]["risky"]
    failure = ["MetaflowExceptionWrapper", "too much", "builtins.ValueError", True]
    assert seen["state"] == [False, True, 1]
    assert seen["artifacts"] == {"got_so_far": 5, "failure": failure}
    assert seen["exception"] is None  # that is for the ones which are not caught


def test_only_the_last_attempt_is_caught(caught: Any) -> None:
    """The attempts before it have failed."""
    first, second = caught["attempts"]["risky"]
    assert (first["state"], second["state"]) == ([False, False, 0], [False, True, 1])
    assert first["artifacts"] == {"got_so_far": 5}
    assert first["exception"] == second["artifacts"]["failure"]


def test_a_timeout(caught: Any) -> None:
    """A step that takes too long is stopped, which is caught as any exception."""
    seen = caught["latest_attempt"]["slow"]
    name, text, kind, _ = seen["artifacts"]["late"]
    assert seen["state"] == [False, True, 0]
    assert seen["artifacts"]["begun"] is True
    assert (name, kind) == ("MetaflowExceptionWrapper", "metaflow.plugins.timeout_decorator.TimeoutException")
    assert text.startswith("Step slow timed out after 0 hours, 0 minutes, 1 seconds")


def test_killed_attempts(caught: Any) -> None:
    """An attempt whose process was killed was begun, and has its log, but no artifacts and no end."""
    killed = caught["attempts"]["dies"][:2]
    assert [each["state"] for each in killed] == [[False, False, 0], [False, False, 1]]
    assert [each["artifacts"] for each in killed] == [{}, {}]
    assert [each["stdout"] for each in killed] == ["last words\n"] * 2
    assert [each["metadata"] for each in killed] == [[["attempt", "0"]], [["attempt", "1"]]]
    assert [each["has_time"] for each in killed] == [False, False]


def test_killed_attempts_are_caught(caught: Any) -> None:
    """After the last one an attempt is made that only notes it."""
    seen = caught["latest_attempt"]["dies"]
    assert seen["state"] == [False, True, 2]
    assert seen["artifacts"]["death"][2] == "metaflow.plugins.catch_decorator.FailureHandledByCatch"
    assert "got_so_far" not in seen["artifacts"]


def test_the_run_goes_on_after_a_catch(caught: Any) -> None:
    """The steps after it get the exceptions, and the run is successful."""
    latest = caught["latest_attempt"]
    assert caught["run"] == [True, True, True, f"CatchFlow/{caught['id']}/end/6"]
    assert latest["end"]["artifacts"] == {
        "failure": latest["risky"]["artifacts"]["failure"],
        "late": latest["slow"]["artifacts"]["late"],
        "death": latest["dies"]["artifacts"]["death"],
        "begun": True,
    }
