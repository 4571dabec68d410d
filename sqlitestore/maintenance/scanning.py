"""Reading a table from its beginning to its end though parts of it may be unreadable, in statements of bounded length.

Each batch is one statement, so it is one snapshot, and between two of them others write and prune. Where a text is no
UTF-8 the rows come with "\N{REPLACEMENT CHARACTER}" in its place: their digests are wrong then, and they still say
whose they are. Where SQLite cannot go on (a malformed page), the rest is read from the other end; rows with an id are
fetched one by one, by the ids in an index, which tells what the table has lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlitestore.database import Database
from sqlitestore.errors import DataException
from sqlitestore.maintenance.verification import Findings

BATCH = 1000
"""Rows of a statement, of tables without content."""

Row = tuple[Any, ...]


class Source(NamedTuple):
    """What is read: ``columns`` of ``table`` AS x and of what ``joins`` adds, in the order of the ``key`` columns."""

    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    joins: str = ""

    def statement(self, after: Sequence[Any] | None, *, limit: int | None, raw: bool = False, end: bool = False) -> str:
        """Return the SELECT of rows whose key is above ``after``; ``end`` begins at the table's end.

        It selects the key's columns first, then the others; with ``raw``, texts as bytes, and the types beside.
        """
        key, columns = ", ".join(self.key), [*(f"x.{name}" for name in self.key), *self.columns]
        if raw:
            types = " || ',' || ".join(f"typeof({column})" for column in columns)
            columns = [f"iif(typeof({column}) = 'text', CAST({column} AS BLOB), {column})" for column in columns]
            columns.append(types)
        where = f"WHERE ({key}) > ({', '.join('?' * len(self.key))})" if after is not None else ""
        order = ", ".join(f"{{}}{name}{' DESC' if end else ''}" for name in self.key)
        bound = f"LIMIT {limit}" if limit else ""
        inner = f"SELECT * FROM {self.table} {where} ORDER BY {order.replace('{}', '')} {bound}"
        return f"SELECT {', '.join(columns)} FROM ({inner}) AS x {self.joins} ORDER BY {order.replace('{}', 'x.')}"


def scan(database: Database, source: Source, findings: Findings) -> Iterator[Row]:
    """Yield the rows, the key's columns first, each once; in order, unless the table is hurt."""
    after: Row | None = None
    while True:
        try:
            rows = database.query(source.statement(after, limit=BATCH), after or ())
        except DataException as error:
            if not isinstance(error.__cause__, UnicodeDecodeError):
                findings.unreadable(source.table, error)
            yield from _scan_hurt(database, source, after, findings)
            return
        yield from rows
        if len(rows) < BATCH:
            return
        last = rows[-1][: len(source.key)]
        if not _is_above(last, after):
            findings.structure_hurt = True
            findings.add("table", "its rows are not in the order of their key", name=source.table)
            return
        after = last


def _scan_hurt(database: Database, source: Source, after: Row | None, findings: Findings) -> Iterator[Row]:
    """Yield what can be read behind ``after`` from either end, whatever the texts are."""
    last = after
    for end in (False, True):
        try:
            with database.read() as connection:
                statement = source.statement(after, limit=None, raw=True, end=end)
                for row in connection.execute(statement, after or ()):
                    decoded = _decoded(row)
                    key = decoded[: len(source.key)]
                    if end and not _is_above(key, last):
                        return
                    last = last if end else key
                    yield decoded
        except DataException as error:
            findings.unreadable(source.table, error)
        else:
            return


def _decoded(row: Sequence[Any]) -> Row:
    *values, types = row
    return tuple(
        value.decode(errors="replace") if kind == "text" and isinstance(value, bytes) else value
        for value, kind in zip(values, str(types).split(","), strict=True)
    )


def _is_above(key: Row, other: Row | None) -> bool:
    try:
        return other is None or key > other
    except TypeError:
        return False


def ids_in_index(database: Database, table: str, findings: Findings) -> list[int]:
    """Return the ids that the index of a table's unique columns has, ascending; those up to where it can be read."""
    statement = f"SELECT id FROM {table} INDEXED BY sqlite_autoindex_{table}_1"
    ids: set[int] = set()
    try:
        with database.read() as connection:
            ids.update(row for (row,) in connection.execute(statement) if isinstance(row, int))
    except DataException as error:
        findings.unreadable(f"{table} (its index)", error)
    return sorted(ids)
