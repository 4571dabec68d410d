"""What test_fork does while other threads work, each function in a fresh process."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import threading
import time
from typing import Any

from helpers_fork import LIMIT, WARM, _numbers, _open, _save
from helpers_processes import fork, in_threads, wait_for
from helpers_store import incompressible

from sqlitestore import FlowDataStore


def fork_among_threads(path: str, threads: int, forks: int, forkers: int) -> list[int]:
    """Fork again and again, from several threads, while other threads are inside transactions; all save."""
    flow, other = _open(path), FlowDataStore("Other", ds_root=path + ".other")
    _save(flow, WARM)
    enough = threading.Event()
    saved = [WARM]

    def work(thread: int) -> None:
        number = 10_000 * thread
        while not enough.is_set():
            _save(flow, number)
            other.save_data([b"%d" % number, incompressible(80_000, number)])
            saved.append(number)
            number += 1

    def child(number: int) -> None:
        signal.alarm(LIMIT)
        _save(flow, number)
        assert number in _numbers(flow)
        other.save_data([b"%d" % number])
        in_threads([lambda: _save(flow, number + 500_000)])

    def fork_often(forker: int) -> None:
        for number in range(forks):
            wait_for(fork(child, 100_000 + 1000 * forker + number))

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    try:
        in_threads([lambda forker=forker: fork_often(forker) for forker in range(forkers)])
    finally:
        enough.set()
        for worker in workers:
            worker.join()
    children = [100_000 + 1000 * forker + number for forker in range(forkers) for number in range(forks)]
    expected = sorted(saved + children + [number + 500_000 for number in children])
    assert _numbers(flow) == expected
    other.close()
    flow.close()
    return [len(expected)]


def fork_while_threads_end(path: str, forks: int) -> int:
    """Fork while short-lived threads, and with them their connections, come and go."""
    flow = _open(path)
    _save(flow, WARM)
    enough = threading.Event()
    counts = [WARM]

    def live_shortly(number: int) -> None:
        _save(flow, number)
        counts.append(number)

    def keep_coming(series: int) -> None:
        number = 10_000 * series
        while not enough.is_set():
            thread = threading.Thread(target=live_shortly, args=(number,))
            thread.start()
            thread.join()
            number += 1

    def child(number: int) -> None:
        signal.alarm(20)
        _save(flow, number)

    series = [threading.Thread(target=keep_coming, args=(number,)) for number in range(3)]
    for thread in series:
        thread.start()
    try:
        for number in range(forks):
            wait_for(fork(child, 100_000 + number))
    finally:
        enough.set()
        for thread in series:
            thread.join()
    assert len(_numbers(flow)) == len(counts) + forks
    flow.close()
    return forks


class _SlowFinder:
    """Makes one import take long enough to fork in the middle of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = threading.Event()

    def find_spec(self, name: str, *_: Any) -> None:
        """Find nothing, slowly."""
        if name == self.name:
            self.begun.set()
            time.sleep(0.4)


def fork_during_an_import(path: str, module: str) -> list[int]:
    """Fork while another thread is at the first import of ``module``; the child needs it, too."""
    flow = _open(path)
    assert module not in sys.modules, "imported eagerly: then there is nothing to test"
    finder = _SlowFinder(module)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    thread = threading.Thread(target=_save, args=(flow, 1))
    thread.start()
    assert finder.begun.wait(LIMIT)
    return _fork_and_save(flow, thread)


def fork_during_the_search_for_serializers(path: str) -> list[int]:
    """Fork while another thread asks the installed distributions for serializers; the child asks, too."""
    flow = _open(path)
    begun = threading.Event()
    original = importlib.metadata.entry_points

    def slow(**wanted: Any) -> Any:
        begun.set()
        time.sleep(0.4)
        return original(**wanted)

    importlib.metadata.entry_points = slow  # type: ignore[assignment]
    thread = threading.Thread(target=_save, args=(flow, 1))
    thread.start()
    assert begun.wait(LIMIT)
    return _fork_and_save(flow, thread)


def _fork_and_save(flow: FlowDataStore, thread: threading.Thread) -> list[int]:
    def child() -> None:
        signal.alarm(10)
        _save(flow, 2)

    try:
        wait_for(fork(child))
    finally:
        thread.join()
    numbers = _numbers(flow)
    flow.close()
    return numbers
