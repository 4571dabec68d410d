"""The tables ``file`` and ``data``: blobs that are kept by a path, and those that ``save_data`` keeps by their key."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from sqlitestore.blobs import Blobs, Payload, key_of
from sqlitestore.chunk_stream import Root
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import BlobNotFound, Damaged
from sqlitestore.holds import release
from sqlitestore.tasks import INSERT_FLOW, digest_of

SELECT_FILE = """SELECT lower(hex(b.key)), f.size, f.metadata, f.digest
 FROM file AS f LEFT JOIN blob AS b ON b.id = f.blob WHERE f.path = ?"""
SELECT_FILES = """SELECT asked.value, lower(hex(b.key)), f.size, f.metadata, f.digest FROM json_each(?) AS asked
 CROSS JOIN file AS f ON f.path = asked.value LEFT JOIN blob AS b ON b.id = f.blob"""
# '0' is the character after '/': all paths below a folder, by the index.
SELECT_BELOW = "SELECT path FROM file WHERE path >= ? || '/' AND path < ? || '0' ORDER BY path"
SELECT_PATHS = "SELECT path FROM file ORDER BY path"
UPSERT_FILE = """INSERT INTO file(path, blob, size, metadata, digest) SELECT ?, id, ?, ?, ? FROM blob WHERE key = ?
 ON CONFLICT(path) DO UPDATE SET blob = excluded.blob, size = excluded.size, metadata = excluded.metadata,
 digest = excluded.digest"""
DELETE_FILE = "DELETE FROM file WHERE path = ?"
HAS_BLOB = "SELECT 1 FROM blob WHERE key = ?"
KEEP_DATA = """INSERT INTO data(flow, blob) SELECT f.id, b.id FROM flow AS f, blob AS b WHERE f.name = ? AND b.key = ?
 ON CONFLICT DO NOTHING"""

DROP_DATA = """DELETE FROM data WHERE flow = (SELECT id FROM flow WHERE name = ?)
 AND blob = (SELECT id FROM blob WHERE key = ?)"""
SELECT_KEPT = """SELECT asked.value FROM json_each(?2) AS asked JOIN blob AS b ON b.key = unhex(asked.value)
 JOIN data AS d ON d.blob = b.id JOIN flow AS f ON f.id = d.flow WHERE f.name = ?1"""
SELECT_ALL_KEPT = """SELECT lower(hex(b.key)) FROM flow AS f JOIN data AS d ON d.flow = f.id
 JOIN blob AS b ON b.id = d.blob WHERE f.name = ? ORDER BY d.blob"""


class FileRecord(NamedTuple):
    """A named file: the key of its blob, the size of that [bytes], and its metadata (a JSON text)."""

    path: str
    key: str
    size: int
    metadata: str | None


class Files:
    """Named files, each with optional metadata (a JSON text)."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def save(self, path: str, payload: Payload, metadata: str | None, *, overwrite: bool) -> None:
        """Store a file; without ``overwrite``, one that is there stays as it is."""
        if not overwrite and self.find(path):
            return
        [stored] = self._blobs.put([payload])
        crash_point("file-bytes-put")
        digest = digest_of(path, key_of(stored.key), stored.size, metadata)
        with self._database.write() as connection:
            if not overwrite and connection.execute(SELECT_FILE, (path,)).fetchone():
                release(connection, [key_of(stored.key)])
                return
            connection.execute(UPSERT_FILE, (path, stored.size, metadata, digest, key_of(stored.key)))
            if not connection.changes():
                raise BlobNotFound(f"The file {path!r} was pruned while it was saved; save it again.")
            crash_point("file-row-written")
            release(connection, [key_of(stored.key)])

    def find(self, path: str) -> tuple[str, int, str | None] | None:
        """Return a file's key, size [bytes] and metadata; None if there is none. Raises Damaged."""
        for row in self._database.query(SELECT_FILE, (path,)):
            return self._checked(path, row)
        return None

    def find_all(self, paths: Iterable[str]) -> dict[str, tuple[str, int, str | None]]:
        """Return what ``find`` does for each path, by path; paths without a file are left out."""
        rows = self._database.query(SELECT_FILES, (json.dumps(list(paths)),))
        return {path: self._checked(path, row) for path, *row in rows}

    def _checked(self, path: str, row: Sequence[Any]) -> tuple[str, int, str | None]:
        key, size, metadata, digest = row
        if not key or digest_of(path, key_of(key), size, metadata) != digest:
            raise Damaged(f"The row of file {path!r} in {self._database.path} is damaged.")
        return key, size, metadata

    def below(self, folder: str) -> list[str]:
        """Return the paths of all files below ``folder`` ("" for all), sorted."""
        statement, bindings = (SELECT_BELOW, (folder, folder)) if folder else (SELECT_PATHS, ())
        return [path for (path,) in self._database.query(statement, bindings)]

    def records(self, folders: Iterable[str]) -> list[FileRecord]:
        """Return the files below the folders. Raises Damaged."""
        return self.find_records(path for folder in folders for path in self.below(folder))

    def find_records(self, paths: Iterable[str]) -> list[FileRecord]:
        """Return the files of those paths that are there. Raises Damaged."""
        return [FileRecord(path, *found) for path, found in self.find_all(paths).items()]

    def insert(self, connection: apsw.Connection, records: Iterable[FileRecord]) -> None:
        """Write files whose blobs are there, in a transaction of the caller; one that is there is replaced."""
        for path, key, size, metadata in records:
            digest = digest_of(path, key_of(key), size, metadata)
            connection.execute(UPSERT_FILE, (path, size, metadata, digest, key_of(key)))
            if not connection.changes():
                raise BlobNotFound(f"The file {path!r} has no blob.")
            release(connection, [key_of(key)])

    def delete(self, path: str) -> None:
        """Remove a file's name; its blob stays until the file is compacted. A file that is not there is fine."""
        with self._database.write() as connection:
            connection.execute(DELETE_FILE, (path,))
            crash_point("file-row-deleted")


