"""What a task saved, seen by whoever reads, writes or scrubs it: the part that all three share.

``TaskDataStore(..., mode=...)`` (or ``FlowDataStore.get_task_datastore``) gives an instance of the class for the mode:
``TaskDataStoreReader`` ("r"), ``TaskDataStoreWriter`` ("w") or ``TaskDataStoreScrubber`` ("d"). A method of another
mode raises WrongMode. Names, order of parameters and meaning follow Metaflow's class.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, cast

from sqlitestore.artifact_lookup import TOGETHER, ArtifactsTogether, BlobsTogether
from sqlitestore.errors import ArtifactNotFound, Damaged, InvalidType, NotFound, Untrusted, WrongMode
from sqlitestore.model import Artifact, Attempt, TaskAddress, check_attempt, check_iterable, check_name, check_task
from sqlitestore.pickling import SERIALIZERS, ReadFile, Serializer

if TYPE_CHECKING:
    from sqlitestore.flow_datastore import FlowDataStore

_INCLUDED_FILE = "<class 'metaflow.includefile.IncludedFile'>"
_OF_AN_ATTEMPT = re.compile(r"(0|[1-9][0-9]{0,8})\.(.+)").fullmatch
READ_ONCE = 16 * 2**20
"""[bytes] Up to here a blob that several names of a call share is kept to make each its object."""

_WHAT_MODES_ARE_FOR = {"r": "reads", "w": "writes", "d": "scrubs logs"}


def check_mode(mode: object) -> None:
    """Raise InvalidType unless ``mode`` is "r", "w" or "d"."""
    if not isinstance(mode, str) or mode not in _WHAT_MODES_ARE_FOR:
        raise InvalidType(f"The mode of a task's datastore is 'r', 'w' or 'd', not {mode!r:.80}.")


class ArtifactTooLarge:
    """Stands in ``to_dict`` for a value above ``max_value_size``."""

    def __str__(self) -> str:
        return "< artifact too large >"


class TaskDataStore:
    """One attempt of a task: its artifacts, metadata and logs. See the module for how the mode picks the class.

    ``attempt`` None means the latest that started. A reader needs that attempt to be done, else it raises
    TaskNotFound, unless ``allow_not_done``; an attempt that does not exist at all reads as one without artifacts, as
    in Metaflow. ``data_metadata`` (as ``ds_metadata`` gives it) saves a reader the look-up. ``persist`` False makes
    ``persist()`` do nothing.
    """

    METADATA_ATTEMPT_SUFFIX = "attempt.json"
    METADATA_DONE_SUFFIX = "DONE.lock"
    METADATA_DATA_SUFFIX = "data.json"

    _mode: ClassVar[str] = ""
    _classes: ClassVar[dict[str, type[TaskDataStore]]] = {}

    def __init_subclass__(cls) -> None:
        if cls._mode:
            TaskDataStore._classes.setdefault(cls._mode, cls)

    def __new__(
        cls,
        flow_datastore: FlowDataStore,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        mode: str = "r",
        allow_not_done: bool = False,
        persist: bool = True,
    ) -> Self:
        """Return an instance of the class for ``mode``."""
        del flow_datastore, run_id, step_name, task_id, attempt, data_metadata, allow_not_done, persist
        if cls is not TaskDataStore:
            return object.__new__(cls)
        check_mode(mode)
        return cast("Self", object.__new__(cls._classes[mode]))

    def __init__(
        self,
        flow_datastore: FlowDataStore,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        mode: str = "r",
        allow_not_done: bool = False,
        persist: bool = True,
    ) -> None:
        del mode
        self._prepare(
            flow_datastore,
            check_task(flow_datastore.flow_name, run_id, step_name, task_id),
            None if attempt is None else check_attempt(attempt),
        )
        self._persist = persist
        self._find(data_metadata, allow_not_done)

    def _prepare(self, parent: FlowDataStore, task: TaskAddress, attempt: int | None) -> None:
        self._parent = parent
        self._storage_impl = parent._storage_impl
        self._ca_store = parent.ca_store
        self._metadata = parent.metadata
        self._environment = parent.environment
        self.TYPE = parent.TYPE
        self._task = task
        self._attempt = attempt
        self._persist = True
        self._is_done_set = False
        self._artifacts: Callable[[], Mapping[str, Artifact]] = dict  # none
        self._at_hand: Callable[[TaskAddress, str, str], bytes | None] | None = None
        """Returns the blob of an artifact, by task, name and key, if it was fetched with those of other tasks."""
        self._origin: str | None = None  # where it came from, if it may not be unpickled
        self._keys: dict[str, str] | None = None
        self._infos: dict[str, dict[str, Any]] | None = None

    def _find(self, data_metadata: Mapping[str, Any] | None, allow_not_done: bool) -> None:
        """Find out what there is, by mode. A writer has nothing to find."""

    @classmethod
    def _of_attempts(cls, parent: FlowDataStore, attempts: Sequence[Attempt]) -> list[Self]:
        """Return readers of attempts that were just looked up; their artifacts are looked up when first needed."""
        datastores = []
        blobs = BlobsTogether(parent.ca_store.load_small_blobs)
        for start in range(0, len(attempts), TOGETHER):
            together = ArtifactsTogether(parent._storage_impl.load_artifacts_of, attempts[start : start + TOGETHER])
            artifacts, at_hand = together.artifacts, partial(blobs.take, together)
            for attempt in attempts[start : start + TOGETHER]:
                datastore = object.__new__(cls)
                datastore._prepare(parent, attempt.task, attempt.number)
                datastore._origin = attempt.origin
                if attempt.done is not None:
                    datastore._artifacts = partial(artifacts, attempt)
                    datastore._at_hand = at_hand
                datastores.append(datastore)
        return datastores

    # Names and places

    @staticmethod
    def metadata_name_for_attempt(name: str, attempt: int | None) -> str:
        """Return the full name of an attempt's metadata: ``<attempt>.<name>``."""
        return name if attempt is None else f"{attempt}.{name}"

    @staticmethod
    def parse_attempt_metadata(name: str) -> list[str]:
        """Return ``[attempt, name]``, the parts of a full metadata name."""
        return name.split(".", 1)

    @property
    def pathspec(self) -> str:
        """``run_id/step_name/task_id``."""
        return "/".join(self._task[1:])

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self._task.run_id

    @property
    def step_name(self) -> str:
        """The step's name."""
        return self._task.step_name

    @property
    def task_id(self) -> str:
        """The task's name."""
        return self._task.task_id

    @property
    def attempt(self) -> int | None:
        """The attempt's number; None in a reader if no attempt started."""
        return self._attempt

    @property
    def ds_metadata(self) -> dict[str, Any]:
        """``{"objects": {name: key}, "info": {name: {"size", "type", "encoding", ...}}}``, copies."""
        return {"objects": self._objects.copy(), "info": self._info.copy()}

    @property
    def pathspec_index(self) -> str:
        """``run_id/step_name[indexes]``: where in its foreach the task is, from the artifact ``_foreach_stack``."""
        index = ",".join(str(frame.index) for frame in self["_foreach_stack"])
        if "_iteration_stack" in self:
            iteration = ",".join(map(str, self["_iteration_stack"]))
            return f"{self.run_id}/{self.step_name}[{index}][{iteration}]"
        return f"{self.run_id}/{self.step_name}[{index}]"

    @property
    def parent_datastore(self) -> FlowDataStore:
        """The flow's datastore that this one came from."""
        return self._parent

    def get_log_location(self, logprefix: str, stream: str) -> str:
        """Return where a log is said to be, in Metaflow's layout. Read it with ``load_logs``."""
        name = self.metadata_name_for_attempt(f"{logprefix}_{stream}.log", self._attempt)
        return self._storage_impl.full_uri(f"{self._task.pathspec}/{name}")

    # Artifacts

    # Metaflow's runtime knows the attributes _objects and _info by name.

    @property
    def _objects(self) -> dict[str, str]:
        """Keys by artifact name."""
        if self._keys is None:
            self._keys = {name: artifact.key for name, artifact in self._artifacts().items()}
        return self._keys

    @_objects.setter
    def _objects(self, objects: dict[str, str]) -> None:
        self._keys = objects

    @property
    def _info(self) -> dict[str, dict[str, Any]]:
        """Entries of ``ds_metadata["info"]`` by artifact name."""
        if self._infos is None:
            self._infos = {name: artifact.to_info() for name, artifact in self._artifacts().items()}
        return self._infos

    @_info.setter
    def _info(self, info: dict[str, dict[str, Any]]) -> None:
        self._infos = info

    def load_artifacts(self, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield ``(name, object)`` for each name; names that share a blob come together, as objects of their own.

        Large buffers are read straight into the new object. What is read is checked: Damaged names artifact and task.
        Raises ArtifactNotFound for a missing name before anything is loaded, and SerializerNotFound.
        """
        by_key: defaultdict[str, list[tuple[str, Artifact, Serializer]]] = defaultdict(list)
        for name in check_iterable("artifact names", names):
            artifact = self._artifact(name)
            by_key[artifact.key].append((name, artifact, self._serializer(name, artifact)))
        for together in by_key.values():
            opened = self._opened_once(together[0][1]) if len(together) > 1 else None
            for name, artifact, serializer in together:
                yield name, self._load(name, artifact, serializer, opened)

    def _opened_once(self, artifact: Artifact) -> Callable[[str], AbstractContextManager[ReadFile]]:
        """Return what opens the blob of several names; it is read once, unless it is too large to keep for that."""
        if artifact.size > READ_ONCE:
            return self._ca_store.open_blob

        @cache
        def data(key: str) -> bytes:
            with self._ca_store.open_blob(key) as file:
                return file.read()

        def opened(key: str) -> BytesIO:
            self._storage_impl.check_open()
            return BytesIO(data(key))

        return opened

    def _artifact(self, name: str) -> Artifact:
        if not isinstance(name, str):
            raise InvalidType(f"An artifact name is text, not {type(name).__name__}: {name!r:.80}")
        if self._keys is None and self._infos is None:  # as found, and only this one is wanted
            found = self._artifacts().get(name)
            if found is not None:
                return found
        elif key := self._objects.get(name):
            return Artifact.from_info(key, self._info.get(name, {}))
        raise ArtifactNotFound(f"Task {self._task.pathspec} (attempt {self._attempt}) has no artifact {name!r:.300}.")

    def _serializer(self, name: str, artifact: Artifact) -> Serializer:
        try:
            return SERIALIZERS.for_encoding(artifact.encoding, artifact.serializer_info)
        except NotFound as error:
            raise type(error)(f"Artifact {name!r} of task {self._task.pathspec}: {error}") from error

    def _load(
        self,
        name: str,
        artifact: Artifact,
        serializer: Serializer,
        opened: Callable[[str], AbstractContextManager[ReadFile]] | None = None,
    ) -> Any:
        self._check_trust(name)
        try:
            with opened(artifact.key) if opened else self._open(name, artifact.key) as file:
                return serializer.deserialize(file, artifact.serializer_info)
        except (Damaged, NotFound) as error:
            raise type(error)(f"Artifact {name!r} of task {self._task.pathspec}: {error}") from error
        except Exception as error:
            error.add_note(f"while loading artifact {name!r} of task {self._task.pathspec} ({serializer.encoding})")
            raise

    def _open(self, name: str, key: str) -> AbstractContextManager[ReadFile]:
        return self._ca_store.open_blob(
            key, None if self._at_hand is None else partial(self._at_hand, self._task, name)
        )

    def _check_trust(self, name: str) -> None:
        """Raise Untrusted unless the caller, or the file as it is now, says that the run is trusted."""
        if self._origin is None or self._parent.trust:
            return
        self._origin = next((found.origin for found in self._storage_impl.find_tasks([self._task])), None)
        if self._origin is not None:
            run = f"{self._task.flow_name}/{self._task.run_id}"
            raise Untrusted(
                f"Artifact {name!r} of task {self._task.pathspec} came from {self._origin}, and loading it may run any "
                f"code. Run {run} is looked at without that (`sqlitestore show`). If you trust who made it: "
                f"`sqlitestore --file {self._storage_impl.datastore_root} trust {run}`, or FlowDataStore(..., "
                "trust=True)."
            )

    def get(self, name: str, default: Any = None) -> Any:
        """Return an artifact's value, or ``default`` if the task has none of the name. Damage still raises."""
        if not isinstance(name, str):
            raise InvalidType(f"An artifact name is text, not {type(name).__name__}: {name!r:.80}")
        return self[name] if name in self else default  # noqa: SIM401 - this is what dict.get would call

    def items(self) -> ItemsView[str, str] | dict[str, str]:
        """Return ``(name, key)`` pairs of all artifacts."""
        return self._objects.items() if self._objects else {}

    def to_dict(
        self, show_private: bool = False, max_value_size: int | None = None, include: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Return values by name: of the names in ``include`` (default: all), without those that begin with "_" unless
        ``show_private``; an ArtifactTooLarge in place of each value of more than ``max_value_size`` bytes.
        """  # noqa: D205
        included = include if include is None or isinstance(include, str) else set(check_iterable("names", include))
        values: dict[str, Any] = {}
        for name in self._objects:
            if (included and name not in included) or (name.startswith("_") and not show_private):
                continue
            if max_value_size is not None and not 0 < self._size(name) <= max_value_size:
                values[name] = ArtifactTooLarge()
                continue
            value = self[name]
            values[name] = value.decode(name) if self._info[name].get("type") == _INCLUDED_FILE else value
        return values

    def _size(self, name: str) -> int:
        """Return an artifact's size [bytes]; of a file included by Metaflow, that of the file."""
        artifact = self._artifact(name)
        return int(self[name].size) if artifact.type == _INCLUDED_FILE else artifact.size

    def __contains__(self, name: object) -> bool:
        return name in (self._artifacts() if self._keys is None else self._keys)

    def __getitem__(self, name: str) -> Any:
        artifact = self._artifact(name)
        return self._load(name, artifact, self._serializer(name, artifact))

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._task.pathspec} attempt {self._attempt}>"

    # Metadata

    def has_metadata(self, name: str, add_attempt: bool = True) -> bool:
        """Return whether there is metadata of that name: of the attempt, or with ``add_attempt`` False of the task.

        ``attempt.json``, ``DONE.lock`` and ``data.json`` stand for: started, done and its artifacts, as in Metaflow.
        """
        attempt, name = self._metadata_place(name, add_attempt)
        if attempt is None:
            return name in self._storage_impl.load_metadata(self._task, None)
        if name in self._RESERVED:
            found = self._attempt_record(attempt)
            return (
                found is not None
                and (found.started if name == self.METADATA_ATTEMPT_SUFFIX else found.done) is not None
            )
        if name.endswith(".log"):
            logs = self._storage_impl.log_sizes(self._task, attempt)
            if name in {f"{source}_{stream}.log" if source else f"{stream}.log" for source, stream in logs}:
                return True
        return name in self._storage_impl.load_metadata(self._task, attempt)

    _RESERVED = frozenset({METADATA_ATTEMPT_SUFFIX, METADATA_DONE_SUFFIX, METADATA_DATA_SUFFIX})

    def _metadata_place(self, name: str, add_attempt: bool) -> tuple[int | None, str]:
        """Return the attempt (None: the task) and the name that a metadata name means."""
        check_name("metadata", name)
        if add_attempt and self._attempt is not None:
            return self._attempt, name
        of_attempt = _OF_AN_ATTEMPT(name)
        return (int(of_attempt[1]), of_attempt[2]) if of_attempt else (None, name)

    def _attempt_record(self, attempt: int) -> Attempt | None:
        found = self._storage_impl.find_tasks([self._task])
        return next((record for record in found if record.number == attempt), None)

    # Everything else belongs to one mode.

    def __getattr__(self, name: str) -> NoReturn:
        for mode, cls in self._classes.items():
            if not name.startswith("__") and hasattr(cls, name):
                raise WrongMode(
                    f"{name}() {_WHAT_MODES_ARE_FOR[mode]}: it needs mode {mode!r}; this datastore of "
                    f"{self._task.pathspec} was opened with mode {self._mode!r}."
                )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
