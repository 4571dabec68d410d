"""The stores that are compared, each behind the same few calls; a call that one cannot do, it does not have.

How much of what each wrote survives a power cut is in its ``durability`` and explained in BENCHMARKS.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.contract import FLOW, RUN, STEP, Peer
from benchmarks.users import DiskCache, JoblibFiles, PickleFiles, PickleFilesUnsynced, StockSqlite


class _Datastore:
    """What Metaflow's datastore and ours share: the API."""

    flow: Any

    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None:
        task = self.flow.get_task_datastore(RUN, STEP, task_id, attempt=0, mode="w")
        task.init_task()
        task.save_artifacts(iter(artifacts.items()))
        task.done()

    def find_run(self) -> Sequence[Any]:
        return self.flow.get_task_datastores(RUN, [STEP])

    def find(self, task_ids: Sequence[str]) -> Sequence[Any]:
        return self.flow.get_task_datastores(pathspecs=[f"{RUN}/{STEP}/{task_id}" for task_id in task_ids])

    def task_id(self, found: Any) -> str:
        return found.pathspec.split("/")[2]

    def value(self, found: Any, name: str) -> Any:
        return found[name]

    def save_data(self, blobs: Iterable[bytes]) -> list[str]:
        return [key for _, key in self.flow.save_data(blobs)]

    def load_data(self, keys: Sequence[str]) -> Iterable[bytes]:
        return (blob for _, blob in self.flow.load_data(keys))


class Ours(_Datastore):
    """This package with its defaults."""

    name = "sqlitestore"
    durability = "WAL, synchronous NORMAL; all of it once the store is closed"
    options: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        from sqlitestore import FlowDataStore, SQLiteStorage

        self.flow = FlowDataStore(
            FLOW, storage_impl=partial(SQLiteStorage, **self.options), ds_root=folder / "store.db"
        )

    def close(self) -> None:
        self.flow.close()


class OursWithJournal(Ours):
    """With a rollback journal, as on network file systems."""

    name = "sqlitestore, journal"
    durability = "rollback journal, synchronous EXTRA: each task once done() returned"
    options: ClassVar[dict[str, str]] = {"journal_mode": "delete"}


class MetaflowLocal(_Datastore):
    """Metaflow's local datastore."""

    name = "Metaflow"
    durability = "none: nothing is synced, and a power cut may leave empty files"

    def __init__(self, folder: Path) -> None:
        from metaflow.datastore import FlowDataStore
        from metaflow.plugins.datastores.local_storage import LocalStorage

        self.flow = FlowDataStore(FLOW, storage_impl=LocalStorage, ds_root=str(folder / "metaflow"))

    def close(self) -> None:
        """There is nothing to close."""


class PlainFile:
    """The limit: the bytes of one array in a file, written with one fsync; read into a new array."""

    name = "plain file"
    durability = "one fsync"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None:
        [array] = artifacts.values()
        with open(self.folder / task_id, "wb", buffering=0) as file:
            rest = memoryview(array).cast("B")
            while rest:
                rest = rest[file.write(rest) :]  # Linux takes 2 GiB at a time
            os.fsync(file.fileno())

    def find(self, task_ids: Sequence[str]) -> Sequence[Any]:
        return [self.folder / task_id for task_id in task_ids]

    def value(self, found: Any, name: str) -> Any:
        import numpy as np

        del name
        array = np.empty(os.path.getsize(found) // 8)
        rest = memoryview(array).cast("B")
        with open(found, "rb", buffering=0) as file:
            while rest:
                rest = rest[file.readinto(rest) :]
        return array

    def close(self) -> None:
        """There is nothing to close."""


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Ours,
        OursWithJournal,
        MetaflowLocal,
        PlainFile,
        PickleFiles,
        PickleFilesUnsynced,
        JoblibFiles,
        StockSqlite,
        DiskCache,
    )
}
OURS, JOURNAL, METAFLOW, PLAIN = Ours.name, OursWithJournal.name, MetaflowLocal.name, PlainFile.name
UNSYNCED = PickleFilesUnsynced.name
USERS = (PickleFiles.name, JoblibFiles.name, StockSqlite.name, DiskCache.name)
"""What a user would write instead, that we are to be ahead of."""
