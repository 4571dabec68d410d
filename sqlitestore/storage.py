"""What a flow datastore needs of a storage, at the level of meaning, and the storage in one SQLite file.

The contract speaks of blobs, attempts, metadata, logs and named files, never of paths or tables. Anything that keeps
it can stand under the published API: ``FlowDataStore(..., storage_impl=Other)``. Its conformance suite is
``sqlitestore.testing.StorageConformance``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, ClassVar
from weakref import WeakValueDictionary

from sqlitestore.attempt_in_progress import AttemptInProgress, SQLiteAttemptInProgress
from sqlitestore.blobs import Payload, key_of
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import BlobNotFound, TaskNotFound
from sqlitestore.location import resolve_root
from sqlitestore.model import Artifact, Attempt, StoredBlob, TaskAddress
from sqlitestore.pickling import ReadFile
from sqlitestore.pragmas import JournalMode, Synchronous
from sqlitestore.small_blobs import Pending
from sqlitestore.tables import Tables


class DataStoreStorage(ABC):
    """The contract. Made with a root (None: the default one), which ``datastore_root`` then names.

    Every method may raise DataException and, after ``close``, raises StoreClosed. What a method wrote is there for
    every reader when it returns, whole; what it could not write it did not change. Names and keys are checked by the
    callers. Instances may be used from many threads.
    """

    TYPE: ClassVar[str]
    """Metaflow's name for the kind of storage."""

    datastore_root: str
    """Where the data is."""

    @classmethod
    @abstractmethod
    def get_datastore_root_from_config(cls, echo: Callable[[str], object], create_on_absent: bool = True) -> str | None:
        """Return the root that is used when none is given; None if it is absent and not ``create_on_absent``."""

    # Blobs: immutable bytes under a key that is a hash of them. Storing a blob again is free and gives the same key.

    @abstractmethod
    def put_blobs(
        self, flow_name: str, payloads: Iterable[Payload], *, keys: Iterable[str] = (), keep: bool = False
    ) -> list[StoredBlob]:
        """Store what each payload writes; return keys and sizes in order, duplicates included.

        ``keys`` asks for these keys, one a payload (Metaflow's SHA-1); a key that its bytes do not have raises
        InvalidKey. With ``keep`` the blobs stay without an artifact that needs them. If the iterable raises, nothing is
        kept, and what was put already goes when the store is compacted.
        """

    @abstractmethod
    def open_blob(self, flow_name: str, key: str) -> AbstractContextManager[ReadFile]:
        """Return a file to read one blob from, in ``with``; leaving that checks the whole. Raises BlobNotFound."""

    @abstractmethod
    def load_blobs(self, flow_name: str, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (key, bytes) in the order asked, duplicates included. A missing key raises BlobNotFound."""

    @abstractmethod
    def has_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether its blob is there."""

    def load_small_blobs(self, flow_name: str, keys: Sequence[str], largest: int) -> Mapping[str, bytes]:
        """Return by key those of some hundred blobs that cost little more together than one of them.

        None of more than ``largest`` bytes; any may be left out, and is when it is missing. Raises Damaged, which need
        not say of which. Override it where that is so: it is asked for blobs that perhaps nobody wants.
        """
        del flow_name, keys, largest
        self.check_open()
        return {}

    def hold_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """Return what ``has_blobs`` does, for a writer that will refer to the blobs without putting them.

        Override it where blobs that nothing refers to may be removed: these must stay until the writer has.
        """
        return self.has_blobs(flow_name, keys)

    # Attempts. One that is done never changes.

    def attempt_in_progress(self, task: TaskAddress) -> AttemptInProgress:
        """Return what the writer of an attempt saves with. Override it to put small blobs in together with the rest."""
        return AttemptInProgress(self, task)

    @abstractmethod
    def start_attempt(self, task: TaskAddress, attempt: int, started: float) -> None:
        """Record that an attempt started [s since 1970]; again: the new time counts. Raises AttemptDone."""

    @abstractmethod
    def check_writable(self, task: TaskAddress, attempt: int) -> None:
        """Raise AttemptDone if the attempt is done; nothing is written."""

    @abstractmethod
    def finish_attempt(self, task: TaskAddress, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """Record an attempt's artifacts and that it is done [s since 1970], both or neither.

        Raises AttemptDone, and BlobNotFound for an artifact whose blob is not there.
        """

    @abstractmethod
    def find_run(self, flow_name: str, run_id: str, steps: Sequence[str] | None) -> list[Attempt]:
        """Return the attempts of a run's tasks (of these steps), in order of appearance; none is no error."""

    @abstractmethod
    def find_tasks(self, tasks: Iterable[TaskAddress]) -> list[Attempt]:
        """Return the attempts of the tasks in one snapshot, in the order asked, then by number."""

    @abstractmethod
    def load_artifacts(self, task: TaskAddress, attempt: int) -> Mapping[str, Artifact]:
        """Return a done attempt's artifacts by name, in the order saved. Raises TaskNotFound if there is none."""

    def load_artifacts_of(self, attempts: Sequence[Attempt]) -> Sequence[Mapping[str, Artifact]]:
        """Return ``load_artifacts`` of each attempt, as found by this storage. Override it to fetch them together."""
        return [self.load_artifacts(attempt.task, attempt.number) for attempt in attempts]

    @abstractmethod
    def flows(self) -> list[str]:
        """Return the names of the flows, sorted."""

    @abstractmethod
    def runs(self, flow_name: str) -> list[str]:
        """Return the names of a flow's runs, oldest first."""

    # Metadata: JSON texts by name, of a task (attempt None) or of an attempt. Allowed at any time, also after done.

    @abstractmethod
    def save_metadata(
        self, task: TaskAddress, attempt: int | None, values: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """Store all or none of the JSON texts; without ``overwrite``, a name that has one keeps it."""

    @abstractmethod
    def load_metadata(self, task: TaskAddress, attempt: int | None) -> dict[str, str]:
        """Return all JSON texts by name."""

    # Logs: bytes by source and stream, of an attempt, which need not have started. Allowed at any time.

    @abstractmethod
    def save_log(self, task: TaskAddress, attempt: int, source: str, stream: str, file: BinaryIO) -> None:
        """Store what the seekable ``file`` holds from its position on as the whole log."""

    @abstractmethod
    def scrub_log(self, task: TaskAddress, attempt: int, source: str, stream: str, text: bytes) -> None:
        """Store ``text`` as the log, and make the old bytes unreadable unless something else has the same."""

    @abstractmethod
    def load_log(self, task: TaskAddress, attempt: int, source: str, stream: str) -> bytes | None:
        """Return the whole log; None if there is none."""

    @abstractmethod
    def log_sizes(self, task: TaskAddress, attempt: int) -> dict[tuple[str, str], int]:
        """Return the size [bytes] of each log by (source, stream)."""

    # Named files, for what a plug-in keeps by path.

    @abstractmethod
    def save_file(self, path: str, payload: Payload, metadata: str | None = None, *, overwrite: bool = False) -> None:
        """Store a file with optional metadata (a JSON text); without ``overwrite``, one that is there stays."""

    @abstractmethod
    def find_file(self, path: str) -> tuple[str, int, str | None] | None:
        """Return the key of a file's blob, its size [bytes] and metadata; None if there is no such file."""

    @abstractmethod
    def files_below(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder ("" for all), sorted."""

    @abstractmethod
    def delete_file(self, path: str) -> None:
        """Remove a file; one that is not there is fine."""

    def check_open(self) -> None:
        """Raise StoreClosed after ``close``. Override it where asking for no blobs is not the cheapest way to know."""
        self.has_blobs("", ())

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; again: nothing happens."""

    # Where things are said to be. The layout of the paths is Metaflow's.

    def full_uri(self, path: str) -> str:
        """Return where ``path`` is, for people and messages."""
        return f"{self.datastore_root.rstrip('/')}/{path}"

    def blob_uri(self, flow_name: str, key: str) -> str:
        """Return where a blob is, in Metaflow's layout."""
        return self.full_uri(f"{flow_name}/data/{key[:2]}/{key}")


class SQLiteStorage(DataStoreStorage):
    """Everything in the SQLite file ``root`` (see ``location.resolve_root`` for what else it may be).

    The file is made if it is missing, unless ``create`` is False: then StoreMissing. ``synchronous`` "full" makes each
    commit survive a power cut; with "normal" the latest ones may be undone by it, whole (with a rollback journal none
    is). ``journal_mode`` "delete" is for places where SQLite's write-ahead log does not work and we do not notice,
    "wal" for those where it does after all (``mounts`` says how that is told).
    """

    TYPE = "sqlite"

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        create: bool = True,
        journal_mode: JournalMode | None = None,
        synchronous: Synchronous = "normal",
    ) -> None:
        self.datastore_root = resolve_root(root)
        self.database = Database(self.datastore_root, create=create, journal_mode=journal_mode, synchronous=synchronous)
        self.tables = Tables(self.database)
        """The owners of the tables, for what works on the whole file (``maintenance``, ``archive``)."""
        self._blobs = self.tables.blobs
        self._data = self.tables.data
        self._tasks = self.tables.tasks
        self._metadata = self.tables.metadata
        self._logs = self.tables.logs
        self._files = self.tables.files
        self._unfinished: WeakValueDictionary[int, Pending] = WeakValueDictionary()
        """Where blobs may wait that this storage has and the file has not yet, by any number."""

    @classmethod
    def get_datastore_root_from_config(cls, echo: Callable[[str], object], create_on_absent: bool = True) -> str | None:
        """Return the default file's path; ``echo`` is told when it is not there yet."""
        root = resolve_root(None)
        if not os.path.exists(root):
            if not create_on_absent:
                return None
            echo(f"Creating {cls.TYPE} datastore {root}")
        return root

    def put_blobs(
        self, flow_name: str, payloads: Iterable[Payload], *, keys: Iterable[str] = (), keep: bool = False
    ) -> list[StoredBlob]:
        """See the contract."""
        stored = self._blobs.put(payloads, keys)
        crash_point("blobs-put")
        if keep:
            self._data.keep(flow_name, (blob.key for blob in stored))
        return stored

    def open_blob(self, flow_name: str, key: str) -> AbstractContextManager[ReadFile]:
        """See the contract. Blobs are shared by all flows."""
        del flow_name
        try:
            return self._blobs.open(key)
        except BlobNotFound:
            self._put_what_waits([key])
            return self._blobs.open(key)

    def load_blobs(self, flow_name: str, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See the contract."""
        if self._unfinished:
            keys = list(keys)
            self.has_blobs(flow_name, keys)  # puts what waits
        return self._blobs.load(keys)

    def load_small_blobs(self, flow_name: str, keys: Sequence[str], largest: int) -> Mapping[str, bytes]:
        """See the contract. Those that sit in their rows, by one query."""
        del flow_name
        return self._blobs.load_small(keys, largest)

    def has_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """See the contract."""
        del flow_name
        found = self._blobs.has(keys)
        if all(found):
            return found
        self._put_what_waits(keys)
        return self._blobs.has(keys)

    def hold_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """See the contract."""
        self.has_blobs(flow_name, keys)  # puts what waits
        return self._blobs.hold(keys) if keys else []

    def _put_what_waits(self, keys: Iterable[str]) -> None:
        """Put blobs that the file lacked if they wait for an attempt in progress, or wait until another thread has.

        The caller looks again in any case: the attempt may have been done since it looked first.
        """
        unfinished = [reference() for reference in self._unfinished.valuerefs()]
        if unfinished:
            asked = set(map(key_of, keys))
            for pending in unfinished:
                if pending is not None and any(key in pending.waiting for key in asked):
                    self._blobs.put_what_waits(pending)

    def attempt_in_progress(self, task: TaskAddress) -> AttemptInProgress:
        """See the contract. Small blobs wait in memory until the attempt is done."""
        return SQLiteAttemptInProgress(self, task, self.tables, self._unfinished)

    def start_attempt(self, task: TaskAddress, attempt: int, started: float) -> None:
        """See the contract."""
        self._tasks.start(task, attempt, started)

    def check_writable(self, task: TaskAddress, attempt: int) -> None:
        """See the contract."""
        self._tasks.check_writable(task, attempt)

    def finish_attempt(self, task: TaskAddress, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """See the contract."""
        self._tasks.finish(task, attempt, artifacts, done)

    def find_run(self, flow_name: str, run_id: str, steps: Sequence[str] | None) -> list[Attempt]:
        """See the contract."""
        return self._tasks.find_run(flow_name, run_id, steps)

    def find_tasks(self, tasks: Iterable[TaskAddress]) -> list[Attempt]:
        """See the contract."""
        return self._tasks.find_tasks(tasks)

    def load_artifacts(self, task: TaskAddress, attempt: int) -> Mapping[str, Artifact]:
        """See the contract."""
        found = [each for each in self._tasks.find_tasks([task]) if each.number == attempt]
        if not found or found[0].done is None:
            raise TaskNotFound(f"Attempt {attempt} of task {task.pathspec} is not there, or not done.")
        return self._tasks.artifacts(found)[0]

    def load_artifacts_of(self, attempts: Sequence[Attempt]) -> Sequence[Mapping[str, Artifact]]:
        """See the contract. One query for all."""
        return self._tasks.artifacts(attempts)

    def flows(self) -> list[str]:
        """See the contract."""
        return self._tasks.flows()

    def runs(self, flow_name: str) -> list[str]:
        """See the contract."""
        return self._tasks.runs(flow_name)

    def save_metadata(
        self, task: TaskAddress, attempt: int | None, values: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """See the contract."""
        self._metadata.save(task, attempt, values, overwrite=overwrite)

    def load_metadata(self, task: TaskAddress, attempt: int | None) -> dict[str, str]:
        """See the contract."""
        return self._metadata.load(task, attempt)

    def save_log(self, task: TaskAddress, attempt: int, source: str, stream: str, file: BinaryIO) -> None:
        """See the contract. Only what was added since the last time is written."""
        self._logs.save(task, attempt, source, stream, file)

    def scrub_log(self, task: TaskAddress, attempt: int, source: str, stream: str, text: bytes) -> None:
        """See the contract."""
        self._logs.replace(task, attempt, source, stream, text)

    def load_log(self, task: TaskAddress, attempt: int, source: str, stream: str) -> bytes | None:
        """See the contract."""
        return self._logs.load(task, attempt, source, stream)

    def log_sizes(self, task: TaskAddress, attempt: int) -> dict[tuple[str, str], int]:
        """See the contract."""
        return self._logs.sizes(task, attempt)

    def save_file(self, path: str, payload: Payload, metadata: str | None = None, *, overwrite: bool = False) -> None:
        """See the contract."""
        self._files.save(path, payload, metadata, overwrite=overwrite)

    def find_file(self, path: str) -> tuple[str, int, str | None] | None:
        """See the contract."""
        return self._files.find(path)

    def files_below(self, folder: str) -> list[str]:
        """See the contract."""
        return self._files.below(folder)

    def delete_file(self, path: str) -> None:
        """See the contract."""
        self._files.delete(path)

    def check_open(self) -> None:
        """See the contract."""
        self.database.check_open()

    def close(self) -> None:
        """See the contract. The last process to close leaves one file and nothing beside it."""
        self.database.close()
