"""Metaflow itself on its local datastore and provider, and on ours: the client's queries, and a whole run.

Every figure is the median over rounds in which the two take turns, each in a process of its own and on the same disk.
The client's cache, which holds what was loaded before, is fresh in each round ("cold") or filled by the one before
("warm"); filling it costs a new file for each artifact, whatever the datastore.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TYPES = ("sqlite", "local")
ARTIFACTS = 15
"""Of each task, about what Metaflow saves of a small one."""

LOADED = 1000
"""Tasks of which one artifact is loaded, and all metadata and artifacts are listed."""


def environment(kind: str, place: Path) -> dict[str, str]:
    """Return the variables of a process that uses one of the two."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METAFLOW_")}
    return inherited | {
        "METAFLOW_USER": "bench",
        "METAFLOW_DEFAULT_DATASTORE": kind,
        "METAFLOW_DEFAULT_METADATA": kind,
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(place),
        "METAFLOW_DATASTORE_SYSROOT_SQLITE": str(place / "metaflow.db"),
        "METAFLOW_CLIENT_CACHE_PATH": str(place / "cache"),
    }


def write_tasks(kind: str, tasks: int) -> None:
    """Write a run of small tasks in one step, through Metaflow's own classes."""
    from metaflow.datastore import FlowDataStore
    from metaflow.metadata_provider import MetaDatum
    from metaflow.plugins import DATASTORES, METADATA_PROVIDERS

    storage, provider_class = ({each.TYPE: each for each in those}[kind] for those in (DATASTORES, METADATA_PROVIDERS))
    storage.datastore_root = root = storage.get_datastore_root_from_config(lambda *_, **__: None)
    info = {"runtime": "dev", "python_version_code": "3", "metaflow_version": "2", "script": "flow.py"}
    facts = SimpleNamespace(get_environment_info=lambda: info)
    provider = provider_class(facts, SimpleNamespace(name="BenchFlow"), None, None)
    provider._get_git_info_as_dict = dict  # git is asked at each task, and is as slow for both
    flow = FlowDataStore("BenchFlow", facts, provider, None, None, storage_impl=storage, ds_root=root)
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


def ask(kind: str, tasks: int) -> None:
    """Ask the client, as a notebook does; print the seconds of each question as JSON."""
    del kind
    from metaflow import Flow, namespace

    namespace(None)
    seconds: dict[str, float] = {}
    [run] = Flow("BenchFlow")
    step = run["work"]

    def timed(what: str, call: Any) -> Any:
        start = time.perf_counter()
        answer = call()
        seconds[what] = time.perf_counter() - start
        return answer

    provider = run._metaflow.metadata
    path = ("BenchFlow", run.id, "work")
    answer = timed("query", lambda: provider.get_object("step", "task", None, None, *path))
    found = timed("list", lambda: list(step))
    check(len(found), len(answer), tasks)
    some = found[:LOADED]
    names = timed("artifacts", lambda: [[each.id for each in task] for task in some])
    check(ARTIFACTS, *(len(each) for each in names))
    timed("metadata", lambda: [task.metadata_dict for task in some])
    values = timed("load", lambda: [task["x"].data for task in some])
    check(len(values), len(set(values)))
    print(json.dumps(seconds))


def check(*counts: int) -> None:
    """Raise unless all counts are the same: a fast wrong answer is none."""
    if len(set(counts)) != 1:
        raise AssertionError(f"counts differ: {sorted(set(counts))}")


LABELS = {
    "query": "{tasks:,} tasks of a step: the provider's query",
    "list": "the same: listed by the client",
    "artifacts": "{loaded:,} of them: names of all artifacts",
    "metadata": "{loaded:,} of them: all metadata",
    "load": "{loaded:,} of them: one artifact of each loaded, client's cache cold",
    "warm load": "the same, client's cache warm",
    "all": "listing and these four, cold",
    "run": "a whole run of scripts/flights_flow.py",
}


def measure(place: Path, tasks: int, rounds: int, runs: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds by question and type, one for each round."""
    found: dict[str, dict[str, list[float]]] = {}
    script = [sys.executable, __file__]
    for kind in TYPES:
        (place / kind).mkdir()
        subprocess.run(
            [*script, "--write", kind, "--tasks", str(tasks)], env=environment(kind, place / kind), check=True
        )
    for number in range(rounds):
        for kind in TYPES[:: 1 if number % 2 else -1]:
            shutil.rmtree(place / kind / "cache", ignore_errors=True)
            command = [*script, "--ask", kind, "--tasks", str(tasks)]
            cold, warm = (
                json.loads(subprocess.run(command, env=environment(kind, place / kind), check=True, stdout=-1).stdout)
                for _ in range(2)
            )
            seconds = cold | {"warm load": warm["load"]}
            seconds["all"] = sum(cold[what] for what in ("list", "artifacts", "metadata", "load"))
            for what, value in seconds.items():
                found.setdefault(what, {}).setdefault(kind, []).append(value)
    for number in range(runs):
        for kind in TYPES[:: 1 if number % 2 else -1]:
            folder = Path(tempfile.mkdtemp(dir=place))
            command = [sys.executable, str(Path(__file__).parent / "flights_flow.py"), "--no-pylint", "run"]
            start = time.perf_counter()
            subprocess.run(command, env=environment(kind, folder), cwd=folder, check=True, stdout=-3, stderr=-3)
            found.setdefault("run", {}).setdefault(kind, []).append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks in the step (default 10,000)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="alternating rounds of the client's questions (default 5)"
    )
    parser.add_argument("--runs", type=int, default=5, help="alternating whole runs of the flights (default 5)")
    parser.add_argument("--folder", default=".", help="where to measure: the disk counts (default: here)")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write or arguments.ask:
        (write_tasks if arguments.write else ask)(arguments.write or arguments.ask, arguments.tasks)
        return
    place = Path(tempfile.mkdtemp(prefix="sqlitestore-bench-", dir=os.path.abspath(arguments.folder)))
    try:
        found = measure(place, arguments.tasks, arguments.rounds, arguments.runs)
        for kind in TYPES:
            shutil.rmtree(place / kind / "cache", ignore_errors=True)
        disk = {kind: sum(path.stat().st_blocks * 512 for path in (place / kind).rglob("*")) for kind in TYPES}
    finally:
        shutil.rmtree(place)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; medians of {arguments.rounds} rounds and {arguments.runs} runs\n")
    print(f"{'':<66} {'sqlite':>9} {'local':>9} {'ratio':>6}")
    for what, label in LABELS.items():
        if what in found:
            ours, theirs = (found[what][kind] for kind in TYPES)
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            text = label.format(tasks=arguments.tasks, loaded=LOADED)
            print(f"{text:<66} {statistics.median(ours):>7.3f} s {statistics.median(theirs):>7.3f} s {ratio:>6.1f}")
    print(f"\ndisk, without the client's cache: {disk['sqlite'] / 1e6:.1f} MB and {disk['local'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
