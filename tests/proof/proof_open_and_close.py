"""A file that is opened and closed thousands of times in one process: no descriptor and no memory stays behind."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import apsw
import crowd_bugs
from crowd import environment
from crowd_content import check_data, noise, size_of_data
from helpers_processes import fork, in_threads, run, wait_for
from helpers_store import FLOW, save_task
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, NotAStore, StoreMissing, verify

UNIT = "cycles"
LONG = 10_000
PROCESSES = 1  # in one process, for a leak to add up
WARM = 60
"""Cycles before the first measure: modules are imported late, and pools of memory grow to their size."""

OBJECTS, SQLITE, RESIDENT, SLACK = 0.5, 100, 1024, 12 * 2**20
"""Growth that is let pass: less than one of Python's blocks of memory a cycle; [bytes] a cycle of SQLite's memory; and
[bytes] a cycle of the whole process's, besides a slack for how its allocator scatters."""


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Open and close a file ``amount`` times in a fresh process, in every way, and use it in between."""
    return cycle(amount, seed, folder)


def cycle(amount: int, seed: int, folder: str, bug: str = "") -> dict[str, int | float]:
    """Do that, with a bug in the package or none. Raises AssertionError."""
    outcome = run(in_cycles, folder, amount, seed, bug, timeout=60 + amount, environment=environment())
    assert not outcome["wrong"], f"seed {seed}: {outcome['wrong']}"
    return outcome["figures"]  # type: ignore[no-any-return]


def in_cycles(folder: str, amount: int, seed: int, bug: str) -> dict[str, Any]:
    """Do what ``cycle`` says in this process; what went wrong is in the outcome."""
    chance = random.Random(seed)
    path = os.path.join(folder, "runs.db")
    figures: dict[str, int | float] = dict.fromkeys((way.__name__.replace("_", " ") for way in WAYS), 0)
    wrong = ""
    with ExitStack() as bugs:
        if bug:
            bugs.enter_context(crowd_bugs.BUGS[bug]())
        before: dict[str, int] = {}
        for number in range(amount):
            if number == min(WARM, amount // 2):
                before = measure()
            way = WAYS[number % len(WAYS)] if number < WARM else chance.choice(WAYS)
            way(path, number)
            figures[way.__name__.replace("_", " ")] += 1
            if before and number % 100 == 99:
                wrong = wrong or grown(before, measure(), number - WARM)
        after = measure()
        wrong = wrong or grown(before, after, amount - min(WARM, amount // 2))
    try:
        _check_end(path, amount)
    except AssertionError as error:
        wrong = wrong or f"at the end: {error}"
    for what in ("descriptors", "SQLite's memory [bytes]", "resident [bytes]", "blocks"):
        figures[f"peak growth of {what}"] = after[what] - before[what]
    return {"wrong": wrong, "figures": figures}


def measure() -> dict[str, int]:
    """Return what this process holds."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
        "SQLite's memory [bytes]": apsw.memory_used(),
        "resident [bytes]": resident,
    }


def grown(before: dict[str, int], after: dict[str, int], cycles: int) -> str:
    """Return what has grown in so many cycles, "" if nothing has."""
    bounds = {
        "descriptors": 0.0,
        "threads": 0.0,
        "blocks": 50 + OBJECTS * cycles,
        "SQLite's memory [bytes]": SQLITE * cycles,
        "resident [bytes]": SLACK + RESIDENT * cycles,
    }
    return "; ".join(
        f"{what} grew from {before[what]} to {after[what]} in {cycles} cycles"
        for what, bound in bounds.items()
        if after[what] - before[what] > bound
    )


def _opened(path: str, **options: Any) -> FlowDataStore:
    return FlowDataStore(FLOW, ds_root=path, **options)


def looked_up(path: str, number: int) -> None:
    """Look a task up that an earlier cycle wrote."""
    with _opened(path) as flow:
        for task in flow.get_latest_task_datastores("written")[-1:]:
            assert task["number"] == int(task.task_id)
            dict(flow.load_data([task["key"]]))


def written(path: str, number: int) -> None:
    """Write a task and a few bytes."""
    with _opened(path) as flow:
        identity = f"cycle {number}"
        [(_, key)] = flow.save_data([noise(identity, size_of_data(identity))])
        save_task(flow, "written", task=str(number), number=number, key=key)


def threads_came_and_went(path: str, number: int) -> None:
    """Use the store in threads that end before it is closed; each has a connection of its own."""
    with _opened(path) as flow:
        in_threads([lambda who=who: save_task(flow, "threads", task=f"{number}-{who}", x=who) for who in range(2)])


def a_thread_was_left_over(path: str, number: int) -> None:
    """Close while another thread still has its connection."""
    ready, go = threading.Event(), threading.Event()

    def work(flow: FlowDataStore) -> None:
        flow.get_latest_task_datastores("written")
        ready.set()
        go.wait()

    with _opened(path) as flow:
        thread = threading.Thread(target=work, args=(flow,))
        thread.start()
        ready.wait()
    go.set()
    thread.join()


def forked(path: str, number: int) -> None:
    """Fork while it is open: the child uses it and ends, without closing anything of its parent's."""
    with _opened(path) as flow:
        flow.get_latest_task_datastores("written")
        wait_for(fork(lambda: save_task(flow, "forked", task=str(number), x=number)))


def not_closed(path: str, number: int) -> None:
    """Leave it to Python: what nobody refers to any more is closed."""
    flow = _opened(path)
    flow.get_latest_task_datastores("written")
    del flow


def opened_twice(path: str, number: int) -> None:
    """Open it twice at once, and close one after the other."""
    with _opened(path) as one, _opened(path) as two:
        save_task(one, "twice", task=str(number), x=number)
        assert two.get_task_datastore("twice", "a", str(number))["x"] == number


def refused(path: str, number: int) -> None:
    """Fail to open what is no store, and what is not there."""
    with open(f"{path}.text", "w", encoding="ascii") as file:
        file.write("no store, whatever its name says. " * 100)
    for wrong, error in ((f"{path}.text", NotAStore), (f"{path}.folder/runs.db", StoreMissing)):
        with suppress(error):
            _opened(wrong)
            raise AssertionError(f"{wrong} was opened")
    os.unlink(f"{path}.text")


def verified(path: str, number: int) -> None:
    """Let the file be opened to be looked at only."""
    with suppress(StoreMissing):
        assert verify(path, quick=True).ok


WAYS: tuple[Callable[[str, int], None], ...] = (
    written, looked_up, threads_came_and_went, a_thread_was_left_over, forked, not_closed, opened_twice, refused,
    verified,
)  # fmt: skip


def _check_end(path: str, amount: int) -> None:
    """All that was written is there, and the file is alone and sound."""
    check_file(path)
    with _opened(path) as flow:
        for run_id in ("written", "threads", "forked", "twice"):
            assert flow.get_latest_task_datastores(run_id), f"nothing was {run_id}"
        for task in flow.get_latest_task_datastores("written"):
            [(_, data)] = flow.load_data([task["key"]])
            check_data(f"cycle {task['number']}", data)
