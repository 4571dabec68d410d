"""All changes that a piece of work makes to the files of one folder, in order, for ``power_cuts``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apsw

from sqlitestore.testing.watched_vfs import Call


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written into a file at an offset [bytes]."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut off, or made longer [bytes]."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All that was done to a file is on the disk."""

    file: int


@dataclass(frozen=True, slots=True)
class Name:
    """A path names a file from now on, or none."""

    path: str
    file: int | None


@dataclass(frozen=True, slots=True)
class SyncNames:
    """All names in the folder are on the disk."""


@dataclass(frozen=True, slots=True)
class Said:
    """Not on the disk: what the work was told by then, for instance that something is saved."""

    what: str


Step = Write | Truncate | Sync | Name | SyncNames | Said


class Recorder:
    """A watcher that notes each change to the files of a folder; files in it at the start are on the disk.

    Files are known by number: a path may name one after the other. ``-shm`` files are memory, and left out.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)
        self.start: dict[str, bytes] = {}
        """Path and content of each file when the recording began."""
        self.steps: list[Step] = []
        self._files: dict[str, int] = {}
        self._opened: dict[int, int] = {}
        self._sync_names_with: set[int] = set()
        self._count = 0
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            if not name.endswith("-shm") and os.path.isfile(path):
                with open(path, "rb") as file:
                    self.start[path] = file.read()
                self._files[path] = self._new_file()

    def said(self, what: str) -> None:
        """Note what the work was told."""
        self.steps.append(Said(what))

    def around(self, call: Call, proceed: Callable[[], Any]) -> Any:
        """Make the call and note what it changed; one that fails changes nothing that counts."""
        noted: Callable[[Call], None] | None = getattr(self, "_" + call.method.replace(".", "_").lower(), None)
        if os.path.dirname(call.path) != self.folder and call.path != self.folder:
            return proceed()
        answer = proceed()
        if noted is not None:
            noted(call)
        return answer

    def _new_file(self) -> int:
        self._count += 1
        return self._count

    def _file(self, path: str) -> int:
        """Return the number of the file at the path; a new one if it has none."""
        if path not in self._files:
            self._name(path, self._new_file())
        return self._files[path]

    def _name(self, path: str, file: int | None) -> None:
        if file is None:
            if self._files.pop(path, None) is None:
                return
        else:
            self._files[path] = file
        self.steps.append(Name(path, file))

    def _xopen(self, call: Call) -> None:
        [flags] = call.arguments
        self._opened[call.file] = self._file(call.path)
        # SQLite's VFS for Unix syncs the folder with a journal's first sync: os_unix.c, UNIXFILE_DIRSYNC.
        if flags & apsw.SQLITE_OPEN_CREATE and flags & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL):
            self._sync_names_with.add(call.file)

    def _xwrite(self, call: Call) -> None:
        data, offset = call.arguments
        self.steps.append(Write(self._opened[call.file], offset, data))

    def _xtruncate(self, call: Call) -> None:
        self.steps.append(Truncate(self._opened[call.file], call.arguments[0]))

    def _xsync(self, call: Call) -> None:
        self.steps.append(Sync(self._opened[call.file]))
        if call.file in self._sync_names_with:
            self._sync_names_with.remove(call.file)
            self.steps.append(SyncNames())

    def _xdelete(self, call: Call) -> None:
        self._name(call.path, None)
        if call.arguments[0]:
            self.steps.append(SyncNames())

    def _os_open(self, call: Call) -> None:
        if call.path != self.folder:
            self._file(call.path)

    def _os_fsync(self, call: Call) -> None:
        self.steps.append(SyncNames() if call.path == self.folder else Sync(self._files[call.path]))

    def _os_unlink(self, call: Call) -> None:
        self._name(call.path, None)

    def _os_link(self, call: Call) -> None:
        self._name(call.arguments[0], self._files[call.path])

    def _os_rename(self, call: Call) -> None:
        self._name(call.arguments[0], self._files[call.path])
        self._name(call.path, None)
