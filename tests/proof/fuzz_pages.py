"""Fuzzed pages: what salvage reads of a b-tree, beside what SQLite reads; and logs and journals beside a file."""

from __future__ import annotations

import os
import random
import tempfile
from functools import cache

import apsw
from fuzz_engine import Target, mutated, peak_of, within

from sqlitestore.maintenance import page_cells
from sqlitestore.maintenance.carving import Carver
from sqlitestore.maintenance.page_file import PageFile
from sqlitestore.maintenance.row_shapes import fits, tables_of
from sqlitestore.maintenance.verification import Findings
from sqlitestore.progress import SILENT

PAGE = 512
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
MIB = 2**20
SELECT_TABLE = "SELECT rowid, * FROM t ORDER BY rowid"
VALUES = (None, 0, 1, -1, 127, 2**40, -(2**63), 1.5, "", "text", "grün" * 4, b"", b"\0\xff" * 9, "long " * 200)


@cache
def databases() -> tuple[bytes, ...]:
    """Return files of small pages with a table: page 2 is its leaf, the others are where long rows go on."""
    made = []
    for seed in range(6):
        choice = random.Random(seed)
        connection = apsw.Connection(":memory:")
        connection.execute(f"PRAGMA page_size={PAGE}; CREATE TABLE t(a, b, c)")
        for _ in range(choice.randrange(1, 7)):
            row = (choice.choice(VALUES), choice.choice(VALUES[:-2]), choice.choice(VALUES[:-2]))
            connection.execute(
                "INSERT INTO t(rowid, a, b, c) VALUES (?, ?, ?, ?)",
                (choice.choice((None, choice.getrandbits(40))), *row),
            )
        if seed % 2:
            connection.execute(
                "DELETE FROM t WHERE rowid = (SELECT min(rowid) FROM t) AND (SELECT count(*) FROM t) > 1"
            )
        made.append(connection.serialize("main"))
        connection.close()
    return tuple(made)


def change_pages(data: bytes, choice: random.Random) -> bytes:
    """Change bytes behind the first page, most often those that say where cells are; the size stays."""
    changed = bytearray(data)
    if choice.random() < 0.7:
        place = PAGE + choice.choice((choice.randrange(24), choice.randrange(PAGE), choice.randrange(len(data) - PAGE)))
        changed[place % len(data)] = choice.choice(
            (choice.randrange(256), changed[place % len(data)] ^ 1 << choice.randrange(8))
        )
        return bytes(changed)
    return (data[:PAGE] + mutated(data[PAGE:], choice)).ljust(len(data), b"\0")[: len(data)]


def check_pages(data: bytes) -> str:
    """Any page gives bounded cells; where SQLite finds the file sound, the rows are those that SQLite reads."""
    pages = [data[start : start + PAGE].ljust(PAGE, b"\0") for start in range(0, len(data), PAGE)]
    rows, peak = peak_of(lambda: _rows(pages))
    assert peak <= MIB + 4000 * PAGE * 8, f"a page took {peak:,} bytes of memory"
    for number, page in enumerate(pages, 1):
        parsed = page_cells.parse_page(page, number)
        assert len(parsed.cells) <= PAGE // 2
        assert all(len(cell.local) <= PAGE for cell in parsed.cells.values())
    votes = [row[1:] for row in rows or ()]
    assert all(any(fits(name, row) for row in votes) for name in tables_of(votes, rowid=True))
    expected = _by_sqlite(b"".join(pages))
    if expected is None:
        return "damaged"
    there, again = expected
    assert rows is not None, "what SQLite reads is taken for no table"
    # SQLite overlooks bytes behind the last value of a row, which it never writes; salvage takes no such row.
    made_up = [row for row in map(repr, rows) if row not in set(map(repr, there))]
    assert not made_up, f"read {made_up!r:.300}, SQLite {there!r:.300}"
    if again[PAGE] == page_cells.TABLE_LEAF:
        rows = _rows([again[start : start + PAGE] for start in range(0, len(again), PAGE)])
        assert rows is not None
        assert sorted(map(repr, rows)) == sorted(map(repr, there)), f"read {rows!r:.300}, SQLite {there!r:.300}"
    return "sound"


