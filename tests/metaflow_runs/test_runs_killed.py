"""Processes of a run that are killed, and the resume after that."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from runs import Place, Process, alive, sqlite_only, until
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore

pytestmark = sqlite_only


def look(run_id: str) -> dict[str, Any]:
    """Return what the client says about a run of WaitingFlow."""
    from metaflow import Run

    run = Run(f"WaitingFlow/{run_id}")
    tasks = {task.pathspec.split("/")[2]: task for step in run for task in step}
    return {
        "run": [run.finished, run.successful, run.origin_pathspec],
        "tasks": {name: [task.finished, task.successful, len(list(task))] for name, task in tasks.items()},
        "before": tasks["start"].data.before,
        "wait": sorted(each.name for each in tasks["wait"].metadata if each.name.startswith("attempt")),
        "result": run.data.after if run.data else None,
    }


def waiting(place: Place) -> tuple[Process, int]:
    """Start a run of WaitingFlow; return its scheduler, and the process of the task that waits."""
    process = place.start_flow("waiting_flow.py", "run", "--note", "killed", env={"SIGNAL": str(place.outside / "one")})
    there = place.outside / "one.there"
    process.until(there.exists)
    return process, int(there.read_text(encoding="utf-8"))


def resume(place: Place, run_id: str) -> Any:
    """Resume the run, without any wait; return what is seen of the new one."""
    (place.outside / "two.go").touch()
    done = place.flow(
        "waiting_flow.py", "resume", "--origin-run-id", run_id, env={"SIGNAL": str(place.outside / "two")}
    )
    return place.client(look, done.run_id)


def check_resumed(place: Place, run_id: str) -> None:
    """The resumed run is done, took over what was done before, and the file is alone and sound."""
    seen = resume(place, run_id)
    assert seen["run"] == [True, True, f"WaitingFlow/{run_id}"]
    assert seen["result"] == "ready, killed"
    assert sorted(seen["tasks"]) == ["end", "start", "wait"]
    assert all(state[:2] == [True, True] for state in seen["tasks"].values())
    assert [each.name for each in place.work.iterdir()] == ["metaflow.db"]
    check_file(place.file)


def check_broken(place: Place, run_id: str) -> None:
    """The run that was killed has what was done; the task that was not has begun, and no artifacts."""
    seen = place.client(look, run_id)
    assert seen["run"][:2] == [False, False]
    assert seen["tasks"] == {"start": [True, True, seen["tasks"]["start"][2]], "wait": [False, False, 0]}
    assert (seen["before"], seen["wait"]) == ("ready", ["attempt"])


def test_a_task_that_is_killed(place: Place) -> None:
    """The run fails, as with any task that fails; resumed it goes on from there."""
    process, task = waiting(place)
    os.kill(task, signal.SIGKILL)
    done = process.finish(code=1)
    assert "Step wait (task-id 2) failed." in done.err
    check_broken(place, done.run_id)
    check_resumed(place, done.run_id)


def test_a_whole_run_that_is_killed(place: Place) -> None:
    """Scheduler and task end at once; nothing of it hinders anybody."""
    process, task = waiting(place)
    process.kill()
    until(lambda: not alive(task))
    check_broken(place, process.run_id())
    check_resumed(place, process.run_id())


def test_a_scheduler_that_is_killed(place: Place) -> None:
    """A task that outlives its scheduler ends by itself, while another process resumes the run."""
    process, task = waiting(place)
    os.kill(process.pid, signal.SIGKILL)
    process.finish(code=-signal.SIGKILL)
    assert alive(task)
    check_broken(place, process.run_id())
    (place.outside / "two.go").touch()
    resumed = place.start_flow(
        "waiting_flow.py", "resume", "--origin-run-id", process.run_id(), env={"SIGNAL": str(place.outside / "two")}
    )
    (place.outside / "one.go").touch()
    seen = place.client(look, resumed.finish().run_id)
    assert seen["run"] == [True, True, f"WaitingFlow/{process.run_id()}"]
    assert seen["result"] == "ready, killed"
    until(lambda: not alive(task))
    assert [each.name for each in place.work.iterdir()] == ["metaflow.db"]
    check_file(place.file)


def result(run_id: str) -> Any:
    """Return what a run of ForeachFlow has made."""
    from metaflow import Run

    run = Run(f"ForeachFlow/{run_id}")
    return [run.successful, run.data.done]


def can_be_resumed(place: Place, run_id: str) -> bool:
    """Whether the run got as far as storing its parameters, which Metaflow's resume needs."""
    with FlowDataStore("ForeachFlow", ds_root=str(place.file)) as flow:
        return bool(flow.get_latest_task_datastores(run_id=run_id, steps=["_parameters"]))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_a_run_that_is_killed_again_and_again(place: Place, seed: int) -> None:
    """Killed whole at any moment, and its resumption too, a run is resumed until it is done."""
    moments = random.Random(seed)
    process = place.start_flow("foreach_flow.py", "run", "--letters", "abcdef")
    process.until(lambda: can_be_resumed(place, process.run_id()))
    latest = process.run_id()
    for _ in range(4):
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(moments.uniform(0, 3))  # [s]: such a run takes 3 s on an idle machine
        process.kill()
        if can_be_resumed(place, process.run_id()):
            latest = process.run_id()
        process = place.start_flow("foreach_flow.py", "resume", "--origin-run-id", latest)
        process.run_id()
    expected = [[number, letter, "for all"] for number, letter in enumerate("abcdef")]
    assert place.client(result, process.finish().run_id) == [True, expected]
    assert [each.name for each in place.work.iterdir()] == ["metaflow.db"]
    check_file(place.file)
