"""From a pathspec to what it names, with errors that say what there is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from sqlitestore.errors import ArtifactNotFound, InvalidPathspec, NotFound, TaskNotFound
from sqlitestore.model import Artifact, Attempt, TaskAddress, parse_full_pathspec
from sqlitestore.storage import DataStoreStorage

LEVELS = ("store", "flow", "run", "step", "task", "artifact")
FORM = ("Flow", "run", "step", "task", "artifact")
NAMED_AT_MOST = 8
"""Names that an error lists."""


class Place(NamedTuple):
    """What a pathspec names: ``names`` are those of the flow, run, step, task and artifact, as many as were given."""

    names: tuple[str, ...]

    @property
    def level(self) -> str:
        """One of LEVELS; "store" for no pathspec."""
        return LEVELS[len(self.names)]

    @property
    def pathspec(self) -> str:
        """As it was given."""
        return "/".join(self.names)

    @property
    def task(self) -> TaskAddress:
        """The task; only of a task or an artifact."""
        return TaskAddress(*self.names[:4])


def find(storage: DataStoreStorage, pathspec: str | None, levels: Sequence[str] = LEVELS) -> Place:
    """Return the place, after checking that it is there (of an artifact: that its task is).

    Raises InvalidPathspec for one that does not parse or is not of the ``levels``, NotFound that lists what there is.
    """
    place = Place(parse_full_pathspec(pathspec) if pathspec is not None else ())
    if place.level not in levels:
        article = "an" if place.level == "artifact" else "a"
        forms = " or ".join(map(_form, levels))
        raise InvalidPathspec(f"{place.pathspec!r} names {article} {place.level}; this command takes {forms}.")
    _check(storage, place.names)
    return place


def _form(level: str) -> str:
    return "/".join(FORM[: LEVELS.index(level)]) or "nothing"


def _check(storage: DataStoreStorage, names: tuple[str, ...]) -> None:
    if not names:
        return
    flow, *rest = names
    if flow not in (flows := storage.flows()):
        raise NotFound(f"No flow {flow!r} in {storage.datastore_root}; {_there_are('flows', flow, flows)}.")
    if rest and rest[0] not in (runs := storage.runs(flow)):
        some = _there_are("latest runs", rest[0], runs[::-1])
        raise NotFound(f"No run {rest[0]!r} in flow {flow}; {some}.")
    if len(rest) == 2 and not storage.find_run(flow, rest[0], [rest[1]]):  # noqa: PLR2004
        raise _no_step(storage, flow, rest[0], rest[1])
    if len(rest) > 2 and not storage.find_tasks([TaskAddress(*names[:4])]):  # noqa: PLR2004
        tasks = list(dict.fromkeys(each.task.task_id for each in storage.find_run(flow, rest[0], [rest[1]])))
        if not tasks:
            raise _no_step(storage, flow, rest[0], rest[1])
        some = _there_are("tasks", rest[2], tasks)
        raise TaskNotFound(f"No task {rest[2]!r} in step {flow}/{rest[0]}/{rest[1]}; {some}.")


def _no_step(storage: DataStoreStorage, flow: str, run: str, step: str) -> NotFound:
    steps = list(dict.fromkeys(each.task.step_name for each in storage.find_run(flow, run, None)))
    return NotFound(f"No step {step!r} in run {flow}/{run}; {_there_are('steps', step, steps)}.")


def _there_are(what: str, asked: str, names: Sequence[str]) -> str:
    """Return a list of names for an error: similar ones first, then those that come first."""
    if not names:
        return f"there are no {what.removeprefix('latest ')}"
    similar = get_close_matches(asked, names[:1000], 3)
    chosen = list(dict.fromkeys([*similar, *names[:NAMED_AT_MOST]]))[:NAMED_AT_MOST]
    more = f" and {len(names) - len(chosen):,} more" if len(names) > len(chosen) else ""
    return f"the {what} are {', '.join(chosen)}{more}" if len(names) > 1 else f"there is only {names[0]}"


def latest(attempts: Sequence[Attempt]) -> Attempt:
    """Return the latest of a task's attempts: the last that started, or the last if none did."""
    return max(attempts, key=lambda each: (each.started is not None, each.number))


def attempt_of(storage: DataStoreStorage, task: TaskAddress, number: int | None) -> tuple[Attempt, list[Attempt]]:
    """Return the attempt ``number`` (None: the latest) of a task that is there, and all its attempts."""
    attempts = storage.find_tasks([task])
    if not attempts:  # gone since it was looked up
        raise TaskNotFound(f"Task {task.pathspec} is not there.")
    if number is None:
        return latest(attempts), attempts
    for attempt in attempts:
        if attempt.number == number:
            return attempt, attempts
    there = ", ".join(str(each.number) for each in attempts)
    raise TaskNotFound(f"Task {task.pathspec} has no attempt {number}; it has {there}.")


def artifacts_of(storage: DataStoreStorage, attempt: Attempt) -> Mapping[str, Artifact]:
    """Return the artifacts of an attempt; one that is not done has none."""
    return {} if attempt.done is None else storage.load_artifacts(attempt.task, attempt.number)


def artifact_of(storage: DataStoreStorage, place: Place, number: int | None) -> tuple[Attempt, Artifact]:
    """Return the artifact that a five-part place names, and the attempt that made it. Raises ArtifactNotFound."""
    attempt, _ = attempt_of(storage, place.task, number)
    name = place.names[4]
    if attempt.done is None:
        raise ArtifactNotFound(
            f"Attempt {attempt.number} of task {place.task.pathspec} is not done, so it has no artifact {name!r} (yet)."
        )
    artifacts = artifacts_of(storage, attempt)
    if name not in artifacts:
        some = _there_are("artifacts", name, list(artifacts))
        raise ArtifactNotFound(
            f"Task {place.task.pathspec} (attempt {attempt.number}) has no artifact {name!r}; {some}."
        )
    return attempt, artifacts[name]
