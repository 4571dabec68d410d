"""The one door to a database: queries and transactions, on a connection for each thread.

How the file is opened is said in ``database_file``. Nothing process-global is touched, so an application that embeds us
keeps its own SQLite settings.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from sqlitestore import schema
from sqlitestore.connections import Connections, Handle
from sqlitestore.crash_points import crash_point
from sqlitestore.database_file import DatabaseFile
from sqlitestore.errors import Damaged, DataException, InvalidInput
from sqlitestore.pragmas import LARGEST_VALUE, JournalMode, Synchronous
from sqlitestore.sqlite_errors import translated


class Database:
    """The connections to one file, and their transactions. Safe to use from any thread, and in forked children.

    See ``DatabaseFile`` for what the arguments mean.
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
        self._file = DatabaseFile(
            path, create=create, read_only=read_only, kind=kind, journal_mode=journal_mode, synchronous=synchronous
        )
        # What opens them must not keep alive the database, whose end closes them.
        self._connections = Connections(path, self._file.open)
        self._connections.handle()
        # Also when the program ends without close(): the last connection to close leaves one file.
        self._finalizer = weakref.finalize(self, self._connections.close)

    @property
    def format(self) -> int:
        """That of the file, older than the newest only where nothing can be written."""
        return self._file.format

    @property
    def writable(self) -> bool:
        """Whether the file and its folder can be written by this process."""
        return self._file.writable

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

        Somebody who may read but not write a file opens it so while no writer has it open (see ``DatabaseFile``).
        """
        return handle.at_rest is None or handle.at_rest == self._file.state()

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

    def _translated(self, error: apsw.Error | UnicodeDecodeError) -> DataException:
        """Return our error for SQLite's: grouped by what the user can do."""
        if isinstance(error, apsw.ConnectionClosedError):
            self._connections.check_open()
        return translated(error, self.path)
