"""A run as values: all that the tables of a file hold of it, to be compared, and written to another file.

Rows are found by names and carry digests over names and keys, never over the ids of rows, so they mean the same
everywhere. They are checked when they are read; their blobs are copied apart from them (``Blobs.copy``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import Damaged, InvalidInput
from sqlitestore.files import FileRecord
from sqlitestore.model import check_attempt, check_name
from sqlitestore.registrations import Registered
from sqlitestore.tables import Tables
from sqlitestore.task_records import LogRecord, MetadataRecord
from sqlitestore.tasks import AttemptRecord, run_id
from sqlitestore.trust import distrust


class Names(NamedTuple):
    """What of a run is meant: all of it, a step, or a task."""

    flow_name: str
    run_id: str
    step_name: str | None = None
    task_id: str | None = None

    @property
    def pathspec(self) -> str:
        """As the command line writes it."""
        return "/".join(name for name in self if name is not None)

    def has(self, step: str, task: str | None) -> bool:
        """Return whether a task (None: a step itself) belongs to it."""
        return self.step_name in {None, step} and (task is None or self.task_id in {None, task})


class RunRecords(NamedTuple):
    """A run, or a part of one. ``data`` are the keys of blobs that are kept for it (code packages)."""

    flow_name: str
    run_id: str
    attempts: tuple[AttemptRecord, ...]
    metadata: tuple[MetadataRecord, ...]
    logs: tuple[LogRecord, ...]
    registered: Registered
    files: tuple[FileRecord, ...]
    data: tuple[str, ...]

    @property
    def pathspec(self) -> str:
        """``Flow/run``."""
        return f"{self.flow_name}/{self.run_id}"

    @property
    def tasks(self) -> set[tuple[str, str]]:
        """(step, task) of every task that there is anything of."""
        attempts = {(each.step, each.task) for each in self.attempts}
        return attempts | {(each.step, each.task) for each in self.registered.tasks}

    def artifact_blobs(self) -> dict[str, int]:
        """Return the sizes [bytes] of the artifacts' blobs by key."""
        return {key.hex(): size for each in self.attempts for _, key, size, *_ in each.artifacts}

    def other_blobs(self) -> dict[str, int]:
        """Return the sizes [bytes] of all other blobs by key; those of ``data`` are not known here: 0."""
        sizes = dict.fromkeys(self.data, 0)
        return sizes | {each.key: each.size for each in self.logs} | {each.key: each.size for each in self.files}

    def renamed(self, run_id: str) -> RunRecords:
        """Return the records as those of a run of another name."""
        return self._replace(
            run_id=run_id,
            files=tuple(
                each._replace(path=layout.moved_path(each.path, self.flow_name, self.run_id, run_id))
                for each in self.files
            ),
        )

    def comparable(self) -> dict[tuple[Any, ...], Any]:
        """Return everything by what it is called, without what may change in a run that is over: its tags.

        Another order of the same registered metadata is no difference, nor is how many task ids were given out.
        """
        registered = self.registered
        things: dict[tuple[Any, ...], Any] = {
            ("attempt", each.step, each.task, each.number): each for each in self.attempts
        }
        things |= {("metadata", *each[:4]): each for each in self.metadata}
        things |= {("log", *each[:6]): each for each in self.logs}
        things |= {("file", each.path): each for each in self.files}
        things |= {("data", key): None for key in self.data}
        if registered.run is not None:
            things["run",] = registered.run._replace(name="", tags=frozenset(), task_ids=0)
        things |= {("step", each.step): each for each in registered.steps}
        things |= {("task", each.step, each.task): each for each in registered.tasks}
        things |= {("registered metadata", *_hashable(each)): None for each in registered.metadata}
        things |= {
            ("registered artifact", step, task, each.attempt, each.name): each
            for step, task, each in registered.artifacts
        }
        return things


