"""A task's datastore for reading ("r"), and for scrubbing logs ("d")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from sqlitestore.errors import InvalidType, TaskNotFound
from sqlitestore.model import Artifact, Attempt, check_attempt, check_iterable
from sqlitestore.stored_json import loaded as loaded_json
from sqlitestore.task_datastore import TaskDataStore


class TaskDataStoreReader(TaskDataStore):
    """Mode "r": artifacts, metadata and logs of an attempt."""

    _mode = "r"

    def _find(self, data_metadata: Mapping[str, Any] | None, allow_not_done: bool) -> None:
        if data_metadata is not None:
            if not isinstance(data_metadata, Mapping):
                raise InvalidType(f"data_metadata is what ds_metadata gives, not {type(data_metadata).__name__}.")
            self._objects = dict(data_metadata.get("objects", {}))
            self._info = dict(data_metadata.get("info", {}))
            self._origin = "somewhere"  # to be looked up before anything is loaded
            return
        attempts = self._storage_impl.find_tasks([self._task])
        latest = _latest_started(attempts)
        if self._attempt is None:
            self._attempt = latest
        elif latest is None or self._attempt > latest:
            return
        found = next((attempt for attempt in attempts if attempt.number == self._attempt), None)
        if found is not None and found.done is not None:
            self._origin = found.origin
            self._artifacts = partial(self._load_artifacts_of, found)
        elif self._attempt is None or not allow_not_done:
            raise self._not_done()

    def _load_artifacts_of(self, found: Attempt) -> Mapping[str, Artifact]:
        """Return the artifacts of the very attempt that was found, whatever has taken its name since."""
        return self._storage_impl.load_artifacts_of([found])[0]

    def _not_done(self) -> TaskNotFound:
        if self._attempt is None:
            return TaskNotFound(f"Task {self._task.pathspec} is not in {self._storage_impl.datastore_root}.")
        return TaskNotFound(
            f"Attempt {self._attempt} of task {self._task.pathspec} is not done; "
            "pass allow_not_done=True for its logs and metadata."
        )

    def keys_for_artifacts(self, names: Iterable[str]) -> list[str | None]:
        """Return the key of each named artifact, None where there is none."""
        names = check_iterable("artifact names", names)
        if self._keys is not None:
            return [self._keys.get(name) for name in names]
        found = self._artifacts()  # as found, of which only these are wanted
        return [found[name].key if name in found else None for name in names]

    def get_artifact_sizes(self, names: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Yield ``(name, size [bytes])`` of the serialized artifacts. Raises ArtifactNotFound."""
        for name in check_iterable("artifact names", names):
            yield name, self._size(name)

    def is_none(self, name: str) -> bool:
        """Return whether the artifact is None (loaded only if its type leaves a doubt), or not there."""
        info = self._info.get(name)
        return info is None or info.get("type") == str(type(None)) or self.get(name) is None

    def format(self, **kwargs: Any) -> str:
        """Return a line for each artifact, sorted; ``kwargs`` are those of ``to_dict``."""
        lines = [
            (name, f"*{name}* [size: {self._size(name)} type: {self._info[name].get('type')}] = {value}")
            for name, value in self.to_dict(**kwargs).items()
        ]
        return "\n".join(line for _, line in sorted(lines))

    def __str__(self) -> str:
        return self.format(show_private=True, max_value_size=1000)

    def load_metadata(self, names: Iterable[str], add_attempt: bool = True) -> dict[str, Any]:
        """Return the values of the metadata by name, None for a name that is not there.

        They are the attempt's, or with ``add_attempt`` False the task's. ``attempt.json``, ``DONE.lock`` and
        ``data.json`` give what Metaflow would have stored under these names.
        """
        values: dict[str, Any] = {}
        loaded: dict[int | None, dict[str, str]] = {}
        for asked in check_iterable("metadata names", names):
            attempt, name = self._metadata_place(asked, add_attempt)
            if attempt is not None and name in self._RESERVED:
                record = self._attempt_record(attempt)
                values[asked] = None if record is None else self._reserved(name, record)
                continue
            if attempt not in loaded:
                loaded[attempt] = self._storage_impl.load_metadata(self._task, attempt)
            text = loaded[attempt].get(name)
            values[asked] = None if text is None else loaded_json(text, f"Metadata {name!r} of {self._task.pathspec}")
        return values

    def _reserved(self, name: str, record: Attempt) -> Any:
        if name == self.METADATA_ATTEMPT_SUFFIX:
            return None if record.started is None else {"time": record.started}
        if record.done is None:
            return None
        if name == self.METADATA_DONE_SUFFIX:
            return ""
        found = self._storage_impl.load_artifacts(self._task, record.number)
        return {
            "datastore": self.TYPE,
            "version": "1.0",
            "attempt": record.number,
            "python_version": record.python,
            "objects": {artifact: details.key for artifact, details in found.items()},
            "info": {artifact: details.to_info() for artifact, details in found.items()},
        }

    def load_logs(
        self, logsources: Iterable[str], stream: str, attempt_override: int | None = None
    ) -> list[tuple[str, bytes]]:
        """Return ``(source, log)`` for each source, in order; ``b""`` where there is none."""
        attempt = self._attempt if attempt_override is None else check_attempt(attempt_override)
        return [
            (source, self._log(attempt, source, stream))
            for source in dict.fromkeys(check_iterable("log sources", logsources))
        ]

    def load_log_legacy(self, stream: str, attempt_override: int | None = None) -> bytes:
        """Return a log in the form of Metaflow before 2.2.6, without source; ``b""`` if there is none."""
        attempt = self._attempt if attempt_override is None else check_attempt(attempt_override)
        return self._log(attempt, "", stream)

    def _log(self, attempt: int | None, source: str, stream: str) -> bytes:
        if attempt is None:
            return b""
        return self._storage_impl.load_log(self._task, attempt, source, stream) or b""

    def get_log_size(self, logsources: Iterable[str], stream: str) -> int:
        """Return the size [bytes] of the logs together; 0 where there are none."""
        sizes = {} if self._attempt is None else self._storage_impl.log_sizes(self._task, self._attempt)
        return sum(sizes.get((source, stream), 0) for source in check_iterable("log sources", logsources))

    def get_legacy_log_size(self, stream: str) -> int | None:
        """Return the size [bytes] of a log without source, None if there is none."""
        sizes = {} if self._attempt is None else self._storage_impl.log_sizes(self._task, self._attempt)
        return sizes.get(("", stream))


