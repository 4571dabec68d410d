"""For whoever writes a storage: the tests that any ``DataStoreStorage`` has to pass, and one in memory to compare with.

In a test module of yours, which pytest collects::

    from sqlitestore.testing import StorageConformance

    class TestMyStorage(StorageConformance):
        def open_storage(self, folder):
            return MyStorage(folder / "data")

And for whoever wants to see what a piece of work does to the files, or what becomes of it when they fail:
``watched_vfs`` shows each call that SQLite makes, ``recording`` and ``power_cuts`` rebuild what a disk could hold at
any point, ``failing_files`` makes any call fail.

The idea of a suite that ships with the contract is zarr-python's (``zarr.testing.store``). It needs pytest.
"""

import pytest

# Before they are imported, or a failing assertion would not say what it compared.
pytest.register_assert_rewrite(
    "sqlitestore.testing.attempts",
    "sqlitestore.testing.base",
    "sqlitestore.testing.blobs",
    "sqlitestore.testing.conformance",
    "sqlitestore.testing.records",
)

from sqlitestore.testing.conformance import StorageConformance  # noqa: E402
from sqlitestore.testing.memory import MemoryStorage  # noqa: E402

__all__ = ["MemoryStorage", "StorageConformance"]