def _rows(pages: list[bytes]) -> list[tuple[object, ...]] | None:
    page = page_cells.parse_page(pages[1], 2)
    if page.kind != page_cells.TABLE_LEAF:
        return None
    rows: list[tuple[object, ...]] = []
    for cell in page.cells.values():
        whole = page_cells.whole_payload(cell, lambda number: pages[number - 1] if 0 < number <= len(pages) else b"")
        values = None if whole is None else page_cells.decode_record(whole)
        if values is not None:
            # SQLite gives columns that a row lacks as NULL, and does not look at more than there are.
            rows.append((cell.rowid, *(values + [None] * 3)[:3]))
    return rows


def _written_anew(rows: list[tuple[object, ...]]) -> bytes:
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(f"PRAGMA page_size={PAGE}; CREATE TABLE t(a, b, c)")
        connection.executemany("INSERT INTO t(rowid, a, b, c) VALUES (?, ?, ?, ?)", rows)
        return connection.serialize("main")
    finally:
        connection.close()


def _by_sqlite(data: bytes) -> tuple[list[tuple[object, ...]], bytes] | None:
    """Return the rows that SQLite reads, and the file after it wrote them anew; None if it finds the file damaged."""
    connection = apsw.Connection(":memory:")
    try:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.deserialize("main", data)
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return None
        if data[PAGE] != page_cells.TABLE_LEAF:
            return None
        rows = [tuple(row) for row in connection.execute(SELECT_TABLE)]
        return rows, _written_anew(rows)
    except (apsw.Error, UnicodeDecodeError):
        return None
    finally:
        connection.close()


@cache
def beside() -> tuple[tuple[bytes, bytes], ...]:
    """Return a file and the log, and a file and the journal, that stood beside it in the middle of a change."""
    made = []
    for mode, suffix in (("wal", "-wal"), ("delete", "-journal")):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "file")
            connection = apsw.Connection(path)
            connection.execute(
                f"PRAGMA page_size={PAGE}; PRAGMA journal_mode={mode}; PRAGMA cache_size=1; PRAGMA cache_spill=1"
            )
            connection.execute("CREATE TABLE t(a, b); INSERT INTO t VALUES (1, zeroblob(3000)), (2, zeroblob(9000))")
            connection.execute("BEGIN; UPDATE t SET b = randomblob(9000); INSERT INTO t VALUES (3, zeroblob(9000))")
            if mode == "wal":
                connection.execute("COMMIT")
            with open(path, "rb") as file, open(path + suffix, "rb") as other:
                content = other.read()
                if mode == "delete":  # as when it was synced: until then its header is empty
                    content = JOURNAL_MAGIC + ((len(content) - PAGE) // (PAGE + 8)).to_bytes(4, "big") + content[12:]
                made.append((file.read(), content))
            connection.close()
    assert all(other for _, other in made)
    return tuple(made)


def change_beside(data: bytes, choice: random.Random) -> bytes:
    """Change the log or journal, most often a number in its first header."""
    if choice.random() < 0.6:
        place = choice.choice((8, 12, 16, 20, 24, 28, 32, 36, PAGE, PAGE + 4))
        number = choice.choice((0, 1, 27, 28, 29, 512, 65536, 2**31, 2**32 - 2, 2**32 - 1, choice.getrandbits(32)))
        return data[:place] + number.to_bytes(4, "big") + data[place + 4 :]
    return mutated(data, choice)


def check_beside(data: bytes) -> str:
    """A log or journal of any content adds no more pages than it has, and everything is read in bounded time."""
    is_log = data[:3] == b"\x37\x7f\x06"
    file = beside()[not is_log][0]
    in_time = within(2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        for name, content in ((path, file), (path + ("-wal" if is_log else "-journal"), data)):
            with open(name, "wb") as out:
                out.write(content)
        with PageFile(path) as pages:
            assert pages.count <= (len(file) + len(data)) // PAGE + 2, f"{pages.count:,} pages are claimed"
            assert all(len(pages.page(number)) in {0, pages.page_size} for number in range(pages.count + 2))
            rows, peak = peak_of(lambda: list(Carver(pages, Findings(path), SILENT).rows()))
            assert isinstance(rows, list)
            assert peak <= 16 * MIB, f"{peak:,} bytes of memory"
            in_time()
            return f"{'log' if is_log else 'journal'} {'used' if pages._places else 'unused'}"


TARGETS = (
    Target("pages", check_pages, lambda: list(databases()), frozenset({"sound", "damaged"}), 15, (), change_pages),
    Target(
        "journals",
        check_beside,
        lambda: [other for _, other in beside()],
        frozenset({"log used", "log unused", "journal used", "journal unused"}),
        4,
        (),
        change_beside,
    ),
)
