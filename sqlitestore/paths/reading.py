"""Paths to bytes: what stands at Metaflow's paths, from our tables, in a query or two for hundreds of paths.

A file kept by its path goes first: it is there when a document says more than the tables can (see ``writing``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.artifact_lookup import ArtifactsTogether
from sqlitestore.blobs import BlobReader
from sqlitestore.errors import BlobLeftOut, Damaged
from sqlitestore.layout import BlobPlace, LogPlace, MarkerPlace, MetadataPlace, Place
from sqlitestore.model import Artifact, Attempt, TaskAddress
from sqlitestore.stored_json import loaded
from sqlitestore.tables import Tables

TYPE = "sqlite"
"""The name of the datastore, the metadata provider and the data client."""

BLOB_METADATA = {"cas_raw": True, "cas_version": 1}
"""Of every blob, however it was saved: its bytes are handed out as they are."""

TOGETHER = 900
"""Paths that are looked up at a time: those of 50 tasks in Metaflow's look-up of many."""

BLOCK = 2**20
"""[bytes] Copied at a time."""


def explain_missing(store: Tables, path: str) -> None:
    """Raise BlobLeftOut if the blob at ``path`` is one that an export left out."""
    place = layout.place_of(path)
    if isinstance(place, BlobPlace):
        error = store.blobs.missing(place.key)
        if isinstance(error, BlobLeftOut):
            raise error


class Found(NamedTuple):
    """What stands at a path: its size [bytes], its bytes in blocks, and the metadata of a blob or file."""

    size: Callable[[], int]
    blocks: Callable[[], Iterable[bytes]]
    metadata: dict[str, Any] | None = None


def find(store: Tables, folder: str, paths: Iterable[str]) -> Iterator[Found | None]:
    """Yield what stands at each path, None where there is nothing, in order.

    ``folder`` is the root's in the file; in one, all paths are files.
    """
    paths = list(paths)
    for start in range(0, len(paths), TOGETHER):
        some = paths[start : start + TOGETHER]
        lookup = _Lookup(store)
        places = {} if folder else {path: place for path in some if (place := layout.place_of(path))}
        found = lookup.blobs(places)  # never a file too
        if len(found) < len(some):
            files = _find_files(store, folder, [path for path in some if path not in found])
            found |= {path: _distrusted(store, places.get(path), file) for path, file in files.items()}
            found |= lookup.others({path: place for path, place in places.items() if path not in found})
        yield from (found.get(path) for path in some)


def in_folder(folder: str, path: str) -> str:
    """Return the path under which a file is kept."""
    return f"{folder}/{path}" if folder else path


def _find_files(store: Tables, folder: str, paths: Sequence[str]) -> dict[str, Found]:
    asked = {in_folder(folder, path): path for path in paths}
    return {
        asked[full]: _of_size(
            size,
            partial(_blob_blocks, store, key),
            None if metadata is None else loaded(metadata, f"What {store.database.path} has beside {full!r}"),
        )
        for full, (key, size, metadata) in store.files.find_all(asked).items()
    }


def _distrusted(store: Tables, place: Place | None, file: Found) -> Found:
    """Return a file, or of an untrusted run's artifacts one under whose encodings nothing is unpickled."""
    if not isinstance(place, MarkerPlace) or place.name != layout.DATA or store.trust.origin(*place.task[:2]) is None:
        return file
    document = layout.distrusted_document(b"".join(file.blocks()), "/".join(place.task[:2]))
    return Found(lambda: len(document), lambda: [document], file.metadata)


def _of_size(size: int, blocks: Callable[[], Iterable[bytes]], metadata: dict[str, Any] | None = None) -> Found:
    return Found(lambda: size, blocks, metadata)


def _blob_blocks(store: Tables, key: str, opened: dict[str, BlobReader] | None = None) -> Iterator[bytes]:
    """Yield a blob's bytes; the one in ``opened`` is taken for the first time that it is asked for."""
    reader = (opened or {}).pop(key, None) or store.blobs.open(key)
    with reader:
        while block := reader.read(BLOCK):
            yield block


