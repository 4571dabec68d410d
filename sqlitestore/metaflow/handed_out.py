"""Files to hand out: Metaflow opens paths, and what we have are rows.

Where the system has memory files (Linux: ``memfd_create``) a path is ``/proc/self/fd/N``: the bytes never touch a disk,
and whatever happens to the process, they are gone with it. Each costs a descriptor, so only the first some hundred of a
call are made so. The rest, and all of them elsewhere, are files in a folder of the process, in memory where there is
``/dev/shm``; a folder that a crash left behind is removed by the next process that makes one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlitestore.crash_points import crash_point

try:
    import fcntl
except ImportError:  # Windows: a folder left by a crash stays in the temporary folder there
    fcntl = None  # type: ignore[assignment]

MEMORY_FILES = 256
"""Memory files that one call has open at a time; 1,024 descriptors are the usual limit of a process."""

PREFIX = "sqlitestore-handed-out-"
LOCK = "lock"
BEING_MADE = 60.0
"""How long a folder may be without a lock file since its process is just making it, or removing it [s]."""


class HandedOutFiles:
    """The files of one call, in ``with``: they can be opened until its end, and are gone after it."""

    def __init__(self, limit: int = MEMORY_FILES) -> None:
        self._limit = limit if hasattr(os, "memfd_create") else 0
        self._descriptors: list[int] = []
        self._folder: _Folder | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def make(self, blocks: Iterable[bytes]) -> str:
        """Return the path of a new file with these bytes."""
        descriptor = self._memory_file()
        if descriptor is not None:
            for block in blocks:
                written = os.write(descriptor, block)
                while written < len(block):  # a system call takes 2 GiB at most
                    written += os.write(descriptor, memoryview(block)[written:])
            crash_point("handed-out-in-memory")
            return f"/proc/self/fd/{descriptor}"
        if self._folder is None:
            self._folder = _Folder()
        self._count += 1
        path = os.path.join(self._folder.path, str(self._count))
        with open(path, "wb") as file:
            file.writelines(blocks)
        crash_point("handed-out-as-file")
        return path

    def _memory_file(self) -> int | None:
        """Return the descriptor of a new memory file; None if it shall be a file with a name."""
        if len(self._descriptors) >= self._limit:
            return None
        try:
            descriptor = os.memfd_create("sqlitestore")
        except OSError:  # no descriptors left, or forbidden here
            return None
        self._descriptors.append(descriptor)
        os.fchmod(descriptor, 0o600)  # what a copy of it gets
        return descriptor

    def close(self) -> None:
        """Remove the files. A second call does nothing."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def __del__(self) -> None:
        self.close()


class _Folder:
    """A folder whose lock file is locked for as long as its process lives, which the system sees to."""

    def __init__(self) -> None:
        place = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108
        _remove_left_behind(place)
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        crash_point("handed-out-folder-made")
        self._lock = os.open(os.path.join(self.path, LOCK), os.O_CREAT | os.O_RDWR, 0o600)
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        crash_point("handed-out-folder-removed")
        os.close(self._lock)


def _remove_left_behind(place: str) -> None:
    """Remove folders whose process is gone. One without a lock is being made, or was when its process was killed."""
    if fcntl is None:
        return
    for name in os.listdir(place):
        if not name.startswith(PREFIX):
            continue
        path = os.path.join(place, name)
        with suppress(OSError):  # somebody else's, or removed meanwhile
            try:
                lock = os.open(os.path.join(path, LOCK), os.O_RDWR)
            except FileNotFoundError:
                if time.time() - os.stat(path).st_mtime >= BEING_MADE:
                    shutil.rmtree(path)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
