"""The tables ``flow``, ``run``, ``attempt`` and ``artifact``: which attempts there are, and what the done ones made.

Names stand as text; times are seconds since 1970. The digests that each row carries are over msgpack arrays whose
fields FORMAT.md lists, so a row that damage changed or moved is noticed when it is read.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import apsw
import msgpack
from xxhash import xxh3_128_digest

from sqlitestore import preview
from sqlitestore.artifact_rows import COLUMNS, StoredArtifacts, rows_of
from sqlitestore.blobs import Blobs
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import AttemptDone, BlobNotFound, Damaged, RunExists, TaskNotFound
from sqlitestore.holds import release
from sqlitestore.model import Artifact, Attempt, TaskAddress
from sqlitestore.schema import RUNS_COME_AND_GO
from sqlitestore.small_blobs import Pending, insert_small_blobs
from sqlitestore.stubs import DELETE_STUBS, INSERT_STUB, with_stubs

INSERT_FLOW = "INSERT INTO flow(name) VALUES (?) ON CONFLICT(name) DO NOTHING"
INSERT_RUN = "INSERT INTO run(flow, name) SELECT id, ? FROM flow WHERE name = ? ON CONFLICT(flow, name) DO NOTHING"
SELECT_RUN = "SELECT r.id FROM flow AS f JOIN run AS r ON r.flow = f.id WHERE f.name = ? AND r.name = ?"
SELECT_ATTEMPT_ID = """SELECT a.id, a.started, a.done FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN attempt AS a ON a.run = r.id WHERE f.name = ? AND r.name = ? AND a.step = ? AND a.task = ? AND a.number = ?"""
INSERT_ATTEMPT = """INSERT INTO attempt(run, step, task, number, started, digest)
 SELECT r.id, ?3, ?4, ?5, ?6, ?7 FROM flow AS f JOIN run AS r ON r.flow = f.id WHERE f.name = ?1 AND r.name = ?2
 ON CONFLICT(run, step, task, number) DO NOTHING"""
START_ATTEMPT = "UPDATE attempt SET started = ?, digest = ? WHERE id = ?"
FINISH_ATTEMPT = "UPDATE attempt SET done = ?, python = ?, artifacts_digest = ?, digest = ? WHERE id = ?"
SELECT_BLOB_ID = "SELECT id FROM blob WHERE key = ?"
INSERT_ARTIFACT = """INSERT INTO artifact(attempt, name, position, blob, size, type, encoding, serializer_info, preview)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
ORIGIN = "COALESCE(u.origin, 'an unknown place')"
"""Of a run that has a row in ``untrusted`` (u): only a forged file lacks it there, and NULL must not mean trusted."""

_ORIGIN = f"(SELECT {ORIGIN} FROM untrusted AS u WHERE u.run = r.id)"
_ORIGIN_BEFORE_FORMAT_3 = "(SELECT COALESCE(uuid, 'an unknown place') FROM store WHERE kind = 'archive')"
_ATTEMPT = f"a.step, a.task, a.number, a.started, a.done, a.python, a.artifacts_digest, a.digest, a.id, {_ORIGIN}"
SELECT_RUN_ATTEMPTS = f"""SELECT {_ATTEMPT} FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN attempt AS a ON a.run = r.id WHERE f.name = ? AND r.name = ? ORDER BY a.id"""
SELECT_STEP_ATTEMPTS = f"""SELECT {_ATTEMPT} FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN attempt AS a ON a.run = r.id WHERE f.name = ? AND r.name = ? AND a.step IN (SELECT value FROM json_each(?))
 ORDER BY a.id"""
SELECT_TASK_ATTEMPTS = f"""SELECT f.name, r.name, {_ATTEMPT} FROM json_each(?) AS asked
 CROSS JOIN flow AS f ON f.name = asked.value ->> 0
 CROSS JOIN run AS r ON r.flow = f.id AND r.name = asked.value ->> 1
 CROSS JOIN attempt AS a ON a.run = r.id AND a.step = asked.value ->> 2 AND a.task = asked.value ->> 3
 ORDER BY asked.id, a.number"""
SELECT_NAMES = """SELECT DISTINCT a.step, a.task FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN attempt AS a ON a.run = r.id WHERE f.name = ?1 AND r.name = ?2 AND (?3 IS NULL OR a.step = ?3)"""
SELECT_ARTIFACTS = """SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview, asked.key
 FROM json_each(?) AS asked CROSS JOIN artifact AS x ON x.attempt = asked.value
 LEFT JOIN blob AS b ON b.id = x.blob ORDER BY asked.key, x.position"""
