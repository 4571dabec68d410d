"""What the size of the file costs: many tasks in it, and many bytes. Only our own store is asked, in two files."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import content
from benchmarks.contract import FLOW
from benchmarks.workloads import Call, Costs, check

SMALL = "small file"
FEATURE_TASKS = 100
"""Tasks in either of the files of few and many bytes."""

REPEATS = 5


def _flow(place: Path) -> Any:
    from sqlitestore import FlowDataStore

    return closing(FlowDataStore(FLOW, ds_root=place / "store.db"))


def _write_run(flow: Any, run: str, tasks: int) -> None:
    for number in range(tasks):
        _write_task(flow, run, number, content.small_artifacts(number) | {"run": run, "own": f"{run} {number}"})


def _write_task(flow: Any, run: str, number: int, artifacts: dict[str, Any]) -> None:
    task = flow.get_task_datastore(run, "train", str(number), attempt=0, mode="w")
    task.init_task()
    task.save_artifacts(iter(artifacts.items()))
    task.done()


def fill_with_tasks(call: Call) -> None:
    """Write runs of small tasks."""
    with _flow(call.place) as flow:
        for run in range(call.scale.few_runs if call.peer == SMALL else call.scale.many_runs):
            _write_run(flow, str(run), call.scale.run_tasks)


def ask_many_tasks(call: Call) -> Costs:
    """Look up a run, load one artifact of each of its tasks, and write one more run until the file is closed."""
    count = call.scale.run_tasks
    with _flow(call.place) as flow:
        run = "0"
        flow.get_task_datastores(run, ["train"])[0]["own"]
        look_up, load = [], []
        for _ in range(REPEATS):
            start = time.perf_counter()
            found = flow.get_task_datastores(run, ["train"])
            between = time.perf_counter()
            values = [task["own"] for task in found]
            load.append(time.perf_counter() - between)
            look_up.append(between - start)
            check(set(values) == {f"{run} {number}" for number in range(count)}, "other tasks were found")
    start = time.perf_counter()
    with _flow(call.place) as flow:
        _write_run(flow, f"new {time.time_ns()}", count)
    write = time.perf_counter() - start
    return {"amount": count, "look up": min(look_up), "load": min(load), "write": write}


def fill_with_bytes(call: Call) -> None:
    """Write as many tasks into either file, with large artifacts or with small ones."""
    size = (call.scale.small_file if call.peer == SMALL else call.scale.large_file) // FEATURE_TASKS
    with _flow(call.place) as flow:
        for number in range(FEATURE_TASKS):
            artifacts = {"big": content.noise(size, number), "equal": content.noise(100_000, 1000 + number)}
            _write_task(flow, "1", number, artifacts)


def ask_many_bytes(call: Call) -> Costs:
    """Open the file, list its tasks and their artifacts, load one that has the same size in either."""
    times: dict[str, list[float]] = {"open": [], "list": [], "load": []}
    for repeat in range(REPEATS + 1):
        start = time.perf_counter()
        with _flow(call.place) as flow:
            opened = time.perf_counter()
            tasks = flow.get_task_datastores("1", ["train"])
            names = [sorted(name for name, _ in task.items()) for task in tasks]
            listed = time.perf_counter()
            array = tasks[repeat]["equal"]
            loaded = time.perf_counter()
            which = int(tasks[repeat].pathspec.split("/")[2])
            check(names == [["big", "equal"]] * FEATURE_TASKS, "other artifacts were listed")
            check(content.same(array, content.noise(100_000, 1000 + which)), "another artifact was loaded")
        for what, seconds in (("open", opened - start), ("list", listed - opened), ("load", loaded - listed)):
            times[what].append(seconds)
    return {"amount": 1} | {what: min(each[1:]) for what, each in times.items()}
