"""The file of a database: whether it may be made, read and written, and how a connection to it is opened.

What is true of "a connection of ours" is said in ``pragmas``.
"""

from __future__ import annotations

import os
import time
from contextlib import closing

import apsw

from sqlitestore import pragmas, schema
from sqlitestore.beside import check_beside
from sqlitestore.connections import Handle, close_whatever_fails
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import NotAStore, StoreBusy, StoreMissing, StoreReadOnly, StoreUnavailable
from sqlitestore.mounts import is_network_file_system
from sqlitestore.pragmas import (
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


class DatabaseFile:
    """A database file, and how its connections are opened.

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
        create: bool,
        read_only: bool,
        kind: str,
        journal_mode: JournalMode | None,
        synchronous: Synchronous,
    ) -> None:
        self._path = path
        self._real_path = os.path.realpath(path)  # SQLite keeps its log beside the file, not beside a link to it
        self._create = create
        self._read_only = read_only
        self._kind = kind
        self._journal_mode = journal_mode
        self._avoids_the_log = journal_mode == "delete" or (journal_mode is None and is_network_file_system(path))
        self._synchronous = synchronous
        self._was_opened = False
        """From then on a file that is gone is missing: a new one in its place would be empty."""
        self.format = schema.NEWEST_FORMAT
        """That of the file as it was last opened, older than the newest only where nothing can be written."""

    @property
    def writable(self) -> bool:
        """Whether the file and its folder can be written by this process."""
        places = (self._real_path, os.path.dirname(self._real_path))
        return not self._read_only and all(os.access(place, os.W_OK) for place in places)

    def state(self) -> tuple[int, ...]:
        """Return what tells whether the file was written since; nothing for one that is no longer there."""
        try:
            status = os.stat(self._real_path)
        except FileNotFoundError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino, self._is_in_use()

    def _is_in_use(self) -> bool:
        return any(os.path.exists(self._real_path + suffix) for suffix in ("-wal", "-journal"))

    def open(self) -> Handle:
        """Return a new connection to the file. Raises what to do about a file that cannot be opened."""
        path, flags, at_rest = self._target()
        check_beside(self._real_path)
        if flags & apsw.SQLITE_OPEN_READWRITE and not flags & apsw.SQLITE_OPEN_CREATE:
            self._leave_the_log()
        try:
            connection = apsw.Connection(path, flags)
        except apsw.Error as error:
            raise translated(error, self._path) from error
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
            kind = schema.prepare(connection, self._path, writable=writable, create=create)
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
            raise translated(error, self._path) from error
        except BaseException:
            close_whatever_fails(connection)
            raise
        self._was_opened = True
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
                        schema.check_identity(connection, self._path)
                        leave_the_log(connection)
            except apsw.BusyError as error:
                # Of several at once each keeps the lock that the others need: it is let go of, and asked for again.
                if time.monotonic() > end:
                    raise self._log_in_use() from error
                time.sleep(int.from_bytes(os.urandom(1)) / 2500)  # up to 0.1 s, not the same for all
            except apsw.Error as error:
                raise translated(error, self._path) from error
            else:
                return

    def _log_in_use(self) -> StoreBusy:
        return StoreBusy(
            f"{self._path} has a write-ahead log, which is not to be used here (on a network file system it does "
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
        state = self.state()
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
                f"{self._path} has a write-ahead log beside it, which cannot be read on a network file system. Open it "
                "where it can be written, or copy both to a local disk."
            )

    def _default_journal_mode(self, connection: apsw.Connection, kind: str) -> JournalMode:
        """Return the journal that fits; who would not make the file only looks at it, and leaves it what it has."""
        if kind == schema.ARCHIVE or self._avoids_the_log:
            return "delete"
        return "wal" if self._create or connection.pragma("journal_mode") == "wal" else "delete"
