"""Our errors as Metaflow's, which its command line prints as a message instead of a traceback."""

from __future__ import annotations

import sys

from metaflow.exception import MetaflowException


class SQLiteStoreException(MetaflowException):
    """Something went wrong with the database file; the cause, an error of sqlitestore, is chained."""

    headline = "Datastore sqlite"


class SQLiteFileMissing(SQLiteStoreException, ValueError):
    """The file that a metadata provider shall look at is not there; Metaflow's own provider has a ValueError."""


NEEDED = {"sqlitestore", "apsw", "msgpack", "xxhash", "backports", "pyfastcdc"}
"""What a task's Python must have: one of Metaflow's environments has only what its decorators ask for."""


class as_metaflow:  # noqa: N801 - reads as a statement
    """Raise SQLiteStoreException for our errors in the block, and for a Python that has no sqlitestore."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            if (error.name or "").partition(".")[0] in NEEDED:
                raise SQLiteStoreException(
                    f"The datastore 'sqlite' needs the package sqlitestore in {sys.executable}, but: {error}. "
                    "Install it there; for --environment=conda or pypi add it to what @conda or @pypi asks for."
                ) from error
        elif error is not None:
            ours = sys.modules.get("sqlitestore.errors")  # loaded, if one of its errors was raised
            if ours is not None and isinstance(error, ours.DataException):
                raise SQLiteStoreException(str(error)) from error
