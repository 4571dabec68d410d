"""Measures sqlitestore against Metaflow's local datastore, on the same disk, in alternating rounds.

Prints one table: each workload, the rate of each store (median over the rounds), and the ratio (median of the rounds'
ratios). Both sides do the same calls of the same API. `--json FILE` writes the figures too. Run it as scripts/bench.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
from metaflow.plugins.datastores.local_storage import LocalStorage

from sqlitestore import FlowDataStore

FLOW = "BenchFlow"


@contextmanager
def sqlite_store(folder: Path) -> Iterator[Any]:
    """Our store; closing it, which empties the write-ahead log into the file, belongs to the work."""
    with FlowDataStore(FLOW, ds_root=folder / "bench.db") as flow:
        yield flow


@contextmanager
def metaflow_store(folder: Path) -> Iterator[Any]:
    """Metaflow's local datastore: files in a folder."""
    yield MetaflowFlowDataStore(FLOW, storage_impl=LocalStorage, ds_root=str(folder / "metaflow"))


STORES: dict[str, Callable[[Path], Any]] = {"sqlitestore": sqlite_store, "metaflow": metaflow_store}


def save_task(flow: Any, task_id: str, artifacts: list[tuple[str, Any]]) -> None:
    task = flow.get_task_datastore("1", "train", task_id, attempt=0, mode="w")
    task.init_task()
    task.save_artifacts(iter(artifacts))
    task.done()


def small_artifacts(number: int) -> list[tuple[str, Any]]:
    return [
        ("number", number),
        ("text", f"text of task {number}"),
        ("numbers", [number] * 10),
        ("mapping", {"loss": number * 1.5}),
        ("nothing", None),
    ]


