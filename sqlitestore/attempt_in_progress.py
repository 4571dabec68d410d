"""What the writer of one attempt saves with, from the first blob until the attempt is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from sqlitestore.blobs import Payload, key_of
from sqlitestore.model import Artifact, StoredBlob, TaskAddress
from sqlitestore.small_blobs import Pending
from sqlitestore.tables import Tables

if TYPE_CHECKING:
    from sqlitestore.storage import DataStoreStorage


class AttemptInProgress:
    """One attempt on its way into a storage. This one puts every blob at once, as any storage can.

    It belongs to one writer, and is given up by letting go of it. Every method may raise DataException.
    """

    def __init__(self, storage: DataStoreStorage, task: TaskAddress) -> None:
        self._storage = storage
        self._task = task

    def put(self, payloads: Iterable[Payload]) -> list[StoredBlob]:
        """Save what each payload writes, as ``put_blobs`` does; return keys and sizes in order.

        Through the same storage object the blobs can be read from now on, for others they may come with ``finish``.
        """
        return self._storage.put_blobs(self._task.flow_name, payloads)

    def hold(self, keys: Iterable[str]) -> None:
        """Count on blobs that are in the storage: they stay until ``finish``."""
        self._storage.hold_blobs(self._task.flow_name, list(keys))

    def take_over(self, keys: Iterable[str]) -> None:
        """Take over what holds blobs that were just put for this attempt, by ``put_blobs``."""

    def put_what_waits(self) -> None:
        """Have all that ``put`` has taken in the storage, for others that want to refer to it."""

    def finish(self, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """Do what ``finish_attempt`` of the storage does; if it raises, it can be done again."""
        self._storage.finish_attempt(self._task, attempt, artifacts, done)


class SQLiteAttemptInProgress(AttemptInProgress):
    """Keeps small blobs in memory, and writes them in the transaction that makes the attempt done.

    One transaction less for a small task, and nothing to hold meanwhile. ``unfinished`` is where the storage finds the
    blobs that wait.
    """

    def __init__(
        self,
        storage: DataStoreStorage,
        task: TaskAddress,
        tables: Tables,
        unfinished: WeakValueDictionary[int, Pending],
    ) -> None:
        super().__init__(storage, task)
        self._tables = tables
        self._unfinished = unfinished
        self._pending = Pending()

    def put(self, payloads: Iterable[Payload]) -> list[StoredBlob]:
        """See the base."""
        self._unfinished[id(self._pending)] = self._pending
        return self._tables.blobs.put(payloads, pending=self._pending)

    def hold(self, keys: Iterable[str]) -> None:
        """See the base."""
        if keys := list(keys):
            self._storage.has_blobs(self._task.flow_name, keys)  # puts what waits for another attempt
            self._tables.blobs.hold_for(self._pending, keys)

    def take_over(self, keys: Iterable[str]) -> None:
        """See the base."""
        self._pending.held.update(map(key_of, keys))

    def put_what_waits(self) -> None:
        """See the base."""
        self._tables.blobs.put_what_waits(self._pending)

    def finish(self, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """See the base."""
        self._tables.tasks.finish(self._task, attempt, artifacts, done, self._pending)
        self._unfinished.pop(id(self._pending), None)
