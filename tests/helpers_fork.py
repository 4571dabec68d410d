"""What test_fork does, each function in a fresh process: forking the test runner itself would fork its threads, too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from helpers_processes import fork, wait_for
from helpers_store import FLOW, incompressible, save_task

from sqlitestore import FlowDataStore, StoreClosed

LIMIT = 40
"""[s] After which a child that hangs is killed by a signal; its parent then sees that it failed."""


WARM = 999_999
"""The number of a task that is saved before anything else, so that all is imported that is imported late."""


class Turns:
    """Lets two processes wait for each other, step by step."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def say(self) -> None:
        """Let one that waits go on."""
        os.write(self._writing, b".")

    def wait(self) -> None:
        """Wait until somebody says so."""
        assert os.read(self._reading, 1) == b"."


def _open(path: str) -> FlowDataStore:
    return FlowDataStore(FLOW, ds_root=path)


def _numbers(flow: FlowDataStore) -> list[int]:
    return sorted(task["x"] for task in flow.get_latest_task_datastores("1"))


def _save(flow: FlowDataStore, *numbers: int) -> None:
    for number in numbers:
        save_task(flow, task=str(number), x=number, noise=incompressible(100_000, number))


def locks_of(path: str) -> set[int]:
    """Return the processes that hold locks on the file, as the kernel has them."""
    found = os.stat(path)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with open("/proc/locks", encoding="ascii") as table:
        return {int(line.split()[4]) for line in table if "->" not in line and line.split()[5] == place}


def child_works(path: str, how: str) -> list[int]:
    """Fork with an open store; the child reads and writes, and leaves in the way that ``how`` says."""
    flow = _open(path)
    _save(flow, 0)
    pid = os.fork()
    if not pid:
        signal.alarm(LIMIT)
        assert 0 in _numbers(flow)
        _save(flow, 1, 2)
        assert {0, 1, 2} <= set(_numbers(flow))
        if how == "close":
            flow.close()
            try:
                _numbers(flow)
            except StoreClosed:
                os._exit(0)
        elif how == "sys.exit":
            sys.exit(0)
        elif how == "_exit":
            os._exit(0)
        elif how == "exception":
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the process ends here
            raise SystemExit(0)
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    _save(flow, 3)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (-signal.SIGKILL if how == "kill" else 0)
    _save(flow, 4)
    numbers = _numbers(flow)
    flow.close()
    return numbers


def parent_closes_first(path: str, processes: int) -> list[list[Any]]:
    """Close in the parent while children have the store open; return the files and lock holders seen after that."""
    flow = _open(path)
    _save(flow, 0)
    ready, go = Turns(), Turns()

    def child(number: int) -> None:
        signal.alarm(LIMIT)
        assert 0 in _numbers(flow)
        ready.say()
        go.wait()
        _save(flow, number)
        assert number in _numbers(flow)
        flow.close()

    children = [fork(child, number) for number in range(1, 1 + processes)]
    for _ in children:
        ready.wait()
    holders = locks_of(path)
    flow.close()
    seen = [sorted(os.listdir(os.path.dirname(path))), sorted(holders & set(children)) == sorted(children)]
    still = locks_of(path) & set(children)
    for _ in children:
        go.say()
    wait_for(*children)
    with _open(path) as flow:
        return [*seen, sorted(still) == sorted(children), _numbers(flow)]


def child_closes_first(path: str) -> list[Any]:
    """Close in the child, at once and after use; return what the parent still holds then, and can still do."""
    flow = _open(path)
    _save(flow, 0)
    outcome: list[Any] = []
    for number in range(1, 4):

        def child(number: int = number) -> None:
            if number > 1:
                _save(flow, number)
            flow.close()

        wait_for(fork(child))
        outcome += [os.getpid() in locks_of(path), len(os.listdir(os.path.dirname(path)))]
        _save(flow, 10 + number)
    numbers = _numbers(flow)
    flow.close()
    return [*outcome, numbers]


