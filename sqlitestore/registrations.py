"""The tables ``registered_...``: what a metadata provider registers of runs, steps, tasks, metadata and artifacts.

The words are Metaflow's. A run has tags, which count for everything below it; steps and tasks have none of their own.
Artifacts stand here only where this file does not hold them itself (see ``tasks``): those of another datastore.

A file of format 1 that can only be read has none of these tables, and answers as if nothing were registered.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import apsw

from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import Damaged
from sqlitestore.model import Attempt
from sqlitestore.schema import REGISTRATIONS
from sqlitestore.stored_json import loaded, loaded_texts
from sqlitestore.tasks import SELECT_NAMES, digest_of, run_id


def _select(columns: str, table: str, more: str = "") -> str:
    """Return a SELECT of rows of a run, which is bound by the names of flow and run; ``more`` goes on after that."""
    return f"""SELECT {columns} FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN {table} AS x ON x.run = r.id
 WHERE f.name = ? AND r.name = ? {more}"""


def _select_of_tasks(columns: str, table: str, order: str) -> str:
    """Return a SELECT of rows of tasks of a run, which is bound by its names and a JSON array of [step, task]."""
    return f"""SELECT {columns} FROM flow AS f JOIN run AS r ON r.flow = f.id CROSS JOIN json_each(?3) AS asked
 CROSS JOIN {table} AS x ON x.run = r.id AND x.step = asked.value ->> 0 AND x.task = asked.value ->> 1
 WHERE f.name = ?1 AND r.name = ?2 {order}"""


_RUN = "r.name, x.user_name, x.ts_epoch, x.tags, x.system_tags, x.task_ids, x.digest"
SELECT_RUN = _select(_RUN, "registered_run")
SELECT_RUNS = f"""SELECT {_RUN} FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN registered_run AS x ON x.run = r.id
 WHERE f.name = ? AND r.name NOT GLOB '*/*' ORDER BY x.ts_epoch, r.id"""
INSERT_RUN = """INSERT INTO registered_run(run, user_name, ts_epoch, tags, system_tags, task_ids, digest)
 VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
UPDATE_RUN = "UPDATE registered_run SET tags = ?, system_tags = ?, task_ids = ?, digest = ? WHERE run = ?"
_STEP = "x.step, x.user_name, x.ts_epoch, x.digest"
SELECT_STEPS = _select(_STEP, "registered_step", "ORDER BY x.ts_epoch")
SELECT_STEP = _select(_STEP, "registered_step", "AND x.step = ?")
INSERT_STEP = """INSERT INTO registered_step(run, step, user_name, ts_epoch, digest)
 VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_TASK = "x.step, x.task, x.user_name, x.ts_epoch, x.digest"
SELECT_TASKS = _select(_TASK, "registered_task")
SELECT_TASKS_OF_STEP = _select(_TASK, "registered_task", "AND x.step = ?")
SELECT_TASK = _select(_TASK, "registered_task", "AND x.step = ? AND x.task = ?")
SELECT_UNREGISTERED_TASKS = f"""{SELECT_NAMES} AND NOT EXISTS
 (SELECT 1 FROM registered_task AS x WHERE x.run = r.id AND x.step = a.step AND x.task = a.task)"""
INSERT_TASK = """INSERT INTO registered_task(run, step, task, user_name, ts_epoch, digest)
 VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_METADATUM = "x.step, x.task, x.position, x.field_name, x.value, x.type, x.tags, x.user_name, x.ts_epoch, x.digest"
SELECT_METADATA = _select_of_tasks(
    _METADATUM, "registered_metadata", "AND (?4 IS NULL OR x.field_name = ?4) ORDER BY asked.key, x.position"
)
SELECT_METADATA_OF_RUN = _select(_METADATUM, "registered_metadata", "ORDER BY x.step, x.task, x.position")
SELECT_METADATA_OF_STEP = _select(
    _METADATUM, "registered_metadata", "AND x.step = ? AND x.field_name = ? ORDER BY x.task, x.position"
)
NEXT_POSITION = """SELECT COALESCE(MAX(position), -1) + 1 FROM registered_metadata
 WHERE run = ? AND step = ? AND task = ?"""
