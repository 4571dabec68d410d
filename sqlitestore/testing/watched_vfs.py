"""Every call that SQLite, and this package beside it, makes to the file system, shown to a watcher before it is made.

The watcher may let it proceed, note it (``power_cuts``), or answer in its place (``failing_files``). Nothing of the
package knows: for the time of ``watched`` the VFS is the process's default one, and what the package itself calls of
``os`` for its files is replaced (https://www.sqlite.org/vfs.html, https://rogerbinns.github.io/apsw/vfs.html).
"""

from __future__ import annotations

import itertools
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import apsw

BASE = "unix"
"""The VFS that does the work."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``method`` is the VFS's name for it, "xWrite", or that of the function in ``os``, "os.link"."""

    method: str
    path: str
    file: int
    """A number for each opening of a file; 0 for what concerns a path only."""
    arguments: tuple[Any, ...]
    """As SQLite passes them: of xWrite the bytes and the offset [bytes]; of xOpen the flags."""


class Watcher(Protocol):
    """Told of each call, which is made when it calls ``proceed``; what it returns or raises, SQLite gets."""

    def around(self, call: Call, proceed: Callable[..., Any]) -> Any:
        """Make the call, or not."""


class WatchedVFS(apsw.VFS):
    """Passes all on to the system's, by way of the watcher."""

    def __init__(self, name: str, watcher: Watcher) -> None:
        self._watcher = watcher
        self._opened = itertools.count(1)
        super().__init__(name, BASE)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file; one without a name is a temporary one, which nobody watches."""
        if name is None:
            return apsw.VFSFile(BASE, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        number = next(self._opened)
        call = Call("xOpen", path, number, (flags[0],))
        opened: apsw.VFSFile = self._watcher.around(call, lambda: WatchedFile(self._watcher, path, number, name, flags))
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        call = Call("xDelete", filename, 0, (syncdir,))
        self._watcher.around(call, lambda: super(WatchedVFS, self).xDelete(filename, syncdir))

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        """Tell whether a file is there."""
        call = Call("xAccess", pathname, 0, (flags,))
        return bool(self._watcher.around(call, lambda: super(WatchedVFS, self).xAccess(pathname, flags)))


class WatchedFile(apsw.VFSFile):
    """An open file of SQLite's. The memory that connections share in WAL mode is none, and is not watched."""

    def __init__(
        self, watcher: Watcher, path: str, number: int, name: str | apsw.URIFilename, flags: list[int]
    ) -> None:
        self._watcher = watcher
        self._path = path
        self._number = number
        super().__init__(BASE, name, flags)

    def _around(self, method: str, proceed: Callable[..., Any], *arguments: Any) -> Any:
        return self._watcher.around(Call(method, self._path, self._number, arguments), proceed)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Read; fewer bytes than asked for are a short read."""
        read: bytes = self._around("xRead", lambda: super(WatchedFile, self).xRead(amount, offset), amount, offset)
        return read

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write; the watcher may have only a part written, which it gives to ``proceed``."""

        def proceed(part: bytes = data) -> None:
            super(WatchedFile, self).xWrite(part, offset)

        self._around("xWrite", proceed, bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut the file off."""
        self._around("xTruncate", lambda: super(WatchedFile, self).xTruncate(newsize), newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Have what was written on the disk."""
        self._around("xSync", lambda: super(WatchedFile, self).xSync(flags), flags)

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size [bytes]."""
        return int(self._around("xFileSize", super().xFileSize))

    def xLock(self, level: int) -> None:  # noqa: N802
        """Take a lock on the file."""
        self._around("xLock", lambda: super(WatchedFile, self).xLock(level), level)

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Let go of it."""
        self._around("xUnlock", lambda: super(WatchedFile, self).xUnlock(level), level)

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Tell whether somebody is about to write."""
        return bool(self._around("xCheckReservedLock", super().xCheckReservedLock))

    def xClose(self) -> None:  # noqa: N802
        """Close the file."""
        self._around("xClose", super().xClose)


class _WatchedOs(types.ModuleType):
    """``os`` for a module that changes files by it: those functions go by way of the watcher, all others do not."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__("os")
        self._watcher = watcher
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        """Open a file or folder, whose path ``fsync`` then knows."""
        call = Call("os.open", path, 0, (flags,))
        descriptor: int = self._watcher.around(call, lambda: os.open(path, flags, mode))
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close it."""
        self._paths.pop(descriptor, None)
        os.close(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Have a file, or the names in a folder, on the disk."""
        self._watcher.around(Call("os.fsync", self._paths[descriptor], 0, ()), lambda: os.fsync(descriptor))

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self._watcher.around(Call("os.unlink", path, 0, ()), lambda: os.unlink(path))

    def link(self, path: str, new: str) -> None:
        """Give a file a second name."""
        self._watcher.around(Call("os.link", path, 0, (new,)), lambda: os.link(path, new))

    def rename(self, path: str, new: str) -> None:
        """Give a file another name."""
        self._watcher.around(Call("os.rename", path, 0, (new,)), lambda: os.rename(path, new))

    def replace(self, path: str, new: str) -> None:
        """Give a file the name of another."""
        self._watcher.around(Call("os.rename", path, 0, (new,)), lambda: os.replace(path, new))


_names = (f"watched-{number}" for number in itertools.count())


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Show the watcher all calls of connections that are opened in the block; close these before its end."""
    before = apsw.vfs_names()[0]
    name = next(_names)
    vfs = WatchedVFS(name, watcher)
    apsw.set_default_vfs(name)
    try:
        with patch("sqlitestore.new_file.os", _WatchedOs(watcher)):
            yield
    finally:
        apsw.set_default_vfs(before)
        vfs.unregister()
