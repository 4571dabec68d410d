"""What Metaflow's client asks for: flows, runs, steps, tasks, artifacts and metadata as its dictionaries.

They come from what a provider registered, and from the tasks themselves: a run that was written by our own API, or
with another provider, is there too, with what its tasks say of it (and without tags, for which namespaces look).

Roots are those of now: a file that was moved says where it is, not where it was (see ``provider`` for the way in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from sqlitestore.artifact_lookup import BlobsTogether
from sqlitestore.errors import BlobNotFound, Damaged, NotFound
from sqlitestore.layout import encoding_for_metaflow
from sqlitestore.model import Artifact, Attempt, TaskAddress, check_key
from sqlitestore.paths.here import HERE, absolute
from sqlitestore.paths.reading import TYPE
from sqlitestore.paths.stores import Store
from sqlitestore.registrations import (
    RegisteredArtifact,
    RegisteredMetadatum,
    RegisteredRun,
    RegisteredTask,
    unregistered_run,
)
from sqlitestore.tables import Tables

Thing = dict[str, Any]
Found = TypeVar("Found")

TOGETHER = 100
"""Tasks, listed before, that are looked up with the first one asked for; also those whose blobs come together."""

MORE_TOGETHER = 500
"""The same for whoever goes on to others. The artifacts of 1,000 tasks were listed in 225 ms, with TOGETHER in 253."""

REMEMBERED = 5_000
"""Tasks whose artifacts or metadata are remembered at most, and artifacts whose names are known by their keys."""

_HERE = f":root:{HERE}"
"""The location of an artifact in this file."""


class Objects:
    """The dictionaries of one file, as it is for as long as nobody changes it (see ``objects_of``)."""

    def __init__(self, store: Tables) -> None:
        self._store = store
        self._runs: dict[tuple[str, str], RegisteredRun | None] = {}
        self._sorted_tags: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        self._untrusted: dict[str, bool] = {}
        """By the pathspec of a run."""
        self._listed: dict[tuple[str, ...], dict[str, int]] = {}
        """The tasks of each step in the order listed, with their positions."""
        self._blocks: dict[TaskAddress, _Block] = {}
        """By each task in it."""
        self._blobs = BlobsTogether(store.blobs.load_small)
        self._names: dict[str, tuple[TaskAddress, str]] = {}
        """Whose artifact a key was said to be, the last time, and its name."""
        self._metadata: dict[TaskAddress, list[RegisteredMetadatum]] = {}

    # Flows and runs

    def flows(self) -> list[Thing]:
        """Return the flows that have runs."""
        flows = (self.flow(name) for name in self._store.tasks.flows())
        return [flow for flow in flows if flow is not None]

    def flow(self, name: str) -> Thing | None:
        """Return a flow, as old as its oldest run; None if it has no runs."""
        runs = self.runs(name)
        return {"flow_id": name, "ts_epoch": min(run["ts_epoch"] for run in runs)} if runs else None

    def runs(self, flow: str) -> list[Thing]:
        """Return the runs of a flow."""
        with self._store.database.read():
            registered = {run.name: run for run in self._store.registrations.runs(flow)}
            self._runs |= {(flow, name): run for name, run in registered.items()}
            names = self._store.tasks.runs(flow)
            found = [registered.get(name) or self._unregistered_run(flow, name) for name in names]
        return [_run(flow, run) for run in found if run is not None]

    def run(self, flow: str, name: str) -> Thing | None:
        """Return a run, None if there is none of the name."""
        run = self.run_of(flow, name)
        return None if run is None else _run(flow, run)

    def run_of(self, flow: str, name: str) -> RegisteredRun | None:
        """Return a run as it is registered, or as it would be; None if there is none of the name."""
        if (flow, name) not in self._runs:
            self._runs[flow, name] = self._store.registrations.run(flow, name) or self._unregistered_run(flow, name)
        return self._runs[flow, name]

    def _unregistered_run(self, flow: str, name: str) -> RegisteredRun | None:
        return unregistered_run(name, self._store.tasks.find_run(flow, name, None))

    # Steps and tasks

    def steps(self, flow: str, run: str, step: str | None = None) -> list[Thing]:
        """Return the steps of a run, or that one."""
        with self._store.database.read():
            steps = {each.step: each for each in self._store.registrations.steps(flow, run, step)}
            missing = {name for name, _ in self._store.registrations.unregistered_tasks(flow, run, step)} - set(steps)
            for name in missing:
                started = _started(self._store.tasks.find_run(flow, run, [name]))
                if started is not None:
                    steps[name] = RegisteredTask(name, "", None, started)
            described = self._described(flow, run, steps.values())
        for each in described:
            del each["task_id"]
        return described

    def tasks(self, flow: str, run: str, step: str | None = None, task: str | None = None) -> list[Thing]:
        """Return the tasks of a run, of a step of it, or that one."""
        with self._store.database.read():
            described = self._described(flow, run, self._tasks(flow, run, step, task))
        if step is not None and task is None:
            self._listed[flow, run, step] = {each["task_id"]: index for index, each in enumerate(described)}
        return described

    def _tasks(self, flow: str, run: str, step: str | None, task: str | None) -> Iterator[RegisteredTask]:
        """Yield tasks one by one, each described and let go of: Python's garbage collector counts what is alive.

        When that has grown by a quarter it looks at all that the process has, which takes it 50 ms with 10,000 tasks.
        """
        registered = self._store.registrations.tasks(flow, run, step, task)
        yield from registered
        if task is None:
            names = self._store.registrations.unregistered_tasks(flow, run, step)
        else:
            names = [] if registered else [(step or "", task)]
        yield from self._unregistered_tasks([TaskAddress(flow, run, *name) for name in names])

    def _unregistered_tasks(self, tasks: Sequence[TaskAddress]) -> Iterator[RegisteredTask]:
        attempts: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self._store.tasks.find_tasks(tasks) if tasks else ():
            attempts.setdefault((attempt.task.step_name, attempt.task.task_id), []).append(attempt)
        for name, found in attempts.items():
            started = _started(found)
            if started is not None:
                yield RegisteredTask(*name, None, started)

    def _described(self, flow: str, run: str, things: Iterable[RegisteredTask]) -> list[Thing]:
        """Return the dictionaries of tasks, or of steps (whose task is ""), the oldest first."""
        if self.run_of(flow, run) is None:
            return []
        tags, system_tags = self._tags(flow, run)
        described: list[Thing] = [
            {
                "flow_id": flow,
                "run_number": run,
                "step_name": each.step,
                "task_id": each.task,
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
                "tags": tags,
                "system_tags": system_tags,
            }
            for each in things
        ]
        for key in (itemgetter("task_id"), _number, itemgetter("ts_epoch")):
            described.sort(key=key)  # what was sorted before stays so where this is equal
        return described

    # Artifacts and metadata

    def artifacts(self, task: TaskAddress, attempt: int | None, name: str | None = None) -> list[Thing]:
        """Return the artifacts (or that one) of an attempt of a task; None means the latest that is done."""
        known = self._known(task)
        number = known.latest if attempt is None else attempt
        tags, system_tags = self._tags(task.flow_name, task.run_id)
        untrusted = "/".join(task[:2]) if self._is_untrusted(task) else None
        if len(self._names) >= REMEMBERED:
            self._names.clear()
        things = []
        for each in known.of_attempt(number, name):
            self._names[each.sha] = task, each.name
            here = each.location == _HERE
            encoding = each.content_type
            things.append({
                "flow_id": task.flow_name,
                "run_number": task.run_id,
                "step_name": task.step_name,
                "task_id": task.task_id,
                "attempt_id": number,
                "type": "metaflow.artifact",
                "tags": tags,
                "system_tags": system_tags,
                "name": each.name,
                "content_type": encoding if untrusted is None else encoding_for_metaflow(str(encoding), untrusted),
                "sha": each.sha,
                "ds_type": each.ds_type,
                "location": f":root:{self._store.database.path}" if here else each.location,
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
            })  # fmt: skip
        return things

    def _tags(self, flow: str, run: str) -> tuple[list[str], list[str]]:
        """Return the tags of a run, and those that the system gave it, sorted: new lists, for all things of an answer.

        With lists for each of 10,000 tasks Python's garbage collector has a sixth more to look at.
        """
        if (flow, run) not in self._sorted_tags:
            of_run = self.run_of(flow, run)
            self._sorted_tags[flow, run] = (sorted(of_run.tags), sorted(of_run.system_tags)) if of_run else ([], [])
        tags, system_tags = self._sorted_tags[flow, run]
        return list(tags), list(system_tags)

    def blob_at_hand(self, key: str) -> bytes | None:
        """Return the blob of an artifact, if it was fetched with those of the tasks beside; None to load it alone."""
        task, name = self._names.get(key, (None, ""))
        block = self._blocks.get(task) if task else None
        return self._blobs.take(block, task, name, key) if block and task else None

    def _is_untrusted(self, task: TaskAddress) -> bool:
        run = "/".join(task[:2])
        if run not in self._untrusted:
            self._untrusted[run] = self._store.trust.origin(*task[:2]) is not None
        return self._untrusted[run]

    def metadata(self, task: TaskAddress) -> list[Thing]:
        """Return all metadata of a task; of one that no provider was told of, what its attempts say."""
        if task not in self._metadata:
            if len(self._metadata) >= REMEMBERED:
                self._metadata.clear()
            self._metadata |= self._with_those_beside(task, self._metadata, self._registered_metadata)
        common = {"flow_id": task.flow_name, "run_number": task.run_id, "step_name": task.step_name}
        return [
            {
                **common,
                "task_id": task.task_id,
                "field_name": each.field_name,
                "type": each.type,
                "value": absolute(each.field_name, each.value, self._store.database.path),
                "tags": list(each.tags),
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
            }
            for each in self._metadata[task] or self._unregistered_metadata(task)
        ]

    def _registered_metadata(self, tasks: Sequence[TaskAddress]) -> dict[TaskAddress, list[RegisteredMetadatum]]:
        """Return the metadata registered for tasks of one run, by one query."""
        metadata: dict[TaskAddress, list[RegisteredMetadatum]] = {each: [] for each in tasks}
        run = tasks[0][:2]
        for each in self._store.registrations.metadata(*run, [task[2:] for task in tasks]):
            metadata[TaskAddress(*run, each.step, each.task)].append(each)
        return metadata

    def _unregistered_metadata(self, task: TaskAddress) -> Iterator[RegisteredMetadatum]:
        for attempt in self._store.tasks.find_tasks([task]):
            if attempt.started is None:
                continue
            fields = {"attempt": str(attempt.number), "ds-type": TYPE, "ds-root": HERE}
            times = dict.fromkeys(fields, attempt.started)
            if attempt.done is not None:
                fields["attempt-done"] = str(attempt.number)
                times["attempt-done"] = attempt.done
            for field, value in fields.items():
                tags = [f"attempt_id:{attempt.number}"]
                epoch = int(times[field] * 1000)
                yield RegisteredMetadatum(task.step_name, task.task_id, field, value, field, tags, None, epoch)

    # Tasks looked at one by one, after they were listed, are looked up in blocks.

    def _with_those_beside(
        self,
        task: TaskAddress,
        known: Mapping[TaskAddress, object],
        look_up: Callable[[Sequence[TaskAddress]], dict[TaskAddress, Found]],
    ) -> dict[TaskAddress, Found]:
        """Return what is found for a task and those listed beside it that are not ``known`` yet.

        Damage of another is not this one's: then each is looked up by itself, once, and the damaged are left out.
        """
        together = self._together(task, known)
        try:
            return look_up(together)
        except (Damaged, NotFound):
            found = look_up([task])  # or it says what is wrong with this one
            for each in together:
                with suppress(Damaged, NotFound):
                    found |= look_up([each])
            return found

    def _together(self, task: TaskAddress, known: Mapping[TaskAddress, object]) -> list[TaskAddress]:
        listed = self._listed.get(task[:3], {})
        position = listed.get(task.task_id)
        if position is None:
            return [task]
        size = MORE_TOGETHER if known else TOGETHER
        start = position - position % size
        beside = (TaskAddress(*task[:3], each) for each in islice(listed, start, start + size))
        return [each for each in beside if each not in known]

    def _known(self, task: TaskAddress) -> _Known:
        if task not in self._blocks:
            if len(self._blocks) >= REMEMBERED:
                self._blocks.clear()
                self._blobs = BlobsTogether(self._store.blobs.load_small)
            with self._store.database.read():
                found = list(self._with_those_beside(task, self._blocks, self._looked_up).items())
            for start in range(0, len(found), TOGETHER):
                some = dict(found[start : start + TOGETHER])
                self._blocks |= dict.fromkeys(some, _Block(some))
        return self._blocks[task].tasks[task]

    def _looked_up(self, tasks: Sequence[TaskAddress]) -> dict[TaskAddress, _Known]:
        """Return what is known of tasks of one run."""
        names = [each[2:] for each in tasks]
        registrations = self._store.registrations
        registered = registrations.artifacts(*tasks[0][:2], names)
        told = {
            (each.step, each.task): int(each.value)
            for each in registrations.metadata(*tasks[0][:2], names, "attempt-done")
        }
        attempts: dict[TaskAddress, list[Attempt]] = {each: [] for each in tasks}
        for attempt in self._store.tasks.find_tasks(tasks):
            attempts[attempt.task].append(attempt)
        done = [each for found in attempts.values() for each in found if each.done is not None]
        held: dict[TaskAddress, dict[int, Mapping[str, Artifact]]] = {each: {} for each in tasks}
        for attempt, artifacts in zip(done, self._store.tasks.artifacts(done), strict=True):
            held[attempt.task][attempt.number] = artifacts
        return {
            each: _Known(
                found,
                told.get(each[2:]),
                registered.get(each[2:], []),
                held[each],
            )
            for each, found in attempts.items()
        }


class _Known:
    """What is known of a task's artifacts: what was registered, and what the file holds by attempt."""

    def __init__(
        self,
        attempts: Sequence[Attempt],
        told: int | None,
        registered: Sequence[RegisteredArtifact],
        held: Mapping[int, Mapping[str, Artifact]],
    ) -> None:
        self._attempts = attempts
        self._told = told
        self.registered = registered
        self.held = held

    @property
    def latest(self) -> int | None:
        """The attempt that the provider was told last is done; if it was told nothing, what the task says."""
        if self._told is not None:
            return self._told
        started = [each for each in self._attempts if each.started is not None]
        return started[-1].number if started and started[-1].done is not None else None

    def of_attempt(self, number: int | None, name: str | None) -> list[RegisteredArtifact]:
        """Return the artifacts (or that one) of an attempt: what was registered, then what else the file holds."""
        if number is None:
            return []
        found = {each.name: each for each in self.registered if each.attempt == number and name in {None, each.name}}
        held = self.held.get(number, {})
        names = held if name is None else [name] if name in held else []
        epoch = next((int((each.done or 0) * 1000) for each in self._attempts if each.number == number), 0)
        others = [_as_registered(number, name, held[name], epoch) for name in names if name not in found]
        return [*found.values(), *others] if found else others