INSERT_METADATUM = """INSERT INTO registered_metadata(run, step, task, position, field_name, value, type, tags,
 user_name, ts_epoch, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_ARTIFACT = (
    "x.step, x.task, x.attempt, x.name, x.content_type, x.sha, x.ds_type, x.location, x.user_name, x.ts_epoch, x.digest"
)
SELECT_ARTIFACTS_OF_RUN = _select(_ARTIFACT, "registered_artifact", "ORDER BY x.step, x.task, x.attempt, x.name")
SELECT_ARTIFACTS = _select_of_tasks(_ARTIFACT, "registered_artifact", "ORDER BY asked.key, x.attempt, x.name")
INSERT_ARTIFACT = """INSERT INTO registered_artifact(run, step, task, attempt, name, content_type, sha, ds_type,
 location, user_name, ts_epoch, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


class RegisteredRun(NamedTuple):
    """A run. ``ts_epoch`` is when it was registered [ms since 1970]; ``task_ids`` how many task ids were given out."""

    name: str
    user_name: str | None
    ts_epoch: int
    tags: frozenset[str]
    system_tags: frozenset[str]
    task_ids: int


class RegisteredTask(NamedTuple):
    """A task, or (``task`` "") a step. ``ts_epoch`` is when it was registered [ms since 1970]."""

    step: str
    task: str
    user_name: str | None
    ts_epoch: int


class RegisteredMetadatum(NamedTuple):
    """A metadatum; ``value`` is whatever JSON can hold. ``ts_epoch`` is when it was registered [ms since 1970]."""

    step: str
    task: str
    field_name: str
    value: Any
    type: str
    tags: Sequence[str]
    user_name: str | None
    ts_epoch: int


class RegisteredArtifact(NamedTuple):
    """An artifact in whichever datastore. ``ts_epoch`` is when it was registered [ms since 1970]."""

    attempt: int
    name: str
    content_type: str
    sha: str
    ds_type: str
    location: str
    user_name: str | None
    ts_epoch: int


class Registered(NamedTuple):
    """All that is registered of a run; ``run`` is None if it is not, which its metadata need not be."""

    run: RegisteredRun | None
    steps: tuple[RegisteredTask, ...]
    tasks: tuple[RegisteredTask, ...]
    metadata: tuple[RegisteredMetadatum, ...]
    artifacts: tuple[tuple[str, str, RegisteredArtifact], ...]
    """Each after its step and task."""


class Registrations:
    """Registers and finds what a metadata provider keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Runs

    def add_run(
        self, flow: str, run: str, user: str | None, ts_epoch: int, tags: Iterable[str], system_tags: Iterable[str]
    ) -> bool:
        """Register a run; False if it was registered already, and nothing changed."""
        registered = RegisteredRun(run, user, ts_epoch, frozenset(tags), frozenset(system_tags), 0)
        with self._database.write() as connection:
            return self._insert_run(connection, flow, registered)

    def _insert_run(self, connection: apsw.Connection, flow: str, run: RegisteredRun) -> bool:
        row = run_id(connection, flow, run.name, create=True)
        crash_point("registered-run-named")
        tags, system_tags = _json_tags(run.tags), _json_tags(run.system_tags)
        values = (run.user_name, run.ts_epoch, tags, system_tags, run.task_ids)
        connection.execute(INSERT_RUN, (row, *values, digest_of(flow, run.name, *values)))
        return bool(connection.changes())

    def runs(self, flow: str) -> list[RegisteredRun]:
        """Return the registered runs of a flow, oldest first."""
        return [self._run(flow, row) for row in self._query(SELECT_RUNS, (flow,))]

    def run(self, flow: str, run: str) -> RegisteredRun | None:
        """Return a registered run, None if it is not registered."""
        return next((self._run(flow, row) for row in self._query(SELECT_RUN, (flow, run))), None)

    def change_tags(self, flow: str, run: str, change: Any) -> frozenset[str] | None:
        """Set a run's tags to ``change(tags, system_tags)``, in one transaction; None if it is not registered.

        What ``change`` raises leaves the tags as they were. It is called inside the transaction: keep it short.
        """
        with self._database.write() as connection:
            found = self.run(flow, run)
            if found is None:
                return None
            tags = frozenset(change(found.tags, found.system_tags))
            if tags != found.tags:
                self._update_run(connection, flow, found._replace(tags=tags))
                crash_point("tags-updated")
        return tags

    def _update_run(self, connection: apsw.Connection, flow: str, run: RegisteredRun) -> None:
        tags, system_tags = _json_tags(run.tags), _json_tags(run.system_tags)
        digest = digest_of(flow, run.name, run.user_name, run.ts_epoch, tags, system_tags, run.task_ids)
        row = run_id(connection, flow, run.name)
        connection.execute(UPDATE_RUN, (tags, system_tags, run.task_ids, digest, row))

    def _run(self, flow: str, row: tuple[Any, ...]) -> RegisteredRun:
        name, user, ts_epoch, tags, system_tags, task_ids, digest = row
        if digest_of(flow, name, user, ts_epoch, tags, system_tags, task_ids) != digest or not _are_ours(
            ts_epoch, user, name
        ):
            raise self._damaged("run", f"{flow}/{name}")
        what = f"The tags of run {flow}/{name} in {self._database.path}"
        return RegisteredRun(name, user, ts_epoch, loaded_texts(tags, what), loaded_texts(system_tags, what), task_ids)

    # Steps and tasks

    def new_task_id(self, flow: str, run: str, step: str, user: str | None, ts_epoch: int) -> str:
        """Register a task (and its step and run, where they are not) under an id that the run never had; return it."""
        with self._database.write() as connection:
            found = self.run(flow, run)
            if found is None:
                found = RegisteredRun(run, user, ts_epoch, frozenset(), frozenset(), 0)
                self._insert_run(connection, flow, found)
            number = found.task_ids
            while not self._insert_task(connection, flow, run, RegisteredTask(step, str(number), user, ts_epoch)):
                number += 1  # somebody chose this name for a task
            crash_point("task-id-taken")
            self._update_run(connection, flow, found._replace(task_ids=number + 1))
        return str(number)

    def add_task(self, flow: str, run: str, step: str, task: str, user: str | None, ts_epoch: int) -> bool:
        """Register a task (and its step and run, where they are not); False if it was registered already."""
        with self._database.write() as connection:
            self._insert_run(connection, flow, RegisteredRun(run, user, ts_epoch, frozenset(), frozenset(), 0))
            return self._insert_task(connection, flow, run, RegisteredTask(step, task, user, ts_epoch))

    def _insert_task(self, connection: apsw.Connection, flow: str, run: str, task: RegisteredTask) -> bool:
        row = run_id(connection, flow, run)
        step_values = (task.step, task.user_name, task.ts_epoch)
        connection.execute(INSERT_STEP, (row, *step_values, digest_of(flow, run, *step_values)))
        crash_point("step-registered")
        connection.execute(INSERT_TASK, (row, *task, digest_of(flow, run, *task)))
        return bool(connection.changes())

    def steps(self, flow: str, run: str, step: str | None = None) -> list[RegisteredTask]:
        """Return the registered steps of a run (or that one), in the order in which they were registered."""
        statement, bindings = (SELECT_STEPS, (flow, run)) if step is None else (SELECT_STEP, (flow, run, step))
        steps = []
        for name, user, ts_epoch, digest in self._query(statement, bindings):
            if digest_of(flow, run, name, user, ts_epoch) != digest or not _are_ours(ts_epoch, user, name):
                raise self._damaged("step", f"{flow}/{run}/{name}")
            steps.append(RegisteredTask(name, "", user, ts_epoch))
        return steps

    def tasks(self, flow: str, run: str, step: str | None = None, task: str | None = None) -> list[RegisteredTask]:
        """Return the registered tasks of a run, of a step of it, or that one, in the order of their names."""
        bindings = tuple(name for name in (flow, run, step, task) if name is not None)
        statement = {2: SELECT_TASKS, 3: SELECT_TASKS_OF_STEP, 4: SELECT_TASK}[len(bindings)]
        tasks: list[Any] = self._query(statement, bindings)
        for index, (name, task_name, user, ts_epoch, digest) in enumerate(tasks):
            found = digest_of(flow, run, name, task_name, user, ts_epoch)
            if found != digest or not _are_ours(ts_epoch, user, name, task_name):
                raise self._damaged("task", f"{flow}/{run}/{name}/{task_name}")
            tasks[index] = RegisteredTask(name, task_name, user, ts_epoch)  # in the row's place: not both at once
        return tasks

    def unregistered_tasks(self, flow: str, run: str, step: str | None = None) -> list[tuple[str, str]]:
        """Return (step, task) of the other tasks of a run, or of a step of it, that have attempts in this file."""
        statement = SELECT_UNREGISTERED_TASKS if self._database.format >= REGISTRATIONS else SELECT_NAMES
        return cast("list[tuple[str, str]]", self._database.query(statement, (flow, run, step)))

    # Metadata and artifacts

    def add_metadata(self, flow: str, run: str, metadata: Iterable[RegisteredMetadatum]) -> None:
        """Add metadata of tasks to those that are there, all in one transaction; the tasks need not be registered."""
        rows = [
            (each.step, each.task, each.field_name, json.dumps(each.value), each.type, json.dumps(list(each.tags)),
             each.user_name, each.ts_epoch)
            for each in metadata
        ]  # fmt: skip
        with self._database.write() as connection:
            row = run_id(connection, flow, run, create=True)
            for step, task, *values in rows:
                [(position,)] = connection.execute(NEXT_POSITION, (row, step, task)).fetchall()
                fields = (step, task, position, *values)
                connection.execute(INSERT_METADATUM, (row, *fields, digest_of(flow, run, *fields)))
                crash_point("metadatum-registered")

    def metadata(
        self, flow: str, run: str, tasks: Iterable[tuple[str, str]], field_name: str | None = None
    ) -> list[RegisteredMetadatum]:
        """Return the metadata (of one name) of tasks, given as (step, task), in the order asked and of registering."""
        bindings = (flow, run, json.dumps(list(tasks)), field_name)
        return list(self._metadata(flow, run, self._query(SELECT_METADATA, bindings)))

    def metadata_of_step(self, flow: str, run: str, step: str, field_name: str) -> list[RegisteredMetadatum]:
        """Return the metadata of that name of all tasks of a step."""
        return list(self._metadata(flow, run, self._query(SELECT_METADATA_OF_STEP, (flow, run, step, field_name))))

    def _metadata(self, flow: str, run: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[RegisteredMetadatum]:
        for step, task, position, field, value, kind, tags, user, ts_epoch, digest in rows:
            found = digest_of(flow, run, step, task, position, field, value, kind, tags, user, ts_epoch)
            if found != digest or not _are_ours(ts_epoch, user, step, task, field):
                raise self._damaged(f"metadatum {field!r} of task", f"{flow}/{run}/{step}/{task}")
            try:
                known, content = _tags(tags), loaded(value, "its value")
            except Damaged as error:
                what = f"Metadatum {field!r} of task {flow}/{run}/{step}/{task} in {self._database.path}"
                raise Damaged(f"{what}: {error}") from error
            yield RegisteredMetadatum(step, task, field, content, kind, known, user, ts_epoch)

    def add_artifacts(self, flow: str, run: str, step: str, task: str, artifacts: Iterable[RegisteredArtifact]) -> None:
        """Register artifacts; one whose attempt and name are registered already stays as it is."""
        rows = [(step, task, *artifact) for artifact in artifacts]
        with self._database.write() as connection:
            row = run_id(connection, flow, run, create=True)
            connection.executemany(INSERT_ARTIFACT, [(row, *fields, digest_of(flow, run, *fields)) for fields in rows])
            crash_point("artifacts-registered")

    # All of a run

    def records(self, flow: str, run: str) -> Registered:
        """Return all that is registered of a run. Raises Damaged."""
        artifacts = []
        for step, task, *fields, digest in self._query(SELECT_ARTIFACTS_OF_RUN, (flow, run)):
            self._check_artifact(flow, run, step, task, fields, digest)
            artifacts.append((step, task, RegisteredArtifact(*fields)))
        metadata = self._metadata(flow, run, self._query(SELECT_METADATA_OF_RUN, (flow, run)))
        return Registered(
            self.run(flow, run),
            tuple(self.steps(flow, run)),
            tuple(self.tasks(flow, run)),
            tuple(metadata),
            tuple(artifacts),
        )

    def insert(self, flow: str, run: str, records: Registered) -> None:
        """Register all that is given, of which nothing is there, in one transaction. Raises Damaged if it cannot be."""
        try:
            with self._database.write() as connection:
                self._insert_all(connection, flow, run, records)
        except apsw.ConstraintError as error:
            raise Damaged(f"What is registered of run {flow}/{run} does not fit together: {error}.") from error

    def _insert_all(self, connection: apsw.Connection, flow: str, run: str, records: Registered) -> None:
        if records.run is not None:
            self._insert_run(connection, flow, records.run._replace(name=run))
        row = run_id(connection, flow, run, create=True)
        for each in records.steps:
            values = (each.step, each.user_name, each.ts_epoch)
            connection.execute(INSERT_STEP, (row, *values, digest_of(flow, run, *values)))
        for each in records.tasks:
            connection.execute(INSERT_TASK, (row, *each, digest_of(flow, run, *each)))
        self.add_metadata(flow, run, records.metadata)
        for step, task, artifact in records.artifacts:
            self.add_artifacts(flow, run, step, task, [artifact])

    def artifacts(
        self, flow: str, run: str, tasks: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], list[RegisteredArtifact]]:
        """Return the artifacts registered for tasks, given as (step, task): by task, sorted by attempt and name."""
        artifacts: dict[tuple[str, str], list[RegisteredArtifact]] = {}
        for step, task, *fields, digest in self._query(SELECT_ARTIFACTS, (flow, run, json.dumps(list(tasks)))):
            self._check_artifact(flow, run, step, task, fields, digest)
            artifacts.setdefault((step, task), []).append(RegisteredArtifact(*fields))
        return artifacts

    def _check_artifact(self, flow: str, run: str, step: str, task: str, fields: Sequence[Any], digest: bytes) -> None:
        if digest_of(flow, run, step, task, *fields) != digest:
            raise self._damaged(f"artifact {fields[1]!r} of task", f"{flow}/{run}/{step}/{task}")

    def _query(self, statement: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._database.query(statement, bindings) if self._database.format >= REGISTRATIONS else []

    def _damaged(self, what: str, pathspec: str) -> Damaged:
        return Damaged(
            f"What {self._database.path} has registered of {what} {pathspec} is damaged: it differs from what was "
            "written. Restore the file from a backup."
        )


def unregistered_run(run: str, attempts: Iterable[Attempt]) -> RegisteredRun | None:
    """Return a run that is only known by its attempts as it would be registered; None if none of them started."""
    started = min((each.started for each in attempts if each.started is not None), default=None)
    return None if started is None else RegisteredRun(run, None, int(started * 1000), frozenset(), frozenset(), 0)


_OURS = {(int, user, *[str] * names) for user in (str, type(None)) for names in (1, 2, 3)}


def _are_ours(*values: object) -> bool:
    """Whether a row's ``ts_epoch``, user and names are of our types: whoever forges a row can sign it, too."""
    return tuple(map(type, values)) in _OURS


@lru_cache(1000)
def _tags(text: str) -> tuple[str, ...]:
    """Return the tags in a JSON array: few different ones come again and again."""
    loaded_texts(text, "its list of tags")
    return tuple(json.loads(text))


def _json_tags(tags: Iterable[str]) -> str:
    return json.dumps(sorted(tags))
