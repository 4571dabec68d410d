"""Bytes to paths: what Metaflow saves at its paths, into our tables.

What the tables cannot say to the letter (a document with more fields, bytes that are no document at all) is also kept
as a file under its path, which readers look at first: nothing that was saved reads back as something else.

Metaflow's contract overwrites where the rest of the package refuses to: here a done attempt may be written again.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from sqlitestore import layout
from sqlitestore.blobs import INLINE, Payload, hasher_for, key_of, payload_of
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import InvalidKey
from sqlitestore.layout import BlobPlace, LogPlace, MarkerPlace, MetadataPlace
from sqlitestore.model import TaskAddress
from sqlitestore.paths.previews import with_previews
from sqlitestore.paths.reading import TYPE, find, in_folder
from sqlitestore.paths.stores import task_ends, task_starts
from sqlitestore.tables import Tables
from sqlitestore.tasks import Finished

BLOCK = 2**17
"""[bytes] Given to a blob at a time: below what would begin a chunk of its own, wherever the content has its cuts."""

LARGEST_METADATUM = 2**20
"""[bytes] A larger one is kept as a file."""


def hold_blobs(store: Tables, folder: str, paths: Iterable[str]) -> None:
    """Hold those of the paths that are blobs and are there, if this process can write at all."""
    places = [] if folder else [layout.place_of(path) for path in paths]
    keys = [place.key for place in places if isinstance(place, BlobPlace)]
    if keys and store.database.writable:
        store.blobs.hold(keys)


class Saved(NamedTuple):
    """One of the things to save: where, its bytes as a seekable file, and the metadata given with it."""

    path: str
    file: BinaryIO
    metadata: dict[str, Any] | None


class PathWriter:
    """Saves what one call of ``save_bytes`` brings. While its iterator runs, no transaction is open."""

    def __init__(
        self,
        store: Tables,
        folder: str,
        *,
        overwrite: bool,
        done_at: Mapping[tuple[TaskAddress, int], float] | None = None,
    ) -> None:
        self._store = store
        self._done_at = done_at or {}
        """When attempts were done [s since 1970], which their documents do not say; of others it is now."""
        self._folder = folder
        self._overwrite = overwrite
        self._flows: set[str] = set()
        """Of the blobs: a flow is known as soon as it has one, so that it can be listed."""
        self._markers: dict[tuple[TaskAddress, int], dict[str, bytes]] = {}

    def save(self, items: Iterable[tuple[str, Any]]) -> None:
        """Save all; the documents of attempts together at the end, those of one attempt in one transaction."""
        # Small blobs gather in put(), which takes them in batches, and asks the generator for the next one.
        self._store.blobs.put(*_in_two(self._small_blobs(items)))
        crash_point("paths-blobs-put")
        for flow_name in self._flows - set(self._store.tasks.flows()):
            self._store.data.keep(flow_name, ())
            crash_point("paths-flow-known")
        for (task, number), documents in self._markers.items():
            self._save_markers(task, number, documents)
            crash_point("paths-attempt-saved")

    def task_starts(self) -> None:
        """Note that this process writes a task."""
        task_starts(self._store)

    def task_ends(self) -> None:
        """Note that it is done."""
        task_ends()

    def _small_blobs(self, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[Payload, str]]:
        for path, given in items:
            saved = _saved(path, given)
            if not self._overwrite and next(find(self._store, self._folder, [path])) is not None:
                continue
            place = None if self._folder else layout.place_of(path)
            if isinstance(place, BlobPlace):
                self._flows.add(place.flow_name)
                small = self._blob(place, saved)
                if small is not None:
                    yield payload_of(small), place.key
            elif isinstance(place, MarkerPlace) and saved.metadata is None:
                documents = self._markers.setdefault((place.task, place.attempt), {})
                documents[place.name] = saved.file.read()
            elif isinstance(place, LogPlace) and saved.metadata is None:
                self._store.logs.save(*place, saved.file)
                crash_point("paths-log-saved")
                self._forget_files(path)
            elif isinstance(place, MetadataPlace):
                self._metadatum(place, saved)
            else:
                self._file(saved)
                crash_point("paths-file-saved")
                if isinstance(place, LogPlace):
                    self._store.logs.delete(*place)

    def _file(self, saved: Saved) -> None:
        """Keep bytes and metadata under the path."""
        start = saved.file.tell()

        def write_to(file: Any) -> None:
            saved.file.seek(start)
            while block := saved.file.read(BLOCK):
                file.write(block)

        metadata = None if saved.metadata is None else json.dumps(saved.metadata)
        self._store.files.save(in_folder(self._folder, saved.path), write_to, metadata, overwrite=True)

    def _forget_files(self, *paths: str) -> None:
        for path in self._store.files.find_all([in_folder(self._folder, path) for path in paths]):
            self._store.files.delete(path)

    # Blobs

    def _blob(self, place: BlobPlace, saved: Saved) -> bytes | None:
        """Save a blob under its key, without Metaflow's gzip; return it instead if it is small.

        Bytes that are not what the key says are kept as a file, like anything else under a path; but not in the place
        of the blob itself, which nothing replaces.
        """
        start = saved.file.tell()
        meta = saved.metadata or {}
        with suppress(InvalidKey, gzip.BadGzipFile, EOFError, zlib.error):  # not what it should be
            if meta.get("cas_version") == 1:
                opened = _unpacker(saved.file, raw=bool(meta.get("cas_raw")))
                head = opened().read(INLINE + 1)
                if len(head) > INLINE:
                    self._large_blob(place, opened, keep=bool(meta.get("cas_raw")))
                    self._forget_files(saved.path)
                    return None
                if _digest(place.key, head) == place.key:
                    self._forget_files(saved.path)
                    if not meta.get("cas_raw"):
                        return head
                    self._put(place, payload_of(head), keep=True)
                    return None
        if not self._store.blobs.has([place.key])[0]:
            saved.file.seek(start)
            self._file(saved)
        return None

    def _large_blob(self, place: BlobPlace, opened: Callable[[], BinaryIO], *, keep: bool) -> None:
        def write_to(file: Any) -> None:
            source = opened()
            while block := source.read(BLOCK):
                file.write(block)

        self._put(place, write_to, keep=keep)

    def _put(self, place: BlobPlace, payload: Payload, *, keep: bool) -> None:
        # Kept in the transaction that stores it: Metaflow does not save again what is there, so nothing would keep it.
        root = self._store.data.root(place.flow_name) if keep else None
        self._store.blobs.put([payload], [place.key], root=root)
        crash_point("paths-blob-put")
        if keep:
            self._store.data.keep(place.flow_name, [place.key])

    # Metadata of tasks and attempts

    def _metadatum(self, place: MetadataPlace, saved: Saved) -> None:
        start = saved.file.tell()
        data = saved.file.read(LARGEST_METADATUM + 1)
        text = None if saved.metadata is not None or len(data) > LARGEST_METADATUM else _json_text(data)
        if text is None:
            saved.file.seek(start)
            self._file(saved)
            self._store.metadata.delete(*place)
        else:
            self._store.metadata.save(place.task, place.attempt, {place.name: text}, overwrite=True)
            crash_point("paths-metadatum-saved")
            self._forget_files(saved.path)

    # Attempts

    def _save_markers(self, task: TaskAddress, number: int, documents: Mapping[str, bytes]) -> None:
        """Make the attempt what the three documents say, those that are there already included."""
        if layout.DONE in documents:
            self.task_ends()
        elif layout.ATTEMPT in documents:
            self.task_starts()
        if set(documents) == {layout.ATTEMPT}:
            started = layout.read_attempt_document(documents[layout.ATTEMPT])
            if started is not None:  # the usual start of a task
                self._store.tasks.restart(task, number, started)
                crash_point("paths-attempt-restarted")
                self._forget_files(layout.path_of(MarkerPlace(task, number, layout.ATTEMPT)))
                return
        # Read before the transaction, which so does not wait for it.
        understood = self._understood(task, number, {**self._documents_there(task, number), **documents})
        with self._store.database.write():
            now = {**self._documents_there(task, number), **documents}
            if understood.documents != now:  # another process wrote meanwhile
                understood = self._understood(task, number, now)
            self._store.tasks.rewrite(task, number, understood.started, understood.finished)
            crash_point("paths-attempt-rewritten")
            for name, document in now.items():
                path = layout.path_of(MarkerPlace(task, number, name))
                if name not in understood.kept:
                    self._forget_files(path)
                elif name in documents or not self._store.files.find(path):
                    self._store.files.save(path, payload_of(document), None, overwrite=True)

    def _documents_there(self, task: TaskAddress, number: int) -> dict[str, bytes]:
        places = {name: layout.path_of(MarkerPlace(task, number, name)) for name in layout.MARKERS}
        found: dict[str, bytes] = {}
        for name, there in zip(places, find(self._store, "", places.values()), strict=True):
            if there is not None and there.metadata is None:  # with metadata it is a file, whatever it says
                found[name] = b"".join(there.blocks())
        return found

    def _understood(self, task: TaskAddress, number: int, documents: dict[str, bytes]) -> _Understood:
        kept = set(documents)
        started = layout.read_attempt_document(documents.get(layout.ATTEMPT, b""))
        if started is not None:
            kept.discard(layout.ATTEMPT)
        if documents.get(layout.DONE) != layout.DONE_DOCUMENT or layout.DATA not in documents:
            return _Understood(documents, started, None, kept)
        data = documents[layout.DATA]
        sizes = self._store.blobs.sizes(layout.keys_in_data_document(data))
        read, exact = layout.read_data_document(data, number, TYPE, sizes)
        if read is None:
            return _Understood(documents, started, None, kept)
        kept -= {layout.DONE, layout.DATA} if exact else {layout.DONE}
        artifacts = with_previews(self._store, read.artifacts)
        return _Understood(
            documents, started, Finished(artifacts, self._done_at.get((task, number)) or time.time(), read.python), kept
        )


class _Understood(NamedTuple):
    """What the documents of an attempt mean, and which of them the tables cannot say to the letter."""

    documents: dict[str, bytes]
    started: float | None
    finished: Finished | None
    kept: set[str]


def _in_two(pairs: Iterator[tuple[Payload, str]]) -> tuple[Iterator[Payload], Iterator[str]]:
    """Return the payloads and their keys apart; ``put`` takes one of each at a time."""
    keys: list[str] = []

    def payloads() -> Iterator[Payload]:
        for payload, key in pairs:
            keys.append(key)
            yield payload

    def taken() -> Iterator[str]:
        while keys:
            yield keys.pop(0)

    return payloads(), taken()


def _saved(path: str, given: Any) -> Saved:
    """Return what Metaflow gives for a path: a file, or one with a dictionary of metadata."""
    file, metadata = given if isinstance(given, tuple) else (given, None)
    if not file.seekable():
        file = BytesIO(file.read())
    return Saved(path, file, metadata or None)


def _unpacker(file: BinaryIO, *, raw: bool) -> Callable[[], BinaryIO]:
    """Return what opens the bytes themselves, from the beginning, as often as it is asked."""
    start = file.tell()

    def opened() -> Any:
        file.seek(start)
        return file if raw else gzip.GzipFile(fileobj=file, mode="rb")

    return opened


def _digest(key: str, data: bytes) -> str:
    hasher = hasher_for(key_of(key))
    hasher.update(data)
    return str(hasher.hexdigest())


def _json_text(data: bytes) -> str | None:
    """Return JSON as a text that becomes the same bytes again, None for anything else."""
    try:
        text = data.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return text if "\0" not in text else None