def _as_registered(number: int, name: str, artifact: Artifact, epoch: int) -> RegisteredArtifact:
    """Return an artifact that the file holds, as if it were registered."""
    encoding = encoding_for_metaflow(artifact.encoding)
    return RegisteredArtifact(number, name, encoding, artifact.key, TYPE, _HERE, None, epoch)


class _Block:
    """Tasks that were looked up together."""

    def __init__(self, tasks: Mapping[TaskAddress, _Known]) -> None:
        self.tasks = tasks

    def keys(self, name: str) -> dict[TaskAddress, str]:
        """Return the key of each task's artifact of that name, as far as the file holds it."""
        keys = {}
        for task, known in self.tasks.items():
            try:
                keys[task] = known.held[known.latest or 0][name].key
            except (KeyError, Damaged):
                continue
        return keys


def blob_at_hand(store: Store | None, key: str) -> bytes | None:
    """Return the blob of an artifact that was asked for like those of the tasks beside it (see ``BlobsTogether``).

    None if it is not at hand: ``load_blob`` loads it alone.
    """
    known: tuple[object, Objects] | None = None if store is None else getattr(store.of_thread, "objects", None)
    return None if known is None else known[1].blob_at_hand(key)


def load_blob(store: Store, key: str) -> bytes | None:
    """Return a blob, None if it is not there."""
    try:
        with store.blobs.open(check_key(key)) as file:
            return file.read()
    except BlobNotFound:
        return None


def objects_of(store: Store) -> Objects:
    """Return what answers questions: the same as the last time, while nobody has changed the file."""
    version = store.database.version()
    known: tuple[object, Objects] | None = getattr(store.of_thread, "objects", None)
    if known is None or known[0] != version:
        known = store.of_thread.objects = version, Objects(store)
    return known[1]


def _run(flow: str, run: RegisteredRun) -> Thing:
    return {
        "run_number": run.name,
        "flow_id": flow,
        "user_name": run.user_name,
        "tags": sorted(run.tags),
        "system_tags": sorted(run.system_tags),
        "ts_epoch": run.ts_epoch,
    }


def _started(attempts: Iterable[Attempt]) -> int | None:
    """Return when the first of the attempts started [ms since 1970], None if none did."""
    started = min((each.started for each in attempts if each.started is not None), default=None)
    return None if started is None else int(started * 1000)


def _number(thing: Thing) -> int:
    """Return what the tasks of a run are counted by, 0 for one with another name."""
    task = str(thing["task_id"])
    return int(task) if task.isdecimal() else 0
