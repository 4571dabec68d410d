"""What a user would write instead: pickle and joblib to files, stock sqlite3 with pickled blobs, diskcache."""

from __future__ import annotations

import hashlib
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contract import DONE, RUN, STEP, Cannot


class _Files:
    """A file for each artifact, and an empty one when the task is done: temporary name, fsync, rename."""

    durability = "each file synced before it gets its name; the latest names may be lost"
    synced = True

    def __init__(self, folder: Path) -> None:
        self.step = folder / RUN / STEP
        self.blobs = folder / "data"
        self.step.mkdir(parents=True, exist_ok=True)
        self.blobs.mkdir(exist_ok=True)

    def dump(self, value: Any, file: Any) -> None:
        raise NotImplementedError

    def read(self, file: Any) -> Any:
        raise NotImplementedError

    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None:
        folder = self.step / task_id
        folder.mkdir()
        for name, value in artifacts.items():
            self._write(folder / name, partial(self.dump, value))
        (folder / DONE).touch()

    def _write(self, path: Path, dump: Callable[[Any], object]) -> None:
        temporary = f"{path}.new"
        with open(temporary, "wb") as file:
            dump(file)
            if self.synced:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)

    def find_run(self) -> Sequence[Any]:
        return [entry.path for entry in os.scandir(self.step) if os.path.exists(f"{entry.path}/{DONE}")]

    def find(self, task_ids: Sequence[str]) -> Sequence[Any]:
        paths = [f"{self.step}/{task_id}" for task_id in task_ids]
        return [path for path in paths if os.path.exists(f"{path}/{DONE}")]

    def task_id(self, found: Any) -> str:
        return os.path.basename(found)

    def value(self, found: Any, name: str) -> Any:
        with open(f"{found}/{name}", "rb") as file:
            return self.read(file)

    def close(self) -> None:
        """There is nothing to close."""


class PickleFiles(_Files):
    """``pickle.dump`` of each artifact, and bytes as they are in files that have their hash as name."""

    name = "pickle"

    def dump(self, value: Any, file: Any) -> None:
        pickle.dump(value, file, protocol=5)

    def read(self, file: Any) -> Any:
        return pickle.load(file)

    def save_data(self, blobs: Iterable[bytes]) -> list[str]:
        keys = []
        for blob in blobs:
            key = sha1(blob)
            self._write(self.blobs / key, lambda file, blob=blob: file.write(blob))
            keys.append(key)
        return keys

    def load_data(self, keys: Sequence[str]) -> Iterator[bytes]:
        for key in keys:
            yield (self.blobs / key).read_bytes()


class PickleFilesUnsynced(PickleFiles):
    """The same without fsync: for information, since a power cut may leave files that are empty."""

    name = "pickle, no fsync"
    durability = "none: a power cut may leave files without content"
    synced = False


class JoblibFiles(_Files):
    """``joblib.dump`` of each artifact; it has nothing of its own for bytes."""

    name = "joblib"

    def dump(self, value: Any, file: Any) -> None:
        import joblib

        joblib.dump(value, file)

    def read(self, file: Any) -> Any:
        import joblib

        return joblib.load(file)


class StockSqlite:
    """The standard library's sqlite3, with a pickle of each artifact in a row."""

    name = "sqlite3"
    durability = "WAL, synchronous NORMAL; all of it once the database is closed"

    def __init__(self, folder: Path) -> None:
        self.database = sqlite3.connect(folder / "stock.db", timeout=600, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            "CREATE TABLE IF NOT EXISTS artifact (run, step, task, name, value, PRIMARY KEY (run, step, task, name))",
            "CREATE TABLE IF NOT EXISTS data (key PRIMARY KEY, value)",
        ):
            self.database.execute(statement)

    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None:
        rows = [(RUN, STEP, task_id, name, pickle.dumps(value, protocol=5)) for name, value in artifacts.items()]
        self._insert("INSERT INTO artifact VALUES (?, ?, ?, ?, ?)", rows)

    def _insert(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            self.database.executemany(statement, rows)
        except sqlite3.DataError as error:
            raise Cannot(f"a value of stock sqlite3 has at most 1 GB: {error}") from error
        self.database.execute("COMMIT")

    def find_run(self) -> Sequence[Any]:
        found = self.database.execute("SELECT DISTINCT task FROM artifact WHERE run = ? AND step = ?", (RUN, STEP))
        return [task_id for (task_id,) in found]

    def find(self, task_ids: Sequence[str]) -> Sequence[Any]:
        statement = "SELECT 1 FROM artifact WHERE run = ? AND step = ? AND task = ? LIMIT 1"
        return [each for each in task_ids if self.database.execute(statement, (RUN, STEP, each)).fetchone()]

    def task_id(self, found: Any) -> str:
        return found

    def value(self, found: Any, name: str) -> Any:
        statement = "SELECT value FROM artifact WHERE run = ? AND step = ? AND task = ? AND name = ?"
        return pickle.loads(self.database.execute(statement, (RUN, STEP, found, name)).fetchone()[0])

    def save_data(self, blobs: Iterable[bytes]) -> list[str]:
        rows = [(sha1(blob), blob) for blob in blobs]
        self._insert("INSERT OR IGNORE INTO data VALUES (?, ?)", rows)
        return [key for key, _ in rows]

    def load_data(self, keys: Sequence[str]) -> Iterator[bytes]:
        for key in keys:
            yield self.database.execute("SELECT value FROM data WHERE key = ?", (key,)).fetchone()[0]

    def close(self) -> None:
        self.database.close()


class DiskCache:
    """``diskcache.Cache``: a row for each artifact, and a file for what is large."""

    name = "diskcache"
    durability = "its SQLite file as sqlite3's; files of large values are not synced"

    def __init__(self, folder: Path) -> None:
        import diskcache

        # By default it forgets what is beyond 1 GB, and gives up after a minute's wait for a lock.
        self.cache = diskcache.Cache(str(folder / "diskcache"), eviction_policy="none", cull_limit=0, timeout=600)

    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None:
        with self.cache.transact():
            for name, value in artifacts.items():
                self.cache[RUN, STEP, task_id, name] = value
            self.cache[RUN, STEP, task_id, DONE] = True

    def find_run(self) -> Sequence[Any]:
        return [key[2] for key in self.cache.iterkeys() if key[3] == DONE and key[:2] == (RUN, STEP)]

    def find(self, task_ids: Sequence[str]) -> Sequence[Any]:
        return [task_id for task_id in task_ids if (RUN, STEP, task_id, DONE) in self.cache]

    def task_id(self, found: Any) -> str:
        return found

    def value(self, found: Any, name: str) -> Any:
        return self.cache[RUN, STEP, found, name]

    def save_data(self, blobs: Iterable[bytes]) -> list[str]:
        keys = []
        with self.cache.transact():
            for blob in blobs:
                key = sha1(blob)
                self.cache[key] = blob
                keys.append(key)
        return keys

    def load_data(self, keys: Sequence[str]) -> Iterator[bytes]:
        for key in keys:
            yield self.cache[key]

    def close(self) -> None:
        self.cache.close()


def sha1(blob: bytes) -> str:
    """Return the key that Metaflow gives to bytes, for peers that give none."""
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()
