"""Our errors as Metaflow's, which its command line prints as a message instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metaflow.exception import MetaflowException


class SQLiteStoreException(MetaflowException):
    """Something went wrong with the database file; the cause, an error of sqlitestore, is chained."""

    headline = "Datastore sqlite"


NEEDED = {"sqlitestore", "apsw", "msgpack", "xxhash", "backports", "pyfastcdc"}
"""What a task's Python must have: one of Metaflow's environments has only what its decorators ask for."""


@contextmanager
def as_metaflow() -> Iterator[None]:
    """Raise SQLiteStoreException for our errors in the block, and for a Python that has no sqlitestore."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        raise SQLiteStoreException(
            f"The datastore 'sqlite' needs the package sqlitestore in {sys.executable}, but: {error}. "
            "Install it there; for --environment=conda or pypi add it to what @conda or @pypi asks for."
        ) from error
    except Exception as error:
        ours = sys.modules.get("sqlitestore.errors")  # loaded, if one of its errors was raised
        if ours is None or not isinstance(error, ours.DataException):
            raise
        raise SQLiteStoreException(str(error)) from error