class _Lookup:
    """One look-up of many places, each kind in a query of its own."""

    def __init__(self, store: Tables) -> None:
        self._store = store

    def blobs(self, places: Mapping[str, Place]) -> dict[str, Found]:
        keys = {path: place.key for path, place in places.items() if isinstance(place, BlobPlace)}
        if len(keys) == 1:  # what a client asks for, thousands of times
            opened = self._store.blobs.open_all(keys.values())
            return {
                path: _of_size(opened[key].size, partial(_blob_blocks, self._store, key, opened), dict(BLOB_METADATA))
                for path, key in keys.items()
                if key in opened
            }
        sizes = self._store.blobs.sizes(set(keys.values())) if keys else {}
        return {
            path: _of_size(sizes[key], partial(_blob_blocks, self._store, key), dict(BLOB_METADATA))
            for path, key in keys.items()
            if key in sizes
        }

    def others(self, places: Mapping[str, Place]) -> dict[str, Found]:
        found = self._markers([place for place in places.values() if isinstance(place, MarkerPlace)])
        found |= self._logs([place for place in places.values() if isinstance(place, LogPlace)])
        found |= self._metadata([place for place in places.values() if isinstance(place, MetadataPlace)])
        return {path: found[place] for path, place in places.items() if place in found}

    def _markers(self, places: Sequence[MarkerPlace]) -> dict[Place, Found]:
        if not places:
            return {}
        attempts = self._store.tasks.find_tasks(dict.fromkeys(place.task for place in places))
        together = ArtifactsTogether(self._store.tasks.artifacts, attempts)
        by_number = {(attempt.task, attempt.number): attempt for attempt in attempts}
        found: dict[Place, Found] = {}
        for place in places:
            attempt = by_number.get((place.task, place.attempt))
            if attempt is not None and (document := _marker(attempt, place.name, together)):
                found[place] = _document(document)
        return found

    def _logs(self, places: Sequence[LogPlace]) -> dict[Place, Found]:
        sizes: dict[tuple[TaskAddress, int], dict[tuple[str, str], int]] = {}
        found: dict[Place, Found] = {}
        for place in places:
            of = (place.task, place.attempt)
            if of not in sizes:
                sizes[of] = self._store.logs.sizes(*of)
            size = sizes[of].get((place.source, place.stream))
            if size is not None:
                found[place] = _of_size(size, partial(self._log_blocks, place))
        return found

    def _log_blocks(self, place: LogPlace) -> Iterator[bytes]:
        yield self._store.logs.load(*place) or b""

    def _metadata(self, places: Sequence[MetadataPlace]) -> dict[Place, Found]:
        loaded: dict[tuple[TaskAddress, int | None], dict[str, str]] = {}
        found: dict[Place, Found] = {}
        for place in places:
            of = (place.task, place.attempt)
            if of not in loaded:
                loaded[of] = self._store.metadata.load(*of)
            text = loaded[of].get(place.name)
            if text is not None:
                found[place] = _document(text.encode)
        return found


def _document(load: Callable[[], bytes]) -> Found:
    return Found(lambda: len(load()), lambda: [load()])


def _marker(attempt: Attempt, name: str, together: ArtifactsTogether) -> Callable[[], bytes] | None:
    """Return how to make one of the three documents of an attempt, None if it is not there."""
    if name == layout.ATTEMPT:
        return None if attempt.started is None else partial(layout.attempt_document, attempt.started)
    if attempt.done is None:
        return None
    if name == layout.DONE:
        return lambda: layout.DONE_DOCUMENT
    python = attempt.python or ""

    def data() -> bytes:
        artifacts: Mapping[str, Artifact] = together.artifacts(attempt)
        untrusted = None if attempt.origin is None else "/".join(attempt.task[:2])
        try:
            return layout.data_document(attempt.number, layout.DataDocument(artifacts, python), TYPE, untrusted)
        except (TypeError, ValueError, RecursionError) as error:
            what = f"What is said of the artifacts of {attempt.task.pathspec}"
            raise Damaged(f"{what} is nothing that JSON can hold ({type(error).__name__}: {error}).") from error

    return data


# Listing


def children(store: Tables, folder: str, path: str) -> dict[str, bool]:
    """Return the names one level below ``path``, each with whether it is a file."""
    names: dict[str, bool] = {}
    full = in_folder(folder, path).strip("/")
    for below in store.files.below(full):
        name, _, more = (below[len(full) + 1 :] if full else below).partition("/")
        names[name] = names.get(name, True) and not more
    if not folder:
        names |= _in_tables(store, [part for part in path.split("/") if part])
    return names


def _in_tables(store: Tables, parts: Sequence[str]) -> dict[str, bool]:
    folders: list[str] = []
    files: list[str] = []
    match parts:
        case []:
            folders = store.tasks.flows()
        case [flow] if flow in store.tasks.flows():
            folders = store.tasks.runs(flow) + (["data"] if store.blobs.starts() else [])
        case [flow, "data"] if flow in store.tasks.flows():
            folders = store.blobs.starts()
        case [flow, "data", start] if flow in store.tasks.flows() and len(start) == len("xx"):
            files = store.blobs.keys(start)
        case [flow, run]:
            folders = [step for step, _ in _tasks(store, flow, run, None)]
        case [flow, run, step]:
            folders = [task for name, task in _tasks(store, flow, run, [step]) if name == step]
        case [flow, run, step, task]:
            files = list(_in_task(store, TaskAddress(flow, run, step, task)))
    return dict.fromkeys(folders, False) | dict.fromkeys(files, True)


def _tasks(store: Tables, flow: str, run: str, steps: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return (step, task) of each attempt, and of what has metadata only."""
    found = [attempt.task[2:] for attempt in store.tasks.find_run(flow, run, steps)]
    return found + store.metadata.tasks(flow, run)


def _in_task(store: Tables, task: TaskAddress) -> Iterator[str]:
    """Yield the names of what stands in a task."""
    places: list[Place] = [MetadataPlace(task, *name) for name in store.metadata.names(task)]
    for attempt in store.tasks.find_tasks([task]):
        number = attempt.number
        if attempt.started is not None:
            places.append(MarkerPlace(task, number, layout.ATTEMPT))
        if attempt.done is not None:
            places += [MarkerPlace(task, number, name) for name in (layout.DATA, layout.DONE)]
        places += [LogPlace(task, number, *log) for log in store.logs.sizes(task, number)]
    yield from (layout.path_of(place).rpartition("/")[2] for place in places)
