"""One database file: how its connections are opened, and the one door for transactions.

Everything that is true of "a connection of ours" is decided here, each pragma by a function that says why. Nothing
process-global is touched, so an application that embeds us keeps its own SQLite settings.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import apsw

from sqlitestore import schema
from sqlitestore.connections import Connections, Handle
from sqlitestore.errors import (
    Damaged,
    DataException,
    DiskFull,
    InvalidInput,
    NotAStore,
    StoreBusy,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
)
from sqlitestore.mounts import is_network_file_system

BUSY_TIMEOUT = 300.0
"""How long a writer waits for the others [s]: their transactions are short, so only a stuck process lasts so long."""

PAGE_SIZE = 8192
"""[bytes] Of a new file. 200 MB of chunks / tasks of 5 artifacts, measured with 4, 8, 16, 32 KiB: 294, 320, 400, 373
MB/s until closed / 6,500, 6,200, 4,000, 2,600 tasks/s. 8 KiB loses least on either side."""

CHECKPOINT_BYTES = 64 * 2**20
"""[bytes] Of write-ahead log after which a commit moves it into the file; larger logs only postpone the work."""

SMALLEST_DATABASE = 512
"""[bytes] SQLite's smallest page."""

LARGEST_VALUE = 48 * 2**20
"""[bytes] Of a row or value, read or written: a stranger's rows cannot fill the memory. Chunks have 16 MiB at most."""

CACHE_BYTES = 16 * 2**20
"""[bytes] Of pages that a connection keeps; a transaction that changes more spills into the log."""

JournalMode = Literal["wal", "delete", "off"]
"""\"off\" is for a file that nobody else sees yet, and that is thrown away if anything fails."""

Synchronous = Literal["normal", "full", "off"]


def _weakly(database: Database) -> Callable[[], Handle]:
    reference = weakref.ref(database)

    def open_handle() -> Handle:
        alive = reference()
        assert alive is not None, "only a database asks its connections for one"  # noqa: S101
        return alive._open()

    return open_handle