ATTEMPTS_AT_ONCE = 500
DELETE_ARTIFACTS = "DELETE FROM artifact WHERE attempt = ?"
INSERT_DONE_ATTEMPT = """INSERT INTO attempt(run, step, task, number, started, done, python, artifacts_digest, digest)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SELECT_PREVIEWS = """SELECT asked.value ->> 0, asked.value ->> 1, (SELECT COALESCE(x.preview, x'') FROM artifact AS x
  WHERE x.blob = b.id AND x.type = asked.value ->> 1 LIMIT 1)
 FROM json_each(?) AS asked CROSS JOIN blob AS b ON b.key = unhex(asked.value ->> 0)"""
HAS_ATTEMPT = "SELECT digest FROM attempt WHERE id = ?"
# These names have no digest; but they stand twice, in the index (i) and in the table (t), and are compared.
SELECT_FLOWS = """SELECT i.name, t.name FROM flow AS i INDEXED BY sqlite_autoindex_flow_1
 LEFT JOIN flow AS t NOT INDEXED ON t.id = i.id ORDER BY i.name"""
# A run in the trash has a name with a slash, which no run can be asked for by (see ``trash``).
SELECT_RUNS = """SELECT i.name, t.name FROM flow AS f JOIN run AS i INDEXED BY sqlite_autoindex_run_1 ON i.flow = f.id
 LEFT JOIN run AS t NOT INDEXED ON t.id = i.id WHERE f.name = ? AND i.name NOT GLOB '*/*' ORDER BY i.id"""


_of_thread = threading.local()


def digest_of(*fields: Any) -> bytes:
    """Return the 16-byte digest of a row: xxh3-128 over its fields as a msgpack array."""
    try:
        pack = _of_thread.pack
    except AttributeError:
        pack = _of_thread.pack = msgpack.Packer().pack  # making one for each row takes as long as packing it
    return xxh3_128_digest(pack(fields))


def run_id(connection: apsw.Connection, flow_name: str, run_name: str, *, create: bool = False) -> int:
    """Return the id of a run's row, making it and its flow's if asked to; 0 if there is none."""
    row = connection.execute(SELECT_RUN, (flow_name, run_name)).fetchone()
    if row is None and create:
        connection.execute(INSERT_FLOW, (flow_name,))
        connection.execute(INSERT_RUN, (run_name, flow_name))
        row = connection.execute(SELECT_RUN, (flow_name, run_name)).fetchone()
    return int(row[0]) if row else 0


def attempt_id(connection: apsw.Connection, task: TaskAddress, number: int) -> tuple[int, float | None, float | None]:
    """Return the id, start and done time of an attempt's row, making one that is not started if there is none.

    Logs and metadata may arrive before an attempt starts.
    """
    row = connection.execute(SELECT_ATTEMPT_ID, (*task, number)).fetchone()
    if row is None:
        run_id(connection, task.flow_name, task.run_id, create=True)
        digest = digest_of(*task, number, None, None, None, None)
        connection.execute(INSERT_ATTEMPT, (*task, number, None, digest))
        return connection.last_insert_rowid(), None, None
    return row[0], row[1], row[2]


# A stranger's digests are right whatever a row holds, and SQLite checks the types of a STRICT table only on writing.
_NO_TIME = type(None)
_TYPES_OF_ATTEMPT = {
    (str, str, str, str, int, started, done, python)
    for started in (float, _NO_TIME)
    for done in (float, _NO_TIME)
    for python in (str, _NO_TIME)
}


class Finished(NamedTuple):
    """What makes an attempt done: its artifacts by name, when [s since 1970], and the Python that wrote it."""

    artifacts: Mapping[str, Artifact]
    done: float
    python: str


class AttemptRecord(NamedTuple):
    """All that the tables hold of an attempt, to be written elsewhere; the names of flow and run are said apart.

    ``artifacts`` are rows as in ``StoredArtifacts.rows``, in the order saved; () if it is not done.
    """

    step: str
    task: str
    number: int
    started: float | None
    done: float | None
    python: str | None
    artifacts: tuple[tuple[Any, ...], ...]


class Tasks:
    """Starts, finishes and finds attempts."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def start(self, task: TaskAddress, number: int, started: float) -> None:
        """Record that an attempt started; starting it again moves the time. Raises AttemptDone if it is done."""
        started = float(started)  # as it is read back: msgpack tells 1 from 1.0
        digest = digest_of(*task, number, started, None, None, None)
        with self._database.write() as connection:
            connection.execute(INSERT_ATTEMPT, (*task, number, started, digest))
            if connection.changes():  # the usual case: a new attempt of a run that is there
                return
            attempt, _, was_done = attempt_id(connection, task, number)
            crash_point("attempt-run-made")
            if was_done is not None:
                raise _already_done(task, number)
            connection.execute(START_ATTEMPT, (started, digest, attempt))

    def check_writable(self, task: TaskAddress, number: int) -> None:
        """Raise AttemptDone if the attempt is done."""
        for _, _, done in self._database.query(SELECT_ATTEMPT_ID, (*task, number)):
            if done is not None:
                raise _already_done(task, number)

    def finish(
        self,
        task: TaskAddress,
        number: int,
        artifacts: Mapping[str, Artifact],
        done: float,
        pending: Pending | None = None,
    ) -> None:
        """Write an attempt's artifact rows and its done marker, in one transaction.

        With ``pending`` the blobs that wait there and the artifacts need go in with them, and what it holds is let go
        of; without it, each artifact's blob is, once.

        Raises AttemptDone if it is done already, BlobNotFound if an artifact's blob is not in this store, Damaged if
        another has the key of one that waits; then nothing was written, and ``pending`` is as before.
        """
        finished = Finished(artifacts, float(done), ".".join(map(str, sys.version_info[:3])))
        rows = rows_of(task, finished.artifacts)
        blobs = [] if pending is None else pending.rows(row[1] for row in rows)
        with ExitStack() as if_it_fails:
            with self._database.write() as connection:
                attempt, started, was_done = attempt_id(connection, task, number)
                if was_done is not None:
                    raise _already_done(task, number)
                known = insert_small_blobs(connection, blobs, self._blobs.open)
                crash_point("attempt-blobs-inserted")
                held = [row[1] for row in rows] if pending is None else list(pending.held.elements())
                self._finish(connection, task, number, attempt, started, finished, rows, known, held)
                if pending is not None:
                    if_it_fails.callback(pending.are_referenced())
            if_it_fails.pop_all()
        if pending is not None:
            pending.forget()

    def rewrite(self, task: TaskAddress, number: int, started: float | None, finished: Finished | None) -> None:
        """Make an attempt what is given, whatever it was, in one transaction: for Metaflow, whose contract overwrites.

        Raises BlobNotFound if an artifact's blob is not in this store; then nothing was written.
        """
        started = None if started is None else float(started)
        rows = [] if finished is None else rows_of(task, finished.artifacts)
        with self._database.write() as connection:
            attempt, _, was_done = attempt_id(connection, task, number)
            if was_done is not None:
                connection.execute(DELETE_ARTIFACTS, (attempt,))
                connection.execute(DELETE_STUBS, (attempt,))
                crash_point("rewrite-artifacts-deleted")
            if finished is None:
                digest = digest_of(*task, number, started, None, None, None)
                connection.execute(FINISH_ATTEMPT, (None, None, None, digest, attempt))
                connection.execute(START_ATTEMPT, (started, digest, attempt))
            else:
                connection.execute(START_ATTEMPT, (started, b"", attempt))
                crash_point("rewrite-restarted")
                self._finish(connection, task, number, attempt, started, finished, rows, {}, [row[1] for row in rows])

    def restart(self, task: TaskAddress, number: int, started: float) -> None:
        """Record that an attempt started; if it is done it stays so. For Metaflow, whose contract overwrites."""
        with self._database.write() as connection:
            found = next((each for each in self.find_tasks([task]) if each.number == number), None)
            if found is None or found.done is None:
                self.start(task, number, started)
                return
            row, artifacts_digest, _ = found.reference
            digest = digest_of(*task, number, float(started), found.done, found.python, artifacts_digest)
            connection.execute(START_ATTEMPT, (float(started), digest, row))

    def _finish(
        self,
        connection: apsw.Connection,
        task: TaskAddress,
        number: int,
        attempt: int,
        started: float | None,
        finished: Finished,
        rows: Sequence[tuple[Any, ...]],
        known: Mapping[bytes, int],
        held: Iterable[bytes],
    ) -> None:
        """Write the rows of artifacts, whose blobs have ``known`` ids or are looked up; let go of what was ``held``."""
        inserts = []
        for position, (name, key, *rest) in enumerate(rows):
            blob = known.get(key)
            if blob is None:
                found = connection.execute(SELECT_BLOB_ID, (key,)).fetchone()
                if found is None:
                    raise BlobNotFound(
                        f"Artifact {name!r} of {task.pathspec} has the key {key.hex()}, of which "
                        f"{self._database.path} has no blob; save the artifact again."
                    )
                blob = found[0]
            inserts.append((attempt, name, position, blob, *rest))
        connection.executemany(INSERT_ARTIFACT, inserts)
        crash_point("attempt-artifacts-inserted")
        release(connection, held)
        crash_point("attempt-blobs-released")
        artifacts_digest = digest_of(*rows)
        digest = digest_of(*task, number, started, finished.done, finished.python, artifacts_digest)
        connection.execute(FINISH_ATTEMPT, (finished.done, finished.python, artifacts_digest, digest, attempt))
        crash_point("attempt-finished")

    def previews(self, artifacts: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Return the preview of an artifact that has the key and type, for each (key, type) that an artifact has.

        One of them is looked at, though thousands of tasks may have passed it on.
        """
        rows = self._database.query(SELECT_PREVIEWS, (json.dumps(list(artifacts)),))
        return {
            (key, kind): preview.stored(packed, key, self._database.path)
            for key, kind, packed in rows
            if packed is not None
        }

    def find_run(self, flow_name: str, run_name: str, steps: Sequence[str] | None) -> list[Attempt]:
        """Return the attempts of a run (of those steps), in the order in which they first appeared."""
        if steps is None:
            rows = self._query(SELECT_RUN_ATTEMPTS, (flow_name, run_name))
        else:
            rows = self._query(SELECT_STEP_ATTEMPTS, (flow_name, run_name, json.dumps(list(steps))))
        attempts = [self._attempt(TaskAddress(flow_name, run_name, row[0], row[1]), row[2:]) for row in rows]
        return self._asked_for(attempts, lambda task: steps is None or task.step_name in steps)

    def find_tasks(self, tasks: Iterable[TaskAddress]) -> list[Attempt]:
        """Return the attempts of the tasks, in the order asked and by number; nothing for a task that is not there."""
        asked = set(tasks := list(tasks))
        rows = self._query(SELECT_TASK_ATTEMPTS, (json.dumps(tasks),))
        return self._asked_for([self._attempt(TaskAddress(*row[:4]), row[4:]) for row in rows], asked.__contains__)

    def _asked_for(self, found: list[Attempt], is_asked: Callable[[TaskAddress], bool]) -> list[Attempt]:
        """Return the attempts; a damaged index leads to whole rows of other tasks. Raises Damaged."""
        for each in found:
            if not is_asked(each.task):
                raise self._damaged(each.task, each.number, "its names in the index")
        return found

    def records(self, flow_name: str, run_name: str, steps: Sequence[str] | None = None) -> list[AttemptRecord]:
        """Return the attempts of a run (of those steps) with the rows of their artifacts, checked."""
        attempts = self.find_run(flow_name, run_name, steps)
        done = [attempt for attempt in attempts if attempt.done is not None]
        rows: dict[int, tuple[tuple[Any, ...], ...]] = {}
        for start in range(0, len(done), ATTEMPTS_AT_ONCE):
            some = done[start : start + ATTEMPTS_AT_ONCE]
            found = self.artifacts(some)
            rows |= {each.reference[0]: tuple(map(tuple, one.rows)) for each, one in zip(some, found, strict=True)}
        return [
            AttemptRecord(
                step=each.task.step_name,
                task=each.task.task_id,
                number=each.number,
                started=each.started,
                done=each.done,
                python=each.python,
                artifacts=rows.get(each.reference[0], ()),
            )
            for each in attempts
        ]

    def insert(
        self, connection: apsw.Connection, flow_name: str, run_name: str, records: Iterable[AttemptRecord]
    ) -> None:
        """Write attempts that are not there, in a transaction of the caller.

        An artifact whose blob is not in this file becomes a stub. Raises RunExists for an attempt that is there.
        """
        run = run_id(connection, flow_name, run_name, create=True)
        for record in records:
            of = (record.step, record.task, record.number)
            artifacts_digest = None if record.done is None else digest_of(*record.artifacts)
            values = (record.started, record.done, record.python, artifacts_digest)
            digest = digest_of(flow_name, run_name, *of, *values)
            try:
                connection.execute(INSERT_DONE_ATTEMPT, (run, *of, *values, digest))
            except apsw.ConstraintError as error:
                raise RunExists(f"Run {flow_name}/{run_name} came from somewhere else meanwhile; try again.") from error
            attempt = connection.last_insert_rowid()
            crash_point("copied-attempt-inserted")
            for position, (name, key, *rest) in enumerate(record.artifacts):
                blob = connection.execute(SELECT_BLOB_ID, (key,)).fetchone()
                statement, stored = (INSERT_STUB, key) if blob is None else (INSERT_ARTIFACT, blob[0])
                connection.execute(statement, (attempt, name, position, stored, *rest))
            crash_point("copied-artifacts-inserted")
            release(connection, (row[1] for row in record.artifacts))

    def _query(self, statement: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of attempts, also from a file of an old format that can only be read."""
        if self._database.format < RUNS_COME_AND_GO:
            statement = statement.replace(_ORIGIN, _ORIGIN_BEFORE_FORMAT_3)
        return self._database.query(statement, bindings)

    def names(self, flow_name: str, run_name: str, step_name: str | None = None) -> list[tuple[str, str]]:
        """Return (step, task) of each task of a run, or of a step of it, from the index alone."""
        return cast("list[tuple[str, str]]", self._database.query(SELECT_NAMES, (flow_name, run_name, step_name)))

    def artifacts(self, attempts: Sequence[Attempt]) -> list[StoredArtifacts]:
        """Return the artifacts of done attempts, found by this class, by name and in the order saved.

        Raises TaskNotFound if one is no longer there, Damaged if its rows are not those that were written.
        """
        rows: list[list[tuple[Any, ...]]] = [[] for _ in attempts]
        ids = json.dumps([attempt.reference[0] for attempt in attempts])
        for row in self._database.query(SELECT_ARTIFACTS, (ids,)):
            rows[row[-1]].append(row)  # whole, not a second object for each: Python's garbage collector counts them
        artifacts = []
        for attempt, found in zip(attempts, rows, strict=True):
            attempt_row, artifacts_digest, digest = attempt.reference
            fields = [row[:COLUMNS] for row in found]
            if digest_of(*fields) != artifacts_digest:
                found = fields = with_stubs(self._database, attempt_row, fields)  # noqa: PLW2901 - the same, completed
                if digest_of(*fields) != artifacts_digest:
                    if self._database.query(HAS_ATTEMPT, (attempt_row,)) != [(digest,)]:
                        where = f"Attempt {attempt.number} of task {attempt.task.pathspec}"
                        raise TaskNotFound(f"{where} is no longer there.")
                    raise self._damaged(attempt.task, attempt.number, "its artifact rows")
            artifacts.append(StoredArtifacts(found, attempt.task.pathspec))
        return artifacts

    def flows(self) -> list[str]:
        """Return the names of all flows, sorted. Raises Damaged."""
        return self._names("flow", self._database.query(SELECT_FLOWS))

    def runs(self, flow_name: str) -> list[str]:
        """Return the names of a flow's runs, oldest first. Raises Damaged."""
        return self._names(f"run of flow {flow_name}", self._database.query(SELECT_RUNS, (flow_name,)))

    def _names(self, what: str, rows: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the names; each must be the same in the index and in the table. Raises Damaged."""
        for name, same in rows:
            if name != same or not isinstance(name, str):
                raise Damaged(
                    f"The name of a {what} in {self._database.path} is damaged: it is {name!r:.300} in one place and "
                    f"{same!r:.300} in another. Restore the file from a backup."
                )
        return [name for name, _ in rows]

    def _attempt(self, task: TaskAddress, row: tuple[Any, ...]) -> Attempt:
        number, started, done, python, artifacts_digest, digest, row_id, origin = row
        if digest_of(*task, number, started, done, python, artifacts_digest) != digest:
            raise self._damaged(task, number, "the fields of its row")
        types = (*map(type, task), type(number), type(started), type(done), type(python))
        if types not in _TYPES_OF_ATTEMPT:
            raise self._damaged(task, number, "the types in its row")
        return Attempt(task, number, started, done, python, (row_id, artifacts_digest, digest), origin)

    def _damaged(self, task: TaskAddress, number: int, what: str) -> Damaged:
        return Damaged(
            f"Attempt {number} of task {task.pathspec} in {self._database.path} is damaged: {what} differ from what "
            "was written. Restore the file from a backup."
        )


def _already_done(task: TaskAddress, number: int) -> AttemptDone:
    return AttemptDone(
        f"Attempt {number} of task {task.pathspec} is done and never changes again; write the next attempt instead."
    )