class TaskDataStoreScrubber(TaskDataStore):
    """Mode "d": replaces what logs say. Needs an attempt that is done, unless ``allow_not_done``."""

    _mode = "d"

    def _find(self, data_metadata: Mapping[str, Any] | None, allow_not_done: bool) -> None:
        del data_metadata
        attempts = self._storage_impl.find_tasks([self._task])
        if self._attempt is None:
            self._attempt = _latest_started(attempts)
        if not allow_not_done and not any(a.number == self._attempt and a.done is not None for a in attempts):
            raise TaskNotFound(f"Task {self._task.pathspec} has no attempt that is done; pass allow_not_done=True.")

    def scrub_logs(self, logsources: Iterable[str], stream: str, attempt_override: int | None = None) -> None:
        """Put ``[REDACTED source stream]`` in the place of each log that is there.

        The old bytes are overwritten in the file, except where something else holds the same ones.
        """
        attempt = self._attempt if attempt_override is None else check_attempt(attempt_override)
        if attempt is None:
            return
        there = self._storage_impl.log_sizes(self._task, attempt)
        for source in dict.fromkeys([*check_iterable("log sources", logsources), ""]):
            if (source, stream) in there:
                text = f"[REDACTED {source or stream} {stream}]".encode()
                self._storage_impl.scrub_log(self._task, attempt, source, stream, text)


def _latest_started(attempts: Iterable[Attempt]) -> int | None:
    return max((attempt.number for attempt in attempts if attempt.started is not None), default=None)
