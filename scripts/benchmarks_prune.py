"""Measures what it costs to prune one run for good, and to restore one, in a file of few runs and in one of many.

Prints for each step the medians over alternating rounds in both files, and the ratio (median of the rounds' ratios),
which would be that of the runs if the cost followed what is kept. Run it as scripts/bench_prune.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlitestore import FlowDataStore, compact, plan_prune, prune, restore
from sqlitestore.maintenance.prune import PrunePlan

FLOW = "BenchFlow"
NOTHING = PrunePlan()


def make(path: Path, runs: int) -> FlowDataStore:
    """Make a file of runs with three tasks of six artifacts, which share some of their content."""
    flow = FlowDataStore(FLOW, ds_root=path)
    noise = random.Random(1)
    shared = noise.randbytes(1_000_000)
    for run in range(runs):
        for task in range(3):
            writer = flow.get_task_datastore(str(run), "end", str(task), attempt=0, mode="w")
            writer.init_task()
            own = [("own", noise.randbytes(20_000)), ("number", run)]
            writer.save_artifacts([*own, ("shared", shared), ("same", True), ("nothing", None), ("task", task)])
            writer.save_logs("task", {"stdout": f"run {run}\n".encode()})
            writer.done()
    return flow


def timed(work: Callable[[], object]) -> float:
    """Return how long it takes [s]."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_round(flow: FlowDataStore, run: str) -> dict[str, float]:
    """Prune a run, restore it, prune it again, empty the trash; return how long each took [s]."""
    pathspec = [f"{FLOW}/{run}"]
    times = {"plan": timed(lambda: plan_prune(flow, pathspec))}
    plan = plan_prune(flow, pathspec)
    times["prune"] = timed(lambda: prune(flow, plan))
    times["restore"] = timed(lambda: restore(flow, pathspec))
    prune(flow, plan)
    times["purge"] = timed(lambda: prune(flow, NOTHING, empty_trash=True))
    return times


def plan_twenty(flow: FlowDataStore) -> None:
    """Plan to prune all but the latest runs, which are all but twenty."""
    plan_prune(flow, keep_last=len(flow._storage_impl.runs(FLOW)) - 20)


def show(what: str, few: list[float], many: list[float]) -> None:
    """Print a line of the table."""
    ratio = statistics.median(large / small for small, large in zip(few, many, strict=True))
    print(f"{what:28}{statistics.median(few) * 1e3:12.2f} ms{statistics.median(many) * 1e3:12.2f} ms{ratio:10.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="runs in the large file (default: 10000)")
    parser.add_argument("--few", type=int, default=100, help="runs in the small file (default: 100)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        sizes = {options.few: make(Path(folder) / "few.db", options.few)}
        sizes[options.runs] = make(Path(folder) / "many.db", options.runs)
        rounds = [
            {runs: one_round(flow, str(number)) for runs, flow in sizes.items()} for number in range(options.rounds + 1)
        ][1:]  # in the first one pages come into memory
        print(f"{'step':28}{options.few:>10,} runs{options.runs:>10,} runs     ratio")
        for step in rounds[0][options.few]:
            show(step, *([each[runs][step] for each in rounds] for runs in sizes))
        for what, work in (
            ("plan by a rule, 20 runs", plan_twenty),
            ("compact, for comparison", compact),
        ):
            show(what, *([timed(lambda flow=flow, work=work: work(flow))] for flow in sizes.values()))
        for flow in sizes.values():
            flow.close()


if __name__ == "__main__":
    main()
