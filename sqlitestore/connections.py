"""One connection per thread, never carried across ``fork``.

SQLite keeps, in the memory of each process, what that process has locked in a file. A forked child inherits that
memory but none of the locks (https://www.sqlite.org/howtocorrupt.html, section 2.6), so even a new connection that the
child opens would trust locks that it does not have. Hence, around a fork: wait until no other thread is inside a
transaction, and in the child close every inherited connection in a way that touches nothing but the child's memory.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import apsw

from sqlitestore.errors import StoreClosed
from sqlitestore.forking import take_part


class Handle:
    """A connection, the lock held while it is in use, and how deep its transaction is nested.

    ``at_rest`` is the state of a file that was opened as one that nobody writes, None for all others. ``serial`` is
    another for every connection of the process and its children, also after one is closed.
    """

    __slots__ = ("at_rest", "connection", "depth", "lock", "serial")

    _serials = count()

    def __init__(self, connection: apsw.Connection, at_rest: tuple[int, ...] | None = None) -> None:
        self.connection = connection
        self.at_rest = at_rest
        self.lock = threading.RLock()
        self.depth = 0
        self.serial = next(self._serials)


class _Owned:
    """Lives in a thread's local storage and ends with the thread, which is when its connection closes.

    The connection itself may live on, in the traceback of an error that somebody keeps.
    """

    def __init__(self, connections: Connections, handle: Handle) -> None:
        self._connections = connections
        self.handle = handle

    def __del__(self) -> None:
        self._connections.thread_ended(self.handle)


class Connections:
    """Hands each thread its own connection, opened by ``open_handle`` at first use.

    A thread's connection is closed when the thread ends; ``close`` closes all, after which ``handle`` raises
    StoreClosed.
    """

    def __init__(self, path: str, open_handle: Callable[[], Handle]) -> None:
        self._path = path
        self._open_handle = open_handle
        self._opening = threading.RLock()
        self._local = threading.local()
        self._handles: set[Handle] = set()
        self._at_fork: list[Handle] = []
        self._closed_because = ""
        self._closes_at_exit = False
        self.writers = threading.Lock()
        """Threads of one process queue here in order of arrival, rather than poll SQLite's lock against each other."""
        take_part(self)

    def handle(self) -> Handle:
        """Return this thread's handle. Raises StoreClosed after ``close``, or what opening raises."""
        owned: _Owned | None = getattr(self._local, "owned", None)
        if owned is None:
            with self._opening:
                self.check_open()
                owned = _Owned(self, self._open_handle())
                self._handles.add(owned.handle)
                self._local.owned = owned
                self._close_at_exit_of_multiprocessing()
        return owned.handle

    def _close_at_exit_of_multiprocessing(self) -> None:
        """Close when a process of ``multiprocessing`` ends, which does so without running ``atexit``."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._closes_at_exit:
            self._closes_at_exit = True
            util.Finalize(self, _close, args=(weakref.ref(self),), exitpriority=0)

    def check_open(self) -> None:
        """Raise StoreClosed if the connections were closed."""
        if self._closed_because:
            raise StoreClosed(f"The store {self._path} {self._closed_because}; open it again.")

    def discard(self, handle: Handle) -> None:
        """Close this thread's connection; the next use opens a new one."""
        self._local.owned = None
        self._handles.discard(handle)
        close_whatever_fails(handle.connection)

    def thread_ended(self, handle: Handle) -> None:
        """Close the connection of a thread that has ended; a fork under way decides about it by itself."""
        if handle not in self._at_fork:
            self._handles.discard(handle)
            close_whatever_fails(handle.connection)

    def close(self) -> None:
        """Close every thread's connection, each when its transaction has ended. Closing twice is fine.

        If closing one fails, all are closed all the same; then the first error is raised.
        """
        failed: list[apsw.Error] = []
        with self._opening:
            self._closed_because = self._closed_because or "was closed"
            for handle in list(self._handles):
                with handle.lock:
                    try:
                        handle.connection.close(True)  # noqa: FBT003 - apsw takes it by position
                    except apsw.Error as error:
                        failed.append(error)
            self._handles = set()
            self._local = threading.local()
        if failed:
            raise failed[0]

    def before_fork(self) -> None:
        """Wait for the transactions of the other threads. In the child these threads end, but must not close theirs."""
        self._opening.acquire()
        self._at_fork = list(self._handles)
        for handle in self._at_fork:
            handle.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        for handle in self._at_fork:
            handle.lock.release()
        self._at_fork = []
        self._opening.release()

    def after_fork_in_child(self) -> None:
        """Forget the inherited connections, so that the child's first use opens its own."""
        for handle in self._at_fork:
            if handle.depth:
                # Forked inside a transaction: closing would roll it back in memory shared with the parent. The
                # connection is made immortal, and the store cannot be used in this child.
                import ctypes  # 2 ms, and hardly ever needed

                ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle.connection))
                self._closed_because = "was forked in the middle of a transaction and cannot be used in the child"
            else:
                handle.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                handle.connection.close(True)  # noqa: FBT003
        self._opening = threading.RLock()
        self._closes_at_exit = False
        self.writers = threading.Lock()
        self._local = threading.local()
        self._handles = set()
        self._at_fork = []


def close_whatever_fails(connection: apsw.Connection) -> None:
    """Close a connection that is given up: its files are closed in any case, and nothing that was committed is lost."""
    with suppress(apsw.Error):
        connection.close(True)  # noqa: FBT003


def _close(connections: weakref.ref[Connections]) -> None:
    alive = connections()
    if alive is not None:
        alive.close()
