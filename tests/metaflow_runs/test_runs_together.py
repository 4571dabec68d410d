"""Many processes at one file: runs that start at once, and runs of many tasks."""

from __future__ import annotations

from typing import Any

import pytest
from runs import SQLITE, Once, Place, Scene
from sqlite_oracle import check_file


def look(flow: str, *run_ids: str) -> dict[str, Any]:
    """Return what the client says about some runs of a flow."""
    from metaflow import Flow, Run

    seen: dict[str, Any] = {"listed": sorted(run.id for run in Flow(flow))}
    for run_id in run_ids:
        run = Run(f"{flow}/{run_id}")
        tasks = [task for step in run for task in step]
        seen[run_id] = {
            "state": [run.successful, run.finished],
            "tasks": sorted(task.id for task in tasks),
            "done": getattr(run.data, "done", None),
            "handed_on": getattr(run.data, "handed_on", None),
            "logs": sorted(task.stdout for task in tasks if task.stdout),
        }
    return seen


def left(place: Place) -> list[str]:
    """Return what is in the work folder."""
    return sorted(each.name for each in place.work.iterdir())


@pytest.fixture(scope="module")
def two(once: Once) -> Scene:
    """Two runs of one flow at once, on a file that is not there yet."""

    def make(place: Place) -> Any:
        letters = ("abc", "uvwxyz")
        processes = [place.start_flow("foreach_flow.py", "run", "--letters", each) for each in letters]
        ids = [process.finish().run_id for process in processes]
        return {"letters": letters, "ids": ids, "seen": place.client(look, "ForeachFlow", *ids)}

    return once("two-at-once", make)


@pytest.mark.parametrize("number", [0, 1])
def test_two_runs_at_once(two: Scene, number: int) -> None:
    """Each run has its own tasks, artifacts and logs, as if it were alone."""
    letters, run_id = two.facts["letters"][number], two.facts["ids"][number]
    seen = two.facts["seen"][run_id]
    assert seen["state"] == [True, True]
    assert seen["done"] == [[index, letter, "for all"] for index, letter in enumerate(letters)]
    assert seen["tasks"] == sorted(str(task) for task in range(1, len(letters) + 4))
    assert seen["logs"] == [f"work on {letter}\n" for letter in letters]


def test_both_are_listed(two: Scene) -> None:
    """Both runs are the flow's."""
    assert two.facts["seen"]["listed"] == sorted(two.facts["ids"])
    assert len(set(two.facts["ids"])) == 2
    if SQLITE:
        assert left(two.place) == ["metaflow.db"]
        check_file(two.place.file)


def test_runs_that_make_the_file_together(place: Place) -> None:
    """Six runs start at the same moment where there is no store; each makes it or finds it."""
    notes = [f"n{number}" for number in range(6)]
    processes = [place.start_flow("short_flow.py", "run", "--note", note) for note in notes]
    ids = [process.finish().run_id for process in processes]
    seen = place.client(look, "ShortFlow", *ids)
    assert seen["listed"] == sorted(ids)
    assert [seen[run_id]["handed_on"] for run_id in ids] == [f"{note}!" for note in notes]
    if SQLITE:
        assert left(place) == ["metaflow.db"]
        check_file(place.file)


def look_wide(run_id: str) -> dict[str, Any]:
    """Return what the client says about a run of WideFlow."""
    from metaflow import Run, Task

    run = Run(f"WideFlow/{run_id}")
    tasks = list(run["work"])
    return {
        "state": [run.successful, run.finished, run.data.total],
        "squares": sorted(task.data.square for task in tasks),
        "indices": sorted(task.index for task in tasks),
        "logs": sorted(int(task.stdout.split()[-1]) for task in tasks),
        "parents": len(list(run["join"].task.parent_tasks)),
        "children": len(list(run["start"].task.child_task_pathspecs)),
        "ids": len({task.id for task in tasks}),
        "attempts": sorted({task.current_attempt for task in tasks}),
        "one": Task(tasks[0].pathspec).successful,
        "metadata": sorted({len([each for each in task.metadata if each.name == "attempt"]) for task in tasks}),
    }


@pytest.mark.long
def test_many_tasks(place: Place) -> None:
    """A foreach of 500 tasks, 16 of them at a time: each task has its artifact, log and metadata."""
    arguments = ("--width", "500", "--max-num-splits", "500", "--max-workers", "16")
    run_id = place.start_flow("wide_flow.py", "run", *arguments).finish(seconds=1800).run_id
    seen = place.client(look_wide, run_id)
    squares = [number**2 for number in range(500)]
    assert seen["state"] == [True, True, sum(squares)]
    assert seen["squares"] == squares
    assert seen["indices"] == seen["logs"] == list(range(500))
    assert (seen["parents"], seen["children"], seen["ids"]) == (500, 500, 500)
    assert (seen["attempts"], seen["one"], seen["metadata"]) == ([0], True, [1])
    if SQLITE:
        assert left(place) == ["metaflow.db"]
        check_file(place.file)
