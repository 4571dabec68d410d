"""Is everything in the file as it was written? SQLite's own checks, then every byte and every row against its digest.

Nothing is unpickled and nothing is changed. Others may write and prune meanwhile: rows are compared within one
snapshot, content that seems hurt is looked at again. Each statement is short but for SQLite's own checks, which in WAL
mode, as every long read there, keep nobody from working; in a file with a rollback journal writers wait for them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import apsw

from sqlitestore import schema
from sqlitestore.database import Database
from sqlitestore.errors import DataException, StoreBusy, StoreMissing
from sqlitestore.maintenance.verification import Findings, Verification, reason
from sqlitestore.maintenance.verify_attempts import AttemptCheck
from sqlitestore.maintenance.verify_content import ContentCheck
from sqlitestore.maintenance.verify_records import RecordCheck
from sqlitestore.progress import SILENT, Progress
from sqlitestore.tables import tables_of

MAX_MESSAGES = 1000
"""Of SQLite's ``integrity_check`` that are asked for."""

INTEGRITY = f"PRAGMA integrity_check({MAX_MESSAGES})"
INTEGRITY_OF = "PRAGMA integrity_check({})"
MALFORMED = "database disk image is malformed"
"""What they say, as a row, where they cannot go on."""

FOREIGN_KEYS_OF = "PRAGMA foreign_key_check({})"
SELECT_STORE = "SELECT uuid, kind, created, writer FROM store"
SELECT_SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = 'chunk'"
SELECT_LARGEST_CHUNK = "SELECT MAX(id) FROM chunk"
CONTENT = ("blob", "chunk", "blob_chunk")
"""Tables as large as the content, or as many rows: a quick verification leaves them to the full one."""

# What can be counted or measured is never negative; -1 is metadata of a task itself.
NUMBERS = {
    "store": "created < 0",
    "blob": "id <= 0 OR size < 0 OR codec < 0",
    "chunk": "id <= 0 OR size < 0 OR codec < 0",
    "blob_chunk": "position < 0",
    "flow": "id <= 0",
    "run": "id <= 0",
    "attempt": "id <= 0 OR number < 0 OR started < 0 OR done < 0",
    "artifact": "position < 0 OR size < 0",
    "stub": "position < 0 OR size < 0",
    "task_metadata": "attempt < -1",
    "log": "part < 0 OR size < 0",
    "file": "size < 0",
    "trashed_file": "size < 0",
    "registered_run": "ts_epoch < 0 OR task_ids < 0",
    "registered_step": "ts_epoch < 0",
    "registered_task": "ts_epoch < 0",
    "registered_metadata": "ts_epoch < 0 OR position < 0",
    "registered_artifact": "ts_epoch < 0 OR attempt < 0",
}
COUNT_NEGATIVE = "SELECT COUNT(1) FROM {} WHERE {}"


def verify(store: Any, *, quick: bool = False, progress: Progress = SILENT) -> Verification:
    """Check an open store (also its Database), or the file at a path; what is hurt is in the outcome, not an error.

    ``quick`` leaves out the content and SQLite's checks of the tables that hold it: the rows and their digests are
    checked. A file that cannot be opened as a store is one problem of the kind "store". Raises StoreMissing if there
    is no file, StoreBusy if another process keeps it locked.
    """
    start = time.monotonic()
    if isinstance(store, str | os.PathLike):
        findings = _check_path(os.fspath(store), quick=quick, progress=progress)
    else:
        database = store if isinstance(store, Database) else tables_of(store).database
        findings = Findings(database.path)
        with _as_problem(findings):
            _check(database, findings, quick=quick, progress=progress)
    seconds = time.monotonic() - start
    return Verification(findings.path, quick, findings.checked, findings.problems, findings.found, seconds)


def _check_path(path: str, *, quick: bool, progress: Progress) -> Findings:
    """Check a file without changing it, if nobody has it open or a log lies beside it.

    A file at rest is read without locks. So if somebody wrote to it meanwhile, what seemed hurt is looked at again
    beside the writers; and a journal beside it is half a transaction, which only SQLite itself may undo.
    """
    before = _state(path)
    read_only = not os.path.exists(path + "-journal")
    findings = _check_opened(path, read_only=read_only, quick=quick, progress=progress)
    if findings.found and read_only and _state(path) != before:
        findings = _check_opened(path, read_only=False, quick=quick, progress=progress)
    return findings


def _check_opened(path: str, *, read_only: bool, quick: bool, progress: Progress) -> Findings:
    findings = Findings(path)
    with _as_problem(findings), closing(Database(path, create=False, read_only=read_only)) as database:
        _check(database, findings, quick=quick, progress=progress)
    return findings


@contextmanager
def _as_problem(findings: Findings) -> Iterator[None]:
    """Make an error that leaves nothing to be checked the problem that it is."""
    try:
        yield
    except (StoreMissing, StoreBusy):
        raise
    except DataException as error:
        findings.add("store", str(error))


