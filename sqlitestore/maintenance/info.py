"""What the file is: its identity, its format and how many of everything it holds."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import apsw

from sqlitestore.database import Database

SELECT_STORE = "SELECT uuid, kind, created, writer FROM store"
COUNT_TABLES = """SELECT (SELECT COUNT(1) FROM flow), (SELECT COUNT(1) FROM run WHERE name NOT GLOB '*/*'),
 (SELECT COUNT(1) FROM run WHERE name GLOB '*/*'),
 (SELECT COUNT(1) FROM (SELECT DISTINCT run, step, task FROM attempt)), (SELECT COUNT(1) FROM attempt),
 (SELECT COUNT(1) FROM artifact), (SELECT COUNT(1) FROM task_metadata),
 (SELECT COUNT(1) FROM (SELECT DISTINCT attempt, source, stream FROM log)), (SELECT COUNT(1) FROM data),
 (SELECT COUNT(1) FROM file), (SELECT COUNT(1) FROM blob), (SELECT COUNT(1) FROM chunk)"""


class Counts(NamedTuple):
    """How many of everything the file holds. ``data`` are the blobs that ``save_data`` keeps, once for each flow.

    ``trash`` are pruned runs; what is below runs is counted with theirs.
    """

    flows: int
    runs: int
    trash: int
    tasks: int
    attempts: int
    artifacts: int
    metadata: int
    logs: int
    data: int
    files: int
    blobs: int
    chunks: int


class Info(NamedTuple):
    """Facts about a store.

    ``created`` is a time [s since 1970]; ``file_size`` and ``log_size`` are those of the file and of the write-ahead
    log beside it [bytes]; ``page_size`` is in [bytes] too.
    """

    path: str
    format: int
    uuid: str
    kind: str
    created: float
    writer: str
    file_size: int
    log_size: int
    page_size: int
    pages: int
    free_pages: int
    journal_mode: str
    sqlite: str
    counts: Counts


def identity(database: Database) -> str:
    """Return the uuid of the store."""
    return str(database.query(SELECT_STORE)[0][0])


def info(database: Database) -> Info:
    """Return the facts about an open store, in one snapshot."""
    with database.read() as connection:
        store: Any = connection.execute(SELECT_STORE).fetchall()[0]
        uuid, kind, created, writer = store
        counts: Any = connection.execute(COUNT_TABLES).fetchall()[0]
        return Info(
            path=database.path,
            format=int(connection.pragma("user_version")),
            uuid=uuid,
            kind=kind,
            created=created,
            writer=writer,
            file_size=_size(database.path),
            log_size=_size(database.path + "-wal"),
            page_size=int(connection.pragma("page_size")),
            pages=int(connection.pragma("page_count")),
            free_pages=int(connection.pragma("freelist_count")),
            journal_mode=str(connection.pragma("journal_mode")),
            sqlite=apsw.sqlite_lib_version(),
            counts=Counts(*counts),
        )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
