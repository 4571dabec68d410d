"""What the parts of the conformance suite share: how a storage is made, reopened and opened a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from threading import Barrier, Thread
from typing import ClassVar, TypeVar

import pytest

from sqlitestore.blobs import Payload
from sqlitestore.model import Artifact, TaskAddress
from sqlitestore.pickling import WriteFile
from sqlitestore.storage import DataStoreStorage

T = TypeVar("T")

FLOW = "Flow"
TASK = TaskAddress(FLOW, "1", "train", "7")
OTHER = TaskAddress(FLOW, "1", "train", "8")
STARTED, DONE = 1_700_000_000.25, 1_700_000_060.5

NO_BLOB = "0123456789abcdef" * 2
"""A key that no blob of the suite has."""

LARGE = 5 * 2**20 + 17
"""[bytes] Of a blob that no storage is likely to keep in one piece."""


class Opener:
    """Opens the storage of one folder, again at each call, and closes all that it opened."""

    def __init__(self, open_storage: Callable[[Path], DataStoreStorage], folder: Path) -> None:
        self._open_storage = open_storage
        self._folder = folder
        self._opened: list[DataStoreStorage] = []

    def __call__(self) -> DataStoreStorage:
        """Open it (once more)."""
        storage = self._open_storage(self._folder)
        self._opened.append(storage)
        return storage

    def reopen(self) -> DataStoreStorage:
        """Close what is open and open it once more."""
        self.close()
        return self()

    def close(self) -> None:
        """Close what is open; it stays referenced, for a storage whose data lives as long as its objects."""
        for storage in self._opened:
            storage.close()


class StorageTests:
    """The hooks of the suite. Subclass ``StorageConformance``, which has the tests."""

    cannot: ClassVar[frozenset[str]] = frozenset()
    """What the storage is known not to do; the tests of it are skipped. Of: "reopen" (find its data again after
    ``close``), "second handle" (be opened twice at a time), "threads", "sha1" (take ``keys``), "scrub" (really remove
    a log's old bytes)."""

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Return a storage that keeps its data in ``folder``: an empty one the first time, then the same data again.

        Override this. Each test has a folder of its own; closing is done by the suite.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to open a storage in {folder}.")

    def check_at_rest(self, folder: Path) -> None:
        """Look at the closed storage in ``folder`` after each test; override it to check what only you can see."""

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Opener]:
        """Open the test's storage as often as it is called."""
        folder = tmp_path / "storage"
        folder.mkdir()
        opener = Opener(self.open_storage, folder)
        yield opener
        opener.close()
        self.check_at_rest(folder)

    @pytest.fixture
    def storage(self, opened: Opener) -> DataStoreStorage:
        """Return an empty storage."""
        return opened()

    def need(self, ability: str) -> None:
        """Skip the test if the storage does not have the ability."""
        if ability in self.cannot:
            pytest.skip(f"the storage does not do this: {ability}")


def noise(size: int, seed: int = 0) -> bytes:
    """Return ``size`` bytes that no codec makes smaller, the same for the same seed."""
    return Random(seed).randbytes(size)  # noqa: S311 - test data


def payload(*parts: bytes | bytearray | memoryview) -> Payload:
    """Return the payload that writes the parts, one after the other."""

    def write_to(file: WriteFile) -> None:
        for part in parts:
            file.write(part)

    return write_to


def put(storage: DataStoreStorage, *blobs: bytes) -> list[str]:
    """Store blobs; return their keys."""
    return [stored.key for stored in storage.put_blobs(FLOW, map(payload, blobs))]


def get(storage: DataStoreStorage, *keys: str) -> list[bytes]:
    """Return the blobs of the keys."""
    return [blob for _, blob in storage.load_blobs(FLOW, keys)]


def artifact(storage: DataStoreStorage, data: bytes = b"value") -> Artifact:
    """Store a blob; return an artifact of it with something in every field."""
    [stored] = storage.put_blobs(FLOW, [payload(data)])
    info = {"source": "somebody", "numbers": [1, 2.5, None, True], "nested": {"ключ": "значение"}}
    return Artifact(stored.key, stored.size, "<class 'bytes'>", "raw-v1", info, {"repr": repr(data[:20]), "length": 5})


def log(storage: DataStoreStorage, data: bytes, task: TaskAddress = TASK, attempt: int = 0) -> None:
    """Save ``data`` as the log runtime/stdout."""
    storage.save_log(task, attempt, "runtime", "stdout", BytesIO(data))


def together(count: int, work: Callable[[int], T]) -> list[T | BaseException]:
    """Return what ``work(index)`` returned or raised in each of ``count`` threads that began at the same time."""
    outcomes: dict[int, T | BaseException] = {}
    barrier = Barrier(count)

    def run(index: int) -> None:
        barrier.wait()
        try:
            outcomes[index] = work(index)
        except BaseException as error:  # noqa: BLE001 - the caller looks at it
            outcomes[index] = error

    threads = [Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[index] for index in range(count)]
