"""Files that fail as disks, networks and users make them fail: one call of those that ``watched_vfs`` shows, or more.

What a kind of failure does at a call is what SQLite's own VFS would say: the extended code that belongs to the method
(https://www.sqlite.org/rescode.html), fewer bytes than were asked for, a part of what was to be written. What the
package asks of ``os`` itself fails with the ``OSError`` of the same meaning.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias
from unittest.mock import patch

import apsw

from sqlitestore import pragmas
from sqlitestore.testing.watched_vfs import BASE, Call, watched

CODES = {
    "xRead": apsw.SQLITE_IOERR_READ,
    "xWrite": apsw.SQLITE_IOERR_WRITE,
    "xSync": apsw.SQLITE_IOERR_FSYNC,
    "xTruncate": apsw.SQLITE_IOERR_TRUNCATE,
    "xFileSize": apsw.SQLITE_IOERR_FSTAT,
    "xDelete": apsw.SQLITE_IOERR_DELETE,
    "xAccess": apsw.SQLITE_IOERR_ACCESS,
    "xLock": apsw.SQLITE_IOERR_LOCK,
    "xUnlock": apsw.SQLITE_IOERR_UNLOCK,
    "xCheckReservedLock": apsw.SQLITE_IOERR_CHECKRESERVEDLOCK,
    "xClose": apsw.SQLITE_IOERR_CLOSE,
    "xOpen": apsw.SQLITE_CANTOPEN,
}
"""What each of the VFS's methods says of an I/O error."""

OF_OS = ("os.open", "os.fsync", "os.link", "os.rename", "os.unlink")
TAKING_ROOM = ("xWrite", "os.open", "os.fsync", "os.link", "os.rename")

Act: TypeAlias = Callable[[Call, Callable[..., Any], Random], Any]
"""What happens instead of a call, which ``proceed`` would make."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of failure: at which ``methods`` it fits, and how many calls of the one that fails first it lasts for."""

    name: str
    methods: tuple[str, ...]
    act: Act
    calls: int | None = 1
    """None: it lasts until it is ended."""


def _io_error(call: Call, _: Callable[..., Any], __: Random) -> Any:
    if call.method in OF_OS:
        raise OSError(errno.EIO, "Input/output error", call.path)
    if call.method == "xOpen":
        raise _with_code(apsw.CantOpenError("unable to open database file"), CODES[call.method])
    raise _with_code(apsw.IOError("disk I/O error"), CODES[call.method])


def _with_code(error: apsw.Error, code: int) -> apsw.Error:
    error.extendedresult = code  # type: ignore[attr-defined]
    return error


def _full(call: Call, _: Callable[..., Any], __: Random) -> Any:
    if call.method in OF_OS:
        raise OSError(errno.ENOSPC, "No space left on device", call.path)
    raise apsw.FullError("database or disk is full")


def _partly_written(call: Call, proceed: Callable[..., Any], chance: Random) -> Any:
    data: bytes = call.arguments[0]
    proceed(data[: chance.randrange(len(data))])
    raise apsw.FullError("database or disk is full")


def _short_read(_: Call, proceed: Callable[..., Any], chance: Random) -> Any:
    """Have the system return fewer bytes than there are, at least one; SQLite's VFS asks for the rest."""
    with _system_reads(lambda amount: chance.randrange(1, amount) if amount > 1 else amount):
        return proceed()


def _interrupted_read(_: Call, proceed: Callable[..., Any], __: Random) -> Any:
    """Have the system say that a signal came in between; SQLite's VFS asks again."""
    with _system_reads(lambda _: None):
        return proceed()


def _cut_off(_: Call, proceed: Callable[..., Any], chance: Random) -> Any:
    """Have zeros where the read came short, and nobody told of it."""
    read: bytes = proceed()
    return read[: chance.randrange(max(1, len(read)))].ljust(len(read), b"\0")


def _interrupted(_: Call, __: Callable[..., Any], ___: Random) -> Any:
    for connection in apsw.connections():
        with suppress(apsw.ConnectionClosedError):
            connection.interrupt()
    raise apsw.InterruptError("interrupted")


def _locked(_: Call, __: Callable[..., Any], ___: Random) -> Any:
    raise apsw.BusyError("database is locked")


def _control_c(_: Call, __: Callable[..., Any], ___: Random) -> Any:
    raise KeyboardInterrupt


def _no_memory(_: Call, __: Callable[..., Any], ___: Random) -> Any:
    raise MemoryError


def _no_memory_for_io(_: Call, __: Callable[..., Any], ___: Random) -> Any:
    raise _with_code(apsw.IOError("out of memory"), apsw.SQLITE_IOERR_NOMEM)


