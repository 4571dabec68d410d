"""Our errors as Metaflow's, which its command line prints as a message instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metaflow.exception import MetaflowException


class SQLiteStoreException(MetaflowException):
    """Something went wrong with the database file; the cause, an error of sqlitestore, is chained."""

    headline = "Datastore sqlite"


@contextmanager
def as_metaflow() -> Iterator[None]:
    """Raise SQLiteStoreException for our errors in the block."""
    try:
        yield
    except Exception as error:
        ours = sys.modules.get("sqlitestore.errors")  # loaded, if one of its errors was raised
        if ours is None or not isinstance(error, ours.DataException):
            raise
        raise SQLiteStoreException(str(error)) from error