class Workloads:
    """Each method does one workload on a store, and returns the seconds that count and the amount of work."""

    def __init__(self, megabytes: int, tasks: int) -> None:
        self.array = np.random.default_rng(0).random(megabytes * 125_000)
        self.tasks = tasks
        self.pathspecs = [f"1/train/{number}" for number in range(tasks)]

    def save_noise(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        with open_store() as flow:
            start = time.perf_counter()
            save_task(flow, "noise", [("array", self.array)])
            seconds = time.perf_counter() - start
        return seconds, self.array.nbytes / 1e6

    def save_noise_closed(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        start = time.perf_counter()
        with open_store() as flow:
            save_task(flow, "noise", [("array", self.array)])
        return time.perf_counter() - start, self.array.nbytes / 1e6

    def load_noise(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        with open_store() as flow:
            [task] = flow.get_task_datastores(pathspecs=["1/train/noise"])
            start = time.perf_counter()
            array = task["array"]
            seconds = time.perf_counter() - start
        if not np.array_equal(array, self.array):
            raise AssertionError("loaded something else")
        return seconds, array.nbytes / 1e6

    def save_tasks(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        start = time.perf_counter()
        with open_store() as flow:
            for number in range(self.tasks):
                save_task(flow, str(number), small_artifacts(number))
        return time.perf_counter() - start, self.tasks

    def look_up_run(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        return self._look_up(open_store, lambda flow: flow.get_task_datastores("1", ["train"]))

    def look_up_pathspecs(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        return self._look_up(open_store, lambda flow: flow.get_task_datastores(pathspecs=self.pathspecs))

    def look_up_run_keys(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        return self._look_up(open_store, lambda flow: self._keys(flow.get_task_datastores("1", ["train"])))

    def look_up_pathspecs_keys(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        return self._look_up(open_store, lambda flow: self._keys(flow.get_task_datastores(pathspecs=self.pathspecs)))

    def _look_up(self, open_store: Callable[[], Any], look_up: Callable[[Any], list[Any]]) -> tuple[float, float]:
        with open_store() as flow:
            start = time.perf_counter()
            found = look_up(flow)
            seconds = time.perf_counter() - start
        return seconds, self._all(found)

    def _keys(self, found: list[Any]) -> list[Any]:
        return [task.keys_for_artifacts(["number"]) for task in found]

    def load_small(self, open_store: Callable[[], Any]) -> tuple[float, float]:
        with open_store() as flow:
            found = flow.get_task_datastores("1", ["train"])
            start = time.perf_counter()
            values = [task["text"] for task in found]
            seconds = time.perf_counter() - start
        return seconds, self._all(values)

    def _all(self, found: list[Any]) -> int:
        if len(found) != self.tasks:
            raise AssertionError(f"found {len(found)} of {self.tasks} tasks")
        return len(found)


# Workloads that share a folder, in order: what one writes the next reads.
GROUPS = [
    ["save_noise_closed"],
    ["save_noise", "load_noise"],
    ["save_tasks", *(f"look_up_{what}" for what in ("run", "pathspecs", "run_keys", "pathspecs_keys")), "load_small"],
]
LABELS = {
    "save_noise": "float64 noise: saved",
    "save_noise_closed": "float64 noise: saved and the store closed",
    "load_noise": "float64 noise: loaded",
    "save_tasks": "tasks of 5 small artifacts, each with init_task and done: written",
    "look_up_run": "the same: looked up by run and step",
    "look_up_pathspecs": "the same: looked up by pathspecs",
    "look_up_run_keys": "the same: looked up by run and step, and the key of an artifact of each",
    "look_up_pathspecs_keys": "the same: looked up by pathspecs, and the key of an artifact of each",
    "load_small": "the same: one artifact of each loaded",
}
UNITS = {"save_noise": "MB/s", "save_noise_closed": "MB/s", "load_noise": "MB/s"}


Rates = dict[str, dict[str, list[float]]]


def measure(workloads: Workloads, rounds: int, folder: Path) -> tuple[Rates, dict[str, int]]:
    """Return rates by workload and store, one for each round, and the disk taken by the small tasks."""
    rates: Rates = {}
    disk: dict[str, int] = {}
    for number in range(rounds + 1):  # the first round only warms memory and disk
        for group in GROUPS:
            for name in list(STORES)[:: 1 if number % 2 else -1]:
                place = Path(tempfile.mkdtemp(dir=folder))
                for workload in group:
                    gc.collect()
                    seconds, amount = getattr(workloads, workload)(lambda name=name, place=place: STORES[name](place))
                    if number:
                        rates.setdefault(workload, {}).setdefault(name, []).append(amount / seconds)
                disk[name] = sum(path.stat().st_blocks * 512 for path in place.rglob("*"))
                shutil.rmtree(place)
    return rates, disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds that count (default 5)")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the array (default 200)")
    parser.add_argument("--tasks", type=int, default=2000, help="number of small tasks (default 2000)")
    parser.add_argument("--folder", default=".", help="where to measure: the disk counts (default: here)")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    workloads = Workloads(arguments.megabytes, arguments.tasks)
    folder = Path(tempfile.mkdtemp(prefix="sqlitestore-bench-", dir=arguments.folder))
    try:
        rates, disk = measure(workloads, arguments.rounds, folder)
    finally:
        shutil.rmtree(folder)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; medians of {arguments.rounds} rounds\n")
    print(f"{'workload':<72} {'sqlitestore':>12} {'metaflow':>12} {'ratio':>7}")
    rows = []
    for workload, by_store in rates.items():
        ratio = statistics.median(a / b for a, b in zip(by_store["sqlitestore"], by_store["metaflow"], strict=True))
        ours, theirs = (statistics.median(by_store[name]) for name in ("sqlitestore", "metaflow"))
        unit = UNITS.get(workload, "/s")
        label = LABELS[workload]
        print(f"{label:<72} {ours:>7,.0f} {unit:<4} {theirs:>7,.0f} {unit:<4} {ratio:>7.1f}")
        rows.append({"workload": workload, "label": label, "unit": unit, "rates": by_store, "ratio": ratio})
    print(
        f"\ndisk taken by {arguments.tasks:,} tasks: "
        f"{disk['sqlitestore'] / 1e6:.1f} MB, {disk['metaflow'] / 1e6:.1f} MB"
    )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine, "disk": disk, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
