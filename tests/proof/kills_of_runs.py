"""Kills real runs of Metaflow at random moments, the scheduler alone or all of a run, and resumes them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from crash_states import recovered

sys.path.append(str(Path(__file__).parent.parent / "metaflow_runs"))  # whoever starts this, runs.py is there

from runs import Place, Process

from sqlitestore import FlowDataStore

FLOW = "foreach_flow.py"
EXPECTED = [[number, letter, "for all"] for number, letter in enumerate("abc")]
LONGEST_WAY = 60.0
"""How long the tasks of a killed scheduler may go on [s]."""


def result(run_id: str) -> Any:
    """Return what a run of ForeachFlow has made, as Metaflow's client sees it."""
    from metaflow import Run

    run = Run(f"ForeachFlow/{run_id}")
    return [run.successful, run.data.done]


def kill_a_run(folder: str, seed: int) -> dict[str, int]:
    """Run a flow, kill it, look at the file, resume it (or run it again, if it had not begun); return what was seen."""
    chance = random.Random(seed)
    place = Place.made(Path(folder))
    process = place.start_flow(FLOW, "run", "--letters", "abc")
    run_id = process.run_id()
    with suppress(subprocess.TimeoutExpired):
        process.popen.wait(chance.uniform(0, 3))  # [s]: such a run takes 3 s on an idle machine
    was_running = process.popen.poll() is None
    scheduler_alone = chance.random() < 0.5
    if scheduler_alone:
        process.popen.kill()  # nothing, if it has ended
        process.popen.wait(LONGEST_WAY)
        _wait_for_tasks(process)
    process.kill()
    seen = _look(place, run_id)
    seen |= {"runs killed": int(was_running), "schedulers killed alone": int(was_running and scheduler_alone)}
    if seen["runs that can be resumed"]:
        again = place.start_flow(FLOW, "resume", "--origin-run-id", run_id)
    else:
        again = place.start_flow(FLOW, "run", "--letters", "abc")
    done = place.client(result, again.finish().run_id)
    assert done == [True, EXPECTED], f"after a kill the flow ends with {done}"
    assert [each.name for each in place.work.iterdir()] == ["metaflow.db"]
    recovered(str(place.work), f"{folder}/copy")
    return seen


def _look(place: Place, run_id: str) -> dict[str, int]:
    """Check the file that a killed run left, by the independent oracle and by the package."""
    state = recovered(str(place.work), str(place.root / "copy"))
    attempts = {unit: value for unit, value in state.items() if unit[1] == "attempt" and unit[3] == run_id}
    done = [unit for unit, (_, is_done, _) in attempts.items() if is_done]
    with FlowDataStore("ForeachFlow", ds_root=place.root / "copy" / "metaflow.db") as flow:
        loaded = flow.get_latest_task_datastores(run_id=run_id)
        for task in loaded:
            task.to_dict()
        has_parameters = any(task.step_name == "_parameters" for task in loaded)
    assert len(loaded) == len({unit[4:6] for unit in done})
    return {
        "tasks of runs done": len(done),
        "tasks of runs not done": len(attempts) - len(done),
        "runs that can be resumed": int(has_parameters),
    }


def _wait_for_tasks(process: Process) -> None:
    """Wait for what a scheduler that was killed alone has started; they end by themselves."""
    deadline = time.monotonic() + LONGEST_WAY
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _members(process.pid), "tasks of a scheduler that was killed do not end"


def _members(group: int) -> list[int]:
    """Return the processes of a group that are more than waiting to be reaped."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found
