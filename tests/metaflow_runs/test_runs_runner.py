"""Runs that a program starts by ``metaflow.Runner``, and single steps that are spun."""

from __future__ import annotations

from typing import Any

import pytest
from runs import FLOWS, SQLITE, Once, Place, Scene


def run_and_resume(flows: str) -> dict[str, Any]:
    """Run flows by the Runner, let one fail and resume it."""
    from metaflow import Flow, Runner

    seen: dict[str, Any] = {}
    with Runner(f"{flows}/short_flow.py", show_output=False, pylint=False) as runner:
        done = runner.run(note="by Runner", tags=["a", "b"], max_workers=2)
        seen["short"] = [done.status, done.returncode, done.run.successful, done.run.data.handed_on]
        seen["short_tags"] = sorted(done.run.user_tags)
        seen["short_is_latest"] = Flow("ShortFlow").latest_run.id == done.run.id
        seen["stdout"] = [line.rpartition("] ")[2] for line in done.stdout.splitlines() if "note:" in line]
    with Runner(f"{flows}/resume_flow.py", show_output=False, pylint=False, env={"FAIL_IN": "join"}) as runner:
        failed = runner.run(seed=2)
        seen["failed"] = [failed.status, failed.returncode, failed.run.finished, failed.run["start"].task.data.seed]
        seen["stderr"] = "Step join" in failed.stderr
    with Runner(f"{flows}/resume_flow.py", show_output=False, pylint=False) as runner:
        done = runner.resume(origin_run_id=failed.run.id)
        seen["resumed"] = [done.status, done.run.successful, done.run.data.result]
        seen["origin"] = done.run.origin_pathspec == failed.run.pathspec
        again = runner.resume(step_to_rerun="end", origin_run_id=done.run.id, tags=["again"])
        seen["again"] = [again.status, again.run.origin_pathspec == done.run.pathspec, sorted(again.run.user_tags)]
        seen["ran_in"] = [again.run.data.ran_in["join"] == done.run.id, again.run.data.ran_in["end"] == again.run.id]
    return seen


def run_asynchronously(flows: str, signal: str) -> dict[str, Any]:
    """Start a run, read its log while it waits, and wait for its end."""
    import asyncio
    from pathlib import Path

    from metaflow import Runner

    go = Path(f"{signal}.go")

    async def main() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        options = {"show_output": False, "pylint": False, "env": {"SIGNAL": signal}}
        async with Runner(f"{flows}/waiting_flow.py", **options) as runner:
            running = await runner.async_run(note="async")
            lines, position = [], None
            async for position, line in running.stream_log("stdout"):  # noqa: B007
                lines.append(line)
                if line.endswith("before the wait"):
                    break
            seen["streamed"] = lines[-1].rpartition("] ")[2]
            seen["before"] = [running.status, running.returncode, running.run.finished]
            seen["run"] = running.run.pathspec
            go.touch()  # noqa: ASYNC240 - takes no time
            await running.wait(timeout=60)
            seen["after"] = [running.status, running.returncode, running.run.successful, running.run.data.after]
            seen["rest"] = [line async for _, line in running.stream_log("stdout", position=position)]
        return seen

    return asyncio.run(main())


def spin(flows: str, run_id: str, folder: str) -> dict[str, Any]:
    """Spin steps of a run of ForeachFlow and look at what that left."""
    from metaflow import Flow, Run, Runner, Task, get_metadata, inspect_spin, metadata

    step = "work"
    seen: dict[str, Any] = {}
    configured = get_metadata()
    with Runner(f"{flows}/foreach_flow.py", show_output=False, pylint=False) as runner:
        done = runner.spin(f"ForeachFlow/{run_id}/{step}/3", persist=True)
        seen["work"] = [done.status, done.task.data.letter, done.task.data.number, done.task.stdout]
        seen["original"] = Task(f"ForeachFlow/{run_id}/{step}/3").data.letter
        done = runner.spin("join", persist=True)
        seen["join"] = [done.status, sorted(done.task.data.done)]
    inspect_spin(folder)
    steps = {step.id: step for run in Flow("ForeachFlow") for step in run}
    seen["inspected"] = sorted(steps)
    seen["items"] = steps["start"].task.data.items
    seen["spin_metadata"] = get_metadata()
    metadata(configured)
    seen["runs"] = [run.id for run in Flow("ForeachFlow")]
    seen["successful"] = Run(f"ForeachFlow/{run_id}").successful
    return seen


