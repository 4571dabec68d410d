"""Several processes write to one store at once; what counts is the time from the first start to the last close."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import content
from benchmarks.peers import PEERS
from benchmarks.scale import Scale
from benchmarks.workloads import Call, Costs, check

PATIENCE = 3600.0


def crowd(call: Call, kind: str) -> Costs:
    """Write an array each, or many small tasks each."""
    call.warm()
    call.open().close()  # it is made before they come
    context = multiprocessing.get_context("fork")  # of a process that has all modules, and nothing open
    ready = context.Barrier(call.scale.processes)
    times = context.SimpleQueue()
    arguments = (call.peer, call.place, call.scale, kind, ready, times)
    members = [context.Process(target=member, args=(number, *arguments)) for number in range(call.scale.processes)]
    for process in members:
        process.start()
    for process in members:
        process.join()
    check(not any(process.exitcode for process in members), f"{call.peer}: a process of the crowd failed")
    spans = [times.get() for _ in members]
    expected = {task_id for number in range(len(members)) for task_id in _tasks(number, kind, call.scale)}
    with closing(call.open()) as peer:
        found = peer.find(sorted(expected))
        check({peer.task_id(each) for each in found} == expected, f"{call.peer} lost tasks of the crowd")
        [last] = peer.find([max(expected)])
        check(content.same(peer.value(last, "number"), int(max(expected))), f"{call.peer} loaded another number")
    amount = len(expected) if kind == "tasks" else call.scale.crowd_bytes * len(members) / 1e6
    return {"amount": amount, "closed": max(end for _, end in spans) - min(start for start, _ in spans)}


def _tasks(number: int, kind: str, scale: Scale) -> list[str]:
    count = scale.crowd_tasks if kind == "tasks" else 1
    return [str(number * 1_000_000 + each) for each in range(count)]


def member(number: int, peer_name: str, place: Path, scale: Scale, kind: str, ready: Any, times: Any) -> None:
    """Write what one process of the crowd has to write."""
    tasks = [(task_id, content.small_artifacts(int(task_id))) for task_id in _tasks(number, kind, scale)]
    if kind == "arrays":
        tasks = [
            (task_id, {"number": int(task_id), "value": content.noise(scale.crowd_bytes, number)})
            for task_id, _ in tasks
        ]
    ready.wait(PATIENCE)
    start = time.monotonic()  # one clock for all processes
    peer = PEERS[peer_name](place)
    for task_id, artifacts in tasks:
        peer.save_task(task_id, artifacts)
    peer.close()
    times.put((start, time.monotonic()))
