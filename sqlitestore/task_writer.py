"""A task's datastore for writing ("w")."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import BufferedIOBase, BytesIO, RawIOBase
from types import FunctionType, MethodType
from typing import Any, BinaryIO, cast, get_args

from sqlitestore import preview
from sqlitestore.blobs import Payload
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import (
    AttemptDone,
    DataException,
    InvalidInput,
    InvalidName,
    InvalidType,
    UnpicklableArtifactException,
)
from sqlitestore.model import Artifact, Buffer, DataArtifact, MetaDatum, check_iterable, check_name
from sqlitestore.pickling import SERIALIZERS, Serializer, WriteFile
from sqlitestore.task_datastore import TaskDataStore

_NO_PAIRS = (str, *get_args(Buffer))


class TaskDataStoreWriter(TaskDataStore):
    """Mode "w": saves one attempt, which nobody sees until ``done``.

    Unlike in Metaflow, an attempt that is done is never written again, by whichever process: AttemptDone. Only logs
    and metadata may still arrive then, from a writer that did not finish the attempt itself.
    """

    _mode = "w"
    _finished = False
    """By this writer; it may still have to tell the metadata provider."""

    def _find(self, data_metadata: Mapping[str, Any] | None, allow_not_done: bool) -> None:
        """Begin with nothing, whatever there is."""
        del data_metadata, allow_not_done
        self._in_progress = self._storage_impl.attempt_in_progress(self._task)

    def init_task(self) -> None:
        """Start the attempt: from now on it is the task's latest. Raises AttemptDone."""
        self._check_not_done()
        self._storage_impl.start_attempt(self._task, self._number("init_task"), time.time())
        crash_point("attempt-started")

    def save_artifacts(self, artifacts_iter: Iterable[tuple[str, Any]], len_hint: int = 0) -> None:
        """Save the ``(name, object)`` pairs that ``artifacts_iter`` yields, each before the next is asked for.

        Objects are serialized straight into the store: beside the object itself some tens of MiB are needed, whatever
        its size. Small ones may wait in memory, up to a MiB together, and be written by ``done``. A name saved
        again replaces the earlier object. If the iterator or an object's serializing raises, none of the call's
        artifacts are recorded; the latter is an UnpicklableArtifactException that names the artifact, with the cause
        chained.
        """
        del len_hint
        self._check_not_done()
        if self._attempt is not None:
            self._storage_impl.check_writable(self._task, self._attempt)
        check_iterable("(name, object) pairs", artifacts_iter)
        if isinstance(artifacts_iter, Mapping):
            raise InvalidType("save_artifacts takes (name, object) pairs; of a mapping, pass its items().")
        infos: list[tuple[str, dict[str, Any]]] = []
        stored = self._in_progress.put(self._payloads(artifacts_iter, infos))
        crash_point("artifacts-put")
        for (name, info), blob in zip(infos, stored, strict=True):
            info["size"] = blob.size
            self._objects[name] = blob.key
            self._info[name] = info

    def _payloads(self, artifacts: Iterable[Any], infos: list[tuple[str, dict[str, Any]]]) -> Iterator[Payload]:
        for pair in artifacts:
            try:
                if isinstance(pair, _NO_PAIRS):
                    raise TypeError  # noqa: TRY301 - two letters are no pair
                name, obj = pair
            except (TypeError, ValueError) as error:
                raise InvalidType(f"save_artifacts takes (name, object) pairs, not {type(pair).__name__}.") from error
            del pair
            check_name("artifact", name)
            serializer, source = SERIALIZERS.for_object(obj)
            info = {"size": 0, "type": _type_of(obj), "encoding": serializer.encoding}
            if described := preview.describe(obj):
                info["preview"] = described
            infos.append((name, info))
            yield self._payload(name, obj, serializer, source, info)
            del obj  # before the next is made: two of them may not fit into memory

    def _payload(self, name: str, obj: Any, serializer: Serializer, source: str, info: dict[str, Any]) -> Payload:
        def write_to(file: WriteFile) -> None:
            try:
                told = dict(serializer.serialize(obj, file) or {})
            except (DataException, MemoryError):
                raise
            except Exception as error:
                raise UnpicklableArtifactException(
                    f"Artifact {name!r} of task {self._task.pathspec} (a {type(obj).__qualname__}) cannot be saved: "
                    f"{type(error).__name__}: {error}. Nothing of this call was saved."
                ) from error
            if told or source:
                info["serializer_info"] = {"source": source, **told}

        return write_to

    def done(self) -> None:
        """Make the artifacts and the done marker visible, in one transaction, then tell the metadata provider.

        Raises AttemptDone if the attempt is done already; nothing was changed then. If the provider raises, the attempt
        is done, and calling again tells the provider again.
        """
        self._check_not_done()
        number = self._number("done")
        if not self._finished:
            artifacts = {
                check_name("artifact", name): Artifact.from_info(key, self._info.get(name, {}))
                for name, key in self._objects.items()
            }
            self._in_progress.finish(number, artifacts, time.time())
            crash_point("attempt-done")
            self._finished = True
        if self._metadata:
            self._register(number)
        self._is_done_set = True

    def _register(self, number: int) -> None:
        attempt_done = MetaDatum("attempt-done", str(number), "attempt-done", [f"attempt_id:{number}"])
        self._metadata.register_metadata(*self._task[1:], [attempt_done])
        crash_point("attempt-done-registered")
        root = self._storage_impl.datastore_root
        artifacts = [
            DataArtifact(name, self.TYPE, root, None, self._info[name]["encoding"], key)
            for name, key in self._objects.items()
        ]
        self._metadata.register_data_artifacts(*self._task[1:], number, artifacts)

    def clone(self, origin: TaskDataStore) -> None:
        """Take over all artifacts of ``origin``, a datastore of the same store, without loading them.

        Raises Untrusted if they may not be loaded there: here they could be.
        """
        self._check_not_done()
        _check_origin(origin)
        _check_trust(origin, next(iter(origin._objects), ""))
        self._have_put(origin)
        self._objects = dict(origin._objects)
        self._info = dict(origin._info)
        self._in_progress.hold(self._objects.values())
        crash_point("clone-held")

    def passdown_partial(self, origin: TaskDataStore, variables: Iterable[str]) -> None:
        """Take over the named artifacts of ``origin`` without loading them; names that it lacks are passed over.

        Raises Untrusted if they may not be loaded there.
        """
        self._check_not_done()
        _check_origin(origin)
        self._have_put(origin)
        taken = {
            name: key for name in check_iterable("artifact names", variables) if (key := origin._objects.get(name))
        }
        for name, key in taken.items():
            _check_trust(origin, name)
            self._objects[name] = key
            self._info[name] = origin._info[name]
        self._in_progress.hold(taken.values())
        crash_point("passed-down-held")

    def transfer_artifacts(self, other_datastore: TaskDataStore, names: Iterable[str] | None = None) -> None:
        """Copy blobs of another store's task (all, or those of the named artifacts) that are missing in this store."""
        self._check_not_done()
        _check_origin(other_datastore)
        self._have_put(other_datastore)
        theirs = other_datastore._storage_impl
        if (theirs.TYPE, theirs.datastore_root) == (self.TYPE, self._storage_impl.datastore_root):
            return
        objects = other_datastore._objects
        keys = list(dict.fromkeys(objects[name] for name in (objects if names is None else names) if name in objects))
        there = self._storage_impl.has_blobs(self._task.flow_name, keys)
        missing = [key for key, found in zip(keys, there, strict=True) if not found]
        blobs = other_datastore._ca_store.load_blobs(missing, is_transfer=True)
        saved = self._ca_store.save_blobs(blobs, is_transfer=True)
        self._in_progress.take_over(blob.key for blob in saved)
        crash_point("artifacts-transferred")

    def _have_put(self, origin: object) -> None:
        """Have all in its store that is taken over from an attempt which may never be done."""
        if isinstance(origin, TaskDataStoreWriter) and origin is not self:
            origin._in_progress.put_what_waits()

    def persist(self, flow: Any) -> None:
        """Save the attributes of ``flow``, an instance of a flow's class, as artifacts.

        Like Metaflow's, it takes each artifact off the object while saving it, so that the memory is free again;
        "name" and what begins with "_" stay. What ``flow._datastore`` holds is passed down first: Untrusted is
        raised if that may not be loaded.
        """
        self._check_not_done()
        if not self._persist:
            return
        if not hasattr(flow, "_datastore") or not hasattr(flow, "_EPHEMERAL"):
            raise InvalidType(f"persist takes an instance of a flow's class, not {type(flow).__name__}.")
        if flow._datastore:
            _check_trust(flow._datastore, next(iter(flow._datastore._objects), ""))
            self._have_put(flow._datastore)
            self._objects.update(flow._datastore._objects)
            self._info.update(flow._datastore._info)
        artifacts = list(_artifacts_of(flow))
        original = getattr(flow._datastore, "orig_datastore", None)
        if original is not None:
            unchanged = set(flow._datastore._objects) - {name for name, _ in artifacts}
            self.transfer_artifacts(original, names=sorted(unchanged))

        def taken_off() -> Iterator[tuple[str, Any]]:
            while artifacts:
                name, value = artifacts.pop()
                if not name.startswith("_") and name != "name":
                    delattr(flow, name)
                yield name, value
                del value

        self.save_artifacts(taken_off(), len_hint=len(artifacts))

    def save_metadata(
        self, contents: Mapping[str, Any], allow_overwrite: bool = True, add_attempt: bool = True
    ) -> None:
        """Save what JSON can hold under each name, all or nothing: of the attempt, or else of the task.

        Without ``allow_overwrite`` a name that has a value keeps it. Raises InvalidType (InvalidInput) for a value that
        JSON refuses, and InvalidName for ``attempt.json``, ``DONE.lock`` and ``data.json``, which ``init_task`` and
        ``done`` write.
        """
        self._check_not_done()
        self._dangerous_save_metadata_post_done(contents, allow_overwrite, add_attempt)

    def _dangerous_save_metadata_post_done(
        self, contents: Mapping[str, Any], allow_overwrite: bool = True, add_attempt: bool = True
    ) -> None:
        """Save metadata also after ``done``, as Metaflow's runtime does with this method."""
        if not isinstance(contents, Mapping):
            raise InvalidType(f"save_metadata takes a mapping of names to values, not {type(contents).__name__}.")
        by_attempt: dict[int | None, dict[str, str]] = {}
        for asked, value in contents.items():
            attempt, name = self._metadata_place(asked, add_attempt)
            if attempt is not None and name in self._RESERVED:
                raise InvalidName(
                    f"{name!r} is written by init_task() and done() only; give the metadata another name."
                )
            by_attempt.setdefault(attempt, {})[name] = self._json(asked, value)
        for attempt, texts in by_attempt.items():
            self._storage_impl.save_metadata(self._task, attempt, texts, overwrite=allow_overwrite)
            crash_point("task-metadata-saved")

    def _json(self, name: str, value: Any) -> str:
        try:
            return json.dumps(value)
        except TypeError as error:
            raise InvalidType(f"Metadata {name!r} of task {self._task.pathspec} is not JSON: {error}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"Metadata {name!r} of task {self._task.pathspec} is not JSON: {error}") from error

    def save_logs(self, logsource: str, stream_data: Mapping[str, Any]) -> None:
        """Save logs of one source by stream: text, bytes, a readable binary file, or the path of one.

        Each is the whole log; when it has only grown since it was saved last, only the new end is written.
        """
        self._check_not_done()
        number = self._number("save_logs")
        check_name("log source", logsource)
        if not isinstance(stream_data, Mapping):
            raise InvalidType(f"save_logs takes a mapping of streams to logs, not {type(stream_data).__name__}.")
        with ExitStack() as opened:
            files = {
                check_name("log stream", stream): opened.enter_context(self._open_log(stream, data))
                for stream, data in stream_data.items()
            }
            for stream, file in files.items():
                self._storage_impl.save_log(self._task, number, logsource, stream, file)
                crash_point("log-stream-saved")

    def _open_log(self, stream: str, data: Any) -> BinaryIO:
        if isinstance(data, str):
            try:
                return BytesIO(data.encode())
            except UnicodeEncodeError as error:
                raise InvalidInput(f"The log {stream!r} of task {self._task.pathspec} is no text: {error}") from error
        if isinstance(data, Buffer):
            return BytesIO(data)
        if isinstance(data, RawIOBase | BufferedIOBase) and data.readable():
            # A copy: the caller's file stays open, and need not be seekable.
            return BytesIO(cast("bytes", data.read()))
        if isinstance(data, os.PathLike) or type(data).__name__ == "Path":  # Metaflow's own Path is not an os.PathLike
            try:
                return open(str(data), "rb")
            except OSError as error:
                raise InvalidInput(
                    f"The log {stream!r} of task {self._task.pathspec} cannot be read: {error}"
                ) from error
        raise InvalidType(
            f"The log {stream!r} of task {self._task.pathspec} is text, bytes, a binary file or a path, "
            f"not {type(data).__name__}."
        )

    def _check_not_done(self) -> None:
        if self._is_done_set:
            raise AttemptDone(
                f"Attempt {self._attempt} of task {self._task.pathspec} is done and never changes again; "
                "write the next attempt instead."
            )

    def _number(self, method: str) -> int:
        if self._attempt is None:
            raise InvalidInput(
                f"{method}() needs to know the attempt: get the datastore of {self._task.pathspec} with attempt=0 "
                "(or 1, ...)."
            )
        return self._attempt


def _check_trust(origin: Any, name: str) -> None:
    """Raise Untrusted if what would be taken over may not be loaded where it is; ``spin`` lays others over it."""
    check = getattr(getattr(origin, "orig_datastore", origin), "_check_trust", None)
    if check is not None:
        check(name)


def _check_origin(origin: object) -> None:
    # Also one of Metaflow's own, or a SpinTaskDatastore: whatever has keys and information by artifact name.
    if not hasattr(origin, "_objects") or not hasattr(origin, "_info"):
        raise InvalidType(f"Artifacts are taken over from a task's datastore, not from {type(origin).__name__}.")


def _type_of(obj: Any) -> str:
    """Return ``str(type(obj))``, as Metaflow stores it; a class may have any text for a name, a column may not."""
    try:
        text = str(type(obj))
    except Exception:  # noqa: BLE001 - a metaclass may say what it likes
        text = f"<class '{type(obj).__module__}.{type(obj).__qualname__}'>"
    return text.encode(errors="backslashreplace").decode()[:1000]


def _artifacts_of(flow: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that are artifacts: no methods, properties, parameters, and not what is ephemeral."""
    parameters = sys.modules.get("metaflow.parameters")  # without it nothing can be a Parameter
    no_artifacts: tuple[type, ...] = (MethodType, FunctionType)
    if parameters is not None:
        no_artifacts += (parameters.Parameter,)
    for name in dir(flow):
        if name.startswith("__") or name in flow._EPHEMERAL:
            continue
        if isinstance(getattr(type(flow), name, None), property):
            continue
        value = getattr(flow, name)
        if not isinstance(value, no_artifacts):
            yield name, value