def _state(path: str) -> tuple[Any, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    beside = [os.path.exists(path + suffix) for suffix in ("-wal", "-journal")]
    return (status.st_mtime_ns, status.st_size, status.st_ino, *beside)


def _check(database: Database, findings: Findings, *, quick: bool, progress: Progress) -> None:
    tables = [name for name, sql in schema.SCHEMAS[database.format].items() if sql.startswith("CREATE TABLE")]
    _check_structure(database, tables, findings, quick=quick, progress=progress)
    _check_store(database, findings)
    content = ContentCheck(database, findings, progress)
    if not quick:
        content.run()
    AttemptCheck(database, findings, progress, content.hurt).run()
    RecordCheck(database, findings, content.hurt).run()


def _check_structure(
    database: Database, tables: list[str], findings: Findings, *, quick: bool, progress: Progress
) -> None:
    """Let SQLite check its pages and indexes, then the references between rows, and the signs of all numbers."""
    small = [table for table in tables if table not in CONTENT]
    checks = [INTEGRITY_OF.format(table) for table in small] if quick else [INTEGRITY]
    checked = small if quick else tables
    progress.start("Checking the structure", len(checks) + 2 * len(checked), "steps")
    try:
        for statement in checks:
            came_to_its_end = _check_integrity(database, statement, findings)
            progress.advance(1)
            if not came_to_its_end and not quick:  # where one table ended it, nothing is known of those behind it
                for table in tables:
                    _check_integrity(database, INTEGRITY_OF.format(table), findings, table)
        for table in checked:
            _check_references(database, table, findings)
            progress.advance(1)
        for table in checked:
            _check_numbers(database, table, findings)
            progress.advance(1)
    finally:
        progress.finish()


def _check_integrity(database: Database, statement: str, findings: Findings, table: str = "") -> bool:
    """Take what SQLite says, of one ``table`` or of all; return False if damage kept it from looking at everything."""
    messages = _rows(database, statement, findings, table or "the check of SQLite")
    came_to_its_end = bool(messages)
    for (message,) in messages:
        if message != "ok":
            findings.structure_hurt = True
            for line in str(message).splitlines():
                if line == MALFORMED:
                    came_to_its_end = False
                if not line.startswith("*** in database"):
                    findings.add("structure", line, name=table)
    return came_to_its_end


def _check_references(database: Database, table: str, findings: Findings) -> None:
    missing = Counter(row[2] for row in _rows(database, FOREIGN_KEYS_OF.format(table), findings, table))
    for parent, count in missing.items():
        findings.add("reference", f"{count:,} of its rows refer to a row of {parent} that is not there", name=table)


def _check_numbers(database: Database, table: str, findings: Findings) -> None:
    if condition := NUMBERS.get(table):
        for (count,) in _rows(database, COUNT_NEGATIVE.format(table, condition), findings, table):
            if count:
                findings.add("table", f"{count:,} of its rows have a negative number", name=table)


def _check_store(database: Database, findings: Findings) -> None:
    """Check the one row of ``store``, and that no chunk's id can come again."""
    for uuid, kind, created, writer in _rows(database, SELECT_STORE, findings, "store"):
        sane = isinstance(uuid, str) and isinstance(writer, str) and isinstance(created, float)
        if not sane or kind not in {schema.LIVE, schema.ARCHIVE}:
            findings.add("store", "its row in the table 'store' makes no sense")
    try:
        with database.read() as connection:
            found: list[Any] = connection.execute(SELECT_SEQUENCE).fetchall()
            largest = connection.execute(SELECT_LARGEST_CHUNK).get
    except DataException as error:
        findings.unreadable("sqlite_sequence", error)
        return
    sequence = [seq for (seq,) in found]
    if largest is not None and (len(sequence) != 1 or not isinstance(sequence[0], int) or sequence[0] < largest):
        message = f"it says {sequence!r:.60}, and there is chunk {largest}: an id could be given out twice"
        findings.add("table", message, name="sqlite_sequence")


def _rows(database: Database, statement: str, findings: Findings, table: str) -> list[Any]:
    """Return the rows of a statement that may last, up to where the table can be read."""
    rows: list[Any] = []
    try:
        with database.read() as connection:
            _gather(connection, statement, rows)
    except DataException as error:
        if isinstance(error.__cause__, apsw.CorruptError):
            findings.unreadable(table, error)
        else:
            findings.structure_hurt = True
            findings.add("table", f"it cannot be checked ({reason(error)})", name=table)
    return rows


def _gather(connection: apsw.Connection, statement: str, rows: list[Any]) -> None:
    for row in connection.execute(statement):
        rows.append(row)  # noqa: PERF402 - what came before an error counts
