"""What is known of tasks that are asked for one by one, as Metaflow's client does: looked up for many at a time.

Whoever listed the tasks of a step and asks for one of them asks for those beside it next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from sqlitestore.artifact_lookup import BlobsTogether
from sqlitestore.errors import Damaged, NotFound
from sqlitestore.layout import encoding_for_metaflow
from sqlitestore.model import Artifact, Attempt, TaskAddress
from sqlitestore.paths.here import HERE
from sqlitestore.paths.reading import TYPE
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum
from sqlitestore.tables import Tables

Found = TypeVar("Found")

TOGETHER = 100
"""Tasks, listed before, that are looked up with the first one asked for; also those whose blobs come together."""

MORE_TOGETHER = 500
"""The same for whoever goes on to others. The artifacts of 1,000 tasks were listed in 225 ms, with TOGETHER in 253."""

REMEMBERED = 5_000
"""Tasks whose artifacts or metadata are remembered at most, and artifacts whose names are known by their keys."""

IN_THIS_FILE = f":root:{HERE}"
"""The location of an artifact in this file."""


class TaskLookup:
    """The artifacts and metadata of tasks in one file, as it is for as long as nobody changes it."""

    def __init__(self, store: Tables) -> None:
        self._store = store
        self._listed: dict[tuple[str, ...], dict[str, int]] = {}
        """The tasks of each step in the order listed, with their positions."""
        self._blocks: dict[TaskAddress, _Block] = {}
        """By each task in it."""
        self._blobs = BlobsTogether(store.blobs.load_small)
        self._names: dict[str, tuple[TaskAddress, str]] = {}
        """Whose artifact a key was said to be, the last time, and its name."""
        self._metadata: dict[TaskAddress, list[RegisteredMetadatum]] = {}

    def note_listed(self, step: tuple[str, str, str], tasks: Iterable[str]) -> None:
        """Take note of the ids of a step's tasks, in the order in which whoever listed them may ask for them."""
        self._listed[step] = {task: position for position, task in enumerate(tasks)}

    def artifacts(
        self, task: TaskAddress, attempt: int | None, name: str | None
    ) -> tuple[int | None, list[RegisteredArtifact]]:
        """Return the artifacts (or that one) of an attempt of a task, after its number; None: the latest done."""
        known = self._known(task)
        number = known.latest if attempt is None else attempt
        found = known.of_attempt(number, name)
        if len(self._names) >= REMEMBERED:
            self._names.clear()
        for each in found:
            self._names[each.sha] = task, each.name
        return number, found

    def blob_at_hand(self, key: str) -> bytes | None:
        """Return the blob of an artifact, if it was fetched with those of the tasks beside; None to load it alone."""
        task, name = self._names.get(key, (None, ""))
        block = self._blocks.get(task) if task else None
        return self._blobs.take(block, task, name, key) if block and task else None

    def metadata(self, task: TaskAddress) -> list[RegisteredMetadatum]:
        """Return all metadata of a task; of one that no provider was told of, what its attempts say."""
        if task not in self._metadata:
            if len(self._metadata) >= REMEMBERED:
                self._metadata.clear()
            self._metadata |= self._with_those_beside(task, self._metadata, self._registered_metadata)
        return self._metadata[task] or list(self._unregistered_metadata(task))

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
    return RegisteredArtifact(number, name, encoding, artifact.key, TYPE, IN_THIS_FILE, None, epoch)


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
