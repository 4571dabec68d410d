"""The published API's entry: a flow's datastore, which finds its tasks and keeps its data."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, overload

from sqlitestore.content_addressed_store import ContentAddressedStore
from sqlitestore.errors import InvalidInput
from sqlitestore.forking import unforked
from sqlitestore.model import Attempt, TaskAddress, check_attempt, check_iterable, check_name, parse_pathspec
from sqlitestore.spin_datastore import SpinTaskDatastore
from sqlitestore.storage import DataStoreStorage, SQLiteStorage
from sqlitestore.task_datastore import TaskDataStore, check_mode
from sqlitestore.task_reader import TaskDataStoreReader, TaskDataStoreScrubber
from sqlitestore.task_writer import TaskDataStoreWriter


class MetadataCache(ABC):
    """Keeps ``ds_metadata`` of done attempts, so that looking one up again needs no store; as in Metaflow."""

    @abstractmethod
    def load_metadata(self, run_id: str, step_name: str, task_id: str, attempt: int) -> Mapping[str, Any] | None:
        """Return what was stored for the attempt, None if nothing was."""

    @abstractmethod
    def store_metadata(
        self, run_id: str, step_name: str, task_id: str, attempt: int, metadata_dict: Mapping[str, Any]
    ) -> None:
        """Keep ``metadata_dict`` for the attempt."""


class FlowDataStore:
    """A flow's datastore. The parameters are those of Metaflow's class.

    ``ds_root`` is the path of the database file, made if it is missing; None: see ``location.resolve_root``.
    ``storage_impl`` is a class (or callable) that makes a ``DataStoreStorage`` from it, or a storage of Metaflow's kind
    (its ``LocalStorage``, ``S3Storage``, ...: see ``path_storage.storage``); None: ``SQLiteStorage``.
    ``metadata`` is told of attempts that are done. ``environment``, ``event_logger`` and ``monitor`` are kept as
    attributes and otherwise unused. ``trust`` True loads artifacts also of runs that came from somebody else (from an
    archive, or imported): unpickling runs whatever code the pickle names. Otherwise these raise Untrusted, until
    ``sqlitestore trust``.

    Use it in ``with``, or ``close`` it. It may be used from many threads, and in forked children.
    """

    default_storage_impl: ClassVar[Callable[[Any], DataStoreStorage]] = SQLiteStorage

    def __init__(
        self,
        flow_name: str,
        environment: Any = None,
        metadata: Any = None,
        event_logger: Any = None,
        monitor: Any = None,
        storage_impl: Callable[[Any], Any] | None = None,
        ds_root: str | os.PathLike[str] | None = None,
        *,
        trust: bool = False,
    ) -> None:
        self.flow_name = check_name("flow", flow_name)
        self.trust = trust
        self._storage_impl = _wrapped((storage_impl or type(self).default_storage_impl)(ds_root))
        self.TYPE = self._storage_impl.TYPE
        self.environment = environment
        self.metadata = metadata
        self.logger = event_logger
        self.monitor = monitor
        self.ca_store = ContentAddressedStore(f"{flow_name}/data", self._storage_impl)
        self._metadata_cache: MetadataCache | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; the last to do so leaves one file. What came from here raises StoreClosed then."""
        self._storage_impl.close()

    @property
    def datastore_root(self) -> str:
        """The absolute path of the database file."""
        return self._storage_impl.datastore_root

    def set_metadata_cache(self, cache: MetadataCache | None) -> None:
        """Ask ``cache`` before looking up a done attempt whose number is given; None: no cache."""
        self._metadata_cache = cache

    def get_latest_task_datastores(
        self,
        run_id: str | None = None,
        steps: Sequence[str] | None = None,
        pathspecs: Sequence[str] | None = None,
        allow_not_done: bool = False,
    ) -> list[TaskDataStore]:
        """Return readers of the latest attempts of a run's tasks (of some steps), or of the tasks in ``pathspecs``.

        The latest attempt that started counts: if it is not done its task is left out, unless ``allow_not_done``; an
        older attempt is never offered instead. See ``get_task_datastores`` for the rest.
        """
        return self.get_task_datastores(run_id, steps, pathspecs, allow_not_done)

    def get_task_datastores(
        self,
        run_id: str | None = None,
        steps: Sequence[str] | None = None,
        pathspecs: Sequence[str] | None = None,
        allow_not_done: bool = False,
        attempt: int | None = None,
        include_prior: bool = False,
        mode: str = "r",
        join_type: str | None = None,
        orig_flow_datastore: FlowDataStore | None = None,
        spin_artifacts: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Return datastores of a run's tasks (of some steps), or of the tasks in ``pathspecs``; all from one snapshot.

        ``pathspecs`` are ``run_id/step_name/task_id[/attempt]`` and take precedence. A task counts once, where it was
        last named; results come in that order, for a run in the order in which tasks first started. A task that is
        not there is left out.

        Without ``attempt`` the latest attempt that started counts, and is returned if it is done or
        ``allow_not_done``. With it (or with a pathspec's fourth part) only that attempt is looked at; with
        ``include_prior`` all done attempts up to it are returned. ``mode``, and the last three (for Metaflow's
        ``spin``), go to ``get_task_datastore``.

        Raises InvalidPathspec, InvalidName or InvalidType for what cannot name a task.
        """
        if attempt is not None:
            check_attempt(attempt)
        check_mode(mode)
        numbers: dict[TaskAddress, set[int] | None] = {}
        if pathspecs:
            numbers = self._numbers(pathspecs)
            found = self._storage_impl.find_tasks(numbers)
        elif run_id is not None:
            found = self._of_run(run_id, steps)
        elif pathspecs is not None:  # none asked for, none found
            found = []
        else:
            raise InvalidInput("Say which tasks: give run_id (and steps), or pathspecs.")
        selected = _select(found, numbers, attempt, include_prior=include_prior, allow_not_done=allow_not_done)
        readers = TaskDataStoreReader._of_attempts(self, selected)
        if mode == "r" and orig_flow_datastore is None and self._metadata_cache is None:
            return list(readers)
        return [
            self.get_task_datastore(
                *each.task[1:],
                attempt=each.number,
                data_metadata=None if each.done is None else reader.ds_metadata,
                mode=mode,
                allow_not_done=allow_not_done,
                join_type=join_type,
                orig_flow_datastore=orig_flow_datastore,
                spin_artifacts=spin_artifacts,
            )
            for each, reader in zip(selected, readers, strict=True)
        ]

    @overload
    def get_task_datastore(
        self,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        *,
        mode: Literal["w"],
        persist: bool = True,
    ) -> TaskDataStoreWriter: ...
    @overload
    def get_task_datastore(
        self,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        mode: Literal["r"] = "r",
        allow_not_done: bool = False,
    ) -> TaskDataStoreReader: ...
    @overload
    def get_task_datastore(
        self,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        *,
        mode: Literal["d"],
        allow_not_done: bool = False,
    ) -> TaskDataStoreScrubber: ...
    @overload
    def get_task_datastore(
        self,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        mode: str = "r",
        allow_not_done: bool = False,
        join_type: str | None = None,
        orig_flow_datastore: FlowDataStore | None = None,
        spin_artifacts: Mapping[str, Any] | None = None,
        persist: bool = True,
    ) -> Any: ...
    def get_task_datastore(
        self,
        run_id: str,
        step_name: str,
        task_id: str,
        attempt: int | None = None,
        data_metadata: Mapping[str, Any] | None = None,
        mode: str = "r",
        allow_not_done: bool = False,
        join_type: str | None = None,
        orig_flow_datastore: FlowDataStore | None = None,
        spin_artifacts: Mapping[str, Any] | None = None,
        persist: bool = True,
    ) -> Any:
        """Return the datastore of one task's attempt: to read ("r"), write ("w") or scrub ("d"); see TaskDataStore.

        A reader raises TaskNotFound where there is no attempt that may be read. With ``orig_flow_datastore`` a
        SpinTaskDatastore of that flow's task is returned, with ``spin_artifacts`` laid over it (of a join: by the
        parent's pathspec).
        """
        if orig_flow_datastore is not None:
            overlay = spin_artifacts or {}
            if join_type is not None:
                overlay = overlay.get(f"{run_id}/{step_name}/{task_id}", {})
            original = orig_flow_datastore.get_task_datastore(
                run_id, step_name, task_id, attempt, data_metadata, mode, allow_not_done, persist=persist
            )
            return SpinTaskDatastore(self.flow_name, run_id, step_name, task_id, original, overlay)
        cache = None if attempt is None or allow_not_done else self._metadata_cache
        cached = None
        if cache is not None and attempt is not None and data_metadata is None:
            cached = data_metadata = cache.load_metadata(run_id, step_name, task_id, attempt)
        datastore = TaskDataStore(
            self,
            run_id,
            step_name,
            task_id,
            attempt=attempt,
            data_metadata=data_metadata,
            mode=mode,
            allow_not_done=allow_not_done,
            persist=persist,
        )
        if cache is not None and attempt is not None and cached is None:
            cache.store_metadata(run_id, step_name, task_id, attempt, datastore.ds_metadata)
        return datastore

    def save_data(self, data_iter: Iterable[Any], len_hint: int = 0) -> list[tuple[str, str]]:
        """Save each of the bytes that ``data_iter`` yields; return ``(uri, key)`` in their order, duplicates included.

        The data stays until it is pruned (`prune --data`), whether an artifact needs it or not. If the iterator raises,
        or yields something else than bytes (InvalidType), nothing is kept: what was put already goes when the file is
        compacted.
        """
        saved = self.ca_store.save_blobs(data_iter, raw=True, len_hint=len_hint)
        return [(str(blob.uri), blob.key) for blob in saved]

    def load_data(self, keys: Iterable[str], force_raw: bool = False) -> Iterator[tuple[str, bytes]]:
        """Yield ``(key, bytes)`` in the order asked. A missing key raises BlobNotFound; see ``load_blobs``."""
        yield from self.ca_store.load_blobs(keys, force_raw=force_raw)

    def _of_run(self, run_id: str, steps: Sequence[str] | None) -> list[Attempt]:
        """Return the attempts of a run; with ``steps``, of those and in their order."""
        check_name("run", run_id)
        position = {
            check_name("step", step): index
            for index, step in enumerate(check_iterable("steps", steps) if steps else ())
        }
        found = self._storage_impl.find_run(self.flow_name, run_id, list(position) or None)
        first: dict[TaskAddress, float] = {}  # a log may have arrived before the task started
        for each in found:
            started = inf if each.started is None else each.started
            first[each.task] = min(started, first.get(each.task, inf))
        return sorted(found, key=lambda each: (position.get(each.task.step_name, 0), first[each.task]))

    def _numbers(self, pathspecs: Sequence[str]) -> dict[TaskAddress, set[int] | None]:
        """Return the attempts that ``pathspecs`` name by task, None for all, in the order of the last mention."""
        numbers: dict[TaskAddress, set[int] | None] = {}
        for pathspec in check_iterable("pathspecs", pathspecs):
            task, number = parse_pathspec(self.flow_name, pathspec)
            before = numbers.pop(task, set())
            numbers[task] = None if number is None or before is None else before | {number}
        return numbers


def _select(
    found: Iterable[Attempt],
    numbers: Mapping[TaskAddress, set[int] | None],
    attempt: int | None,
    *,
    include_prior: bool,
    allow_not_done: bool,
) -> list[Attempt]:
    """Return the attempts that count, task by task in the order found; ``numbers`` are those that a pathspec named."""
    by_task: dict[TaskAddress, list[Attempt]] = {}
    for each in found:
        exactly = numbers.get(each.task)
        if exactly is not None:
            wanted = each.number in exactly
        else:
            wanted = attempt is None or each.number == attempt or (include_prior and each.number < attempt)
        if wanted:
            by_task.setdefault(each.task, []).append(each)
    selected: list[Attempt] = []
    for attempts in by_task.values():
        attempts.sort(key=lambda each: each.number)
        started = [each for each in attempts if each.started is not None]
        latest = started[-1] if started else None
        selected += [
            each
            for each in attempts
            if (each is latest and (allow_not_done or each.done is not None))
            or (include_prior and each.done is not None)
        ]
    return selected


def _wrapped(storage: Any) -> DataStoreStorage:
    """Return a DataStoreStorage as it is, one of Metaflow's kind as one of ours. Raises InvalidType for others."""
    if isinstance(storage, DataStoreStorage):
        return storage
    with unforked():
        from sqlitestore.path_storage.storage import wrapped  # 20 ms, and only needed for Metaflow's own
    return wrapped(storage)
