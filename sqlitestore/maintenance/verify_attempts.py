"""Every attempt with its artifacts, stubs and logs: digests, positions, sizes, names.

Some hundred attempts are read in one snapshot; where they cannot be, one by one, so that what is hurt has a name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException, InvalidName, InvalidType
from sqlitestore.maintenance.records import is_digest, is_map
from sqlitestore.maintenance.verification import Findings, pathspec_of, reason
from sqlitestore.model import check_name
from sqlitestore.progress import Progress
from sqlitestore.schema import RUNS_COME_AND_GO

AT_ONCE = 200
"""Attempts that are read in one transaction."""

NAMES = "LEFT JOIN run AS r ON r.id = {0}.run LEFT JOIN flow AS f ON f.id = r.flow LEFT JOIN trash AS t ON t.run = r.id"
NAMES_WITHOUT_TRASH = NAMES.replace(" LEFT JOIN trash AS t ON t.run = r.id", "")
REAL_NAME = "COALESCE(t.name, r.name)"
"""Of a run: that in the trash has another in its row. With NAMES only."""

COUNT_ATTEMPTS = "SELECT COUNT(1) FROM attempt"
SELECT_ATTEMPTS = """SELECT a.id, f.name, {0}, a.step, a.task, a.number, a.started, a.done, a.python,
 a.artifacts_digest, a.digest FROM (SELECT * FROM attempt WHERE id > ? ORDER BY id LIMIT ?) AS a {1} ORDER BY a.id"""
SELECT_ARTIFACTS = """SELECT x.attempt, x.position, x.name, b.key, x.size, x.type, x.encoding, x.serializer_info,
 x.preview, b.size FROM artifact AS x LEFT JOIN blob AS b ON b.id = x.blob WHERE x.attempt BETWEEN ? AND ?"""
SELECT_STUBS = """SELECT x.attempt, x.position, x.name, x.key, x.size, x.type, x.encoding, x.serializer_info,
 x.preview, x.size FROM stub AS x WHERE x.attempt BETWEEN ? AND ?"""
SELECT_LOGS = """SELECT l.attempt, l.source, l.stream, l.part, b.key, l.size, l.digest, b.size
 FROM log AS l LEFT JOIN blob AS b ON b.id = l.blob WHERE l.attempt BETWEEN ? AND ?
 ORDER BY l.attempt, l.source, l.stream, l.part"""
SELECT_FROM_INDEX = """SELECT a.id, a.run, CAST(a.step AS BLOB), CAST(a.task AS BLOB), a.number
 FROM attempt AS a INDEXED BY sqlite_autoindex_attempt_1"""
SELECT_TRASH = "SELECT COUNT(name) FROM trash"
SELECT_RUN_NAMES = "SELECT f.name, {0} FROM run AS r LEFT JOIN flow AS f ON f.id = r.flow {1} WHERE r.id = ?"

KEY_SIZES = (16, 20)


def has_trash(database: Database) -> bool:
    """Whether the real names of runs in the trash can be looked up; if not, their rows seem to be of others."""
    try:
        return database.format >= RUNS_COME_AND_GO and bool(database.query(SELECT_TRASH))
    except Damaged:
        return False


class _Rows(NamedTuple):
    """What belongs to one attempt: artifact and stub rows from ``position`` on, log rows from ``source`` on."""

    artifacts: list[tuple[Any, ...]]
    stubs: list[tuple[Any, ...]]
    logs: list[tuple[Any, ...]]


class AttemptCheck:
    """Checks ``attempt``, ``artifact``, ``stub`` and ``log``; ``hurt`` are blobs that are known to be, by key."""

    def __init__(self, database: Database, findings: Findings, progress: Progress, hurt: dict[bytes, str]) -> None:
        self._database = database
        self._findings = findings
        self._progress = progress
        self._hurt = hurt
        self._has_stubs = database.format >= RUNS_COME_AND_GO
        self._has_trash = has_trash(database)
        self._seen: set[int] = set()
        joins = (NAMES if self._has_trash else NAMES_WITHOUT_TRASH).format("a")
        self._select = SELECT_ATTEMPTS.format(REAL_NAME if self._has_trash else "r.name", joins)

    def run(self) -> None:
        """Check all attempts, and tell which only the index knows if the tables are hurt."""
        with contextlib.suppress(DataException):
            self._progress.start("Checking attempts", self._database.query(COUNT_ATTEMPTS)[0][0], "attempts")
        try:
            last = -(2**63)
            while batch := self._next(last):
                for attempt, rows in batch:
                    self._seen.add(attempt[0])
                    self._check(attempt, rows)
                self._progress.advance(len(batch))
                last = max(last + 1, batch[-1][0][0])
            if self._findings.structure_hurt:
                self._check_index()
        finally:
            self._progress.finish()

    def _next(self, last: int) -> list[tuple[Sequence[Any], _Rows]]:
        """Return the next attempts with their rows; one, or those that can be read, where something cannot."""
        try:
            return self._read(last, AT_ONCE)
        except DataException:
            pass
        try:
            attempts = self._attempts_alone(last)
        except DataException as error:
            self._findings.unreadable("attempt", error)
            return []
        return [(attempt, self._rows_alone(attempt)) for attempt in attempts]

    def _read(self, last: int, limit: int) -> list[tuple[Sequence[Any], _Rows]]:
        with self._database.read() as connection:
            attempts: list[Any] = connection.execute(self._select, (last, limit)).fetchall()
            if not attempts:
                return []
            # From behind the attempt before: rows of an attempt that is not there are a foreign key's business.
            span = (attempts[0][0], attempts[-1][0])
            rows = {attempt[0]: _Rows([], [], []) for attempt in attempts}
            nobody = _Rows([], [], [])
            for kind, statement in self._statements():
                for attempt, *values in connection.execute(statement, span):
                    getattr(rows.get(attempt, nobody), kind).append(tuple(values))
        return [(attempt, rows[attempt[0]]) for attempt in attempts]

    def _statements(self) -> list[tuple[str, str]]:
        found = [("artifacts", SELECT_ARTIFACTS), ("logs", SELECT_LOGS)]
        return [*found, ("stubs", SELECT_STUBS)] if self._has_stubs else found

    def _attempts_alone(self, last: int) -> list[Sequence[Any]]:
        """Return the next attempt alone, its texts with replacement characters if they are none."""
        try:
            return list(self._database.query(self._select, (last, 1)))
        except DataException as error:
            if not isinstance(error.__cause__, UnicodeDecodeError):
                raise
        raw = self._select.replace("a.step, a.task", "CAST(a.step AS BLOB), CAST(a.task AS BLOB)")
        raw = raw.replace("a.python", "CAST(a.python AS BLOB)")
        raw = raw.replace("f.name,", "CAST(f.name AS BLOB),").replace("r.name", "CAST(r.name AS BLOB)", 1)
        rows = self._database.query(raw, (last, 1))
        kept = (0, 9, 10)
        return [[value if n in kept else _text(value) for n, value in enumerate(row)] for row in rows]

    def _rows_alone(self, attempt: Sequence[Any]) -> _Rows:
        rows = _Rows([], [], [])
        for kind, statement in self._statements():
            try:
                found = self._database.query(statement, (attempt[0], attempt[0]))
            except DataException as error:
                message = f"its {kind} cannot be read ({reason(error)})"
                self._findings.add("attempt", message, pathspec=pathspec_of(attempt[1:5]), attempt=_number(attempt[5]))
            else:
                getattr(rows, kind).extend(row[1:] for row in found)
        return rows

    def _check(self, attempt: Sequence[Any], rows: _Rows) -> None:
        row_id, *identity, started, done, python, artifacts_digest, digest = attempt
        place: dict[str, Any] = {"pathspec": pathspec_of(identity[:4]), "attempt": _number(identity[4])}
        self._findings.count("attempts")
        if None in identity[:2]:
            self._findings.add("attempt", f"row {row_id} belongs to no run that is there", **place)
        elif not is_digest(digest, *identity, started, done, python, artifacts_digest):
            self._findings.add("attempt", "its names or times are not those that were written", **place)
        for kind, name in (("step", identity[2]), ("task", identity[3])):
            check_legal(self._findings, "attempt", kind, name, place)
        if (done is None) != (artifacts_digest is None) or (done is None) != (python is None):
            self._findings.add("attempt", "it is half done: its done marker is not complete", **place)
        self._check_artifacts(done is not None, artifacts_digest, rows, place)
        self._check_logs(identity, rows.logs, place)

    def _check_artifacts(self, is_done: bool, digest: Any, rows: _Rows, place: dict[str, Any]) -> None:
        self._findings.count("artifacts", len(rows.artifacts))
        self._findings.count("stubs", len(rows.stubs))
        try:
            both = sorted([*rows.artifacts, *rows.stubs], key=lambda row: row[0])
        except TypeError:
            both = []
        if is_done and not is_digest(digest, *(row[1:8] for row in both)):
            self._findings.add("attempt", "its artifact rows are not those that were written", **place)
        if not is_done and both:
            self._findings.add("attempt", "it has artifacts, and is not done", **place)
        if [row[0] for row in both] != list(range(len(rows.artifacts) + len(rows.stubs))):
            self._findings.add("attempt", "the positions of its artifacts have gaps", **place)
        for row in both:
            self._check_artifact(row, place)

    def _check_artifact(self, row: Sequence[Any], place: dict[str, Any]) -> None:
        _, name, key, size, kind, encoding, info, preview, stored = row
        check_legal(self._findings, "artifact", "artifact", name, place)
        if key is None:
            message = "its bytes are lost: the blob is not there"
        elif not isinstance(key, bytes) or len(key) not in KEY_SIZES:
            message = "its key is none"
        elif key in self._hurt:
            message = f"its bytes are hurt: {self._hurt[key]}"
        elif size != stored:
            message = f"it has {size!r:.40} bytes, and its blob {stored!r:.40}"
        else:
            typed = isinstance(kind, str) and isinstance(encoding, str) and is_map(info) and is_map(preview)
            message = "" if typed else "its row has values of the wrong type"
        if message:
            self._findings.add("artifact", message, name=name, **place)

    def _check_logs(self, identity: Sequence[Any], logs: Iterable[Sequence[Any]], place: dict[str, Any]) -> None:
        expected: dict[str, int] = {}
        for source, stream, part, key, size, digest, stored in logs:
            name = f"{source}/{stream}"
            if name not in expected:
                self._findings.count("logs")
                for each in (source, stream):
                    check_legal(self._findings, "log", "log source or stream", each, place)
            if part != expected.setdefault(name, 0):
                self._findings.add("log", f"part {expected[name]} is missing", name=name, **place)
            expected[name] = part + 1 if isinstance(part, int) else 0
            if key is None:
                self._findings.add("log", f"part {part!r:.40} is lost: the blob is not there", name=name, **place)
            elif not is_digest(digest, *identity, source, stream, part, key, size):
                self._findings.add("log", f"part {part!r:.40} is not what was written", name=name, **place)
            elif (message := self._hurt.get(key)) is not None:
                self._findings.add("log", f"part {part} is hurt: {message}", name=name, **place)
            elif size != stored:
                self._findings.add("log", f"part {part} has another size than its blob", name=name, **place)

    def _check_index(self) -> None:
        """Name the attempts that the index has and the table has not: a page of the table is lost."""
        rows: list[Any] = []
        try:
            with self._database.read() as connection:
                _collect(connection, rows)
        except DataException as error:
            self._findings.unreadable("attempt (its index)", error)
        for row_id, run, step, task, number in rows:
            if row_id not in self._seen:
                names = [*self._names_of(run), _text(step), _text(task)]
                message = "its row is lost; the index still has it"
                self._findings.add("attempt", message, pathspec=pathspec_of(names), attempt=_number(number))

    def _names_of(self, run: Any) -> list[Any]:
        trash = "LEFT JOIN trash AS t ON t.run = r.id" if self._has_trash else ""
        statement = SELECT_RUN_NAMES.format(REAL_NAME if self._has_trash else "r.name", trash)
        try:
            return list(self._database.query(statement, (run,))[0])
        except (DataException, IndexError):
            return [None, None]


def _collect(connection: apsw.Connection, rows: list[Any]) -> None:
    """Append what the index has, up to where it can be read."""
    rows.extend(connection.execute(SELECT_FROM_INDEX))


def check_legal(findings: Findings, kind: str, what: str, name: Any, place: dict[str, Any]) -> None:
    """Take the problem that a name is none that a store gives."""
    try:
        check_name(what, name)
    except (InvalidName, InvalidType) as error:
        findings.add(kind, str(error), name=name if kind == "artifact" else "", **place)


def _number(number: Any) -> int | None:
    return number if isinstance(number, int) else None


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
