"""The table ``stub``: artifacts whose content an export left out, or that was lost before a file was salvaged.

A stub belongs to its attempt as an artifact does, at its position and under the same digest; its row is the same but
for the blob, of which it has the key. When the blob comes, it becomes an artifact again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from sqlitestore.database import Database
from sqlitestore.schema import RUNS_COME_AND_GO

SELECT_STUBS = """SELECT name, key, size, type, encoding, serializer_info, preview, position FROM stub
 WHERE attempt = ?"""
SELECT_POSITIONS = "SELECT name, position FROM artifact WHERE attempt = ?"
SELECT_SIZE = "SELECT size FROM stub WHERE key = ? LIMIT 1"
INSERT_STUB = """INSERT INTO stub(attempt, name, position, key, size, type, encoding, serializer_info, preview)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
DELETE_STUBS = "DELETE FROM stub WHERE attempt = ?"
FILL_STUBS = """INSERT INTO artifact(attempt, name, position, blob, size, type, encoding, serializer_info, preview)
 SELECT s.attempt, s.name, s.position, b.id, s.size, s.type, s.encoding, s.serializer_info, s.preview
 FROM stub AS s JOIN blob AS b ON b.key = s.key"""
DELETE_FILLED_STUBS = "DELETE FROM stub WHERE key IN (SELECT key FROM blob)"


def size_left_out(database: Database, key: bytes) -> int | None:
    """Return the size of a blob that was left out [bytes], None if none of this key was."""
    rows = database.query(SELECT_SIZE, (key,)) if database.format >= RUNS_COME_AND_GO else []
    return rows[0][0] if rows else None


def with_stubs(database: Database, attempt: int, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return an attempt's artifact rows (name, key, ...) with its stubs among them, in the order saved."""
    if database.format < RUNS_COME_AND_GO:
        return list(rows)
    stubs = database.query(SELECT_STUBS, (attempt,))
    positions = dict(database.query(SELECT_POSITIONS, (attempt,))) | {row[0]: row[-1] for row in stubs}
    return sorted([*rows, *(row[:-1] for row in stubs)], key=lambda row: _position(positions.get(row[0])))


def _position(value: Any) -> int:
    """Return a position to sort by; damage can make it anything, and then the digest does not fit."""
    return value if isinstance(value, int) else 0


def fill_stubs(connection: apsw.Connection) -> None:
    """Make the stubs whose blobs have come artifacts again, in a transaction of the caller."""
    connection.execute(FILL_STUBS)
    connection.execute(DELETE_FILLED_STUBS)
