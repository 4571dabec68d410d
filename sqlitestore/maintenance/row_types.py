"""Rows of other types than their table's, which SQLite refuses to write, and a doctored or damaged file may have.

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

COLUMNS = "SELECT name, type, \"notnull\" FROM pragma_table_info(?) WHERE type != ''"
OTHER_TYPES = "SELECT 1 FROM {} WHERE {} LIMIT 1"
IS_OTHER = "typeof(\"{}\") NOT IN ('{}', '{}')"


@contextmanager
def odd_rows_are_damage(*databases: Database) -> Iterator[None]:
    """Raise Damaged for an error in the block that comes from a row of other types than its table's."""
    try:
        yield
    except DataException:
        raise
    except ODD as error:
        for database in databases:
            for table in schema.SCHEMAS[database.format]:
                if _has_other_types(database, table):
                    raise Damaged(
                        f"{database.path} is damaged or forged: a row of the table '{table}' has other types "
                        "than ours have. Verify names it; restore the file from a backup, or salvage what is whole."
                    ) from error
        raise


def _has_other_types(database: Database, table: str) -> bool:
    columns = database.query(COLUMNS, (table,))
    conditions = [
        IS_OTHER.format(name, kind.lower(), kind.lower() if is_needed else "null") for name, kind, is_needed in columns
    ]
    return bool(conditions) and bool(database.query(OTHER_TYPES.format(table, " OR ".join(conditions))))