def nothing_is_used(path: str) -> list[int]:
    """Fork children that never touch the store, in all orders of ending."""
    flow = _open(path)
    _save(flow, 0)
    wait_for(*(fork(lambda: None) for _ in range(4)))
    pid = os.fork()
    if not pid:
        sys.exit(0)
    wait_for(pid)
    _save(flow, 1)
    hold, told = Turns(), Turns()

    def linger() -> None:
        told.say()
        hold.wait()

    lingering = fork(linger)
    told.wait()
    flow.close()
    hold.say()
    wait_for(lingering)
    with _open(path) as flow:
        return _numbers(flow)


def nested(path: str, depth: int) -> list[int]:
    """Fork children of children, each of which saves before and after."""
    flow = _open(path)

    def descend(level: int) -> None:
        signal.alarm(LIMIT)
        _save(flow, level)
        if level < depth:
            wait_for(fork(descend, level + 1))
        _save(flow, 100 + level)

    descend(0)
    numbers = _numbers(flow)
    flow.close()
    return numbers


def fork_in_the_middle_of_a_save(path: str) -> list[Any]:
    """Fork from within an object's pickling, and from within iterators half consumed; the child goes on with both."""
    flow = _open(path)
    flow.save_data([b"one", incompressible(3_000_000, 1), b"two", incompressible(3_000_000, 2)])
    keys = [key for _, key in flow.save_data([b"one", incompressible(3_000_000, 1), incompressible(3_000_000, 2)])]
    loading = flow.load_data(keys)
    next(loading)

    class Forks:
        def __reduce__(self) -> Any:
            def items() -> Iterator[bytes]:
                yield incompressible(20_000_000, 5)
                wait_for(fork(child))
                yield incompressible(20_000_000, 6)

            return list, (), None, items()

    def child() -> None:
        signal.alarm(LIMIT)
        _save(flow, 1)
        assert [len(data) for _, data in loading] == [3_000_000, 3_000_000]

    save_task(flow, "2", forks=Forks())
    found = flow.get_task_datastore("2", "a", "1")["forks"]
    rest = [len(data) for _, data in loading]
    numbers = _numbers(flow)
    flow.close()
    return [[len(item) for item in found], found[1] == incompressible(20_000_000, 6), rest, numbers]


def fork_inside_a_transaction(path: str) -> list[Any]:
    """Fork from inside a transaction, as a signal handler might; return what child and parent can do then."""
    flow = _open(path)
    _save(flow, 0)
    database = flow._storage_impl.database  # type: ignore[attr-defined]

    def child() -> None:
        signal.alarm(LIMIT)
        try:
            _numbers(flow)
        except StoreClosed:
            return
        raise AssertionError("the child uses a connection in the middle of its parent's transaction")

    with database.write() as connection:
        connection.execute("INSERT INTO flow(name) VALUES ('inside')")
        wait_for(fork(child))
        connection.execute("INSERT INTO flow(name) VALUES ('still inside')")
    _save(flow, 1)
    outcome = [flow._storage_impl.flows(), _numbers(flow)]
    flow.close()
    return outcome


def pool(path: str, processes: int, tasks: int) -> list[int]:
    """Use the store of the parent in the workers of a pool, as libraries do that parallelize."""
    global _flow  # noqa: PLW0603 - how the workers of a forking pool get at it
    _flow = _open(path)
    _save(_flow, 1000)
    with multiprocessing.get_context("fork").Pool(processes) as workers:
        assert workers.map(_in_pool, range(tasks), chunksize=1) == list(range(tasks))
    numbers = _numbers(_flow)
    _flow.close()
    return numbers


_flow: FlowDataStore


def _in_pool(number: int) -> int:
    _save(_flow, number)
    assert number in _numbers(_flow)
    return number


def children_of_multiprocessing_outlive_the_store(path: str) -> list[Any]:
    """Close in the parent first; the children end as multiprocessing ends them, without closing."""
    global _flow  # noqa: PLW0603 - how the workers of a forking pool get at it
    _flow = _open(path)
    _save(_flow, 1000)
    context = multiprocessing.get_context("fork")
    closed = context.Event()
    children = [context.Process(target=_after, args=(closed, number)) for number in range(3)]
    for child in children:
        child.start()
    _flow.close()
    closed.set()
    for child in children:
        child.join()
    return [[child.exitcode for child in children], sorted(os.listdir(os.path.dirname(path)))]


def _after(closed: Any, number: int) -> None:
    closed.wait()
    _save(_flow, number)
