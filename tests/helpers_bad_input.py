"""What test_bad_input and test_files do in other processes: without privileges, or where there is no room."""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

from helpers_store import FLOW, incompressible, save_task

from sqlitestore import DataException, FlowDataStore


def try_to_open(path: str) -> list[str]:
    """Open a store and save a task; return ``[kind, message]`` of the error, [] if there was none."""
    try:
        with FlowDataStore(FLOW, ds_root=path) as flow:
            save_task(flow, "2", saved=True)
    except DataException as error:
        return [error.kind, str(error)]
    return []


def read(path: str, run_id: str = "1") -> list[Any]:
    """Return all artifacts of a run, and the kind of error that writing gives."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        found = [task.to_dict() for task in flow.get_latest_task_datastores(run_id)]
        try:
            save_task(flow, "2", saved=True)
        except DataException as error:
            return [[sorted(each) for each in found], error.kind]
        return [[sorted(each) for each in found], ""]


def fill_the_disk(path: str, limit: int = 0) -> dict[str, Any]:
    """Save until there is no room (``limit`` [bytes] of a file, 0: the disk's); see what is left and still works."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "1", before="kept", noise=incompressible(300_000))
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, highest))
    kinds = []
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for number in range(2):
            try:
                save_task(flow, "2", task=str(number), large=incompressible(60_000_000, number))
            except DataException as error:
                kinds.append(error.kind)
        for number in range(2):
            try:
                flow.save_data([incompressible(60_000_000, number)])
            except DataException as error:
                kinds.append(error.kind)
        unfinished = len(flow.get_latest_task_datastores("2"))
        earlier = flow.get_task_datastore("1", "a", "1")
        still = [earlier["before"], earlier["noise"] == incompressible(300_000)]
        save_task(flow, "3", after="works")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        again = [flow.get_task_datastore("1", "a", "1")["before"], flow.get_task_datastore("3", "a", "1")["after"]]
    return {
        "kinds": kinds,
        "unfinished": unfinished,
        "still": still,
        "again": again,
    }


def create_at_once(path: str, processes: int) -> list[str]:
    """Create one store by many processes at the same moment; return the uuids that they saw, and how many tasks."""
    from helpers_processes import fork, wait_for

    ready, go = os.pipe(), os.pipe()

    def create(number: int) -> None:
        os.write(ready[1], b".")
        os.close(go[1])
        os.read(go[0], 1)  # returns when the parent closes its end
        with FlowDataStore(FLOW, ds_root=path) as flow:
            save_task(flow, task=str(number), number=number)

    children = [fork(create, number) for number in range(processes)]
    for _ in children:
        os.read(ready[0], 1)
    os.close(go[1])
    wait_for(*children)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        return sorted(task["number"] for task in flow.get_latest_task_datastores("1"))


def leave_open(path: str, how: str) -> str:
    """Save a task and leave without closing, by ``sys.exit``, an exception, or the end of the program."""
    global _left_open  # noqa: PLW0603 - what stays alive until the interpreter ends
    _left_open = FlowDataStore(FLOW, ds_root=path)
    save_task(_left_open, x=1)
    if how == "exit":
        print('""', flush=True)
        raise SystemExit(0)
    return ""


_left_open: FlowDataStore | None = None


def where_default_is() -> str:
    """Return the path of the store that is opened without ``ds_root``."""
    with FlowDataStore(FLOW) as flow:
        return flow.datastore_root


def open_and_wait(path: str, size: int) -> None:
    """Save ``size`` bytes, say so, and keep the store open until standard input ends."""
    import sys

    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "first", task=str(size), noise=incompressible(size))
        print("ready", flush=True)
        sys.stdin.read()


def watch_another_write(path: str) -> list[list[Any]]:
    """Open a store that is only readable here, and read it again each time that the parent says so."""
    import sys

    seen = []
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for _ in range(3):
            found = flow.get_latest_task_datastores("1")
            seen.append([sum(1 for task in found if task["noise"] == incompressible(200_000, int(task.task_id)))])
            print("ready", flush=True)
            sys.stdin.readline()
    return seen


def watch_a_file_go(path: str) -> list[Any]:
    """Open a store that is only readable here, and read it again after the parent has removed the file."""
    import sys

    with FlowDataStore(FLOW, ds_root=path) as flow:
        [task] = flow.get_latest_task_datastores("1")
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            return ["read", task["noise"] == incompressible(200_000, 0)]
        except DataException as error:
            return [error.kind, str(error)]
