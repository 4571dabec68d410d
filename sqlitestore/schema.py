"""The tables, and the window of format versions. FORMAT.md says the same for people; a test compares the two.

Two tables that one might expect are not there, because a small task pays a page for every b-tree that it touches
(measured: 8 of them cost half the speed): a task is a group of rows of ``attempt``, and its names stand there.

Chunk ids are never used again (AUTOINCREMENT): a writer remembers the ids of chunks that it found, and must not, when
one was deleted meanwhile, reference another's bytes in its place.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import apsw

from sqlitestore.crash_points import crash_point
from sqlitestore.errors import Damaged, NewerFormat, NotAStore, StoreUnavailable

APPLICATION_ID = 0x53714C73
"""In the file's header, for ``file`` and for SQLite tools: "SqLs" in ASCII."""

NEWEST_FORMAT = 4
"""Written by this version, as ``user_version``."""

OLDEST_FORMAT = 1
"""The oldest that this version reads (and migrates when it may write)."""

REGISTRATIONS, RUNS_COME_AND_GO = 2, 3
"""The formats with which these tables came; a file of an older one that can only be read has none of them."""

LIVE, ARCHIVE = "live", "archive"

FORMAT_1 = {
    "store": """CREATE TABLE store(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  uuid TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('live', 'archive')),
  created REAL NOT NULL,
  writer TEXT NOT NULL
) STRICT""",
    "blob": """CREATE TABLE blob(
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE,
  size INTEGER NOT NULL CHECK (size >= 0),
  codec INTEGER,
  bytes BLOB,
  CHECK ((codec IS NULL) = (bytes IS NULL))
) STRICT""",
    "chunk": """CREATE TABLE chunk(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  digest BLOB NOT NULL UNIQUE,
  size INTEGER NOT NULL CHECK (size > 0),
  codec INTEGER NOT NULL,
  bytes BLOB NOT NULL
) STRICT""",
    "blob_chunk": """CREATE TABLE blob_chunk(
  blob INTEGER NOT NULL REFERENCES blob(id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  chunk INTEGER NOT NULL REFERENCES chunk(id),
  PRIMARY KEY (blob, position)
) STRICT, WITHOUT ROWID""",
    "blob_chunk_by_chunk": "CREATE INDEX blob_chunk_by_chunk ON blob_chunk(chunk)",
    "flow": """CREATE TABLE flow(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT""",
    "run": """CREATE TABLE run(
  id INTEGER PRIMARY KEY,
  flow INTEGER NOT NULL REFERENCES flow(id),
  name TEXT NOT NULL,
  UNIQUE (flow, name)
) STRICT""",
    "attempt": """CREATE TABLE attempt(
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES run(id),
  step TEXT NOT NULL,
  task TEXT NOT NULL,
  number INTEGER NOT NULL CHECK (number >= 0),
  started REAL,
  done REAL,
  python TEXT,
  artifacts_digest BLOB,
  digest BLOB NOT NULL,
  UNIQUE (run, step, task, number)
) STRICT""",
    "artifact": """CREATE TABLE artifact(
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  name TEXT NOT NULL,
  position INTEGER NOT NULL CHECK (position >= 0),
  blob INTEGER NOT NULL REFERENCES blob(id),
  size INTEGER NOT NULL CHECK (size >= 0),
  type TEXT NOT NULL,
  encoding TEXT NOT NULL,
  serializer_info BLOB,
  preview BLOB,
  PRIMARY KEY (attempt, name)
) STRICT, WITHOUT ROWID""",
    "artifact_by_blob": "CREATE INDEX artifact_by_blob ON artifact(blob)",
    "task_metadata": """CREATE TABLE task_metadata(
  run INTEGER NOT NULL REFERENCES run(id),
  step TEXT NOT NULL,
  task TEXT NOT NULL,
  attempt INTEGER NOT NULL CHECK (attempt >= -1),
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, step, task, attempt, name)
) STRICT, WITHOUT ROWID""",
    "log": """CREATE TABLE log(
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  source TEXT NOT NULL,
  stream TEXT NOT NULL,
  part INTEGER NOT NULL CHECK (part >= 0),
  blob INTEGER NOT NULL REFERENCES blob(id),
  size INTEGER NOT NULL CHECK (size >= 0),
  digest BLOB NOT NULL,
  PRIMARY KEY (attempt, source, stream, part)
) STRICT, WITHOUT ROWID""",
    "log_by_blob": "CREATE INDEX log_by_blob ON log(blob)",
    "data": """CREATE TABLE data(
  blob INTEGER NOT NULL REFERENCES blob(id),
  flow INTEGER NOT NULL REFERENCES flow(id),
  PRIMARY KEY (blob, flow)
) STRICT, WITHOUT ROWID""",
    "file": """CREATE TABLE file(
  path TEXT PRIMARY KEY,
  blob INTEGER NOT NULL REFERENCES blob(id),
  size INTEGER NOT NULL CHECK (size >= 0),
  metadata TEXT,
  digest BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    "file_by_blob": "CREATE INDEX file_by_blob ON file(blob)",
}
"""Format 1: what ``sqlite_schema`` holds, in this order of creation, by name."""

NEW_IN_FORMAT_2 = {
    "registered_run": """CREATE TABLE registered_run(
  run INTEGER PRIMARY KEY REFERENCES run(id),
  user_name TEXT,
  ts_epoch INTEGER NOT NULL,
  tags TEXT NOT NULL,
  system_tags TEXT NOT NULL,
  task_ids INTEGER NOT NULL CHECK (task_ids >= 0),
  digest BLOB NOT NULL
) STRICT""",
    "registered_step": """CREATE TABLE registered_step(
  run INTEGER NOT NULL REFERENCES registered_run(run),
  step TEXT NOT NULL,
  user_name TEXT,
  ts_epoch INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID""",
    "registered_task": """CREATE TABLE registered_task(
  run INTEGER NOT NULL REFERENCES registered_run(run),
  step TEXT NOT NULL,
  task TEXT NOT NULL,
  user_name TEXT,
  ts_epoch INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, step, task)
) STRICT, WITHOUT ROWID""",
    "registered_metadata": """CREATE TABLE registered_metadata(
  run INTEGER NOT NULL REFERENCES run(id),
  step TEXT NOT NULL,
  task TEXT NOT NULL,
  position INTEGER NOT NULL CHECK (position >= 0),
  field_name TEXT NOT NULL,
  value TEXT NOT NULL,
  type TEXT NOT NULL,
  tags TEXT NOT NULL,
  user_name TEXT,
  ts_epoch INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, step, task, position)
) STRICT, WITHOUT ROWID""",
    "registered_artifact": """CREATE TABLE registered_artifact(
  run INTEGER NOT NULL REFERENCES run(id),
  step TEXT NOT NULL,
  task TEXT NOT NULL,
  attempt INTEGER NOT NULL CHECK (attempt >= 0),
  name TEXT NOT NULL,
  content_type TEXT NOT NULL,
  sha TEXT NOT NULL,
  ds_type TEXT NOT NULL,
  location TEXT NOT NULL,
  user_name TEXT,
  ts_epoch INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, step, task, attempt, name)
) STRICT, WITHOUT ROWID""",
}
"""What a metadata provider registers."""

FORMAT_2 = FORMAT_1 | NEW_IN_FORMAT_2

NEW_IN_FORMAT_3 = {
    "trash": """CREATE TABLE trash(
  run INTEGER PRIMARY KEY REFERENCES run(id),
  name TEXT NOT NULL,
  trashed REAL NOT NULL,
  purging INTEGER NOT NULL CHECK (purging IN (0, 1))
) STRICT""",
    "trashed_file": """CREATE TABLE trashed_file(
  run INTEGER NOT NULL REFERENCES trash(run),
  path TEXT NOT NULL,
  blob INTEGER NOT NULL REFERENCES blob(id),
  size INTEGER NOT NULL CHECK (size >= 0),
  metadata TEXT,
  digest BLOB NOT NULL,
  PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID""",
    "trashed_file_by_blob": "CREATE INDEX trashed_file_by_blob ON trashed_file(blob)",
    "garbage": """CREATE TABLE garbage(
  chunk INTEGER PRIMARY KEY
) STRICT""",
    "held": """CREATE TABLE held(
  key BLOB NOT NULL,
  writer BLOB NOT NULL,
  count INTEGER NOT NULL CHECK (count > 0),
  since REAL NOT NULL,
  PRIMARY KEY (key, writer)
) STRICT, WITHOUT ROWID""",
    "stub": """CREATE TABLE stub(
  attempt INTEGER NOT NULL REFERENCES attempt(id),
  name TEXT NOT NULL,
  position INTEGER NOT NULL CHECK (position >= 0),
  key BLOB NOT NULL,
  size INTEGER NOT NULL CHECK (size >= 0),
  type TEXT NOT NULL,
  encoding TEXT NOT NULL,
  serializer_info BLOB,
  preview BLOB,
  PRIMARY KEY (attempt, name)
) STRICT, WITHOUT ROWID""",
    "untrusted": """CREATE TABLE untrusted(
  run INTEGER PRIMARY KEY REFERENCES run(id),
  origin TEXT NOT NULL
) STRICT""",
}
"""What runs that come and go need: a trash, what may not go yet, artifacts left out of an archive, and trust."""

FORMAT_3 = FORMAT_2 | NEW_IN_FORMAT_3

FORMAT_4 = FORMAT_3
"""Its tables are the same; what came is a codec (see ``codecs``)."""

SCHEMAS = {1: FORMAT_1, 2: FORMAT_2, 3: FORMAT_3, 4: FORMAT_4}
"""Every readable format's schema, exactly as in the file."""


def _to_format_2(connection: apsw.Connection) -> None:
    for statement in NEW_IN_FORMAT_2.values():
        connection.execute(statement)


def _to_format_3(connection: apsw.Connection) -> None:
    for statement in NEW_IN_FORMAT_3.values():
        connection.execute(statement)
    crash_point("migration-tables-made")
    connection.execute(DISTRUST_ARCHIVE)


def _to_format_4(connection: apsw.Connection) -> None:
    """Change nothing: the new number alone keeps older versions from what they could not decode."""


MIGRATIONS: dict[int, Callable[[apsw.Connection], None]] = {1: _to_format_2, 2: _to_format_3, 3: _to_format_4}
"""From a format to the next: each runs with its new ``user_version`` in one transaction."""

INSERT_STORE = "INSERT INTO store(id, uuid, kind, created, writer) VALUES (1, ?, ?, ?, ?)"
SELECT_KIND = "SELECT kind FROM store"
DISTRUST_ARCHIVE = """INSERT INTO untrusted(run, origin) SELECT r.id, s.uuid FROM run AS r, store AS s
 WHERE s.kind = 'archive'"""
# Without the indexes that UNIQUE makes: they have no text, and SQLite itself refuses one that no table has.
SELECT_SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL OR type != 'index'"
SELECT_ROOTS = "SELECT rootpage FROM sqlite_schema"

LITESTREAM = {
    "_litestream_seq": "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    "_litestream_lock": "CREATE TABLE _litestream_lock (id INTEGER)",
}
"""The tables that Litestream adds to a file that it replicates, to the letter; nothing of ours looks at them."""

OF_OTHERS = LITESTREAM | {
    "sqlite_sequence": "CREATE TABLE sqlite_sequence(name,seq)",
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
"""What others add: SQLite itself, for AUTOINCREMENT and by ANALYZE of a stock sqlite3, and Litestream.

A stranger may give any table, trigger or view a name of SQLite's, so the name alone says nothing.
"""


def prepare(connection: apsw.Connection, path: str, *, writable: bool, create: str | None = LIVE) -> str:
    """Make the tables of an empty file, of the kind ``create`` (None: do not); migrate an old format, if writable.

    All is checked to be as ours.

    Returns the store's kind, LIVE or ARCHIVE. Raises NotAStore, NewerFormat or Damaged; nothing was changed then.
    """
    if writable and create and _is_empty(connection):
        with _exclusive(connection):
            if _is_empty(connection):  # nobody was faster
                create_tables(connection, create)
        crash_point("tables-committed")
    if _is_empty(connection):
        raise NotAStore(f"{path} is empty; a store is made by opening it where it can be written.")
    found = check_identity(connection, path)
    if writable and found < NEWEST_FORMAT:
        with _exclusive(connection):
            # Again, because others may have migrated it meanwhile, even a newer version to a newer format.
            found = check_identity(connection, path)
            check_tables(connection, path, found)
            migrate(connection, found)
        crash_point("migration-committed")
        found = NEWEST_FORMAT
    check_tables(connection, path, found)
    kinds = connection.execute(SELECT_KIND).fetchall()
    if len(kinds) != 1:
        raise Damaged(f"{path} is damaged: it has {len(kinds)} rows in the table 'store' where one belongs.")
    return str(kinds[0][0])


def create_tables(connection: apsw.Connection, kind: str = LIVE) -> None:
    """Make the tables of the newest format, inside a transaction of the caller."""
    from uuid import uuid4  # late, as below

    for statement in SCHEMAS[NEWEST_FORMAT].values():
        connection.execute(statement)
    crash_point("tables-made")
    connection.execute(INSERT_STORE, (str(uuid4()), kind, time.time(), writer()))
    connection.pragma("application_id", APPLICATION_ID)
    crash_point("tables-identified")
    connection.pragma("user_version", NEWEST_FORMAT)
    crash_point("tables-versioned")


def migrate(connection: apsw.Connection, found: int) -> None:
    """Bring the tables from format ``found`` to the newest, inside a transaction of the caller."""
    for step in range(found, NEWEST_FORMAT):
        MIGRATIONS[step](connection)
        crash_point("migration-step-done")
    connection.pragma("user_version", NEWEST_FORMAT)
    crash_point("migration-versioned")


def writer() -> str:
    """Return what wrote the file, for who looks later: ``sqlitestore 0.1.0, SQLite 3.54.1, Python 3.11.7``."""
    from importlib.metadata import PackageNotFoundError, version  # 20 ms, and only needed to make a file

    try:
        ours = version("sqlitestore")
    except PackageNotFoundError:  # used from a source folder
        ours = "(source)"
    return f"sqlitestore {ours}, SQLite {apsw.sqlite_lib_version()}, Python {sys.version.split()[0]}"


def check_identity(connection: apsw.Connection, path: str) -> int:
    """Return the file's format version. Raises NotAStore for another program's database, NewerFormat."""
    application_id = int(connection.pragma("application_id"))
    if application_id != APPLICATION_ID:
        raise NotAStore(
            f"{path} is a database of another program (application id {application_id:#x}, not {APPLICATION_ID:#x}); "
            "give the path of a store."
        )
    found = int(connection.pragma("user_version"))
    if found > NEWEST_FORMAT:
        raise NewerFormat(
            f"{path} has format {found}; this sqlitestore reads formats {OLDEST_FORMAT} to {NEWEST_FORMAT}. "
            "Install a newer sqlitestore."
        )
    if found < OLDEST_FORMAT:
        raise StoreUnavailable(
            f"{path} has format {found}; this sqlitestore reads formats {OLDEST_FORMAT} to {NEWEST_FORMAT}."
        )
    return found


def check_tables(connection: apsw.Connection, path: str, format_version: int) -> None:
    """Raise Damaged unless the schema in the file is, to the letter, the one that we write for its format.

    What OF_OTHERS lists may be there too. A stranger's trigger, view, index expression or altered table could make our
    own statements do other things, and so could two tables that share their pages.
    """
    expected = SCHEMAS[format_version]
    found = {str(name): sql for name, sql in connection.execute(SELECT_SCHEMA) if OF_OTHERS.get(str(name)) != sql}
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise Damaged(
            f"{path} does not have the tables of format {format_version}: {', '.join(map(repr, names))[:200]} "
            "differ. It was altered by another program; restore it from a backup."
        )
    roots = [root for (root,) in connection.execute(SELECT_ROOTS)]
    if len(set(roots)) < len(roots) or min(roots) <= 1:
        raise Damaged(f"{path} is damaged: two of its tables are at the same place. Restore it from a backup.")


def _is_empty(connection: apsw.Connection) -> bool:
    return all(connection.pragma(name) == 0 for name in ("schema_version", "user_version", "application_id"))


class _exclusive:  # noqa: N801 - reads as a statement
    """One transaction that nobody else reads or writes beside, so that 16 processes create a file once."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN EXCLUSIVE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
