"""The tables ``task_metadata`` and ``log``: what is known of a task beside its artifacts.

A log is an ordered list of parts, each a blob: when it is saved again and has only grown, the new end is all that is
written. Metadata values stand as JSON text, because that is what gives back exactly what JSON would (msgpack has no
integers above 64 bits), and what the ``sqlite3`` shell can read.
"""

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

import apsw

from sqlitestore.blobs import Blobs, Payload, key_of, payload_of
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import BlobNotFound, Damaged, StoreBusy
from sqlitestore.holds import release
from sqlitestore.model import StoredBlob, TaskAddress
from sqlitestore.tasks import attempt_id, digest_of, run_id

OF_THE_TASK = -1
"""In the column ``attempt``: metadata that belong to no attempt."""

_OF = """FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN task_metadata AS m ON m.run = r.id AND m.step = ? AND m.task = ? AND m.attempt = ?
 WHERE f.name = ? AND r.name = ?"""
SELECT_METADATA = f"SELECT m.name, m.value, m.digest {_OF} ORDER BY m.name"
INSERT_METADATA = """INSERT INTO task_metadata(run, step, task, attempt, name, value, digest)
 VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
UPSERT_METADATA = INSERT_METADATA.replace("NOTHING", "UPDATE SET value = excluded.value, digest = excluded.digest")
SELECT_TASKS = """SELECT DISTINCT m.step, m.task FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN task_metadata AS m ON m.run = r.id WHERE f.name = ? AND r.name = ?"""
SELECT_OF_RUN = """SELECT m.step, m.task, m.attempt, m.name, m.value, m.digest FROM flow AS f
 JOIN run AS r ON r.flow = f.id JOIN task_metadata AS m ON m.run = r.id WHERE f.name = ? AND r.name = ?
 ORDER BY m.step, m.task, m.attempt, m.name"""
SELECT_NAMES = """SELECT m.attempt, m.name FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN task_metadata AS m ON m.run = r.id AND m.step = ? AND m.task = ? WHERE f.name = ? AND r.name = ?"""
DELETE_METADATA = """DELETE FROM task_metadata WHERE step = ? AND task = ? AND attempt = ? AND name = ? AND run =
 (SELECT r.id FROM flow AS f JOIN run AS r ON r.flow = f.id WHERE f.name = ? AND r.name = ?)"""
_LOGS = """SELECT l.source, l.stream, l.part, lower(hex(b.key)), l.size, l.digest FROM flow AS f
 JOIN run AS r ON r.flow = f.id JOIN attempt AS a ON a.run = r.id AND a.step = ? AND a.task = ? AND a.number = ?
 JOIN log AS l ON l.attempt = a.id LEFT JOIN blob AS b ON b.id = l.blob WHERE f.name = ? AND r.name = ?"""
SELECT_LOGS_OF_RUN = """SELECT a.step, a.task, a.number, l.source, l.stream, l.part, lower(hex(b.key)), l.size, l.digest
 FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN attempt AS a ON a.run = r.id JOIN log AS l ON l.attempt = a.id
 LEFT JOIN blob AS b ON b.id = l.blob WHERE f.name = ? AND r.name = ? ORDER BY a.id, l.source, l.stream, l.part"""
SELECT_LOGS = f"{_LOGS} ORDER BY l.source, l.stream, l.part"
SELECT_LOG = f"{_LOGS} AND l.source = ? AND l.stream = ? ORDER BY l.part"
INSERT_PART = """INSERT INTO log(attempt, source, stream, part, blob, size, digest)
 SELECT ?, ?, ?, ?, id, ?, ? FROM blob WHERE key = ?"""
DELETE_LOG_OF = """DELETE FROM log WHERE source = ? AND stream = ? AND attempt = (SELECT a.id FROM flow AS f
 JOIN run AS r ON r.flow = f.id JOIN attempt AS a ON a.run = r.id
 WHERE a.step = ? AND a.task = ? AND a.number = ? AND f.name = ? AND r.name = ?)"""
SELECT_DIGESTS = "SELECT digest FROM log WHERE attempt = ? AND source = ? AND stream = ? ORDER BY part"
DELETE_LOG = "DELETE FROM log WHERE attempt = ? AND source = ? AND stream = ?"

LOG_BLOCK = 2**20
"""[bytes] Of a log that are compared or read at a time."""


class _Part(NamedTuple):
    """A part of a log as its row says."""

    source: str
    stream: str
    part: int
    key: str
    size: int
    digest: bytes


class MetadataRecord(NamedTuple):
    """A metadatum of a run's task; ``attempt`` is OF_THE_TASK for one of the task itself, ``value`` a JSON text."""

    step: str
    task: str
    attempt: int
    name: str
    value: str


