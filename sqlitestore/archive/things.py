"""What a run has, thing by thing: each with what makes it equal to another's, and how it is described.

Two looks at a run differ in what they leave out. A run beside *itself*, in another file, is compared to the last
millisecond. Beside *another* run, what differs between any two runs is no difference: times, the run's own id, ids of
cards, and what earlier attempts of a task did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlitestore import layout, preview
from sqlitestore.archive.records import RunRecords
from sqlitestore.errors import Damaged
from sqlitestore.files import FileRecord
from sqlitestore.mflog import without_prefix
from sqlitestore.model import Artifact
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum, RegisteredTask
from sqlitestore.task_records import OF_THE_TASK, LogRecord, MetadataRecord
from sqlitestore.tasks import AttemptRecord

UNMISTAKABLE = 10
"""Digits of a run's id from which on it is taken for one wherever it stands: Metaflow's have 16."""

LONGEST_TEXT = 200
"""Characters of a value that a description shows."""

_CARD_ID = re.compile(r"[0-9a-f]{32,40}")
_DATE = "date:"
"""Begins the system tag that says on which day a run was."""


class Side(NamedTuple):
    """What one side has. ``key`` and ``size`` [bytes] are those of what is stored; None where nothing is.

    ``type`` is that of an artifact. ``preview`` is an artifact's, and of all else ``{"repr": text}``.
    """

    key: str | None = None
    size: int | None = None
    type: str | None = None
    preview: Mapping[str, Any] = {}


class Thing(NamedTuple):
    """Equal to another if ``value`` is; ``side`` describes it, for the few that are not. Of a log it is its parts."""

    value: Any
    side: Callable[[], Side]


Kind: TypeAlias = Literal["run", "attempt", "artifact", "metadata", "log", "tag", "file", "registered", "data"]
Name: TypeAlias = tuple[Kind, int | None, str]
"""Kind, attempt (None: of no attempt, or the latest of a task in another run) and name of a thing."""

Things: TypeAlias = dict[Name, Thing]

TaskName: TypeAlias = tuple[str, str]
"""Step and task."""


class _RegisteredArtifact(NamedTuple):
    step: str
    task: str
    artifact: RegisteredArtifact


class _File(NamedTuple):
    step: str | None
    task: str | None
    file: FileRecord


class TaskRecords(NamedTuple):
    """What a run's records hold of one task."""

    attempts: list[AttemptRecord]
    metadata: list[MetadataRecord]
    logs: list[LogRecord]
    registered: list[RegisteredTask]
    fields: list[RegisteredMetadatum]
    artifacts: list[_RegisteredArtifact]
    files: list[_File]

    @property
    def latest(self) -> int | None:
        """The number of the latest attempt that started, or the last if none did; None without any."""
        found = max(self.attempts, key=lambda each: (each.started is not None, each.number), default=None)
        return None if found is None else found.number


def by_task(records: RunRecords) -> dict[TaskName, TaskRecords]:
    """Return the records of each task by its step and name, in the order in which the tasks first appeared."""
    tasks: dict[TaskName, TaskRecords] = {}

    def gather(field: str, found: Iterable[Any]) -> None:
        for each in found:
            name = each.step, each.task
            if name not in tasks:
                tasks[name] = TaskRecords([], [], [], [], [], [], [])
            getattr(tasks[name], field).append(each)

    gather("attempts", records.attempts)
    gather("metadata", records.metadata)
    gather("logs", records.logs)
    gather("registered", records.registered.tasks)
    gather("fields", records.registered.metadata)
    gather("artifacts", map(_RegisteredArtifact._make, records.registered.artifacts))
    files = (_File(*layout.task_of_path(each.path), each) for each in records.files)
    gather("files", (each for each in files if each.step is not None))
    return tasks


