"""A child that kills itself at the n-th thing that its SQLite does: a statement, or a call that changes a file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import apsw
from helpers_processes import fork

BASE = apsw.vfs_names()[0]
"""SQLite's own way to files here, named before ours takes its place."""


class _Counter:
    """Counts what happens, and kills this process at ``crash_at`` (0: never)."""

    def __init__(self, crash_at: int) -> None:
        self.count = 0
        self._crash_at = crash_at

    def next(self, before: Callable[[], object] = lambda: None) -> None:
        """Count one; ``before`` is what is still done when it is the last."""
        self.count += 1
        if self.count == self._crash_at:
            before()
            os.kill(os.getpid(), signal.SIGKILL)


class _File(apsw.VFSFile):
    def __init__(self, counter: _Counter, filename: object, flags: list[int]) -> None:
        super().__init__(BASE, filename, flags)  # type: ignore[arg-type]
        self._counter = counter

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        whole = super().xWrite
        self._counter.next(lambda: whole(bytes(data[: len(data) // 2]), offset))  # torn
        whole(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._counter.next()
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._counter.next()
        super().xSync(flags)


class _FileSystem(apsw.VFS):
    """Every file of this process goes through it."""

    def __init__(self, counter: _Counter) -> None:
        self._counter = counter
        super().__init__("crashing", BASE, makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._counter, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self._counter.next()
        super().xDelete(name, sync)


def crash(work: Callable[[], object], crash_at: int) -> int:
    """Do ``work`` in a child that kills itself at the ``crash_at``-th event; return how many there were until its end.

    0 means that it was killed. Raises AssertionError if it failed.
    """
    reading, writing = os.pipe()

    def child() -> None:
        counter = _Counter(crash_at)
        file_system = _FileSystem(counter)

        def trace(connection: apsw.Connection) -> None:
            # Not by trace_v2's PROFILE alone: a statement that was begun and not ended is another moment.
            events = apsw.SQLITE_TRACE_STMT | apsw.SQLITE_TRACE_PROFILE
            connection.trace_v2(events, lambda _: counter.next())

        apsw.connection_hooks.append(trace)
        work()
        os.write(writing, f"{counter.count}\n".encode())
        del file_system

    process = fork(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as words:
        said = words.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in {0, -signal.SIGKILL}, f"the child failed with {status}"
    assert (status == 0) == bool(said)
    return int(said or 0)