FAILURES = {
    each.name: each
    for each in (
        Failure("I/O error", (*CODES, *OF_OS), _io_error),
        Failure("I/O error that lasts", (*CODES, *OF_OS), _io_error, None),
        Failure("full disk", TAKING_ROOM, _full),
        Failure("full disk that stays full", TAKING_ROOM, _full, None),
        Failure("half a write", ("xWrite",), _partly_written),
        Failure("half writes", ("xWrite",), _partly_written, None),
        Failure("short read", ("xRead",), _short_read),
        Failure("interrupted read", ("xRead",), _interrupted_read),
        Failure("interrupted", tuple(CODES), _interrupted),
        Failure("locked", ("xLock",), _locked),
        Failure("locked thrice", ("xLock",), _locked, 3),
        Failure("locked for long", ("xLock",), _locked, None),
        Failure("Ctrl-C", (*CODES, *OF_OS), _control_c),
        Failure("no memory", (*CODES, *OF_OS), _no_memory),
        Failure("no memory for I/O", ("xRead", "xWrite", "xOpen"), _no_memory_for_io),
    )
}
"""All kinds, by name, that may happen at any call."""

CUT_OFF = Failure("cut off", ("xRead",), _cut_off)
"""A short read that is taken as it is, as SQLite takes most: behind a file's end all is zero for it, which is no error.
So this fits where what is read carries a digest."""


class FailingFiles:
    """A watcher: from ``start`` to ``stop`` it counts the calls, and fails those that a ``failure`` says.

    ``at`` is the index, from 0, of the call that fails first; None: none fails. ``calls`` are those that were made,
    ``failed`` those that did not go as they should.
    """

    def __init__(self, failure: Failure | None = None, at: int | None = None, seed: int = 0) -> None:
        self._failure = failure
        self._at = at
        self._chance = Random(seed)  # noqa: S311 - to be repeatable
        self._runs = False
        self.calls: list[Call] = []
        self.failed: list[Call] = []

    def start(self) -> None:
        """Count from here on."""
        self._runs = True

    def stop(self) -> None:
        """Let all calls proceed: the fault is gone."""
        self._runs = False

    def around(self, call: Call, proceed: Callable[..., Any]) -> Any:
        """Make the call, or fail it."""
        if not self._runs:
            return proceed()
        self.calls.append(call)
        if self._failure is None or not self._is_due(call, self._failure):
            return proceed()
        self.failed.append(call)
        return self._failure.act(call, proceed, self._chance)

    def _is_due(self, call: Call, failure: Failure) -> bool:
        if self._at is None or len(self.calls) <= self._at:
            return False
        if not self.failed:
            return call.method in failure.methods
        left = failure.calls is None or len(self.failed) < failure.calls
        return left and call.method == self.failed[0].method


def fits(failure: Failure, call: Call) -> bool:
    """Return whether a failure can happen at a call."""
    return call.method in failure.methods


class _System(apsw.VFS):
    """The system's own VFS, whose calls can be replaced (https://www.sqlite.org/c3ref/vfs.html, "xSetSystemCall")."""

    def __init__(self) -> None:
        super().__init__("system-calls", BASE)


_READ = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)


@contextmanager
def _system_reads(amount: Callable[[int], int | None]) -> Iterator[None]:
    """Have the next ``pread`` return so many bytes of those that were asked for; None: it fails with EINTR."""
    answered = False

    def read(descriptor: int, buffer: int, size: int, offset: int) -> int:
        nonlocal answered
        some = size
        if not answered:
            answered = True
            asked = amount(size)
            if asked is None:
                ctypes.set_errno(errno.EINTR)
                return -1
            some = asked
        data = os.pread(descriptor, some, offset)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    replacement = _READ(read)
    system = _System()
    system.xSetSystemCall("pread64", ctypes.cast(replacement, ctypes.c_void_p).value or 0)
    try:
        yield
    finally:
        system.xSetSystemCall("pread64", 0)
        system.unregister()
    assert answered, "SQLite reads by another call than pread64()"


@contextmanager
def failing(files: FailingFiles) -> Iterator[None]:
    """Have the watcher fail the calls of connections that are opened in the block; close these before its end."""
    with patch("sqlitestore.database_file.bound_the_log", _bound_the_log), watched(files):
        yield


def _bound_the_log(connection: apsw.Connection) -> None:
    """Do what ``pragmas.bound_the_log`` does, with a checkpoint after a commit whose errors are no error of the commit.

    SQLite's own hook ignores them. But apsw raises, from whatever statement runs, each exception that a VFS in Python
    raised, also one that SQLite has ignored: a commit that was made would seem to fail.
    """
    pragmas.bound_the_log(connection)
    largest = pragmas.CHECKPOINT_BYTES // int(connection.pragma("page_size"))

    def checkpoint(connection: apsw.Connection, name: str, pages: int) -> int:
        if pages >= largest:
            with suppress(apsw.Error):
                connection.wal_checkpoint(name)
        return apsw.SQLITE_OK

    connection.set_wal_hook(checkpoint)
