"""What SQLite's errors mean to whoever works with a store: grouped by what can be done about them."""

from __future__ import annotations

import apsw

from sqlitestore.errors import (
    Damaged,
    DataException,
    DiskFull,
    InvalidInput,
    NotAStore,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
)
from sqlitestore.pragmas import BUSY_TIMEOUT


def translated(error: apsw.Error | UnicodeDecodeError, path: str) -> DataException:
    """Return our error for what SQLite says of the file ``path``."""
    for theirs, ours, message in _ERRORS:
        if isinstance(error, theirs):
            return ours(message.format(path=path, error=error, seconds=BUSY_TIMEOUT))
    return StoreUnavailable(
        f"{path} could not be read or written: {type(error).__name__}: {error}. What was not complete is undone; look "
        "at its disk, and try again."
    )


_ERRORS: tuple[tuple[tuple[type[Exception], ...], type[DataException], str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        StoreBusy,
        "Another process has kept {path} locked for {seconds:.0f} s; end it or wait, then try again.",
    ),
    (
        (apsw.FullError,),
        DiskFull,
        "No room for {path}: the disk is full. What was not complete is undone; make room and try again.",
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
        "{path} cannot be opened: {error}. Look at its permissions and its folder, and try again.",
    ),
)
