"""What is true of a connection of ours: each pragma and setting a function with its reason.

They hold for our connections only: nothing process-global is touched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Literal

import apsw

from sqlitestore.errors import Damaged

BUSY_TIMEOUT = 300.0
"""How long a writer waits for the others [s]: their transactions are short, so only a stuck process lasts so long."""

PAGE_SIZE = 8192
"""[bytes] Of a new file. 200 MB of chunks / tasks of 5 artifacts, measured with 4, 8, 16, 32 KiB: 294, 320, 400, 373
MB/s until closed / 6,500, 6,200, 4,000, 2,600 tasks/s. 8 KiB loses least on either side."""

CHECKPOINT_BYTES = 128 * 2**20
"""[bytes] Of write-ahead log after which a commit moves it into the file; larger logs only postpone the work. That
commit took 58, 103, and 199 ms with 64, 128, and 256 MiB."""

LARGEST_LOG = 4 * CHECKPOINT_BYTES
"""[bytes] Of write-ahead log while a large blob is saved and another thread moves it. 1 GB of noise took 13 % longer to
save with a log of 128 MiB."""

LEAVING_TIMEOUT = 10.0
"""How long to wait for a file whose log somebody else may have open [s], for who knows how long."""

LARGEST_VALUE = 48 * 2**20
"""[bytes] Of a row or value, read or written: a stranger's rows cannot fill the memory. Chunks have 16 MiB at most."""

LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: LARGEST_VALUE,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    apsw.SQLITE_LIMIT_COLUMN: 100,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 100,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    apsw.SQLITE_LIMIT_VDBE_OP: 25_000,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 8,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    apsw.SQLITE_LIMIT_VARIABLE_NUMBER: 100,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}
"""Of what SQLite takes from a file's schema and from our statements: those that its page on security names, where ours
need no more. (Length is that of a row; attached is no file, see ``rebuild``.)"""

CACHE_BYTES = 2 * 2**20
"""[bytes] Of pages that a connection keeps; a transaction that changes more spills into the log. To insert 100 MB of
chunks took 119, 136, and 147 ms with 2, 16, and 32 MiB."""

SMALLEST_HEADER = 100
"""[bytes] Of a database file."""

JournalMode = Literal["wal", "delete", "off"]
"""No journal ("off") is for a file that nobody else sees yet, and that is thrown away if anything fails."""

Synchronous = Literal["normal", "full", "extra", "off"]


def wait_for_writers(connection: apsw.Connection) -> None:
    """Wait for minutes, not milliseconds: with many processes "database is locked" would be the usual answer.

    SQLite's own way asks less often the longer it has waited, and so lets newcomers pass. Of 40 processes that wrote
    small tasks for 6 s, the slowest got 1 to 28 written and waited 3.3 to 5.0 s; in this way 93 to 107, and 0.57 to
    0.75 s. Four processes write about 13 % less than before, one as much.
    """
    connection.set_busy_handler(_Waiting())


class _Waiting:
    """A busy handler: asks again soon, then at intervals that become shorter the longer it has waited.

    There is nobody to queue with but by asking, so the share of the askings is the share of the turns.
    """

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self, asked: int) -> bool:
        now = time.monotonic()
        if not asked:
            self._since = now
        waited = now - self._since
        if waited >= BUSY_TIMEOUT:
            return False
        time.sleep(min(0.001 * 2 ** min(asked, 10), 0.0003 + 0.02 / (1 + 4 * waited)))
        return True


def distrust_the_file(connection: apsw.Connection) -> None:
    """Let a stranger's file run nothing: https://www.sqlite.org/security.html, "Untrusted SQLite Database Files"."""
    for option, value in (
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
        (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
        (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
    ):
        connection.config(option, value)
    for limit, value in LIMITS.items():
        connection.limit(limit, value)
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA mmap_size=0")


def keep_pages(connection: apsw.Connection) -> None:
    """Keep the upper pages of the indexes, and sort in memory: a temporary file would lie beside the store."""
    connection.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
    connection.execute("PRAGMA temp_store=MEMORY")


def keep_plans(connection: apsw.Connection) -> None:
    """Plan a statement once, not for each of its executions: https://www.sqlite.org/queryplanner-ng.html#qpstab.

    As it is built for us, SQLite parses and plans a join anew whenever values are bound to it, to look them up in
    statistics (STAT4). Our files have none. To find an attempt took 13 us, and takes 4.
    """
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def enforce_foreign_keys(connection: apsw.Connection) -> None:
    """Make SQLite keep invariant I1; it is off by default, and per connection."""
    connection.execute("PRAGMA foreign_keys=ON")


def choose_page_size(connection: apsw.Connection) -> None:
    """Take PAGE_SIZE for a file that has no page yet; for all others SQLite ignores it."""
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")


def let_the_file_shrink(connection: apsw.Connection) -> None:
    """Keep what SQLite needs to move pages forward and cut the file's end off, a few at a time (``compact``).

    It costs a page in 1,600; only a file that has no page yet takes it, or one that is rebuilt.
    """
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")


def cut_off_free_pages(connection: apsw.Connection, pages: int) -> None:
    """Move up to so many pages from the file's end into free ones, and cut the end off; inside a transaction."""
    connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()  # a step a page


def rebuild(connection: apsw.Connection) -> None:
    """Write the file anew, outside of any transaction; it can shrink step by step from then on.

    The copy on the way stands in the temporary folder: by ``keep_pages`` it would be in memory.
    """
    let_the_file_shrink(connection)
    connection.execute("PRAGMA temp_store=FILE")
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)  # SQLite attaches the copy
    try:
        connection.execute("VACUUM")
    finally:
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, LIMITS[apsw.SQLITE_LIMIT_ATTACHED])
        connection.execute("PRAGMA temp_store=MEMORY")


