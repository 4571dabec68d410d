"""Threads for what can go on beside the thread that needs it.

What they do releases Python's lock for nearly all of its time (SQLite, zstd, xxhash, copies), so threads are enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlitestore.forking import take_part, unforked

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = max(2, min(4, os.cpu_count() or 4))
"""Of the process, for all stores, and as many to write. Each has a connection of its own to a store that it uses, until
that is closed; on two cores four took 99 instead of 83 ms to compare 48 MB of int64, and 84, not 69, to load them."""

WORTHWHILE = 24 * 2**20
"""[bytes] What is less is decoded by the thread that needs it: on two cores 8 MB of rounded numbers were loaded in 28
instead of 38 ms, 16 and 32 MB as fast, 64 MB in 220 instead of 164 (new processes; each thread opens a connection)."""


def in_order(
    work: Callable[[Item], Result], items: Sequence[Item], most: int, size: Callable[[Item], int]
) -> Generator[Result]:
    """Yield what ``work`` makes of each item, in order, while other threads do up to ``most`` of the next.

    ``size`` is what other threads could do of an item [bytes], 0 if ``work`` keeps Python's lock on it instead of
    releasing it for most of the time: that is done in this thread, as is all if it is not worthwhile.
    Close it (``contextlib.closing``): no thread is at work any more then.
    """
    sizes = [size(item) for item in items]
    is_worthwhile = sum(sizes) >= WORTHWHILE
    waiting: deque[Future[Result]] = deque()
    try:
        for item, releases in zip(items, sizes, strict=True):
            if not (is_worthwhile and releases):
                while waiting:
                    yield waiting.popleft().result()
                yield work(item)
                continue
            waiting.append(begin(partial(work, item)))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        _end(waiting)


def _end(futures: Iterable[Future[Result]]) -> None:
    """Do not begin what was not begun, and wait for the rest: it may write to the caller's memory."""
    wait_for(future for future in futures if not future.cancel())


def wait_for(futures: Iterable[Future[Result]]) -> None:
    """Wait until all have ended, whatever happens."""
    running = list(futures)
    interrupt: BaseException | None = None
    while running:
        try:
            from concurrent.futures import wait  # 7 ms, see ``_Threads``

            running = list(wait(running).not_done)
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


class _Threads:
    """The executor, made at first use, and anew in a forked child, which has none of the threads."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._of_parents: list[ThreadPoolExecutor] = []  # never touched again, nor cleared away
        take_part(self)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Begin the work, or do it here if no thread can be had."""
        executor = self._executor
        try:
            executor = executor or self._new()
            return executor.submit(work)
        except RuntimeError:  # Python ends, or no more threads can be started: then the work may be queued all the same
            self._executor = None
            if executor is not None:
                executor.shutdown(wait=True)
            return done_here(work)

    def _new(self) -> ThreadPoolExecutor:
        with unforked():
            from concurrent.futures import ThreadPoolExecutor  # 7 ms, and only needed for what is large

            self._executor = self._executor or ThreadPoolExecutor(THREADS, "sqlitestore")
            return self._executor

    def before_fork(self) -> None:
        """Whoever must not be cut in two takes part in forks by itself."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads are the parent's."""
        if self._executor is not None:
            self._of_parents.append(self._executor)
            self._executor = None


_threads = _Threads()
_writers = _Threads()
"""Of their own: while they wait for somebody's transaction to end, that one may need the others."""


def begin(work: Callable[[], Result]) -> Future[Result]:
    """Do ``work`` in another thread; where none can be started, as while Python ends, in this one."""
    return _threads.submit(work)


def begin_writing(work: Callable[[], Result]) -> Future[Result]:
    """As ``begin``, for what may have to wait for other writers."""
    return _writers.submit(work)


def done_here(work: Callable[[], Result]) -> Future[Result]:
    """Do ``work`` in this thread; return it as something finished, whatever came of it."""
    from concurrent.futures import Future

    future: Future[Result] = Future()
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - as an executor does
        future.set_exception(error)
    return future
