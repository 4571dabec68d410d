"""What a metadata provider keeps of runs, on its way into our tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sqlitestore.crash_points import crash_point
from sqlitestore.layout import METADATA_FOLDER, encoding_for_metaflow
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import (
    Registered,
    RegisteredArtifact,
    RegisteredMetadatum,
    RegisteredRun,
    RegisteredTask,
)
from sqlitestore.remote.documents import (
    ATTEMPT_DONE,
    SELF,
    Documents,
    artifacts_in,
    metadata_in,
    read_json,
    run_in,
    self_path,
    task_in,
    understood,
)
from sqlitestore.remote.looking import Run
from sqlitestore.remote.places import FILE, Place, code_package
from sqlitestore.tables import Tables

_ARTIFACT, _METADATUM = "_artifact_", "sysmeta_"


class Registering:
    """Registers one run, and some of its tasks at a time: ``read`` their documents, then ``write`` in a transaction."""

    def __init__(self, tables: Tables, datastore: str) -> None:
        self._tables = tables
        self._here = Place(datastore, "")
        self._tasks: dict[TaskAddress, RegisteredTask] = {}
        self._metadata: dict[TaskAddress, list[RegisteredMetadatum]] = {}
        self._artifacts: dict[TaskAddress, list[RegisteredArtifact]] = {}
        self._packages: set[str] = set()

    # The run

    def run(self, run: Run, document: bytes | None) -> None:
        """Register a run, if it has a document; one that is registered gets the tags that it lacks."""
        if document is None:
            return
        found = _run_in(run, document)
        added = self._tables.registrations.add_run(*run, found.user_name, found.ts_epoch, found.tags, found.system_tags)
        if not added:
            self._add_tags(run, found)

    def tags(self, run: Run, document: bytes) -> None:
        """Give a run that is registered the tags that it lacks."""
        self._add_tags(run, _run_in(run, document))

    def _add_tags(self, run: Run, found: RegisteredRun) -> None:
        registered = self._tables.registrations.run(*run)
        if registered is not None and not found.tags <= registered.tags:
            self._tables.registrations.change_tags(*run, lambda tags, system: tags | (found.tags - system))

    def steps(self, run: Run, documents: Mapping[str, bytes]) -> None:
        """Register the steps that there are documents of."""
        steps = []
        for step, document in documents.items():
            path = self_path(*run, step)
            with understood(path):
                steps.append(task_in(step, "", read_json(path, document)))
        self._tables.registrations.insert(*run, Registered(None, tuple(steps), (), (), ()))

    # Its tasks

    def read(
        self, documents: Mapping[TaskAddress, Documents], with_data: set[TaskAddress], keys: Mapping[str, str]
    ) -> None:
        """Take the documents of some tasks; those ``with_data`` have it in the datastore that is pulled from."""
        self._tasks, self._metadata, self._artifacts, self._packages = {}, {}, {}, set()
        metadata: dict[TaskAddress, list[dict[str, Any]]] = {}
        artifacts: dict[TaskAddress, list[dict[str, Any]]] = {}
        for task, of_task in documents.items():
            for path, found in sorted(of_task.items()):
                name = path.rpartition("/")[2]
                if name == f"{SELF}.json":
                    with understood(path):
                        self._tasks[task] = task_in(task.step_name, task.task_id, found)
                elif name.startswith(_METADATUM):
                    metadata.setdefault(task, []).append(found)
                    package = code_package(str(found.get("field_name")), found.get("value"), self._here.type)
                    if package is not None and task in with_data:
                        self._packages.add(package)
                elif _ARTIFACT in name:
                    artifacts.setdefault(task, []).append(found)
        for task, things in metadata.items():
            with understood(f"A metadatum in {task.pathspec}/{METADATA_FOLDER}"):
                self._metadata[task] = metadata_in(task, things, self._place(task, with_data), FILE)
        for task, things in artifacts.items():
            with understood(f"An artifact in {task.pathspec}/{METADATA_FOLDER}"):
                self._artifacts[task] = list(artifacts_in(things, self._place(task, with_data), FILE, keys))

    def _place(self, task: TaskAddress, with_data: set[TaskAddress]) -> Place | None:
        return self._here if task in with_data else None

    def code_packages(self) -> set[str]:
        """Return the keys of code packages that the tasks name."""
        return self._packages

    def done_at(self) -> dict[tuple[TaskAddress, int], float]:
        """Return when attempts were done [s since 1970]: when their artifacts were registered.

        So the time that an artifact has in Metaflow's client is that of its attempt, and needs no row of its own.
        """
        times: dict[tuple[TaskAddress, int], int] = {}
        for task, metadata in self._metadata.items():
            for each in metadata:
                if each.field_name == ATTEMPT_DONE and str(each.value).isdecimal():
                    times[task, int(each.value)] = each.ts_epoch
        for task, artifacts in self._artifacts.items():
            for artifact in artifacts:
                times[task, artifact.attempt] = artifact.ts_epoch
        return {place: (time + 0.5) / 1000 for place, time in times.items()}  # so that it is rounded to itself

    def write(self) -> None:
        """Register the tasks, their metadata and artifacts, where they are not; inside the caller's transaction."""
        registrations = self._tables.registrations
        for task, registered in self._tasks.items():
            registrations.insert(*task[:2], Registered(None, (), (registered,), (), ()))
            crash_point("pull-task-registered")
        for task, metadata in self._metadata.items():
            here = Counter(map(_identity, registrations.metadata(*task[:2], [task[2:]])))
            new = []
            for each in metadata:
                here[_identity(each)] -= 1
                if here[_identity(each)] < 0:
                    new.append(each)
            if new:
                registrations.add_metadata(*task[:2], new)
        for task, artifacts in self._artifacts.items():
            registrations.add_artifacts(*task, self._not_held(task, artifacts))

    def _not_held(self, task: TaskAddress, artifacts: Iterable[RegisteredArtifact]) -> list[RegisteredArtifact]:
        """Return the artifacts of which the file does not itself say the same."""
        held: dict[tuple[int, str], tuple[str, str, int]] = {}
        done = [each for each in self._tables.tasks.find_tasks([task]) if each.done is not None]
        for attempt, found in zip(done, self._tables.tasks.artifacts(done), strict=True):
            time = int((attempt.done or 0) * 1000)
            for name, artifact in found.items():
                held[attempt.number, name] = (artifact.key, encoding_for_metaflow(artifact.encoding), time)
        return [
            each
            for each in artifacts
            if each.location != FILE.location()
            or held.get((each.attempt, each.name)) != (each.sha, each.content_type, each.ts_epoch)
        ]


def _run_in(run: Run, document: bytes) -> RegisteredRun:
    path = self_path(*run)
    with understood(path):
        return run_in(run[1], read_json(path, document))


def _identity(each: RegisteredMetadatum) -> tuple[Any, ...]:
    return (each.field_name, json.dumps(each.value), each.type, tuple(sorted(each.tags)), each.user_name, each.ts_epoch)
