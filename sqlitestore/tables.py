"""All tables of one file, each with its owner: what ``SQLiteStorage``, the plug-in and the archives work on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlitestore.blobs import Blobs
from sqlitestore.database import Database
from sqlitestore.errors import InvalidType
from sqlitestore.files import Data, Files
from sqlitestore.forking import unforked
from sqlitestore.task_records import Logs, TaskMetadata
from sqlitestore.tasks import Tasks
from sqlitestore.trust import Trust

if TYPE_CHECKING:
    from sqlitestore.registrations import Registrations
    from sqlitestore.trash import Trash


class Tables:
    """The owners of the tables of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.blobs = Blobs(database)
        self.data = Data(database)
        self.tasks = Tasks(database, self.blobs)
        self.metadata = TaskMetadata(database)
        self.logs = Logs(database, self.blobs)
        self.files = Files(database, self.blobs)
        self.trust = Trust(database)

    @cached_property
    def registrations(self) -> Registrations:
        """What a metadata provider registers."""
        with unforked():
            from sqlitestore.registrations import Registrations  # 2 ms, for the plug-in and archives only
        return Registrations(self.database)

    @cached_property
    def trash(self) -> Trash:
        """Pruned runs."""
        with unforked():
            from sqlitestore.trash import Trash  # 3 ms, for pruning only
        return Trash(self.database)


def tables_of(store: Any) -> Tables:
    """Return the tables of an open store: a FlowDataStore or SQLiteStorage. Raises InvalidType for another storage."""
    tables = store if isinstance(store, Tables) else getattr(getattr(store, "_storage_impl", store), "tables", None)
    if not isinstance(tables, Tables):
        raise InvalidType(f"This works on a store in an SQLite file, not on {type(store).__name__}: {store!r:.80}")
    tables.database.check_open()
    return tables