def move_the_log(connection: apsw.Connection) -> None:
    """Move the log into the file, whose end is cut off by that, as far as readers of older states let it.

    "Passive" waits for nobody: any other kind would keep writers waiting for the slowest reader.
    """
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def size_of_file(connection: apsw.Connection) -> int:
    """Return the size that the file has when its log is moved into it [bytes]."""
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))


def size_of_free_pages(connection: apsw.Connection) -> int:
    """Return what of the file is free for later [bytes]."""
    return int(connection.pragma("freelist_count")) * int(connection.pragma("page_size"))


def fault_of_the_trees(connection: apsw.Connection) -> str:
    """Return what SQLite's check finds first in the trees of pages, "" if they are sound.

    It comes in one row and before what is wrong with single rows, which are read only if the trees are sound.
    """
    found = str(connection.execute("PRAGMA quick_check(1)").get)
    return found.splitlines()[-1] if found.startswith("*** in database") else ""


def set_journal_mode(connection: apsw.Connection, mode: JournalMode) -> None:
    """Readers and a writer work side by side with "wal". Only the first connection to a new file really switches.

    The switch needs the file alone for a moment, and SQLite does not always wait for that.
    """
    end = time.monotonic() + BUSY_TIMEOUT
    for attempt in count():
        try:
            if connection.pragma("journal_mode") != mode:
                connection.pragma("journal_mode", mode)
        except apsw.BusyError:
            if time.monotonic() > end:
                raise
            threading.Event().wait(0.005 + attempt % 10 / 1000)
        else:
            return


def has_log(path: str) -> bool:
    """Return whether the header says that the file is used with a write-ahead log.

    Read through SQLite: if this process closed another descriptor of the file, its locks would be gone.
    """
    file = apsw.VFSFile("", path, [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0])
    try:
        return file.xFileSize() >= SMALLEST_HEADER and file.xRead(20, 0)[18:20] == b"\2\2"
    finally:
        file.xClose()


def leave_the_log(connection: apsw.Connection) -> None:
    """Move the log into the file, which has a rollback journal from then on. BusyError: others have it."""
    connection.pragma("journal_mode", "delete")


def use_alone(connection: apsw.Connection) -> None:
    """Have the file for this connection alone from the first look: so it needs no memory shared with others.

    https://www.sqlite.org/wal.html, "Use of WAL Without Shared-Memory". It does not wait: it would keep its own lock
    meanwhile, and so would each other that wants the same.
    """
    connection.set_busy_timeout(0)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")


def set_synchronous(connection: apsw.Connection, synchronous: Synchronous) -> None:
    """With "normal" a commit costs no fsync in "wal" mode; a power cut may undo the latest ones, never tear them.

    With the journal mode "delete" only "extra" keeps them: a commit is the removal of the journal, which lasts when the
    folder is synced, too, and that "full" leaves out. "normal" may leave a torn file there on some disks. The price of
    "extra" was 0.67 ms a transaction instead of 0.57.
    """
    connection.execute(f"PRAGMA synchronous={synchronous}")


def bound_the_log(connection: apsw.Connection) -> None:
    """Move the log into the file after CHECKPOINT_BYTES, and give its space back."""
    page_size = connection.pragma("page_size")
    connection.wal_autocheckpoint(CHECKPOINT_BYTES // int(page_size))
    connection.execute(f"PRAGMA journal_size_limit={CHECKPOINT_BYTES}")


def let_the_log_grow(connection: apsw.Connection) -> None:
    """Have this connection leave the log to another one, which moves it meanwhile, up to LARGEST_LOG."""
    connection.wal_autocheckpoint(LARGEST_LOG // int(connection.pragma("page_size")))


@contextmanager
def overwriting_what_is_deleted(connection: apsw.Connection) -> Iterator[None]:
    """Fill deleted rows with zeros, for secrets that must not stay in free pages. Else it only costs writes."""
    connection.execute("PRAGMA secure_delete=ON")
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete=OFF")


def check_length(connection: apsw.Connection, path: str) -> None:
    """Raise Damaged if the file ends before its last page, as after a download that broke off.

    SQLite notices that only when it needs a page that is not there. While there is a log, pages may still be in it.
    """
    expected = size_of_file(connection)
    found = os.path.getsize(path)
    log = path + "-wal"
    if found < expected and not (os.path.exists(log) and os.path.getsize(log)):
        raise Damaged(
            f"{path} is truncated: it has {found:,} of {expected:,} bytes. Copy it again from where it is whole."
        )