class Database:
    """The connections to one file, and their transactions. Safe to use from any thread, and in forked children.

    ``create`` makes the file if it is missing (never its folder), of the ``kind``. With ``read_only`` nothing in it
    changes, not even an old format. ``journal_mode`` None means: the write-ahead log for
    a live store, except on network file systems. ``synchronous`` "full" makes every commit durable against power loss;
    "normal" may lose the latest commits then, but nothing else (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """

    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        read_only: bool = False,
        kind: str = schema.LIVE,
        journal_mode: JournalMode | None = None,
        synchronous: Synchronous = "normal",
    ) -> None:
        self.path = path
        self._read_only = read_only
        self._kind = kind
        self._create = create
        self._journal_mode = journal_mode
        self._synchronous = synchronous
        self.format = schema.NEWEST_FORMAT
        """That of the file, older than the newest only where nothing can be written."""
        self._real_path = os.path.realpath(path)  # SQLite keeps its log beside the file, not beside a link to it
        # Weak: the connections must not keep alive the database whose end closes them.
        self._connections = Connections(path, _weakly(self))
        self._connections.handle()
        # Also when the program ends without close(): the last connection to close leaves one file.
        self._finalizer = weakref.finalize(self, self._connections.close)

    @property
    def writable(self) -> bool:
        """Whether the file and its folder can be written by this process."""
        places = (self._real_path, os.path.dirname(self._real_path))
        return not self._read_only and all(os.access(place, os.W_OK) for place in places)

    @property
    def reads_beside_writers(self) -> bool:
        """Whether a long read keeps nobody from writing: in WAL mode, and where nobody writes."""
        handle = self._connections.handle()
        return handle.at_rest is not None or self.query("PRAGMA journal_mode")[0][0] == "wal"

    def close(self) -> None:
        """Close all connections, those of other threads included. A second call does nothing."""
        self._finalizer()

    def check_open(self) -> None:
        """Raise StoreClosed after ``close``."""
        self._connections.check_open()

    def query(self, statement: str, bindings: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of one SELECT. One statement sees one snapshot; nothing stays open afterwards."""
        while True:
            handle = self._current_handle()
            with handle.lock:
                self._connections.check_open()
                try:
                    rows = handle.connection.execute(statement, bindings).fetchall()
                except apsw.TooBigError as error:
                    raise self._too_big(bindings) from error
                except (apsw.Error, UnicodeDecodeError) as error:
                    if self._still_at_rest(handle):
                        raise self._translated(error) from error
                    continue
            if self._still_at_rest(handle):
                return rows

    def version(self) -> tuple[int, int, int]:
        """Return what is another whenever anybody has changed the file since, as this thread sees it.

        The price is about that of reading one row (https://www.sqlite.org/pragma.html#pragma_data_version).
        """
        handle = self._current_handle()
        with handle.lock:
            self._connections.check_open()
            try:
                others = int(handle.connection.execute("PRAGMA data_version").get)
            except apsw.Error as error:
                raise self._translated(error) from error
            return handle.serial, others, handle.connection.total_changes()

    def _too_big(self, bindings: Sequence[Any] | dict[str, Any]) -> DataException:
        """Return what it means that a SELECT met a value above LARGEST_VALUE: ours, or one in the file."""
        if any(isinstance(value, str | bytes) and len(value) > LARGEST_VALUE // 4 for value in bindings):
            return InvalidInput("More was asked for than one call takes; ask for some hundred thousand at a time.")
        return Damaged(
            f"{self.path} is damaged: it has a row of more than {LARGEST_VALUE:,} bytes, which we never write."
        )

    def _current_handle(self) -> Handle:
        """Return this thread's handle; a new one if the file that it was opened on as at rest is so no longer."""
        handle = self._connections.handle()
        if not self._still_at_rest(handle):
            self._connections.discard(handle)
            handle = self._connections.handle()
        return handle

    def _still_at_rest(self, handle: Handle) -> bool:
        """Return False if the file, opened as one that nobody writes, was written: what was read may be a mix.

        Somebody who may read but not write a file opens it so while no writer has it open (see ``_target``).
        """
        return handle.at_rest is None or handle.at_rest == self._state()

    def _state(self) -> tuple[int, ...]:
        status = os.stat(self._real_path)
        return status.st_mtime_ns, status.st_size, status.st_ino, os.path.exists(self._real_path + "-wal")

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """Run several SELECTs in one snapshot; inside another transaction, in that one's.

        No user's code inside: the log cannot be reused meanwhile.
        """
        handle = self._current_handle()
        with handle.lock:
            self._connections.check_open()
            if handle.depth:
                yield handle.connection
                return
            with self._transaction(handle, "BEGIN", "COMMIT", "ROLLBACK"):
                yield handle.connection

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """Hold the one writer lock for a transaction; inside another, make a savepoint of it.

        Commits at the end and rolls back on any exception, which is the one that the caller sees. Keep it short: no
        hashing, compressing or user's code inside.
        """
        handle = self._connections.handle()
        with handle.lock:
            self._connections.check_open()
            if handle.depth:
                with self._transaction(handle, "SAVEPOINT inner", "RELEASE inner", "ROLLBACK TO inner; RELEASE inner"):
                    yield handle.connection
            else:
                with self._connections.writers, self._transaction(handle, "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"):
                    yield handle.connection

    def alone(self, work: Callable[[apsw.Connection], object]) -> None:
        """Run what SQLite takes in no transaction (VACUUM, a checkpoint); never inside of one."""
        handle = self._connections.handle()
        with handle.lock, self._connections.writers:
            self._connections.check_open()
            try:
                work(handle.connection)
            except apsw.Error as error:
                raise self._translated(error) from error

    @contextmanager
    def _transaction(self, handle: Handle, begin: str, commit: str, rollback: str) -> Iterator[None]:
        connection = handle.connection
        try:
            connection.execute(begin)
            handle.depth += 1
            try:
                yield
                connection.execute(commit)
            except BaseException:
                self._roll_back(handle, rollback)
                raise
            finally:
                handle.depth -= 1
        except apsw.ConstraintError:
            raise  # the module that owns the table knows what it means
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._translated(error) from error

    def _roll_back(self, handle: Handle, rollback: str) -> None:
        """Undo without masking the error that led here; a connection that cannot be undone is dropped."""
        if not handle.connection.in_transaction:
            return  # SQLite has rolled back by itself, as it does when the disk is full
        try:
            handle.connection.execute(rollback)
        except apsw.Error:
            self._connections.discard(handle)

    def _open(self) -> Handle:
        path, flags, at_rest = self._target()
        try:
            connection = apsw.Connection(path, flags)
        except apsw.Error as error:
            raise self._translated(error) from error
        try:
            wait_for_writers(connection)
            distrust_the_file(connection)
            keep_pages(connection)
            enforce_foreign_keys(connection)
            writable = not connection.readonly("main")
            if writable:
                choose_page_size(connection)
                if self._create and not os.path.getsize(self._real_path):
                    let_the_file_shrink(connection)
            create = self._kind if self._create else None
            kind = schema.prepare(connection, self.path, writable=writable, create=create)
            self.format = int(connection.pragma("user_version"))
            if writable:
                journal_mode = self._journal_mode or self._default_journal_mode(kind)
                set_journal_mode(connection, journal_mode)
                # Without the log only "full" keeps a file whole over a power cut on every disk.
                set_synchronous(connection, "full" if journal_mode == "delete" else self._synchronous)
                bound_the_log(connection)
            check_length(connection, self._real_path)
        except apsw.Error as error:
            connection.close()
            raise self._translated(error) from error
        except BaseException:
            connection.close()
            raise
        return Handle(connection, at_rest)

    def _target(self) -> tuple[str, int, tuple[int, ...] | None]:
        """Return what to open and how: to write, to read, or as immutable (then with the file's state)."""
        path, folder = self._real_path, os.path.dirname(self._real_path)
        if not os.path.exists(path):
            if not os.path.isdir(folder):
                raise StoreMissing(f"There is no folder {folder} to keep {path} in; make it, or give another path.")
            if not self._create or self._read_only:
                raise StoreMissing(f"There is no file {path}; give the path of a store.")
            if not os.access(folder, os.W_OK):
                raise StoreReadOnly(f"The folder {folder} cannot be written, so {path} cannot be made there.")
            return path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, None
        if not os.path.isfile(path):
            raise NotAStore(f"{path} is not a file; give the path of a store.")
        if 0 < os.path.getsize(path) < SMALLEST_DATABASE:  # SQLite takes a single byte for an empty database
            raise NotAStore(f"{path} is not an SQLite database; give the path of a store.")
        if not os.access(path, os.R_OK):
            raise StoreUnavailable(f"The file {path} cannot be read; ask its owner for permission.")
        if self.writable:
            return path, apsw.SQLITE_OPEN_READWRITE, None
        if os.path.exists(path + "-wal"):  # somebody has it open; SQLite can read along
            return path, apsw.SQLITE_OPEN_READONLY, None
        state = self._state()
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        return f"file:{quoted}?immutable=1", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, state

    def _default_journal_mode(self, kind: str) -> JournalMode:
        if kind == schema.ARCHIVE or is_network_file_system(self.path):
            return "delete"
        return "wal"

    def _translated(self, error: apsw.Error | UnicodeDecodeError) -> DataException:
        """Return our error for SQLite's: grouped by what the user can do."""
        if isinstance(error, apsw.ConnectionClosedError):
            self._connections.check_open()
        for theirs, ours, message in _ERRORS:
            if isinstance(error, theirs):
                return ours(message.format(path=self.path, error=error, seconds=BUSY_TIMEOUT))
        return StoreUnavailable(f"{self.path}: {type(error).__name__}: {error}. Nothing was changed.")


_ERRORS: tuple[tuple[tuple[type[Exception], ...], type[DataException], str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        StoreBusy,
        "Another process has kept {path} locked for {seconds:.0f} s; end it or wait, then try again.",
    ),
    (
        (apsw.FullError,),
        DiskFull,
        "No room for {path}: the disk is full. Nothing was changed; make room and try again.",
    ),
    (
        (apsw.ReadOnlyError,),
        StoreReadOnly,
        "{path} can only be read here; copy it to a place that you can write to.",
    ),
    ((apsw.NotADBError,), NotAStore, "{path} is not an SQLite database; give the path of a store."),
    (
        (apsw.TooBigError,),
        InvalidInput,
        "A value is larger than the 48 MiB that a row of {path} takes; save it as an artifact or with save_data.",
    ),
    ((UnicodeDecodeError,), Damaged, "{path} is damaged: it has a text that is not UTF-8 ({error})."),
    ((apsw.CorruptError,), Damaged, "{path} is damaged: {error}. Keep a copy, and restore it from a backup."),
    (
        (apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError),
        StoreUnavailable,
        "{path} cannot be opened: {error}. Look at its permissions and its folder.",
    ),
)


def wait_for_writers(connection: apsw.Connection) -> None:
    """Wait for minutes, not milliseconds: with many processes "database is locked" would be the usual answer."""
    connection.set_busy_timeout(int(BUSY_TIMEOUT * 1000))


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
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA mmap_size=0")


def keep_pages(connection: apsw.Connection) -> None:
    """Keep the upper pages of the indexes, and sort in memory: a temporary file would lie beside the store."""
    connection.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
    connection.execute("PRAGMA temp_store=MEMORY")


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


def set_journal_mode(connection: apsw.Connection, mode: JournalMode) -> None:
    """Readers and a writer work side by side with "wal". Only the first connection to a new file really switches.

    The switch needs the file alone for a moment, and SQLite does not always wait for that.
    """
    for attempt in range(1000):
        try:
            if connection.pragma("journal_mode") != mode:
                connection.pragma("journal_mode", mode)
        except apsw.BusyError:
            if attempt == 999:  # noqa: PLR2004
                raise
            threading.Event().wait(0.005 + attempt % 10 / 1000)
        else:
            return


def set_synchronous(connection: apsw.Connection, synchronous: Synchronous) -> None:
    """With "normal" a commit costs no fsync in "wal" mode; a power cut may undo the latest ones, never tear them."""
    connection.execute(f"PRAGMA synchronous={synchronous}")


def bound_the_log(connection: apsw.Connection) -> None:
    """Move the log into the file after CHECKPOINT_BYTES, and give its space back."""
    page_size = connection.pragma("page_size")
    connection.wal_autocheckpoint(CHECKPOINT_BYTES // int(page_size))
    connection.execute(f"PRAGMA journal_size_limit={CHECKPOINT_BYTES}")


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
    expected = int(connection.pragma("page_count")) * int(connection.pragma("page_size"))
    found = os.path.getsize(path)
    log = path + "-wal"
    if found < expected and not (os.path.exists(log) and os.path.getsize(log)):
        raise Damaged(
            f"{path} is truncated: it has {found:,} of {expected:,} bytes. Copy it again from where it is whole."
        )
