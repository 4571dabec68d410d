"""The conformance suite over Metaflow's local storage."""

from __future__ import annotations

from pathlib import Path

from metaflow.plugins.datastores.local_storage import LocalStorage

from sqlitestore import DataStoreStorage
from sqlitestore.path_storage.storage import wrapped
from sqlitestore.testing import StorageConformance


class TestLocalStorage(StorageConformance):
    """A folder, as Metaflow's default datastore is one."""

    cannot = frozenset({"scrub"})  # there is no deleting: an equal blob stays

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the folder."""
        return wrapped(LocalStorage(str(folder)))
