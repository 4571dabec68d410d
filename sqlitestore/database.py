"""One database file: how its connections are opened, and the one door for transactions.

What is true of "a connection of ours" is said in ``pragmas``. Nothing process-global is touched, so an application that
embeds us keeps its own SQLite settings.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import apsw

from sqlitestore import pragmas, schema
from sqlitestore.beside import check_beside
from sqlitestore.connections import Connections, Handle, close_whatever_fails
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import (
    Damaged,
    DataException,
    InvalidInput,
    NotAStore,
    StoreBusy,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
)
from sqlitestore.mounts import is_network_file_system
from sqlitestore.pragmas import (
    LARGEST_VALUE,
    JournalMode,
    Synchronous,
    bound_the_log,
    check_length,
    choose_page_size,
    distrust_the_file,
    enforce_foreign_keys,
    has_log,
    keep_pages,
    keep_plans,
    leave_the_log,
    let_the_file_shrink,
    set_journal_mode,
    set_synchronous,
    use_alone,
    wait_for_writers,
)
from sqlitestore.repetition import watch_for_repetition
from sqlitestore.sqlite_errors import translated

SMALLEST_DATABASE = 512
"""[bytes] SQLite's smallest page."""


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
    changes, not even an old format. ``journal_mode`` None means: the write-ahead log for a live store, except on
    network file systems, and without ``create`` what the file has. ``synchronous`` "full" makes every commit durable
    against power loss; with the log, "normal" may lose the latest commits then, but nothing else
    (https://www.sqlite.org/pragma.html#pragma_synchronous). With a rollback journal every commit is durable.
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
        self._avoids_the_log = journal_mode == "delete" or (journal_mode is None and is_network_file_system(path))
        self._synchronous = synchronous
        self.format = schema.NEWEST_FORMAT
        """That of the file, older than the newest only where nothing can be written."""
        self._real_path = os.path.realpath(path)  # SQLite keeps its log beside the file, not beside a link to it
        # Weak: the connections must not keep alive the database whose end closes them.
        self._connections = Connections(path, _weakly(self))
        self._was_opened = False
        """From then on a file that is gone is missing: a new one in its place would be empty."""
        self._connections.handle()
        self._was_opened = True
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

    @property
    def is_in_transaction(self) -> bool:
        """Whether this thread is inside of ``read`` or ``write``."""
        return self._connections.handle().depth > 0

    def close(self) -> None:
        """Close all connections, those of other threads included. A second call does nothing.

        Raises StoreUnavailable if the log could not be moved into the file: it stays beside it then, nothing is lost,
        and the next to close the file moves it.
        """
        try:
            self._finalizer()
        except apsw.Error as error:
            raise self._translated(error) from error

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

    def read_into(self, target: memoryview, table: str, column: str, row_id: int) -> bool:
        """Fill ``target`` with the bytes of a value, without a copy of them in between.

        False if there is no such row, or its value has another size or type; ``target`` may hold anything then.
        See https://www.sqlite.org/c3ref/blob_open.html.
        """
        while True:
            handle = self._current_handle()
            is_read = False
            with handle.lock:
                self._connections.check_open()
                try:
                    with handle.connection.blob_open("main", table, column, row_id, writeable=False) as blob:
                        if blob.length() == target.nbytes:
                            blob.read_into(target)
                            is_read = True
                except apsw.SQLError:
                    pass
                except apsw.Error as error:
                    if self._still_at_rest(handle):
                        raise self._translated(error) from error
                    continue
            if self._still_at_rest(handle):
                return is_read

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
        """Return what tells whether the file was written since; nothing for one that is no longer there."""
        try:
            status = os.stat(self._real_path)
        except FileNotFoundError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino, self._is_in_use()

    def _is_in_use(self) -> bool:
        return any(os.path.exists(self._real_path + suffix) for suffix in ("-wal", "-journal"))

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
                    crash_point("before-commit")
                crash_point("after-commit")

    def alone(self, work: Callable[[apsw.Connection], object]) -> None:
        """Run what SQLite takes in no transaction (VACUUM, a checkpoint) while no other thread writes."""
        with self._connections.handle().lock, self._connections.writers:
            self.beside(work)

    def beside(self, work: Callable[[apsw.Connection], object]) -> None:
        """Run what SQLite takes in no transaction while others may write."""
        handle = self._connections.handle()
        with handle.lock:
            self._connections.check_open()
            try:
                work(handle.connection)
            except apsw.Error as error:
                raise self._translated(error) from error

    @contextmanager
    def _transaction(self, handle: Handle, begin: str, commit: str, rollback: str) -> Iterator[None]:
        connection = handle.connection
        try:
            try:
                connection.execute(begin)
            except BaseException:
                if not handle.depth:  # where the disk fails, a transaction may have begun all the same
                    self._roll_back(handle, rollback)
                raise
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
        try:
            if handle.connection.in_transaction:  # if not, SQLite has rolled back by itself, as on a full disk
                handle.connection.execute(rollback)
        except apsw.ConnectionClosedError:
            pass  # dropped already, by the transaction inside of this one
        except apsw.Error:
            self._connections.discard(handle)

    def _open(self) -> Handle:
        path, flags, at_rest = self._target()
        check_beside(self._real_path)
        if flags & apsw.SQLITE_OPEN_READWRITE and not flags & apsw.SQLITE_OPEN_CREATE:
            self._leave_the_log()
        try:
            connection = apsw.Connection(path, flags)
        except apsw.Error as error:
            raise self._translated(error) from error
        try:
            wait_for_writers(connection)
            distrust_the_file(connection)
            keep_pages(connection)
            keep_plans(connection)
            enforce_foreign_keys(connection)
            writable = not connection.readonly("main")
            if writable:
                set_synchronous(connection, "extra")  # the file is not yet said to be one with a log
                choose_page_size(connection)
                if self._create and not os.path.getsize(self._real_path):
                    let_the_file_shrink(connection)
            crash_point("file-opened")
            create = self._kind if self._create else None
            kind = schema.prepare(connection, self.path, writable=writable, create=create)
            self.format = int(connection.pragma("user_version"))
            if writable:
                journal_mode = self._journal_mode or self._default_journal_mode(connection, kind)
                crash_point("before-journal-mode")
                set_journal_mode(connection, journal_mode)
                crash_point("after-journal-mode")
                set_synchronous(connection, "extra" if journal_mode == "delete" else self._synchronous)
                bound_the_log(connection)
            check_length(connection, self._real_path)
        except (apsw.Error, UnicodeDecodeError) as error:
            close_whatever_fails(connection)
            raise self._translated(error) from error
        except BaseException:
            close_whatever_fails(connection)
            raise
        watch_for_repetition(connection, path, self._real_path)
        return Handle(connection, at_rest)

    def _leave_the_log(self) -> None:
        """Take a file out of WAL mode where that does not work, before it is used: its log is moved into it.

        Once for each file that was moved here from a local disk.
        """
        if not self._avoids_the_log:
            return
        end = time.monotonic() + pragmas.LEAVING_TIMEOUT
        while True:
            try:
                if has_log(self._real_path):
                    with closing(apsw.Connection(self._real_path, apsw.SQLITE_OPEN_READWRITE)) as connection:
                        distrust_the_file(connection)
                        use_alone(connection)
                        schema.check_identity(connection, self.path)
                        leave_the_log(connection)
            except apsw.BusyError as error:
                # Of several at once each keeps the lock that the others need: it is let go of, and asked for again.
                if time.monotonic() > end:
                    raise self._log_in_use() from error
                time.sleep(int.from_bytes(os.urandom(1)) / 2500)  # up to 0.1 s, not the same for all
            except apsw.Error as error:
                raise self._translated(error) from error
            else:
                return

    def _log_in_use(self) -> StoreBusy:
        return StoreBusy(
            f"{self.path} has a write-ahead log, which is not to be used here (on a network file system it does "
            "not work), but somebody else has it open; end that, then try again."
        )

    def _target(self) -> tuple[str, int, tuple[int, ...] | None]:
        """Return what to open and how: to write, to read, or as immutable (then with the file's state)."""
        path = self._real_path
        if not os.path.exists(path):
            self._check_that_it_may_be_made()
            return path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, None
        if not os.path.isfile(path):
            raise NotAStore(f"{path} is not a file; give the path of a store.")
        if 0 < os.path.getsize(path) < SMALLEST_DATABASE:  # SQLite takes a single byte for an empty database
            raise NotAStore(f"{path} is not an SQLite database; give the path of a store.")
        if not os.access(path, os.R_OK):
            raise StoreUnavailable(f"The file {path} cannot be read; ask its owner for permission.")
        if self.writable:
            return path, apsw.SQLITE_OPEN_READWRITE, None
        self._refuse_log_from_afar()
        if self._is_in_use():  # SQLite can read along, and knows a journal that a crash left
            return path, apsw.SQLITE_OPEN_READONLY, None
        state = self._state()
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        return f"file:{quoted}?immutable=1", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, state

    def _check_that_it_may_be_made(self) -> None:
        """Raise what to do about a file that is not there, unless it can be made."""
        path, folder = self._real_path, os.path.dirname(self._real_path)
        if not os.path.isdir(folder):
            raise StoreMissing(f"There is no folder {folder} to keep {path} in; make it, or give another path.")
        if self._was_opened:
            raise StoreMissing(f"The file {path} is gone since it was opened; put it back, or open another.")
        if not self._create or self._read_only:
            raise StoreMissing(f"There is no file {path}; give the path of a store.")
        if not os.access(folder, os.W_OK):
            raise StoreReadOnly(f"The folder {folder} cannot be written, so {path} cannot be made there.")

    def _refuse_log_from_afar(self) -> None:
        """Raise StoreUnavailable for a log that may be another machine's, and cannot be moved into the file here."""
        has_log_beside = os.path.exists(self._real_path + "-wal")
        if has_log_beside and self._avoids_the_log and self._journal_mode is None:
            raise StoreUnavailable(
                f"{self.path} has a write-ahead log beside it, which cannot be read on a network file system. Open it "
                "where it can be written, or copy both to a local disk."
            )

    def _default_journal_mode(self, connection: apsw.Connection, kind: str) -> JournalMode:
        """Return the journal that fits; who would not make the file only looks at it, and leaves it what it has."""
        if kind == schema.ARCHIVE or self._avoids_the_log:
            return "delete"
        return "wal" if self._create or connection.pragma("journal_mode") == "wal" else "delete"

    def _translated(self, error: apsw.Error | UnicodeDecodeError) -> DataException:
        """Return our error for SQLite's: grouped by what the user can do."""
        if isinstance(error, apsw.ConnectionClosedError):
            self._connections.check_open()
        return translated(error, self.path)
