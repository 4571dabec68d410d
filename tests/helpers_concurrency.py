"""What test_concurrency does in processes of their own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from helpers_processes import fork, in_threads, wait_for
from helpers_store import FLOW, incompressible, save_task

from sqlitestore import AttemptDone, FlowDataStore, StoreClosed
from sqlitestore.database import Database


def write_and_read(path: str, processes: int, threads: int, tasks: int) -> int:
    """Let each thread of each process save tasks and read those of the others; return how many tasks were read."""
    wait_for(*(fork(_worker, path, number, threads, tasks) for number in range(processes)))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        return sum(_check(task) for task in flow.get_latest_task_datastores("1"))


def _worker(path: str, process: int, threads: int, tasks: int) -> None:
    with FlowDataStore(FLOW, ds_root=path) as flow:
        in_threads([_thread(flow, f"{process}-{thread}", tasks) for thread in range(threads)])


def _thread(flow: FlowDataStore, who: str, tasks: int) -> Callable[[], None]:
    def work() -> None:
        for number in range(tasks):
            _save(flow, who, number)
            if number % 3 == 0:
                found = flow.get_latest_task_datastores("1")
                for task in found[-20:]:
                    _check(task)
            own = flow.get_latest_task_datastores(pathspecs=[f"1/step{number % 3}/{who}-{number}"])
            assert [_check(task) for task in own] == [1]

    return work


def _save(flow: FlowDataStore, who: str, number: int) -> None:
    task_id = f"{who}-{number}"
    writer = flow.get_task_datastore("1", f"step{number % 3}", task_id, attempt=0, mode="w")
    writer.init_task()
    # Small and unique; the same for all; large and shared by some; large and unique.
    writer.save_artifacts([("name", task_id), ("same", list(range(100)))])
    writer.save_artifacts([("array", _array(number)), ("noise", _noise(task_id))])
    writer.save_metadata({"name": task_id})
    writer.save_logs("task", {"stdout": f"{task_id}\n"})
    writer.done()


def _array(number: int) -> np.ndarray[Any, Any]:
    return np.arange(30_000, dtype=np.float64) * (number + 1)


def _noise(task_id: str) -> bytes:
    return incompressible(90_000, sum(map(ord, task_id)))


def _check(task: Any) -> int:
    """Raise unless a task is all there, and right."""
    number = int(task.task_id.rpartition("-")[2])
    assert sorted(task) == ["array", "name", "noise", "same"]
    assert task["name"] == task.task_id
    assert task["same"] == list(range(100))
    assert np.array_equal(task["array"], _array(number))
    assert task["noise"] == _noise(task.task_id)
    assert task.load_metadata(["name"]) == {"name": task.task_id}
    assert task.load_logs(["task"], "stdout") == [("task", f"{task.task_id}\n".encode())]
    return 1


def race_for_done(path: str, processes: int, threads: int, rounds: int) -> list[int]:
    """Let all finish the same attempts at once; return for each how many times ``done`` succeeded."""
    reading, writing = os.pipe()

    def race() -> None:
        with FlowDataStore(FLOW, ds_root=path) as flow:

            def run_once(who: str) -> None:
                for number in range(rounds):
                    writer = flow.get_task_datastore("1", "a", str(number), attempt=0, mode="w")
                    try:
                        writer.init_task()
                        writer.save_artifacts([("first", who), ("second", who), ("third", who)])
                        writer.done()
                    except AttemptDone:
                        continue
                    os.write(writing, f"{number}\n".encode())

            me = os.getpid()
            in_threads([lambda who=f"{me}-{thread}": run_once(who) for thread in range(threads)])

    wait_for(*(fork(race) for _ in range(processes)))
    os.close(writing)
    with os.fdopen(reading) as lines:
        won = [int(line) for line in lines]
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in flow.get_latest_task_datastores("1"):
            assert len(set(task.to_dict().values())) == 1, task.to_dict()
    return [won.count(number) for number in range(rounds)]


def save_the_same(path: str, processes: int, size: int) -> int:
    """Let all save the same array at once; return the bytes of all chunks."""
    noise = np.frombuffer(incompressible(size), dtype=np.uint8)

    def save(number: int) -> None:
        with FlowDataStore(FLOW, ds_root=path) as flow:
            save_task(flow, task=str(number), array=noise)
            flow.save_data([noise.data, bytes(noise.data)])

    wait_for(*(fork(save, number) for number in range(processes)))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        found = flow.get_latest_task_datastores("1")
        assert all(np.array_equal(task["array"], noise) for task in found)
        return len(found)


class Streamed:
    """An object whose pickle is made piece by piece; ``between`` is called before each."""

    def __init__(self, pieces: int, between: Callable[[int], None]) -> None:
        self.pieces = pieces
        self.between = between

    def __reduce__(self) -> Any:
        def items() -> Iterator[bytes]:
            for number in range(self.pieces):
                self.between(number)
                yield incompressible(2**20, number)

        return list, (), None, items()


@contextmanager
def counting_pages(sizes: list[int]) -> Iterator[None]:
    """Note how many bytes each write transaction of this process adds to the file."""
    original = Database.write

    @contextmanager
    def write(self: Database) -> Iterator[Any]:
        with original(self) as connection:
            before = connection.pragma("page_count")
            yield connection
            sizes.append((connection.pragma("page_count") - before) * connection.pragma("page_size"))

    Database.write = write  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Database.write = original  # type: ignore[method-assign]


def save_much(path: str, pieces: int) -> dict[str, Any]:
    """Save one artifact of ``pieces`` MiB; at every 8th, wait until the parent says that others got their work done."""
    sizes: list[int] = []
    waits = 0

    def between(number: int) -> None:
        nonlocal waits
        if number % 8 == 7:
            waits += 1
            print("under way", flush=True)
            assert sys.stdin.readline() == "go on\n"

    with FlowDataStore(FLOW, ds_root=path) as flow, counting_pages(sizes):
        writer = flow.get_task_datastore("large", "a", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("large", Streamed(pieces, between))])
        writer.done()
    return {"largest": max(sizes), "all": sum(sizes), "waits": waits}


def append_to_log(path: str, who: str, lines: int) -> None:
    """Save a log again and again while it grows."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
        log = b""
        for number in range(lines):
            log += f"{who} {number}\n".encode()
            writer.save_logs(who, {"stdout": log})
            writer.save_logs("shared", {"stdout": log})