class Data:
    """The blobs that ``save_data`` put: roots, which nothing prunes by accident."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def kept(self, flow_name: str, keys: Iterable[str] | None = None) -> list[str]:
        """Return those of the keys (None: of all) whose blobs are kept for the flow."""
        if keys is None:
            return [key for (key,) in self._database.query(SELECT_ALL_KEPT, (flow_name,))]
        return [key for (key,) in self._database.query(SELECT_KEPT, (flow_name, json.dumps(list(keys))))]

    def drop(self, flow_name: str, keys: Iterable[str]) -> None:
        """Let go of blobs that were kept for the flow; they go when the file is pruned, unless something needs them."""
        with self._database.write() as connection:
            connection.executemany(DROP_DATA, ((flow_name, key_of(key)) for key in keys))
            crash_point("data-rows-deleted")

    def root(self, flow_name: str) -> Root:
        """Return what makes a blob a root of the flow as soon as it is stored (see ``Blobs.put``)."""

        def keep(connection: apsw.Connection, key: bytes) -> None:
            connection.execute(INSERT_FLOW, (flow_name,))
            connection.execute(KEEP_DATA, (flow_name, key))

        return keep

    def keep(self, flow_name: str, keys: Iterable[str]) -> None:
        """Make the blobs roots of the flow, all in one transaction."""
        with self._database.write() as connection:
            connection.execute(INSERT_FLOW, (flow_name,))
            crash_point("data-flow-made")
            for key in keys:
                connection.execute(KEEP_DATA, (flow_name, key_of(key)))
                if not connection.changes() and not connection.execute(HAS_BLOB, (key_of(key),)).fetchone():
                    raise BlobNotFound(f"The blob {key} was pruned while it was saved; save it again.")
                crash_point("data-row-inserted")
                release(connection, [key_of(key)])
