"""``PathStorage``: what a flow datastore needs, in the layout that Metaflow's own storages have.

Metaflow's storages can neither delete nor do two things at once. So it is here as it is with Metaflow itself:

- A task is done when its ``DONE.lock`` is there, which is written last, after ``data.json``, after the blobs. A writer
  that is killed half-way leaves a task that is not done, and blobs that nobody needs.
- That a done attempt never changes is looked up before each write. Threads of a process wait for each other; of two
  processes that finish one attempt at the same instant, both are told that they did. (Metaflow gives each attempt to
  one process.)
- Many objects are not one snapshot: who looks while others write may see some of it.
- Nothing is deleted. A scrubbed log is overwritten; a bucket that keeps versions keeps the old one. A deleted file is
  overwritten by a document that says so, and its blob stays.
- Blobs belong to a flow, as in Metaflow, in whose content-addressed store they are, under SHA-1: what is in both is
  there once. A blob of a named file, which no flow has, is in the folder ``mf.sqlitestore``.
- Named files have no place in Metaflow's layout: they are documents below that folder.
- Of many runs the oldest comes first: a document in the run's folder says when it appeared, else its number does, which
  Metaflow makes of the time.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, ClassVar

from sqlitestore import layout
from sqlitestore.blobs import Payload
from sqlitestore.errors import AttemptDone, BlobNotFound, InvalidName, InvalidType, StoreClosed, TaskNotFound
from sqlitestore.layout import BlobPlace, LogPlace, MarkerPlace, MetadataPlace
from sqlitestore.model import Artifact, Attempt, StoredBlob, TaskAddress
from sqlitestore.path_storage import attempts as documents
from sqlitestore.path_storage import files
from sqlitestore.path_storage.files import OWN
from sqlitestore.path_storage.packing import PACKED, RAW, Gathered, checked, payload_from
from sqlitestore.path_storage.paths import Item, Opened, Paths, batches, is_path_storage
from sqlitestore.pickling import ReadFile
from sqlitestore.storage import DataStoreStorage

RUN_DOCUMENT = "mf.sqlitestore.json"
"""The name, in the folder of a run, of the document that says when it appeared [ns since 1970]."""

LARGEST_BATCH = 32 * 2**20
"""[bytes] Of blobs that wait to be saved together."""

BLOBS_TOGETHER = 64


class _Shared:
    """What the storages of one root share in a process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


_shared: weakref.WeakValueDictionary[tuple[str, str], _Shared] = weakref.WeakValueDictionary()


