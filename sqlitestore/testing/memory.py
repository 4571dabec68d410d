"""A storage in plain dicts: proof that the contract can be kept without SQL, and an oracle for those that use it.

It shares no code with ``SQLiteStorage`` beside the values of ``sqlitestore.model``. Nothing is checked, compressed or
shared beyond whole blobs; it is for tests and for trying things out.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from itertools import count
from pickle import PickleBuffer
from typing import BinaryIO, TypeAlias

from xxhash import xxh3_128_hexdigest

from sqlitestore.blobs import Payload
from sqlitestore.errors import AttemptDone, BlobNotFound, InvalidKey, StoreClosed, TaskNotFound
from sqlitestore.model import Artifact, Attempt, Buffer, StoredBlob, TaskAddress
from sqlitestore.pickling import ReadFile
from sqlitestore.storage import DataStoreStorage

Place: TypeAlias = tuple[TaskAddress, int | None]

_numbers = count(1)


class _Memory:
    """What the storages of one root share: dicts, whose order is the order of appearance."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blobs: dict[str, bytes] = {}
        self.kept: set[str] = set()
        self.runs: dict[str, dict[str, None]] = {}
        self.attempts: dict[tuple[TaskAddress, int], Attempt] = {}
        self.artifacts: dict[tuple[TaskAddress, int], dict[str, Artifact]] = {}
        self.metadata: dict[Place, dict[str, str]] = {}
        self.logs: dict[tuple[TaskAddress, int], dict[tuple[str, str], str]] = {}
        self.files: dict[str, tuple[str, str | None]] = {}

    def run(self, task: TaskAddress) -> None:
        """Make the task's flow and run, where they are missing."""
        self.runs.setdefault(task.flow_name, {}).setdefault(task.run_id)

    def attempt(self, task: TaskAddress, number: int) -> Attempt:
        """Return an attempt, making one that has not started where there is none."""
        self.run(task)
        return self.attempts.setdefault((task, number), Attempt(task, number, None, None, None))

    def is_needed(self, key: str) -> bool:
        """Return whether anything refers to the blob."""
        return (
            key in self.kept
            or any(key in logs.values() for logs in self.logs.values())
            or any(key == file for file, _ in self.files.values())
            or any(key == made.key for artifacts in self.artifacts.values() for made in artifacts.values())
        )


_memories: weakref.WeakValueDictionary[str, _Memory] = weakref.WeakValueDictionary()