class Look:
    """A look at a run beside itself (``same``) or another."""

    def __init__(self, records: RunRecords, *, same: bool) -> None:
        self._records = records
        self._same = same
        run, flow = re.escape(records.run_id), re.escape(records.flow_name)
        anywhere = rf"|(?<!\w){run}(?!\w)" if len(records.run_id) >= UNMISTAKABLE else ""
        self._own_id = re.compile(rf"(?<!\w){run}(?=/)|(?<={flow}/){run}(?!\w){anywhere}")

    def own(self, text: str) -> str:
        """Return ``text`` without what tells that it is of this run."""
        return text if self._same else self._own_id.sub("(run)", text)

    def own_line(self, line: bytes) -> bytes:
        """Return a line of a log the same way, and without the time at which it was written."""
        return (
            line
            if self._same
            else self.own(without_prefix(line).decode(errors="surrogateescape")).encode(errors="surrogateescape")
        )

    # What belongs to no task

    def of_run(self) -> Things:
        """Return what belongs to the run as a whole."""
        registered = self._records.registered
        things: Things = {("data", None, key): Thing(None, partial(Side, key)) for key in self._records.data}
        if registered.run is not None:
            user, epoch = registered.run.user_name, registered.run.ts_epoch
            things["registered", None, "run"] = Thing(*self._registered(user, epoch))
            tags = {tag for tag in registered.run.system_tags if self._same or not tag.startswith(_DATE)}
            things |= {("tag", None, tag): Thing(None, Side) for tag in sorted(registered.run.tags | tags)}
        for step in registered.steps:
            things["registered", None, f"step {step.step}"] = Thing(*self._registered(step.user_name, step.ts_epoch))
        things |= self._files(each for each in self._records.files if layout.task_of_path(each.path)[0] is None)
        return things

    def _registered(self, user: str | None, epoch: int) -> tuple[Any, Callable[[], Side]]:
        value = (user, epoch) if self._same else user
        when = f", registered {_moment(epoch / 1000)}" if self._same else ""
        return value, partial(_described, f"user {user}{when}")

    def _files(self, files: Iterable[FileRecord]) -> Things:
        things: Things = {}
        for each in files:
            card = each.path.startswith(f"{layout.CARDS}/")
            name, value = each.path, (each.key, each.size, each.metadata)
            if not self._same:
                name = layout.moved_path(name, self._records.flow_name, self._records.run_id, "(run)")
                # A card tells of its run, so no two are equal; which there are is what can be compared.
                name, value = (_CARD_ID.sub("*", name), ("", 0, None)) if card else (name, value)
            things["file", None, _free(things, "file", None, name)] = Thing(value, partial(Side, each.key, each.size))
        return things

    # What belongs to a task

    def of_task(self, task: TaskRecords) -> Things:
        """Return what belongs to a task: of all attempts, or beside another run of the latest."""
        things = self._attempts(task)
        for each in task.metadata:
            if self._counts(task, each.attempt):
                size = len(each.value.encode())
                side = partial(_described, each.value, size)
                things["metadata", self._number(each.attempt), each.name] = Thing(self.own(each.value), side)
        things |= self._logs(task)
        for registered in task.registered:
            thing = Thing(*self._registered(registered.user_name, registered.ts_epoch))
            things["registered", None, "task"] = thing
        things |= self._fields(task)
        for _, _, artifact in task.artifacts:
            if self._counts(task, artifact.attempt):
                value = artifact if self._same else (artifact.content_type, artifact.sha, artifact.ds_type)
                name = f"{artifact.name} ({artifact.ds_type})"
                side = partial(Side, artifact.sha, None, artifact.content_type, {"repr": artifact.location})
                things["registered", self._number(artifact.attempt), name] = Thing(value, side)
        return things | self._files(each.file for each in task.files)

    def _counts(self, task: TaskRecords, number: int) -> bool:
        return self._same or number in {OF_THE_TASK, task.latest}

    def _number(self, number: int) -> int | None:
        return number if self._same and number != OF_THE_TASK else None

    def _attempts(self, task: TaskRecords) -> Things:
        things: Things = {}
        for each in task.attempts:
            if not self._counts(task, each.number):
                continue
            state = "not started" if each.started is None else "not done" if each.done is None else "done"
            count = "1 attempt" if len(task.attempts) == 1 else f"{len(task.attempts)} attempts"
            times = [f"{what} {_moment(time)}" for what, time in (("from", each.started), ("to", each.done)) if time]
            told = [state, *times] if self._same else [count, state]
            told += [f"Python {each.python.split(' ')[0]}"] if each.python else []
            value = (each.started, each.done, each.python) if self._same else (count, state, each.python)
            number = self._number(each.number)
            pathspec = f"{self._records.pathspec}/{each.step}/{each.task}"
            things["attempt", number, ""] = Thing(value, partial(_described, ", ".join(told)))
            for row in each.artifacts:
                value = row if self._same else row[:6]  # the preview depends on who wrote it
                things["artifact", number, row[0]] = Thing(value, partial(_artifact_side, row, pathspec))
        return things

    def _logs(self, task: TaskRecords) -> Things:
        parts: dict[Name, list[LogRecord]] = {}
        for each in task.logs:
            if self._counts(task, each.number):
                name = f"{each.source} {each.stream}".strip()
                parts.setdefault(("log", self._number(each.number), name), []).append(each)
        return {
            name: Thing(tuple((each.key, each.size) for each in found), partial(_log_side, found))
            for name, found in parts.items()
        }

    def _fields(self, task: TaskRecords) -> Things:
        """Return what a provider registered by its name, which may have come more than once."""
        values: dict[Name, list[Any]] = {}
        texts: dict[Name, list[str]] = {}
        for each in task.fields:
            of = [tag.partition(":")[2] for tag in each.tags if tag.startswith("attempt_id:")]
            number = int(of[0]) if of and of[0].isdecimal() else OF_THE_TASK
            if not self._counts(task, number):
                continue
            text = each.value if isinstance(each.value, str) else repr(each.value)
            field, shown = each.field_name, self.own(text)
            if not self._same and each.type == "card-info":
                field, shown = "card", _CARD_ID.sub("*", shown)
            name: Name = ("metadata", self._number(number), field)
            value = (text, each.type, each.user_name, each.ts_epoch, tuple(each.tags)) if self._same else shown
            values.setdefault(name, []).append(value)
            texts.setdefault(name, []).append(text)
        return {
            name: Thing(
                tuple(sorted(found if self._same else set(found), key=repr)),
                partial(_described, ", ".join(dict.fromkeys(texts[name]))),
            )
            for name, found in values.items()
        }


