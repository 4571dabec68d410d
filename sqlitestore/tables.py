"""All tables of one file, each with its owner: what ``SQLiteStorage``, the plug-in and the archives work on."""

from __future__ import annotations

from typing import Any

from sqlitestore.blobs import Blobs
from sqlitestore.database import Database
from sqlitestore.errors import InvalidType
from sqlitestore.files import Data, Files
from sqlitestore.registrations import Registrations
from sqlitestore.task_records import Logs, TaskMetadata
from sqlitestore.tasks import Tasks
from sqlitestore.trash import Trash
from sqlitestore.trust import Trust


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
        self.registrations = Registrations(database)
        self.trust = Trust(database)
        self.trash = Trash(database)


def tables_of(store: Any) -> Tables:
    """Return the tables of an open store: a FlowDataStore or SQLiteStorage. Raises InvalidType for another storage."""
    tables = store if isinstance(store, Tables) else getattr(getattr(store, "_storage_impl", store), "tables", None)
    if not isinstance(tables, Tables):
        raise InvalidType(f"This works on a store in an SQLite file, not on {type(store).__name__}: {store!r:.80}")
    tables.database.check_open()
    return tables
