"""What a store must hold, in dictionaries, compared with what its tables hold by SQL: no code of the package reads."""

from __future__ import annotations

import pickle
from typing import Any

import sqlite_oracle
from broken_hashes import CHUNK, KEY, BrokenHashes, Seen, content_hash

PARTS = """SELECT c.codec, c.bytes, c.size FROM blob_chunk l JOIN chunk c ON c.id = l.chunk
 WHERE l.blob = ? ORDER BY l.position"""
DATA = "SELECT b.id, b.key FROM data d JOIN blob b ON b.id = d.blob"
ARTIFACTS = """SELECT r.name, a.task, x.name, b.id FROM artifact x JOIN attempt a ON a.id = x.attempt
 JOIN run r ON r.id = a.run JOIN blob b ON b.id = x.blob"""
LOGS = """SELECT r.name, a.task, l.blob FROM log l JOIN attempt a ON a.id = l.attempt JOIN run r ON r.id = a.run
 ORDER BY l.part"""
FILES = "SELECT path, blob FROM file"


class Oracle:
    """What was saved, and acknowledged: by key, by task and name, by task, and by path."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.artifacts: dict[tuple[str, str, str], Any] = {}
        self.logs: dict[tuple[str, str], bytes] = {}
        self.files: dict[str, bytes] = {}

    def check(self, path: str, broken: BrokenHashes, *, closed: bool = False) -> Seen:
        """Raise AssertionError unless the file holds exactly that, each blob under its digest.

        Returns what it has under each digest, as ``BrokenHashes.seen`` has it.
        """
        seen: Seen = Seen(set)
        connection = sqlite_oracle.connect(path) if closed else _connect(path)
        try:
            with connection:
                blobs = _blobs(connection)
                for key, data in blobs.values():
                    assert broken.key(data, len(key)) == key, f"blob {key.hex()} has other bytes"
                    seen[KEY, key].add(content_hash(data))
                for digest, data in _chunks(connection):
                    assert broken.chunk(data) == digest, f"chunk {digest.hex()} has other bytes"
                    seen[CHUNK, digest].add(content_hash(data))
                self._compare(connection, {blob: data for blob, (_, data) in blobs.items()})
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        finally:
            connection.close()
        return seen

    def _compare(self, connection: Any, data: dict[int, bytes]) -> None:
        assert {key: data[blob] for blob, key in connection.execute(DATA)} == self.data, "save_data's blobs"
        artifacts = {
            names: pickle.loads(data[blob])
            for *names_, blob in connection.execute(ARTIFACTS)
            for names in [tuple(names_)]
        }
        assert artifacts == self.artifacts, "artifacts"
        logs: dict[tuple[str, str], bytes] = {}
        for run, task, blob in connection.execute(LOGS):
            logs[run, task] = logs.get((run, task), b"") + data[blob]
        assert logs == self.logs, "logs"
        assert {path: data[blob] for path, blob in connection.execute(FILES)} == self.files, "files"


def _connect(path: str) -> Any:
    return sqlite_oracle.apsw.Connection(path, sqlite_oracle.apsw.SQLITE_OPEN_READONLY)


def _blobs(connection: Any) -> dict[int, tuple[bytes, bytes]]:
    """Return key and bytes of each blob by its id."""
    found = {}
    for blob, key, size, codec, stored in connection.execute("SELECT id, key, size, codec, bytes FROM blob").fetchall():
        if codec is None:
            data = b"".join(sqlite_oracle.decoded(*part) for part in connection.execute(PARTS, (blob,)))
        else:
            data = sqlite_oracle.decoded(codec, stored, size)
        assert len(data) == size
        found[blob] = key, data
    return found


def _chunks(connection: Any) -> list[tuple[bytes, bytes]]:
    rows = connection.execute("SELECT digest, codec, bytes, size FROM chunk").fetchall()
    return [(digest, sqlite_oracle.decoded(*row)) for digest, *row in rows]
