"""Files whose schema, pages or header are doctored. Of all here but ``TOLERATED``, no table may be read by SQL."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import apsw
from hostile_base import Places

Maker = Callable[[str, Places], None]
"""Turns the good store at a path, which is a copy, into a hostile file."""

PAGE = 8192
EXPENSIVE = "length(printf('%.*c', 2000000000, 'x'))"
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x"
FULL_ACCESS = ("attempt", "blob", "chunk", "untrusted", "registered_run", "log", "file", "trash")


@contextmanager
def opened(path: str) -> Iterator[apsw.Connection]:
    """Give a connection that may write the schema; the file stands alone afterwards."""
    with closing(apsw.Connection(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON; PRAGMA foreign_keys=OFF").fetchall()
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _executing(*statements: str) -> Maker:
    """Return the maker that executes statements, in which {canary} and {victim} stand for these paths."""

    def make(path: str, places: Places) -> None:
        with opened(path) as connection:
            for statement in statements:
                connection.execute(
                    statement.replace("{canary}", places.canary).replace("{victim}", places.victim)
                ).fetchall()

    return make


def _schema_row(kind: str, name: str, table: str, root: int | str, sql: str) -> Maker:
    """Return the maker that puts a row into the schema as it is, which SQLite itself might refuse to make."""
    text = sql.replace("'", "''")
    return _executing(f"INSERT INTO sqlite_schema VALUES ('{kind}', '{name}', '{table}', {root}, '{text}')")


def _text(name: str, old: str, new: str) -> Maker:
    """Return the maker that changes the text of a table in the schema, in one place."""

    def make(path: str, _: Places) -> None:
        with opened(path) as connection:
            [(sql,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
            assert old in sql
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql.replace(old, new, 1), name))

    return make


def _replaced(name: str, kind: str, sql: str) -> Maker:
    """Return the maker that puts something else in the place of a table."""
    text = sql.replace("'", "''")
    return _executing(
        f"UPDATE sqlite_schema SET type = '{kind}', rootpage = 0, sql = '{text}' WHERE name = '{name}';"
        f"DELETE FROM sqlite_schema WHERE tbl_name = '{name}' AND type = 'index'"
    )


_BODIES = {
    "abort": "SELECT RAISE(ABORT, 'no')",
    "delete": "DELETE FROM untrusted",
    "writes a file": "SELECT writefile('{canary}', 'x')",
    "reads a file": "SELECT readfile('{victim}')",
    "loads a library": "SELECT load_extension('{canary}')",
    "sets a tokenizer": "SELECT fts3_tokenizer('simple', x'4141414141414141')",
    "fills the memory": f"SELECT {EXPENSIVE}",
}
TRIGGERS = {
    f"trigger {when} {event} that {what}": _executing(
        *(f"CREATE TRIGGER evil_{t} {when} {event} ON {t} BEGIN {body}; END" for t in FULL_ACCESS)
    )
    for event in ("INSERT", "UPDATE", "DELETE")
    for when, what, body in (
        *(("AFTER", what, body) for what, body in _BODIES.items()),
        ("BEFORE", "delete", "DELETE FROM untrusted"),
    )
}
ALTERED = {
    "trigger under a reserved name": _schema_row(
        "trigger", "sqlite_autoindex_evil", "run", 0,
        "CREATE TRIGGER sqlite_autoindex_evil AFTER INSERT ON run BEGIN DELETE FROM untrusted; END",
    ),
    "trigger that calls itself a statistic": _schema_row(
        "trigger", "sqlite_stat1", "run", 0,
        "CREATE TRIGGER sqlite_stat1 AFTER INSERT ON run BEGIN DELETE FROM untrusted; END",
    ),
    "view under a reserved name": _schema_row(
        "view", "sqlite_autoindex_evil", "sqlite_autoindex_evil", 0, "CREATE VIEW sqlite_autoindex_evil AS SELECT 1"
    ),
    "index under a reserved name": _schema_row(
        "index", "sqlite_autoindex_evil", "blob", 5,
        f"CREATE INDEX sqlite_autoindex_evil ON blob({EXPENSIVE})",
    ),
    "view for flow": _replaced("flow", "view", "CREATE VIEW flow AS SELECT 1 AS id, 'StrangeFlow' AS name"),
    "endless view for flow": _replaced("flow", "view", f"CREATE VIEW flow(id, name) AS {ENDLESS}, 'n' FROM c"),
    "view for untrusted": _replaced("untrusted", "view", "CREATE VIEW untrusted AS SELECT 0 AS run, '' AS origin"),
    "view that loads a library": _replaced(
        "run", "view", "CREATE VIEW run AS SELECT load_extension('/no') AS id, 1 AS flow, '1' AS name"
    ),
    "fts5 for run": _replaced("run", "table", "CREATE VIRTUAL TABLE run USING fts5(id, flow, name)"),
    "csv for run": _replaced("run", "table", "CREATE VIRTUAL TABLE run USING csv(filename='/etc/passwd')"),
    "dbstat for chunk": _replaced("chunk", "table", "CREATE VIRTUAL TABLE chunk USING dbstat(main)"),
    "extra table": _executing("CREATE TABLE extra(x)"),
    "extra index": _executing("CREATE INDEX extra ON artifact(name)"),
    "extra view": _executing(f"CREATE VIEW extra AS {ENDLESS} FROM c"),
    "extra fts5": _executing("CREATE VIRTUAL TABLE extra USING fts5(x)"),
    "extra fts3 with a tokenizer": _executing("CREATE VIRTUAL TABLE extra USING fts4(x, tokenize=porter)"),
    "extra rtree": _executing("CREATE VIRTUAL TABLE extra USING rtree(id, a, b)"),
    "extra dbstat": _schema_row("table", "extra", "extra", 0, "CREATE VIRTUAL TABLE extra USING dbstat(main)"),
    "extra module that nobody has": _schema_row(
        "table", "extra", "extra", 0, "CREATE VIRTUAL TABLE extra USING csv(filename='/etc/passwd')"
    ),
    "table gone": _executing("DROP TABLE held"),
    "index gone": _executing("DROP INDEX log_by_blob"),
    "table of Litestream's name": _executing("CREATE TABLE _litestream_seq(x DEFAULT (randomblob(1000000000)))"),
    "expensive index": _executing("CREATE INDEX extra ON run(length(printf('%.*c', id, 'x')))"),
    "partial index": _executing("CREATE INDEX extra ON run(id) WHERE name LIKE '%a%b%c%d%e%f%'"),
    "unknown collation": _schema_row("index", "extra", "run", 13, "CREATE INDEX extra ON run(name COLLATE evil)"),
    "schema that is no SQL": _schema_row("table", "extra", "extra", 4, "CREATE TABLE extra(((("),
    "schema of a megabyte": _schema_row("table", "extra", "extra", 4, f"CREATE TABLE extra(x) -- {'x' * 2**20}"),
    "schema nested deep": _schema_row(
        "table", "extra", "extra", 4, f"CREATE TABLE extra(x CHECK ({'(' * 20_000}1{')' * 20_000}))"
    ),
    "schema of many columns": _schema_row(
        "table", "extra", "extra", 4, f"CREATE TABLE extra({', '.join(f'c{i}' for i in range(1900))})"
    ),
    "whitespace": _text("run", "  name TEXT", " name TEXT"),
    "case": _text("run", "name TEXT", "NAME TEXT"),
    "comment": _text("run", "name TEXT NOT NULL", "name TEXT NOT NULL /* */"),
    "comment at the end": _text("untrusted", "STRICT", "STRICT -- "),
    "column more": _text("run", "name TEXT NOT NULL,", "name TEXT NOT NULL, more TEXT,"),
    "other type": _text("run", "name TEXT", "name BLOB"),
    "expensive check": _text("run", "name TEXT NOT NULL", f"name TEXT NOT NULL CHECK ({EXPENSIVE} > 0)"),
    "expensive default": _text("attempt", "python TEXT", "python TEXT DEFAULT (hex(randomblob(500000000)))"),
    "generated column": _text("attempt", "python TEXT", f"python TEXT GENERATED ALWAYS AS ({EXPENSIVE}) VIRTUAL"),
    "collation": _text("run", "name TEXT NOT NULL", "name TEXT NOT NULL COLLATE evil"),
    "cyclic references": _text("flow", "id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY REFERENCES run(id)"),
    "not strict": _text("attempt", ") STRICT", ")"),
    "statistics of other columns": _executing(
        "ANALYZE", "UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl,idx,stat,x DEFAULT (randomblob(9)))'"
        " WHERE name = 'sqlite_stat1'",
    ),
}  # fmt: skip


def _sharing(name: str, other: str) -> Maker:
    return _executing(
        f"UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = '{other}')"
        f" WHERE name = '{name}'"
    )


ROOTS = {
    "root of another table": _sharing("run", "flow"),
    "root of an index": _sharing("run", "sqlite_autoindex_flow_1"),
    "all at one root": _executing("UPDATE sqlite_schema SET rootpage = 17 WHERE rootpage > 0"),
    "page 1 as root": _executing("UPDATE sqlite_schema SET rootpage = 1 WHERE name = 'untrusted'"),
    "root 0": _executing("UPDATE sqlite_schema SET rootpage = 0 WHERE name = 'run'"),
    "root behind the end": _executing("UPDATE sqlite_schema SET rootpage = 2147483647 WHERE name = 'run'"),
    "negative root": _executing("UPDATE sqlite_schema SET rootpage = -5 WHERE name = 'run'"),
    "root that is text": _executing("UPDATE sqlite_schema SET rootpage = 'x' WHERE name = 'run'"),
}


def _header(offset: int, data: bytes) -> Maker:
    def make(path: str, _: Places) -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    return make


HEADERS = {
    "user_version 0": _header(60, struct.pack(">i", 0)),
    "user_version -1": _header(60, struct.pack(">i", -1)),
    "user_version 2**31 - 1": _header(60, struct.pack(">i", 2**31 - 1)),
    "user_version 1": _header(60, struct.pack(">i", 1)),
    "application_id": _header(68, struct.pack(">i", -1)),
    "text in UTF-16": _header(56, struct.pack(">I", 2)),
    "write version 9": _header(18, b"\x09\x09"),
    "schema format 9": _header(44, struct.pack(">I", 9)),
    "page size 512": _header(16, struct.pack(">H", 512)),
    "page size 0": _header(16, struct.pack(">H", 0)),
    "all of a page reserved": _header(20, b"\xff"),
    "payload fractions": _header(21, b"\xff\x00\xff"),
    "a billion pages": _header(28, struct.pack(">I", 10**9)),
}
TOLERATED_HEADERS = {
    "read-only version": _header(18, b"\x09\x02"),
    "rollback journal": _header(18, b"\x01\x01"),
    "change counter": _header(24, b"\xff\xff\xff\xff"),
    "no map of pages": _header(52, bytes(4)),
    "largest root page": _header(52, struct.pack(">I", 10**9)),
}

# Pages


def root_of(path: str, name: str) -> int:
    """Return the page where a table or index begins."""
    with closing(apsw.Connection(path)) as connection:
        return int(connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).get)


def write_page(path: str, number: int, data: bytes) -> None:
    """Put a page in the place of another, or behind the last; the header counts it."""
    with open(path, "r+b") as file:
        file.seek((number - 1) * PAGE)
        file.write(data.ljust(PAGE, b"\0"))
        file.seek(0, os.SEEK_END)
        pages = file.tell() // PAGE
        file.seek(28)
        file.write(struct.pack(">I", pages))


def inner_page(children: list[int], right: int, kind: int = 5) -> bytes:
    """Return an inner page of a table, whose keys ascend."""
    cells = [struct.pack(">I", child) + _varint(number + 1) for number, child in enumerate(children)]
    page = bytearray(PAGE)
    place = PAGE
    for number, cell in enumerate(cells):
        place -= len(cell)
        page[place : place + len(cell)] = cell
        page[12 + 2 * number : 14 + 2 * number] = struct.pack(">H", place)
    page[:12] = struct.pack(">BHHHBI", kind, 0, len(cells), place, 0, right)
    return bytes(page)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([0x80 | value >> 7, value & 127])


def _cycle(name: str, kind: int = 5) -> Maker:
    def make(path: str, _: Places) -> None:
        root = root_of(path, name)
        write_page(path, root, inner_page([root] * 5 if kind == 5 else [], root, kind))

    return make


def _amplified(name: str, depth: int) -> Maker:
    """Return the maker of a tree in which each inner page has 800 times the same child: few pages, no end of rows."""

    def make(path: str, _: Places) -> None:
        root = root_of(path, name)
        with open(path, "rb") as file:
            file.seek((root - 1) * PAGE)
            child = os.path.getsize(path) // PAGE + 1
            write_page(path, child, file.read(PAGE))
        for _ in range(depth - 1):
            write_page(path, child + 1, inner_page([child] * 800, child))
            child += 1
        write_page(path, root, inner_page([child] * 800, child))

    return make


def _free_list(pages: Callable[[str], list[int]], *, cyclic: bool) -> Maker:
    """Return the maker of a list of free pages that names pages that are not free, or has no end."""

    def make(path: str, _: Places) -> None:
        trunk = os.path.getsize(path) // PAGE + 1
        leaves = pages(path)
        data = struct.pack(f">{2 + len(leaves)}I", trunk if cyclic else 0, len(leaves), *leaves)
        write_page(path, trunk, data)
        _header(32, struct.pack(">II", trunk, 1 + len(leaves) + 1000 * cyclic))(path, _)

    return make


def _overflow_cycle(path: str, _: Places) -> None:
    """Let each page of a chain of overflow pages be followed by itself."""
    with closing(apsw.Connection(path)) as connection:
        found = connection.execute("SELECT pageno FROM dbstat WHERE pagetype = 'overflow'").fetchall()
    assert found
    with open(path, "r+b") as file:
        for (number,) in found:
            file.seek((number - 1) * PAGE)
            file.write(struct.pack(">I", number))


PAGES = {
    **{
        f"cyclic tree of {name}": _cycle(name)
        for name in ("flow", "run", "attempt", "blob", "chunk", "untrusted", "trash")
    },
    **{f"cyclic index {name}": _cycle(name, 2) for name in ("artifact", "log", "sqlite_autoindex_blob_1", "held")},
    **{
        f"tree of {name} that repeats itself, {depth} deep": _amplified(name, depth)
        for name, depth in (
            ("flow", 2), ("run", 1), ("run", 3), ("attempt", 3), ("blob", 2), ("chunk", 2), ("trash", 2), ("flow", 15),
        )
    },
    "free list without end": _free_list(lambda path: [], cyclic=True),
    "free pages that are not": _free_list(
        lambda path: [root_of(path, name) for name in ("run", "blob", "untrusted")], cyclic=False
    ),
    "free pages behind the end": _free_list(lambda path: [2**31, 0, 1, 2], cyclic=False),
    "overflow without end": _overflow_cycle,
}  # fmt: skip
"""What only whoever reads the pages meets: an error, or what is whole. SQLite itself must not trip over it."""

STATISTICS = {
    "statistics": _executing(
        "ANALYZE",
        "UPDATE sqlite_stat1 SET stat = '0 0 0 0 99999999999999999999 -1 unordered sz=0 noskipscan'",
        "INSERT INTO sqlite_stat1 VALUES ('blob', 'no such index', x'ff'), (NULL, NULL, 1e300)",
    ),
    "samples": _executing(
        "ANALYZE",
        "DELETE FROM sqlite_stat4",
        "INSERT INTO sqlite_stat4 SELECT 'run', 'sqlite_autoindex_run_1', '1 1 1', '0 0 0', '0 0 0', randomblob(1000)"
        " FROM json_each('[1, 2, 3]')",
    ),
}

REFUSED: dict[str, Maker] = {**TRIGGERS, **ALTERED, **ROOTS, **HEADERS}
TOLERATED: dict[str, Maker] = {**TOLERATED_HEADERS, **PAGES, **STATISTICS}