@pytest.fixture(scope="module")
def by_runner(once: Once) -> Any:
    """Runs by the Runner."""
    return once("runner", lambda place: place.client(run_and_resume, str(FLOWS))).facts


@pytest.fixture(scope="module")
def asynchronous(once: Once) -> Any:
    """A run by the Runner that is waited for."""
    return once(
        "runner-async", lambda place: place.client(run_asynchronously, str(FLOWS), str(place.outside / "signal"))
    ).facts


@pytest.fixture(scope="module")
def spun(once: Once) -> Scene:
    """Steps of a run that were spun."""

    def make(place: Place) -> Any:
        run_id = place.run("foreach_flow.py").run_id
        (place.outside / "spin").mkdir()
        before = place.file.read_bytes() if SQLITE else b""
        (place.outside / "other.py").write_text("ARTIFACTS = {'letters': 'zz'}", encoding="utf-8")
        other = ("--artifacts-module", str(place.outside / "other.py"))
        place.flow("foreach_flow.py", "spin", f"ForeachFlow/{run_id}/start", "--persist", *other)
        seen = place.client(spin, str(FLOWS), run_id, str(place.outside / "spin"))
        return {"id": run_id, "same": not SQLITE or place.file.read_bytes() == before, **seen}

    return once("spun", make)


def test_run(by_runner: Any) -> None:
    """``run`` takes parameters and tags, and gives the run when it is done."""
    assert by_runner["short"] == ["successful", 0, True, "by Runner!"]
    assert by_runner["short_tags"] == ["a", "b"]
    assert by_runner["short_is_latest"] is True
    assert by_runner["stdout"] == ["note: by Runner"]


def test_a_run_that_fails(by_runner: Any) -> None:
    """A run that failed can be looked at too."""
    assert by_runner["failed"] == ["failed", 1, False, 2]
    assert by_runner["stderr"] is True


def test_resume(by_runner: Any) -> None:
    """``resume`` goes on with a run, from what failed or from a step by name."""
    assert by_runner["resumed"] == ["successful", True, 130]
    assert by_runner["origin"] is True
    assert by_runner["again"] == ["successful", True, ["again"]]
    assert by_runner["ran_in"] == [True, True]


def test_a_run_that_is_waited_for(asynchronous: Any) -> None:
    """``async_run`` gives the run while it goes on; its log is streamed, then its end awaited."""
    assert asynchronous["streamed"] == "before the wait"
    assert asynchronous["before"] == ["running", None, False]
    assert asynchronous["after"] == ["successful", 0, True, "ready, async"]
    assert asynchronous["rest"][-1].endswith("Done!")


def test_spin(spun: Scene) -> None:
    """A spun step gets the artifacts of the run, also of all branches of a join; the run stays as it was."""
    facts = spun.facts
    assert facts["work"] == ["successful", "b", 1, "work on b\n"]
    assert facts["join"] == ["successful", [[0, "a", "for all"], [1, "b", "for all"], [2, "c", "for all"]]]
    assert facts["original"] == "b"
    assert facts["successful"] is True
    assert facts["runs"] == [facts["id"]]


def test_spin_with_other_artifacts(spun: Scene) -> None:
    """``spin --artifacts-module`` replaces artifacts of the run."""
    assert spun.facts["items"] == ["z", "z"]


def test_what_is_spun_is_kept_apart(spun: Scene) -> None:
    """Metaflow keeps what was spun in a folder of its own, where the client finds it; the database stays as it is."""
    facts = spun.facts
    assert facts["spin_metadata"] == f"spin@{spun.place.outside / 'spin'}"
    assert facts["inspected"] == ["join", "start", "work"]
    assert (spun.place.outside / "spin" / ".metaflow_spin").is_dir()
    assert facts["same"] is True
