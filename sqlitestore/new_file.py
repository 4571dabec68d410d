"""Making a file that has its name only when it is whole, and never replaces another.

It is made under a hidden name beside its own, so that giving it the name moves no bytes. What a killed process left
under such a name is removed by the next one that makes the same file: a lock tells whether somebody is still at it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlitestore.crash_points import crash_point
from sqlitestore.errors import DataException, DiskFull, FileExists, StoreMissing, StoreUnavailable

PARTIAL = ".partial"

NOT_HERE = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EISDIR}
"""What systems and file systems say that do not open or sync folders; all else means that the disk did not."""


@contextmanager
def new_file(path: str, *, replace: bool = False) -> Iterator[str]:
    """Yield the temporary path of an empty file, which is called ``path`` after the block, and on the disk.

    If the block raises, or is interrupted, no file is left. Raises FileExists, before and after it (not with
    ``replace``: then an old file is there until the new one is whole), StoreMissing if there is no folder for it, and
    DiskFull or StoreUnavailable if the disk does not take it.
    """
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        raise StoreMissing(f"There is no folder {folder} to make {name} in; make it, or give another path.")
    _remove_abandoned(folder or ".", name)  # first: the process may have been killed when the file had just its name
    if os.path.lexists(path) and not replace:
        raise _exists(path)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}{PARTIAL}")
    with _errors_as_ours(path):
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        crash_point("new-file-made")
        _lock(lock)
        crash_point("new-file-locked")
        yield temporary
        crash_point("new-file-filled")
        with _errors_as_ours(path):
            _give_name(temporary, path, folder or ".", replace=replace)
    finally:
        try:
            _unlink(temporary)
        finally:
            os.close(lock)


@contextmanager
def _errors_as_ours(path: str) -> Iterator[None]:
    try:
        yield
    except DataException:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"No room for {path}: {error}. It was not made; make room and try again.") from error
        raise StoreUnavailable(
            f"{path} could not be written: {error}. It was not made; look at its disk and folder, and try again."
        ) from error


def _give_name(temporary: str, path: str, folder: str, *, replace: bool) -> None:
    """Give the file its name, content and name being on the disk afterwards; raises OSError if they are not."""
    _sync(temporary)
    crash_point("new-file-synced")
    if replace:
        os.replace(temporary, path)
    else:
        _name(temporary, path)
    crash_point("new-file-named")
    try:
        _sync_folder(folder)
    except BaseException:
        if not replace:  # else nothing would be left
            os.unlink(path)
        raise
    crash_point("new-file-folder-synced")


def _exists(path: str) -> FileExists:
    return FileExists(f"{path} is there already, and is not replaced; give another name, or remove it.")


def _name(temporary: str, path: str) -> None:
    """Give the file its name unless somebody took that meanwhile; a link tells, where file systems have them."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        if os.path.lexists(path):
            raise _exists(path) from None
        os.rename(temporary, path)


def _sync(path: str) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise


def _lock(descriptor: int) -> bool:
    """Lock the file for as long as this process has it open; False if another has."""
    try:
        import fcntl
    except ImportError:  # Windows: what was left stays
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlink(temporary: str) -> None:
    """Remove a hidden file, and first what SQLite may have put beside it: by the file itself it is found again."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        with suppress(OSError):
            os.unlink(temporary + suffix)
            crash_point("new-file-unlinked")


def _remove_abandoned(folder: str, name: str) -> None:
    for found in os.listdir(folder):
        if not (found.startswith(f".{name[:100]}.") and found.endswith(PARTIAL)):
            continue
        path = os.path.join(folder, found)
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    _unlink(path)
            finally:
                os.close(descriptor)
