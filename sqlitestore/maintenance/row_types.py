"""Rows with values that SQLite refuses to write (other types, negative sizes), which forged or damaged files may have.

Whoever forges rows can sign them, too: the digests are no secret. Looking at each value's type on each read would cost
every honest reader; so it is asked when something went wrong that can have no other reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from sqlitestore import schema
from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException

ODD = (TypeError, AttributeError, ValueError, LookupError, OverflowError, apsw.ConstraintError)
"""What Python raises for a value that is none of those that it should be, and SQLite where it is to be copied."""

QUICK_CHECK = "PRAGMA quick_check({})"


@contextmanager
def odd_rows_are_damage(*databases: Database) -> Iterator[None]:
    """Raise Damaged for an error in the block that comes from a row with values that its table does not take."""
    try:
        yield
    except DataException:
        raise
    except ODD as error:
        for database in databases:
            for table, definition in schema.SCHEMAS[database.format].items():
                if not definition.startswith("CREATE TABLE"):
                    continue
                [(found,), *_] = database.query(QUICK_CHECK.format(table))
                if found != "ok":
                    raise Damaged(
                        f"{database.path} is damaged or forged: a row of the table '{table}' has other values than "
                        f"ours have ({found.splitlines()[-1]}). Verify names it; restore the file from a backup, or "
                        "salvage what is whole."
                    ) from error
        raise
