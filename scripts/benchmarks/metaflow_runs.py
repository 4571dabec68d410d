"""Metaflow itself on its local datastore and provider, and on ours: the client's questions, and a whole run.

Each is a process of its own. The client's cache, which holds what was loaded before, is fresh in each round; filling
it costs a new file for each artifact, whatever the datastore.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.contract import FLOW
from benchmarks.memory import disk_of
from benchmarks.peers import OURS
from benchmarks.workloads import Call, Costs

ARTIFACTS = 15
"""Of each task, about what Metaflow saves of a small one."""

FLIGHTS = Path(__file__).parents[1] / "flights_flow.py"


def environment(peer: str, place: Path) -> dict[str, str]:
    """Return the variables of a process in which Metaflow uses one of the two."""
    kind = "sqlite" if peer == OURS else "local"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METAFLOW_")}
    return inherited | {
        "METAFLOW_USER": "bench",
        "METAFLOW_DEFAULT_DATASTORE": kind,
        "METAFLOW_DEFAULT_METADATA": kind,
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(place),
        "METAFLOW_DATASTORE_SYSROOT_SQLITE": str(place / "metaflow.db"),
        "METAFLOW_CLIENT_CACHE_PATH": str(place / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }


def _run(call: Call, *arguments: str) -> str:
    """Run this module in a process whose Metaflow uses the store of the call; return what it printed."""
    command = [sys.executable, "-m", "benchmarks.metaflow_runs", *arguments]
    settings = environment(call.peer, call.place)
    return subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True).stdout


def fill(call: Call) -> None:
    """Write the tasks that the client is asked for."""
    _run(call, "write", str(call.scale.client_tasks))


def ask_client(call: Call) -> Costs:
    """Ask the client; the costs have the seconds of each question."""
    shutil.rmtree(call.place / "cache", ignore_errors=True)
    disk = disk_of(call.place)
    seconds = json.loads(_run(call, "ask", str(call.scale.client_tasks), str(call.scale.client_loaded)))
    return {"amount": 1, "disk": disk} | seconds


def run_flights(call: Call) -> Costs:
    """Run the flow of the flights as a user does."""
    with tempfile.TemporaryDirectory(dir=call.place) as folder:
        command = [sys.executable, str(FLIGHTS), "--no-pylint", "run"]
        start = time.perf_counter()
        subprocess.run(
            command, env=environment(call.peer, Path(folder)), cwd=folder, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return {"amount": 1, "seconds": time.perf_counter() - start}


def write_tasks(tasks: int) -> None:
    """Write a run of small tasks in one step, through Metaflow's own classes."""
    from metaflow.datastore import FlowDataStore
    from metaflow.metadata_provider import MetaDatum
    from metaflow.plugins import DATASTORES, METADATA_PROVIDERS

    kind = os.environ["METAFLOW_DEFAULT_DATASTORE"]
    storage, provider_class = ({each.TYPE: each for each in those}[kind] for those in (DATASTORES, METADATA_PROVIDERS))
    storage.datastore_root = root = storage.get_datastore_root_from_config(lambda *_, **__: None)
    info = {"runtime": "dev", "python_version_code": "3", "metaflow_version": "2", "script": "flow.py"}
    facts = SimpleNamespace(get_environment_info=lambda: info)
    provider = provider_class(facts, SimpleNamespace(name=FLOW), None, None)
    provider._get_git_info_as_dict = dict  # git is asked at each task, and is as slow for both
    flow = FlowDataStore(FLOW, facts, provider, None, None, storage_impl=storage, ds_root=root)
    run_id = provider.new_run_id()
    for number in range(tasks):
        task_id = provider.new_task_id(run_id, "work")
        fields = {"attempt": "0", "origin-run-id": "None", "ds-type": kind, "ds-root": root, "attempt_ok": "True"}
        data = [MetaDatum(field, value, field, ["attempt_id:0"]) for field, value in fields.items()]
        provider.register_metadata(run_id, "work", task_id, data)
        task = flow.get_task_datastore(run_id, "work", task_id, attempt=0, mode="w")
        task.init_task()
        task.save_artifacts([("x", number), *((f"a{each}", [number % 7, each]) for each in range(ARTIFACTS - 1))])
        task.done()


def ask(tasks: int, loaded: int) -> dict[str, float]:
    """Ask the client, as a notebook does; return the seconds of each question."""
    from metaflow import Flow, namespace

    namespace(None)
    seconds: dict[str, float] = {}
    [run] = Flow(FLOW)
    step = run["work"]

    def timed(what: str, call: Any) -> Any:
        start = time.perf_counter()
        answer = call()
        seconds[what] = time.perf_counter() - start
        return answer

    found = timed("list", lambda: list(step))
    some = found[:loaded]
    values = timed("load", lambda: [task["x"].data for task in some])
    names = timed("artifacts", lambda: [[each.id for each in task] for task in some])
    timed("metadata", lambda: [task.metadata_dict for task in some])
    _check(len(found), tasks)
    _check(len(values), len(set(values)), loaded)
    _check(ARTIFACTS, *(len(each) for each in names))
    return seconds


def _check(*counts: int) -> None:
    """Raise unless all counts are the same: a fast wrong answer is none."""
    if len(set(counts)) != 1:
        raise AssertionError(f"counts differ: {sorted(set(counts))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "ask"])
    parser.add_argument("tasks", type=int)
    parser.add_argument("loaded", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    if arguments.what == "write":
        write_tasks(arguments.tasks)
    else:
        print(json.dumps(ask(arguments.tasks, arguments.loaded)))


if __name__ == "__main__":
    main()