def _free(things: Things, kind: Kind, number: int | None, name: str) -> str:
    """Return the name, numbered if there is one of it already: two cards of a kind without their ids."""
    count = 1
    while (kind, number, name if count == 1 else f"{name} ({count})") in things:
        count += 1
    return name if count == 1 else f"{name} ({count})"


def _moment(seconds: float) -> str:
    """Return a time [s since 1970] for people; as it is if no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _described(text: str, size: int | None = None) -> Side:
    return Side(size=size, preview={"repr": text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."})


def _artifact_side(row: tuple[Any, ...], pathspec: str) -> Side:
    name, key, size, kind, encoding, info, packed = row
    try:
        unpacked = preview.unpack(info)
    except Damaged as error:
        raise Damaged(f"Artifact {name!r} of {pathspec} is damaged: {error}.") from error
    artifact = Artifact(key.hex(), size, kind, encoding, unpacked, preview.stored(packed, name, pathspec))
    return Side(artifact.key, artifact.size, artifact.type, artifact.preview)


def _log_side(parts: list[LogRecord]) -> Side:
    return Side(parts[0].key if len(parts) == 1 else None, sum(each.size for each in parts))


def lines_of(blocks: Iterable[bytes], longest: int = 2**16) -> Iterator[bytes]:
    """Yield the lines of a text in blocks, each in pieces of ``longest`` bytes: one of a gigabyte fits in no memory."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield from _pieces(line + b"\n", longest)
        while len(rest) > longest:
            yield rest[:longest]
            rest = rest[longest:]
    if rest:
        yield from _pieces(rest, longest)


def _pieces(line: bytes, longest: int) -> Iterator[bytes]:
    for start in range(0, len(line), longest):
        yield line[start : start + longest]
