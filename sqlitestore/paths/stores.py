"""The files that this process has open: one store for each, shared by every datastore and provider that asks.

Metaflow makes a datastore for a flow again and again, and asks the provider's class without any instance; each with
connections of its own would pay for opening, and SQLite wants one place per process that knows what is locked.
"""

from __future__ import annotations

import os
import threading

from sqlitestore.database import Database
from sqlitestore.errors import StoreClosed
from sqlitestore.tables import Tables


class Store(Tables):
    """The tables of one file, for the plug-in."""

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        super().__init__(Database(path, create=create))
        self._identity = _identity(path)
        self.of_thread = threading.local()
        """For whoever keeps something for as long as the store is open, each thread its own."""

    def is_current(self) -> bool:
        """Return whether the path still names the file that was opened, and it is open."""
        return _is_open(self) and _identity(self.path) == self._identity


_open: dict[str, Store] = {}
_writing: dict[str, Tables] = {}
"""Under "task": the store of the task that this process is writing, from its start until it is done."""


def store_at(path: str, *, create: bool = False) -> Store | None:
    """Return the store in the file ``path``, opened once for the whole process; None if there is no file.

    Only with ``create`` is a missing file made: who reads never makes one. A file that was replaced or deleted since
    is opened anew. Raises what opening raises.
    """
    known = _open.get(path)
    if known is not None:
        if known.is_current():
            return known
        _open.pop(path, None)
        known.database.close()
    if not create and not os.path.exists(path):
        return None
    made = Store(path, create=create)
    store = _open.setdefault(path, made)
    if store is not made:  # another thread was faster
        made.database.close()
    return store


def current_store(path: str) -> Store | None:
    """Return the store in the file ``path`` if it is open already, and still is what the path names."""
    known = opened_store(path)
    return known if known is not None and known.is_current() else None


def opened_store(path: str) -> Store | None:
    """Return the store that was opened in the file ``path``, whatever became of the file since; None if none was."""
    return _open.get(path)


def open_stores() -> list[Store]:
    """Return the stores that are open, the latest opened first."""
    return [store for store in reversed(list(_open.values())) if store.is_current()]


def _is_open(store: Tables) -> bool:
    try:
        store.database.check_open()
    except StoreClosed:
        return False
    return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def task_starts(store: Tables) -> None:
    """Note that this process writes a task to the store from now on."""
    _writing["task"] = store


def task_ends() -> None:
    """Note that the task is done."""
    _writing.clear()


def store_of_task() -> Tables | None:
    """Return the store of the task that this process is writing; None if it writes none, or the store was closed."""
    store = _writing.get("task")
    return store if store is not None and _is_open(store) else None
