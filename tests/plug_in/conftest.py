"""Fixtures of the plug-in's tests, which call it as Metaflow does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import metaflow  # noqa: F401 - first: it loads its plug-ins by itself
import pytest
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

from sqlitestore.paths import stores


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Roots that a test sets and stores that it opens are not those of the next."""
    monkeypatch.setattr(SQLiteDatastoreStorage, "datastore_root", None)
    monkeypatch.setenv("USERNAME", "tester")  # Metaflow asks who; root is nobody to it
    yield
    for store in stores.open_stores():
        store.database.close()


@pytest.fixture
def storage(tmp_path: Path) -> SQLiteDatastoreStorage:
    """The plug-in's storage over a file that is not there yet."""
    return SQLiteDatastoreStorage(str(tmp_path / "runs.db"))