def _hashable(record: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(json.dumps(field) if isinstance(field, list | dict | tuple) else field for field in record)


def read_run(tables: Tables, wanted: Names | Iterable[Names]) -> RunRecords:
    """Return what ``wanted`` of one run names, checked; in one snapshot, which may be the caller's. Raises Damaged."""
    parts = [wanted] if isinstance(wanted, Names) else list(wanted)
    flow, run = parts[0][:2]

    def has(step: str, task: str | None) -> bool:
        return any(part.has(step, task) for part in parts)

    steps = None if any(part.step_name is None for part in parts) else sorted({str(part.step_name) for part in parts})
    with tables.database.read():
        attempts = tuple(each for each in tables.tasks.records(flow, run, steps) if has(each.step, each.task))
        registered = tables.registrations.records(flow, run)
        registered = registered._replace(
            steps=tuple(each for each in registered.steps if has(each.step, None)),
            tasks=tuple(each for each in registered.tasks if has(each.step, each.task)),
            metadata=tuple(each for each in registered.metadata if has(each.step, each.task)),
            artifacts=tuple(each for each in registered.artifacts if has(each[0], each[1])),
        )
        files = [
            each
            for each in tables.files.records(layout.folders_of_run(flow, run))
            if _is_of(each.path, has, whole=steps is None)
        ]
        files += tables.files.find_records(_included(tables, attempts))
        return RunRecords(
            flow_name=flow,
            run_id=run,
            attempts=attempts,
            metadata=tuple(each for each in tables.metadata.records(flow, run) if has(each.step, each.task)),
            logs=tuple(each for each in tables.logs.records(flow, run) if has(each.step, each.task)),
            registered=registered,
            files=tuple(files),
            data=tuple(sorted(tables.data.kept(flow, code_packages(registered)))),
        )


def _is_of(path: str, has: Any, *, whole: bool) -> bool:
    """Return whether a file in a run's folders belongs to the tasks meant."""
    step, task = layout.task_of_path(path)
    return whole if step is None else has(step, task)


def _included(tables: Tables, attempts: Iterable[AttemptRecord]) -> list[str]:
    """Return the paths of the files that Metaflow's IncludeFile keeps apart from the artifact, which names them."""
    keys = {
        key.hex()
        for each in attempts
        for _, key, size, kind, *_ in each.artifacts
        if kind == layout.INCLUDED_FILE and size <= layout.LARGEST_DESCRIPTOR
    }
    there = [key for key, found in zip(sorted(keys), tables.blobs.has(sorted(keys)), strict=True) if found]
    return sorted({path for _, blob in tables.blobs.load(there) for path in layout.included_paths(blob)})


def code_packages(registered: Registered) -> set[str]:
    """Return the keys of the code packages that a run's metadata name."""
    packages = (
        layout.code_package(each.value) for each in registered.metadata if each.field_name == layout.CODE_PACKAGE
    )
    return {str(package.get("sha")) for package in packages}


def write_run(tables: Tables, records: RunRecords, origin: str | None) -> None:
    """Write a run that is not there, all in one transaction; its blobs are there, but for artifacts left out.

    ``origin`` is where it came from, and makes it untrusted; None: it is trusted.
    """
    flow, run = records.flow_name, records.run_id
    with tables.database.write() as connection:
        tables.tasks.insert(connection, flow, run, records.attempts)
        crash_point("run-attempts-written")
        tables.metadata.insert(connection, flow, run, records.metadata)
        crash_point("run-metadata-written")
        tables.logs.insert(connection, flow, run, records.logs)
        crash_point("run-logs-written")
        tables.registrations.insert(flow, run, records.registered)
        crash_point("run-registrations-written")
        tables.files.insert(connection, records.files)
        crash_point("run-files-written")
        tables.data.keep(flow, records.data)
        crash_point("run-data-kept")
        if origin is not None:
            distrust(connection, run_id(connection, flow, run, create=True), origin)


def check_records(records: RunRecords, file: str) -> None:
    """Raise Damaged if a stranger's records have names that no run can have, or attempts beyond what is counted."""
    try:
        check_name("flow", records.flow_name)
        check_name("run", records.run_id)
        for step, task in records.tasks | {(each.step, each.task) for each in records.metadata}:
            check_name("step", step)
            check_name("task", task)
        for each in records.registered.steps:
            check_name("step", each.step)
        for attempt in records.attempts:
            check_attempt(attempt.number)
            for name, *_ in attempt.artifacts:
                check_name("artifact", name)
        for metadatum in records.metadata:
            check_name("metadata", metadatum.name)
            json.loads(metadatum.value)
    except (InvalidInput, ValueError, RecursionError) as error:
        raise Damaged(f"Run {records.pathspec!r} in {file} is damaged, or was doctored: {error}") from error
    for each_file in records.files:
        check_path(each_file.path, file)


def check_path(path: str, file: str) -> None:
    """Raise Damaged for a path that could lead elsewhere, were it one of a file system."""
    try:
        for name in path.split("/"):
            check_name("folder or file", name)
    except InvalidInput as error:
        raise Damaged(f"The path {path[:200]!r} of a file in {file} is damaged, or was doctored: {error}") from error


def first_difference(ours: Mapping[tuple[Any, ...], Any], theirs: Mapping[tuple[Any, ...], Any]) -> str:
    """Return where two runs differ, for an error; "" if all of ``theirs`` is in ``ours`` as it is there."""
    for name, value in theirs.items():
        if name not in ours or ours[name] != value:
            what = "is another" if name in ours else "is not there"
            return f"{name[0]} {'/'.join(str(part)[:80] for part in name[1:])} {what}"
    return ""
