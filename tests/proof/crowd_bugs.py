"""Bugs to be put into the package while a crowd works on it, each to show that the crowd would notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from sqlitestore import StoreBusy
from sqlitestore.connections import Connections
from sqlitestore.database import Database
from sqlitestore.maintenance import reclaim
from sqlitestore.pragmas import wait_for_writers
from sqlitestore.task_writer import TaskDataStoreWriter
from sqlitestore.tasks import Tasks

_kept: list[Any] = []


def no_waiting() -> AbstractContextManager[Any]:
    """Whoever finds the file locked is told so at once."""
    return mock.patch("sqlitestore.database_file.wait_for_writers", lambda connection: connection.set_busy_timeout(0))


def pretended_writing() -> AbstractContextManager[Any]:
    """A writer that finds the file locked goes on as if it had written."""
    original = Tasks.finish

    def finish(self: Tasks, *given: Any) -> None:
        connection = self._database._connections.handle().connection
        connection.set_busy_timeout(0)
        try:
            original(self, *given)
        except StoreBusy:
            pass
        finally:
            wait_for_writers(connection)

    return mock.patch.object(Tasks, "finish", finish)


def late_locking() -> AbstractContextManager[Any]:
    """A writing transaction begins as a reading one: BEGIN instead of BEGIN IMMEDIATE."""
    original = Database._transaction

    def transaction(self: Database, handle: Any, begin: str, *rest: str) -> Any:
        return original(self, handle, begin.removesuffix(" IMMEDIATE"), *rest)

    return mock.patch.object(Database, "_transaction", transaction)


def no_snapshot() -> AbstractContextManager[Any]:
    """What is read together is read in a transaction for each query."""

    @contextmanager
    def read(self: Database) -> Iterator[Any]:
        handle = self._current_handle()
        with handle.lock:
            yield handle.connection

    return mock.patch.object(Database, "read", read)


def one_look_up_for_each_task() -> AbstractContextManager[Any]:
    """Tasks that are asked for together are looked up one after the other."""
    original = Tasks.find_tasks

    def find_tasks(self: Tasks, tasks: Any) -> list[Any]:
        return [found for task in list(tasks) for found in original(self, [task])]

    return mock.patch.object(Tasks, "find_tasks", find_tasks)


def connections_in_forked_children() -> AbstractContextManager[Any]:
    """A forked child goes on with the connections of its parent."""
    return mock.patch.object(Connections, "after_fork_in_child", Connections.after_fork_in_parent)


def no_holds() -> AbstractContextManager[Any]:
    """Prune and compact take what a writer in flight has put."""
    held = "OR EXISTS (SELECT 1 FROM held"
    assert held in reclaim.SELECT_UNNEEDED
    return mock.patch.object(
        reclaim, "SELECT_UNNEEDED", reclaim.SELECT_UNNEEDED.replace(held, held[:2] + " 0 AND" + held[2:])
    )


def wrong_bytes() -> AbstractContextManager[Any]:
    """One of the writers saves another last byte."""
    original = TaskDataStoreWriter.save_artifacts

    def save_artifacts(self: TaskDataStoreWriter, artifacts: Any, len_hint: int = 0) -> None:
        is_hurt = self.task_id.startswith("writer0-")
        original(self, ((name, _hurt(value) if is_hurt else value) for name, value in artifacts), len_hint)

    return mock.patch.object(TaskDataStoreWriter, "save_artifacts", save_artifacts)


def _hurt(value: Any) -> Any:
    return value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else value


def open_for_ever() -> AbstractContextManager[Any]:
    """What is closed keeps its connections."""

    def close(self: Database) -> None:
        self._finalizer.detach()
        _kept.append(self)

    return mock.patch.object(Database, "close", close)


def remembered_for_ever() -> AbstractContextManager[Any]:
    """Each that is opened leaves something small behind, closed or not."""
    original = Database.close

    def close(self: Database) -> None:
        _kept.append([self.path])
        original(self)

    return mock.patch.object(Database, "close", close)


BUGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    bug.__name__: bug
    for bug in (
        no_waiting,
        pretended_writing,
        late_locking,
        no_snapshot,
        one_look_up_for_each_task,
        connections_in_forked_children,
        no_holds,
        wrong_bytes,
        open_for_ever,
        remembered_for_ever,
    )
}