class PathStorage(DataStoreStorage):
    """A storage object of Metaflow's kind as a DataStoreStorage; ``wrapped`` makes one. See the module."""

    TYPE: ClassVar[str] = ""
    _kind: ClassVar[Any] = None
    """The class of the storage object."""

    def __init__(self, storage: Any) -> None:
        if storage.datastore_root is None:
            storage.datastore_root = self.get_datastore_root_from_config(lambda _: None)
        self._paths = Paths(storage)
        self.datastore_root = self._paths.root
        self._shared = _shared.setdefault((self._paths.type, self._paths.root), _Shared())
        self._known_runs: set[tuple[str, str]] = set()
        self._closed = False

    @classmethod
    def get_datastore_root_from_config(cls, echo: Callable[[str], object], create_on_absent: bool = True) -> str | None:
        """Return Metaflow's configured root."""
        root = cls._kind.get_datastore_root_from_config(echo, create_on_absent)
        return None if root is None else str(root)

    def _open(self) -> Paths:
        if self._closed:
            raise StoreClosed(f"The storage {self.datastore_root} was closed.")
        return self._paths

    @contextmanager
    def _alone(self) -> Iterator[Paths]:
        """Keep other threads from writing meanwhile."""
        with self._shared.lock:
            yield self._open()

    # Blobs

    def put_blobs(
        self, flow_name: str, payloads: Iterable[Payload], *, keys: Iterable[str] = (), keep: bool = False
    ) -> list[StoredBlob]:
        """See the contract. Without ``keep`` they are packed, as Metaflow packs artifacts."""
        self._open()
        _check_flow(flow_name)
        given = iter(keys)
        stored: list[StoredBlob] = []
        waiting: dict[str, Gathered] = {}
        try:
            for payload in payloads:
                blob = Gathered(payload, next(given, None))
                stored.append(StoredBlob(blob.key, blob.size))
                if waiting.setdefault(blob.key, blob) is not blob:
                    blob.close()
                if len(waiting) >= BLOBS_TOGETHER or sum(each.size for each in waiting.values()) > LARGEST_BATCH:
                    self._put(flow_name, waiting, raw=keep)
            self._put(flow_name, waiting, raw=keep)
        finally:
            for blob in waiting.values():
                blob.close()
        return stored

    def _put(self, flow_name: str, waiting: dict[str, Gathered], *, raw: bool) -> None:
        """Save those of the blobs that are missing, and wait for no more of them."""
        places = {key: layout.path_of(BlobPlace(flow_name, key)) for key in waiting}
        there = self._open().have_whole(places.values())
        missing = [key for key, path in places.items() if not there[path]]
        self._open().save(
            (
                Item(places[key], waiting[key].raw() if raw else waiting[key].packed(), RAW if raw else PACKED)
                for key in missing
            ),
            len(missing),
        )
        for blob in waiting.values():
            blob.close()
        waiting.clear()

    @contextmanager
    def open_blob(self, flow_name: str, key: str) -> Iterator[ReadFile]:
        """See the contract. The blob is fetched first, to a temporary file where it is far away."""
        with (
            self._fetched(flow_name, [key]) as found,
            checked(found.get(key), key, self.full_uri(flow_name)) as file,
        ):
            yield file

    @contextmanager
    def _fetched(self, flow_name: str, keys: Sequence[str]) -> Iterator[dict[str, Opened]]:
        """Fetch the flow's blobs, or those of named files, by key."""
        places = {layout.path_of(BlobPlace(flow_name, key)): key for key in keys}
        with self._open().opened(list(places)) as found:
            of_flow = {places[path]: opened for path, opened in found.items()}
            rest = {layout.path_of(BlobPlace(OWN, key)): key for key in keys if key not in of_flow}
            with self._open().opened(list(rest)) as of_files:
                yield of_flow | {rest[path]: opened for path, opened in of_files.items()}

    def load_blobs(self, flow_name: str, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See the contract."""
        self._open()
        for some in batches(list(keys), BLOBS_TOGETHER):
            with self._fetched(flow_name, list(dict.fromkeys(some))) as found:
                for key in some:
                    self._open()
                    with checked(found.get(key), key, self.full_uri(flow_name)) as file:
                        data = file.read()
                    yield key, data

    def has_blobs(self, flow_name: str, keys: Sequence[str]) -> list[bool]:
        """See the contract."""
        there = self._open().have(layout.path_of(BlobPlace(flow_name, key)) for key in keys)
        rest = [key for key in keys if not there[layout.path_of(BlobPlace(flow_name, key))]]
        of_files = self._open().have(layout.path_of(BlobPlace(OWN, key)) for key in rest)
        there |= {
            layout.path_of(BlobPlace(flow_name, key)): of_files[layout.path_of(BlobPlace(OWN, key))] for key in rest
        }
        return [there[layout.path_of(BlobPlace(flow_name, key))] for key in keys]

    # Attempts

    def start_attempt(self, task: TaskAddress, attempt: int, started: float) -> None:
        """See the contract."""
        with self._alone() as paths:
            self.check_writable(task, attempt)
            path = layout.path_of(MarkerPlace(task, attempt, layout.ATTEMPT))
            _, before = layout.without_ours(paths.read([path]).get(path, b""))
            first = before.get("first", time.time_ns())
            document = layout.with_ours(layout.attempt_document(started), {"first": first})
            self._appears(task)
            paths.save([Item(path, BytesIO(document))], 1)

    def check_writable(self, task: TaskAddress, attempt: int) -> None:
        """See the contract."""
        _check_task(task)
        path = layout.path_of(MarkerPlace(task, attempt, layout.DONE))
        if self._open().have([path])[path]:
            raise AttemptDone(f"Attempt {attempt} of task {task.pathspec} is done: write the next attempt.")

    def finish_attempt(self, task: TaskAddress, attempt: int, artifacts: Mapping[str, Artifact], done: float) -> None:
        """See the contract. The done marker is written last."""
        with self._alone() as paths:
            self.check_writable(task, attempt)
            keys = list(dict.fromkeys(artifact.key for artifact in artifacts.values()))
            for key, there in zip(keys, self.has_blobs(task.flow_name, keys), strict=True):
                if not there:
                    raise BlobNotFound(f"An artifact of {task.pathspec} has the key {key}, of which there is no blob.")
            python = ".".join(map(str, sys.version_info[:3]))
            document = documents.data_document(attempt, artifacts, self.TYPE, python, done, time.time_ns())
            self._appears(task)
            for name, data in ((layout.DATA, document), (layout.DONE, layout.DONE_DOCUMENT)):
                paths.save([Item(layout.path_of(MarkerPlace(task, attempt, name)), BytesIO(data))], 1)

    def _appears(self, task: TaskAddress) -> None:
        """Note when a run first appeared."""
        run = task[:2]
        if run not in self._known_runs:
            path = f"{task.flow_name}/{task.run_id}/{RUN_DOCUMENT}"
            if not self._paths.have([path])[path]:
                self._paths.save([Item(path, BytesIO(json.dumps({"first": time.time_ns()}).encode()))], 1)
            self._known_runs.add(run)

    def find_run(self, flow_name: str, run_id: str, steps: Sequence[str] | None) -> list[Attempt]:
        """See the contract."""
        tasks = documents.tasks_of_run(self._open(), flow_name, run_id, steps)
        return documents.in_order_of_appearance(documents.attempts(self._open(), tasks))

    def find_tasks(self, tasks: Iterable[TaskAddress]) -> list[Attempt]:
        """See the contract; but what others write meanwhile may be there in part."""
        return documents.attempts(self._open(), tasks)

    def load_artifacts(self, task: TaskAddress, attempt: int) -> Mapping[str, Artifact]:
        """See the contract."""
        for found in self.find_tasks([task]):
            if found.number == attempt and found.done is not None:
                return dict(found.reference.artifacts)
        raise TaskNotFound(f"Attempt {attempt} of task {task.pathspec} is not there, or not done.")

    def load_artifacts_of(self, attempts: Sequence[Attempt]) -> Sequence[Mapping[str, Artifact]]:
        """See the contract. They were read when the attempts were found."""
        self._open()
        return [dict(attempt.reference.artifacts) for attempt in attempts]

    def flows(self) -> list[str]:
        """See the contract."""
        found = documents.folders(self._open(), [""])
        return sorted(name for name in found if not name.startswith("mf."))

    def runs(self, flow_name: str) -> list[str]:
        """See the contract."""
        names = [path.rpartition("/")[2] for path in documents.folders(self._open(), [flow_name])]
        names = [name for name in names if name != layout.DATA_FOLDER]
        read = self._open().read(f"{flow_name}/{name}/{RUN_DOCUMENT}" for name in names)
        return sorted(names, key=lambda name: (_appeared(name, read.get(f"{flow_name}/{name}/{RUN_DOCUMENT}")), name))

    # Metadata

    def save_metadata(
        self, task: TaskAddress, attempt: int | None, values: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """See the contract."""
        _check_task(task)
        places = {layout.path_of(MetadataPlace(task, attempt, name)): text for name, text in values.items()}
        with self._alone() as paths:
            there = {} if overwrite else paths.have(places)
            missing = [path for path in places if not there.get(path)]
            if missing:
                self._appears(task)
                paths.save((Item(path, BytesIO(places[path].encode())) for path in missing), len(missing))

    def load_metadata(self, task: TaskAddress, attempt: int | None) -> dict[str, str]:
        """See the contract."""
        places = {
            layout.path_of(place): place.name
            for place in documents.in_tasks(self._open(), [task])[task]
            if isinstance(place, MetadataPlace) and place.attempt == attempt
        }
        return {places[path]: text.decode() for path, text in self._open().read(places).items()}

    # Logs

    def save_log(self, task: TaskAddress, attempt: int, source: str, stream: str, file: BinaryIO) -> None:
        """See the contract. The whole log is written each time."""
        _check_task(task)
        start = file.tell()

        def from_start() -> Any:
            file.seek(start)
            return _Unclosed(file)

        log = Gathered(payload_from(from_start))
        with self._alone() as paths:
            self._appears(task)
            paths.save([Item(layout.path_of(LogPlace(task, attempt, source, stream)), log.raw())], 1)

    def scrub_log(self, task: TaskAddress, attempt: int, source: str, stream: str, text: bytes) -> None:
        """Overwrite the log. Where the storage keeps versions (a bucket may) the old bytes are in an older one."""
        self.save_log(task, attempt, source, stream, BytesIO(text))

    def load_log(self, task: TaskAddress, attempt: int, source: str, stream: str) -> bytes | None:
        """See the contract."""
        path = layout.path_of(LogPlace(task, attempt, source, stream))
        return self._open().read([path]).get(path)

    def log_sizes(self, task: TaskAddress, attempt: int) -> dict[tuple[str, str], int]:
        """See the contract."""
        places = documents.in_tasks(self._open(), [task])[task]
        logs = [each for each in places if isinstance(each, LogPlace) and each.attempt == attempt]
        return {(each.source, each.stream): self._open().size(layout.path_of(each)) or 0 for each in logs}

    # Named files

    def save_file(self, path: str, payload: Payload, metadata: str | None = None, *, overwrite: bool = False) -> None:
        """See the contract."""
        if not overwrite and self.find_file(path) is not None:
            return
        [stored] = self.put_blobs(OWN, [payload])
        with self._alone() as paths:
            if overwrite or self.find_file(path) is None:
                files.write(paths, path, (*stored, metadata))

    def find_file(self, path: str) -> tuple[str, int, str | None] | None:
        """See the contract."""
        return files.find(self._open(), path)

    def files_below(self, folder: str) -> list[str]:
        """See the contract. Each folder is listed, and each document read."""
        return files.below(self._open(), folder)

    def delete_file(self, path: str) -> None:
        """Write down that the file is gone."""
        with self._alone() as paths:
            if self.find_file(path) is not None:
                files.write(paths, path, None)

    def close(self) -> None:
        """See the contract."""
        self._closed = True


class _Unclosed:
    """Reads a file that stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> BinaryIO:
        return self._file

    def __exit__(self, *_: object) -> None:
        pass


def _appeared(name: str, document: bytes | None) -> float:
    """Return when a run appeared [ns since 1970]; Metaflow makes its number of the time [us]."""
    try:
        return float(json.loads(document or b"{}")["first"])
    except (ValueError, TypeError, KeyError):
        return int(name) * 1e3 if name.isdecimal() else float("inf")


def _check_flow(flow_name: str) -> None:
    if flow_name.startswith("mf.") and flow_name != OWN:
        raise InvalidName(f"A flow in Metaflow's layout cannot be called {flow_name!r}: that is a folder of its own.")


def _check_task(task: TaskAddress) -> None:
    _check_flow(task.flow_name)
    if layout.METADATA_FOLDER in task or task.run_id == layout.DATA_FOLDER:
        raise InvalidName(f"A task in Metaflow's layout cannot be called {task.pathspec}: that is a folder of its own.")


def wrapped(storage: Any) -> DataStoreStorage:
    """Return a storage object of Metaflow's kind as a DataStoreStorage; one that is none raises InvalidType."""
    if not is_path_storage(storage):
        raise InvalidType(
            f"storage_impl makes a {type(storage).__name__}, which is neither a DataStoreStorage nor a storage of "
            "Metaflow's kind (with save_bytes, load_bytes, is_file, list_content and size_file)."
        )
    kind = type(storage)
    made = type(f"{kind.__name__}AsDataStoreStorage", (PathStorage,), {"TYPE": storage.TYPE, "_kind": kind})
    return made(storage)  # type: ignore[no-any-return]