class LogRecord(NamedTuple):
    """A part of a log of a run's attempt: its blob's key, and the size of that [bytes]."""

    step: str
    task: str
    number: int
    source: str
    stream: str
    part: int
    key: str
    size: int


class TaskMetadata:
    """JSON texts by name, of a task or of one of its attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, task: TaskAddress, attempt: int | None, values: Mapping[str, str], *, overwrite: bool) -> None:
        """Store JSON texts in one transaction; without ``overwrite``, a name that has a value keeps it."""
        number = OF_THE_TASK if attempt is None else attempt
        statement = UPSERT_METADATA if overwrite else INSERT_METADATA
        with self._database.write() as connection:
            run = run_id(connection, task.flow_name, task.run_id, create=True)
            connection.executemany(
                statement,
                [
                    (run, task.step_name, task.task_id, number, name, value, digest_of(*task, number, name, value))
                    for name, value in values.items()
                ],
            )
            crash_point("task-metadata-inserted")

    def load(self, task: TaskAddress, attempt: int | None) -> dict[str, str]:
        """Return all JSON texts of the attempt (None: of the task itself) by name. Raises Damaged."""
        number = OF_THE_TASK if attempt is None else attempt
        bindings = (task.step_name, task.task_id, number, task.flow_name, task.run_id)
        values = {}
        for name, value, digest in self._database.query(SELECT_METADATA, bindings):
            self._check(task, number, name, value, digest)
            values[name] = value
        return values

    def _check(self, task: TaskAddress, number: int, name: str, value: str, digest: bytes) -> None:
        if digest_of(*task, number, name, value) != digest:
            raise Damaged(
                f"Metadata {name!r} of task {task.pathspec} in {self._database.path} is damaged: it differs from "
                "what was written."
            )

    def records(self, flow_name: str, run_name: str) -> list[MetadataRecord]:
        """Return all metadata of a run. Raises Damaged."""
        records = []
        for *fields, digest in self._database.query(SELECT_OF_RUN, (flow_name, run_name)):
            record = MetadataRecord(*fields)
            self._check(TaskAddress(flow_name, run_name, record.step, record.task), *record[2:], digest)
            records.append(record)
        return records

    def insert(
        self, connection: apsw.Connection, flow_name: str, run_name: str, records: Iterable[MetadataRecord]
    ) -> None:
        """Write metadata that are not there, in a transaction of the caller."""
        run = run_id(connection, flow_name, run_name, create=True)
        rows = ((run, *record, digest_of(flow_name, run_name, *record)) for record in records)
        connection.executemany(INSERT_METADATA, rows)

    def tasks(self, flow_name: str, run_name: str) -> list[tuple[str, str]]:
        """Return (step, task) of each task of a run that has metadata."""
        return [(step, task) for step, task in self._database.query(SELECT_TASKS, (flow_name, run_name))]

    def names(self, task: TaskAddress) -> list[tuple[int | None, str]]:
        """Return (attempt, name) of all metadata of a task; the attempt is None for what belongs to the task."""
        rows = self._database.query(SELECT_NAMES, (task.step_name, task.task_id, task.flow_name, task.run_id))
        return [(None if attempt == OF_THE_TASK else attempt, name) for attempt, name in rows]

    def delete(self, task: TaskAddress, attempt: int | None, name: str) -> None:
        """Remove one metadatum; one that is not there is fine."""
        number = OF_THE_TASK if attempt is None else attempt
        with self._database.write() as connection:
            connection.execute(
                DELETE_METADATA, (task.step_name, task.task_id, number, name, task.flow_name, task.run_id)
            )


class Logs:
    """Logs by source and stream, of an attempt."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def save(self, task: TaskAddress, attempt: int, source: str, stream: str, read: BinaryIO) -> None:
        """Store what the seekable file ``read`` holds from its position on as the whole log.

        If that begins with the log so far, only what follows is written.
        """
        start = read.tell()
        for _ in range(100):  # again only where another process saved the same log meanwhile
            parts = self._parts(task, attempt, source, stream)
            read.seek(start)
            if not self._continues(parts, read):
                kept, written = 0, 0
            else:
                kept, written = len(parts), sum(part.size for part in parts)
            read.seek(start + written)
            if kept and not read.read(1):
                return
            [stored] = self._blobs.put([_rest_of(read, start + written)])
            crash_point("log-bytes-put")
            if self._insert(task, attempt, source, stream, kept, stored, [part.digest for part in parts]):
                return
            self._blobs.release([stored.key])
        raise StoreBusy(f"The log {source}/{stream} of {task.pathspec} is being saved by others all the time.")

    def replace(self, task: TaskAddress, attempt: int, source: str, stream: str, text: bytes) -> None:
        """Store ``text`` as the log; take the old bytes out of the file, unless something else has the same.

        Both in one transaction: if only the second failed, nobody would know any more which bytes were to go.
        """
        [stored] = self._blobs.put([payload_of(text)])
        crash_point("scrubbed-log-put")
        for _ in range(100):
            parts = self._parts(task, attempt, source, stream)
            with self._database.write():
                if self._insert(task, attempt, source, stream, 0, stored, [part.digest for part in parts]):
                    crash_point("scrubbed-log-replaced")
                    self._blobs.discard({part.key for part in parts} - {stored.key})
                    return
        raise StoreBusy(f"The log {source}/{stream} of {task.pathspec} is being saved by others all the time.")

    def delete(self, task: TaskAddress, attempt: int, source: str, stream: str) -> None:
        """Remove a log; its bytes stay until the file is compacted. One that is not there is fine."""
        bindings = (source, stream, task.step_name, task.task_id, attempt, task.flow_name, task.run_id)
        with self._database.write() as connection:
            connection.execute(DELETE_LOG_OF, bindings)
            crash_point("log-deleted")

    def load(self, task: TaskAddress, attempt: int, source: str, stream: str) -> bytes | None:
        """Return the whole log, None if there is none. Raises Damaged."""
        parts = self._parts(task, attempt, source, stream)
        if not parts:
            return None
        return b"".join(data for _, data in self._blobs.load(part.key for part in parts))

    def sizes(self, task: TaskAddress, attempt: int) -> dict[tuple[str, str], int]:
        """Return the size [bytes] of each log of the attempt by source and stream, sorted. Raises Damaged."""
        bindings = (task.step_name, task.task_id, attempt, task.flow_name, task.run_id)
        sizes: dict[tuple[str, str], int] = {}
        for part in self._checked(task, attempt, self._database.query(SELECT_LOGS, bindings)):
            sizes[part.source, part.stream] = sizes.get((part.source, part.stream), 0) + part.size
        return sizes

    def records(self, flow_name: str, run_name: str) -> list[LogRecord]:
        """Return the parts of all logs of a run, in order. Raises Damaged."""
        rows: dict[tuple[str, str, int], list[tuple[Any, ...]]] = {}
        for step, task, number, *part in self._database.query(SELECT_LOGS_OF_RUN, (flow_name, run_name)):
            rows.setdefault((step, task, number), []).append(tuple(part))
        return [
            LogRecord(step, task, number, *part[:5])
            for (step, task, number), parts in rows.items()
            for part in self._checked(TaskAddress(flow_name, run_name, step, task), number, parts)
        ]

    def insert(self, connection: apsw.Connection, flow_name: str, run_name: str, records: Iterable[LogRecord]) -> None:
        """Write parts of logs that are not there, whose blobs and attempts are, in a transaction of the caller."""
        for record in records:
            task = TaskAddress(flow_name, run_name, record.step, record.task)
            digest = _digest(task, record.number, _Part(*record[3:], b""))
            attempt = attempt_id(connection, task, record.number)[0]
            key = key_of(record.key)
            connection.execute(INSERT_PART, (attempt, *record[3:6], record.size, digest, key))
            if not connection.changes():
                raise BlobNotFound(f"The log {record.source}/{record.stream} of {task.pathspec} has no blob.")
            release(connection, [key])

    def _parts(self, task: TaskAddress, attempt: int, source: str, stream: str) -> list[_Part]:
        bindings = (task.step_name, task.task_id, attempt, task.flow_name, task.run_id, source, stream)
        return self._checked(task, attempt, self._database.query(SELECT_LOG, bindings))

    def _checked(self, task: TaskAddress, attempt: int, rows: Iterable[tuple[Any, ...]]) -> list[_Part]:
        """Return the parts; they are numbered from 0 in each log, and their rows are as written. Raises Damaged."""
        parts: list[_Part] = []
        for part in map(_Part._make, rows):
            first = not parts or parts[-1][:2] != part[:2]
            expected = 0 if first else parts[-1].part + 1
            if part.part != expected or not part.key or _digest(task, attempt, part) != part.digest:
                raise Damaged(
                    f"The log {part.source}/{part.stream} of attempt {attempt} of task {task.pathspec} in "
                    f"{self._database.path} is damaged: part {expected} differs from what was written."
                )
            parts.append(part)
        return parts

    def _continues(self, parts: Iterable[_Part], read: BinaryIO) -> bool:
        """Return whether ``read`` begins with the parts."""
        for part in parts:
            with self._blobs.open(part.key) as stored:
                while block := stored.read(LOG_BLOCK):
                    if read.read(len(block)) != block:
                        break
                else:
                    continue
                stored.read()
                return False
        return True

    def _insert(
        self, task: TaskAddress, attempt: int, source: str, stream: str, part: int, blob: StoredBlob, seen: list[bytes]
    ) -> bool:
        """Make the blob part ``part`` and the last; False if the log no longer has the parts ``seen``."""
        digest = _digest(task, attempt, _Part(source, stream, part, blob.key, blob.size, b""))
        with self._database.write() as connection:
            row = attempt_id(connection, task, attempt)[0]
            if [found for (found,) in connection.execute(SELECT_DIGESTS, (row, source, stream))] != seen:
                return False
            if part == 0:
                connection.execute(DELETE_LOG, (row, source, stream))
                crash_point("log-parts-deleted")
            connection.execute(INSERT_PART, (row, source, stream, part, blob.size, digest, key_of(blob.key)))
            if not connection.changes():
                raise BlobNotFound(f"The log {source}/{stream} of {task.pathspec} was pruned meanwhile; save it again.")
            crash_point("log-part-inserted")
            release(connection, [key_of(blob.key)])
        return True


def _digest(task: TaskAddress, attempt: int, part: _Part) -> bytes:
    return digest_of(*task, attempt, part.source, part.stream, part.part, key_of(part.key), part.size)


def _rest_of(read: BinaryIO, start: int) -> Payload:
    """Return the payload of a file from ``start`` on."""

    def write_to(file: Any) -> None:
        read.seek(start)
        while block := read.read(LOG_BLOCK):
            file.write(block)

    return write_to
