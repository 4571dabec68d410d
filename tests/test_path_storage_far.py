"""The conformance suite over Metaflow's storages of other machines' kind, on servers of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_servers import AzureServer, S3Server

from sqlitestore import DataStoreStorage
from sqlitestore.model import TaskAddress
from sqlitestore.path_storage.storage import wrapped
from sqlitestore.testing import StorageConformance


@pytest.mark.long
class TestS3Storage(StorageConformance):
    """A bucket, on moto's server."""

    cannot = frozenset({"scrub"})  # there is no deleting: an equal blob stays

    @pytest.fixture(autouse=True)
    def _bucket(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        from metaflow.plugins.datastores import s3_storage

        self.root = f"s3://{s3_server.bucket()}/of/metaflow"
        monkeypatch.setattr(s3_storage, "DATASTORE_SYSROOT_S3", self.root)

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the bucket."""
        from metaflow.plugins.datastores.s3_storage import S3Storage

        return wrapped(S3Storage(self.root))


@pytest.mark.long
class TestAzureStorage(StorageConformance):
    """A container, on Azurite."""

    cannot = frozenset({"scrub"})

    @pytest.fixture(autouse=True)
    def _container(self, azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
        from metaflow.plugins.datastores import azure_storage

        self.server = azure_server
        self.root = f"{azure_server.container()}/of/metaflow"
        monkeypatch.setattr(azure_storage, "DATASTORE_SYSROOT_AZURE", self.root)

    def test_names_of_every_script_are_found(self, storage: DataStoreStorage) -> None:
        """As elsewhere, but for a backslash, which Azure takes for a slash."""
        tasks = [
            TaskAddress(name, name, name, name) for name in ("01", "1.0", '"', "a b", "%", "é", "流", "🎉", "A", "a")
        ]
        for task in tasks:
            storage.start_attempt(task, 0, 1.5)
        assert [attempt.task for attempt in storage.find_tasks(tasks)] == tasks

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the container."""
        return wrapped(self.server.storage(self.root))