class _Gatherer:
    """The file that a payload is written to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Buffer | PickleBuffer, /) -> int:
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data).cast("B")
        self.data += view
        return view.nbytes


class MemoryStorage(DataStoreStorage):
    """Everything in this process's memory, for as long as a storage of the same ``root`` (any text) is alive.

    Storages of one root are handles on the same data, closed ones included; without a root there is nobody to share
    with.
    """

    TYPE = "memory"

    def __init__(self, root: object = None) -> None:
        self.datastore_root = f"memory-{next(_numbers)}" if root is None else str(root)
        memory = _Memory()
        self._memory = _memories.setdefault(self.datastore_root, memory)
        self._closed = False

    @classmethod
    def get_datastore_root_from_config(cls, echo: Callable[[str], object], create_on_absent: bool = True) -> str | None:
        """Return a root that nobody else has."""
        del echo
        return f"memory-{next(_numbers)}" if create_on_absent else None

    @contextmanager
    def _open(self) -> Iterator[_Memory]:
        with self._memory.lock:
            if self._closed:
                raise StoreClosed(f"The storage {self.datastore_root} was closed.")
            yield self._memory

    def put_blobs(
        self, flow_name: str, payloads: Iterable[Payload], *, keys: Iterable[str] = (), keep: bool = False
    ) -> list[StoredBlob]:
        """See the contract."""
        with self._open():
            pass
        # Payloads may run any code, so the lock is not held while they do.
        given = iter(keys)
        made = []
        for payload in payloads:
            expected = next(given, None)
            file = _Gatherer()
            payload(file)
            made.append(_keyed(bytes(file.data), expected))
        with self._open() as memory:
            for key, data in made:
                memory.blobs.setdefault(key, data)
            if keep:
                memory.runs.setdefault(flow_name, {})
                memory.kept.update(key for key, _ in made)
        return [StoredBlob(key, len(data)) for key, data in made]

    def _blob(self, key: str) -> bytes:
        with self._open() as memory:
            if key not in memory.blobs:
                raise BlobNotFound(f"No blob has the key {key} in {self.datastore_root}.")
            return memory.blobs[key]

    def open_blob(self, flow_name: str, key: str) -> AbstractContextManager[ReadFile]:
        """See the contract."""
        del flow_name
        return BytesIO(self._blob(key))

    def load_blobs(self, flow_name: str, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See the contract."""
        del flow_name
        asked = list(keys)
        with self._open():
            pass
        for key in asked:
            yield key, self._blob(key)

    def has_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """See the contract."""
        del flow_name
        with self._open() as memory:
            return [key in memory.blobs for key in keys]

    def start_attempt(self, task: TaskAddress, attempt: int, started: float) -> None:
        """See the contract."""
        with self._open() as memory:
            self.check_writable(task, attempt)
            memory.attempts[task, attempt] = memory.attempt(task, attempt)._replace(started=started)

    def check_writable(self, task: TaskAddress, attempt: int) -> None:
        """See the contract."""
        with self._open() as memory:
            if (task, attempt) in memory.artifacts:
                raise AttemptDone(f"Attempt {attempt} of task {task.pathspec} is done.")

    def finish_attempt(self, task: TaskAddress, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """See the contract."""
        with self._open() as memory:
            self.check_writable(task, attempt)
            for name, artifact in artifacts.items():
                if artifact.key not in memory.blobs:
                    raise BlobNotFound(f"Artifact {name!r} of {task.pathspec}: there is no blob {artifact.key}.")
            memory.attempts[task, attempt] = memory.attempt(task, attempt)._replace(done=done, python="in memory")
            memory.artifacts[task, attempt] = {name: artifacts[name] for name in sorted(artifacts)}

    def find_run(self, flow_name: str, run_id: str, steps: Sequence[str] | None) -> list[Attempt]:
        """See the contract."""
        with self._open() as memory:
            return [
                attempt
                for (task, _), attempt in memory.attempts.items()
                if task[:2] == (flow_name, run_id) and (steps is None or task.step_name in steps)
            ]

    def find_tasks(self, tasks: Iterable[TaskAddress]) -> list[Attempt]:
        """See the contract."""
        asked = list(tasks)
        with self._open() as memory:
            in_order = sorted(memory.attempts.values(), key=lambda attempt: attempt.number)
            return [attempt for task in asked for attempt in in_order if attempt.task == task]

    def load_artifacts(self, task: TaskAddress, attempt: int) -> dict[str, Artifact]:
        """See the contract."""
        with self._open() as memory:
            if (task, attempt) not in memory.artifacts:
                raise TaskNotFound(f"Attempt {attempt} of task {task.pathspec} is not there, or not done.")
            return dict(memory.artifacts[task, attempt])

    def flows(self) -> list[str]:
        """See the contract."""
        with self._open() as memory:
            return sorted(memory.runs)

    def runs(self, flow_name: str) -> list[str]:
        """See the contract."""
        with self._open() as memory:
            return list(memory.runs.get(flow_name, {}))

    def save_metadata(
        self, task: TaskAddress, attempt: int | None, values: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """See the contract."""
        with self._open() as memory:
            memory.run(task)
            there = memory.metadata.get((task, attempt), {})
            memory.metadata[task, attempt] = {**there, **values} if overwrite else {**values, **there}

    def load_metadata(self, task: TaskAddress, attempt: int | None) -> dict[str, str]:
        """See the contract."""
        with self._open() as memory:
            return dict(memory.metadata.get((task, attempt), {}))

    def save_log(self, task: TaskAddress, attempt: int, source: str, stream: str, file: BinaryIO) -> None:
        """See the contract."""
        [stored] = self.put_blobs(task.flow_name, [_payload_of(file.read())])
        with self._open() as memory:
            memory.attempt(task, attempt)
            memory.logs.setdefault((task, attempt), {})[source, stream] = stored.key

    def scrub_log(self, task: TaskAddress, attempt: int, source: str, stream: str, text: bytes) -> None:
        """See the contract."""
        with self._open() as memory:
            old = memory.logs.get((task, attempt), {}).get((source, stream))
            self.save_log(task, attempt, source, stream, BytesIO(text))
            if old is not None and not memory.is_needed(old):
                del memory.blobs[old]

    def load_log(self, task: TaskAddress, attempt: int, source: str, stream: str) -> bytes | None:
        """See the contract."""
        with self._open() as memory:
            key = memory.logs.get((task, attempt), {}).get((source, stream))
            return None if key is None else memory.blobs[key]

    def log_sizes(self, task: TaskAddress, attempt: int) -> dict[tuple[str, str], int]:
        """See the contract."""
        with self._open() as memory:
            return {name: len(memory.blobs[key]) for name, key in memory.logs.get((task, attempt), {}).items()}

    def save_file(self, path: str, payload: Payload, metadata: str | None = None, *, overwrite: bool = False) -> None:
        """See the contract."""
        if not overwrite and self.find_file(path) is not None:
            return
        [stored] = self.put_blobs("", [payload])
        with self._open() as memory:
            if overwrite or path not in memory.files:
                memory.files[path] = stored.key, metadata

    def find_file(self, path: str) -> tuple[str, int, str | None] | None:
        """See the contract."""
        with self._open() as memory:
            if path not in memory.files:
                return None
            key, metadata = memory.files[path]
            return key, len(memory.blobs[key]), metadata

    def files_below(self, folder: str) -> list[str]:
        """See the contract."""
        with self._open() as memory:
            return sorted(path for path in memory.files if not folder or path.startswith(f"{folder}/"))

    def delete_file(self, path: str) -> None:
        """See the contract."""
        with self._open() as memory:
            memory.files.pop(path, None)

    def close(self) -> None:
        """See the contract. The data stays for other storages of the root."""
        self._closed = True


def _keyed(data: bytes, expected: str | None) -> tuple[str, bytes]:
    """Return a blob's key and bytes. Raises InvalidKey where another key was expected."""
    if expected is None:
        return xxh3_128_hexdigest(data), data
    sha1 = len(expected) == 40  # hexadecimal digits; xxh3-128 has 32
    key = hashlib.sha1(data, usedforsecurity=False).hexdigest() if sha1 else xxh3_128_hexdigest(data)
    if key != expected:
        raise InvalidKey(f"The blob given as {expected} has the key {key}; it was not saved.")
    return key, data


def _payload_of(data: bytes) -> Payload:
    return lambda file: file.write(data)
