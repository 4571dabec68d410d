"""The rows that were carved out of a file, waiting to be sorted out: in a temporary database, however many there are.

Its tables have the names of ours; columns are c0, c1, ... without types or keys, for the same row may come from several
pages. Before them stand ``rank`` (see ``carving``: the lower, the surer), and ``page`` and ``cell``, where content that
was not copied is found. What an index says of a row is a row too, with NULL where the index says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import apsw

from sqlitestore.maintenance.carving import Row
from sqlitestore.maintenance.row_shapes import HEADS, SHAPES, TABLES, WITHOUT_ROWID
from sqlitestore.pragmas import distrust_the_file

AT_ONCE = 5000
"""Rows that are inserted together."""

STAGED = (*TABLES, *WITHOUT_ROWID)

CREATE = "CREATE TABLE {}(rank, page, cell, {})"
INSERT = "INSERT INTO {} VALUES ({})"
CREATE_INDEX = "CREATE INDEX {0}_by_{1} ON {0}({1})"
SELECT = "SELECT rank, {} FROM {} WHERE {} ORDER BY rank, rowid"
SELECT_IDS = "SELECT DISTINCT c0 FROM {} WHERE c0 > ? ORDER BY c0 LIMIT 1000"


class Staging:
    """The temporary database; SQLite deletes it when it is closed. ``sequence`` is the largest chunk id ever given."""

    def __init__(self) -> None:
        self.sequence = 0
        self._connection = apsw.Connection("")
        self._connection.execute("PRAGMA journal_mode=OFF")
        distrust_the_file(self._connection)
        for name in STAGED:
            self._connection.execute(CREATE.format(name, self._columns(name)))

    def close(self) -> None:
        """Delete everything."""
        self._connection.close()

    def fill(self, rows: Iterable[Row]) -> None:
        """Take all rows, and make them fit to be looked up."""
        rows = iter(rows)
        while some := list(islice(rows, AT_ONCE)):
            by_table: dict[str, list[Sequence[Any]]] = {}
            for row in some:
                for table, values in self._staged(row):
                    head = values[: HEADS.get(table, len(values))]
                    by_table.setdefault(table, []).append((row.rank, row.page, row.cell, *head))
            with self._connection:
                for table, found in by_table.items():
                    marks = ", ".join("?" * len(found[0]))
                    self._connection.executemany(INSERT.format(table, marks), found)
        for name in STAGED:
            self._connection.execute(CREATE_INDEX.format(name, "c0"))

    def find(self, table: str, first: Any) -> list[tuple[Any, ...]]:
        """Return (rank, c0, c1, ...) of the rows whose first column it is, the surest first."""
        return self.query(SELECT.format(self._columns(table), table, "c0 = ?"), (first,))

    def places(self, table: str, first: Any) -> list[tuple[Any, ...]]:
        """Return what ``find`` does, with page and cell behind the rank."""
        return self.query(SELECT.format(f"page, cell, {self._columns(table)}", table, "c0 = ?"), (first,))

    def all(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yield (rank, c0, c1, ...) of all rows, by the first column, then the surest first."""
        for first in self.firsts(table):
            yield from self.find(table, first)

    def firsts(self, table: str) -> Iterator[Any]:
        """Yield each value of the first column once, ascending."""
        last: Any = -(2**63)
        while rows := self.query(SELECT_IDS.format(table), (last,)):
            for (first,) in rows:
                yield first
            last = rows[-1][0]

    def query(self, statement: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a SELECT."""
        return self._connection.execute(statement, bindings).fetchall()

    @staticmethod
    def _columns(table: str) -> str:
        return ", ".join(f"c{index}" for index in range(HEADS.get(table, len(SHAPES[table]))))

    def _staged(self, row: Row) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the table and values that a carved row stands for."""
        values = row.values
        if row.name in STAGED:
            yield row.name, values
        elif row.name == "sqlite_sequence" and values[0] == "chunk":
            self.sequence = max(self.sequence, values[1])
        elif row.name == "sqlite_autoindex_flow_1":
            yield "flow", (values[1], values[0])
        elif row.name == "sqlite_autoindex_run_1":
            yield "run", (values[2], values[0], values[1])
        elif row.name == "sqlite_autoindex_attempt_1":
            yield "attempt", (values[4], *values[:4], None, None, None, None, None)
        elif row.name == "sqlite_autoindex_blob_1":
            yield "blob", (values[1], values[0], None, None)
        elif row.name == "log_by_blob":
            yield "log", (*values[1:], values[0], None, None)
        elif row.name == "blob_chunk_by_chunk":
            yield "blob_chunk", (values[1], values[2], values[0])