def close_while_others_work(path: str, threads: int) -> list[str]:
    """Close a store in the middle of other threads' work; return what each of them ended with."""
    flow = FlowDataStore(FLOW, ds_root=path)
    endings: list[str] = []
    begun = threading.Semaphore(0)

    def work(who: int) -> None:
        try:
            for number in range(100_000):
                save_task(flow, task=f"{who}-{number}", noise=incompressible(70_000, number), x=number)
                assert flow.get_task_datastore("1", "a", f"{who}-{number}")["x"] == number
                dict(flow.load_data([key for _, key in flow.save_data([b"x", incompressible(70_000, number)])]))
                begun.release()
        except BaseException as error:
            endings.append(type(error).__name__)

    workers = [threading.Thread(target=work, args=(who,)) for who in range(threads)]
    for worker in workers:
        worker.start()
    for _ in range(3 * threads):
        begun.acquire()
    closers = [threading.Thread(target=flow.close) for _ in range(2)]
    for thread in closers + workers:
        if thread in closers:
            thread.start()
    for thread in closers + workers:
        thread.join()
    try:
        flow.get_latest_task_datastores("1")
    except StoreClosed:
        endings.append("closed")
    return endings


def small_tasks(path: str, number: int) -> float:
    """Save and read a few small tasks; return the time."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in range(5):
            save_task(flow, "small", task=f"{number}-{task}", x=task)
        assert len(flow.get_latest_task_datastores("small")) == 5 * (number + 1)
        assert flow.get_latest_task_datastores("large") == []
    return time.time()
