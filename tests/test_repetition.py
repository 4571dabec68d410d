"""Whoever works long has the trees of the file looked at, once; sound ones are no reason to stop."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import apsw
import pytest
from helpers_store import FLOW, save_task

from sqlitestore import Damaged, FlowDataStore, repetition, verify
from sqlitestore.database import Database

LONG_WORK = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) SELECT COUNT(x) FROM c"
PAGE = 8192


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make any work long, and list what the looks find."""
    found: list[str] = []

    def look(connection: apsw.Connection) -> str:
        found.append(original(connection))
        return found[-1]

    original = repetition.fault_of_the_trees
    monkeypatch.setattr(repetition, "fault_of_the_trees", look)
    monkeypatch.setattr(repetition, "STEPS", 1000)
    monkeypatch.setattr(repetition, "ENOUGH", 10_000)
    monkeypatch.setattr(repetition, "ENOUGH_A_BYTE", 0)
    return found


def make(path: Path, **options: Any) -> str:
    """Make a store of a run."""
    with FlowDataStore(FLOW, ds_root=path, **options) as flow:
        save_task(flow, "1", x=1)
    return str(path)


def forge(path: str) -> None:
    """Make the table of runs one that names the same page 800 times, in each of 15 pages: 800 ** 15 runs."""
    connection = apsw.Connection(path)
    [(root,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'run'").fetchall()
    connection.close()
    with open(path, "r+b") as file:
        content = file.read()
        page, child = content[(root - 1) * PAGE : root * PAGE], len(content) // PAGE + 1
        pages = [page, *(inner(child + depth) for depth in range(14))]
        file.write(b"".join(pages))
        file.seek((root - 1) * PAGE)
        file.write(inner(child + 14))
        file.seek(28)
        file.write(struct.pack(">I", child + 14))


def inner(child: int) -> bytes:
    """Return an inner page of a table that names a child 800 times."""
    cells = b"".join(struct.pack(">I", child) + bytes([number % 100]) for number in range(800))
    start = PAGE - len(cells)
    header = struct.pack(">BHHHBI", 5, 0, 800, start, 0, child)
    pointers = b"".join(struct.pack(">H", start + 5 * number) for number in range(800))
    return (header + pointers).ljust(start, b"\0") + cells


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_long_work_on_a_sound_file_is_looked_at_once_and_goes_on(
    tmp_path: Path, looks: list[str], journal_mode: Any
) -> None:
    """Also in the middle of a transaction that writes, of which the look sees nothing."""
    database = Database(make(tmp_path / "runs.db"), journal_mode=journal_mode)
    assert database.query(LONG_WORK, (20_000,)) == [(20_000,)]
    assert looks == [""]
    with database.write() as connection:
        connection.execute("INSERT INTO flow(name) VALUES ('Another')")
        assert connection.execute(LONG_WORK, (20_000,)).fetchall() == [(20_000,)]
    assert database.query(LONG_WORK, (50_000,)) == [(50_000,)]
    assert looks == [""]
    database.close()


def test_a_writer_that_has_the_file_alone_is_waited_for(tmp_path: Path, looks: list[str]) -> None:
    """The look comes when the pages that spilled from the cache are committed; nobody is refused for that."""
    database = Database(make(tmp_path / "runs.db"), journal_mode="delete")
    with database.write() as connection:
        connection.execute("PRAGMA cache_size=5")
        for number in range(3000):
            connection.execute("INSERT INTO flow(name) VALUES (?)", (f"Flow{number}" * 20,))
        assert connection.execute(LONG_WORK, (20_000,)).fetchall() == [(20_000,)]
        assert looks == []
    assert database.query(LONG_WORK, (20_000,)) == [(20_000,)]
    assert looks == [""]
    database.close()


def test_short_work_is_not_looked_at(tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pays for what is in proportion to the file."""
    monkeypatch.setattr(repetition, "ENOUGH_A_BYTE", 2)
    path = make(tmp_path / "runs.db")
    database = Database(path)
    rows = os.path.getsize(path) // 20
    assert database.query(LONG_WORK, (rows,)) == [(rows,)]
    assert looks == []
    database.close()


def test_a_table_without_end_is_damage(tmp_path: Path) -> None:
    """Listing, verifying and pruning stop, and say what it is; without the watch they would go on for ages."""
    path = make(tmp_path / "runs.db")
    forge(path)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        with pytest.raises(
            Damaged, match=r"runs\.db is damaged or forged: it takes far longer to read .* not in order"
        ):
            flow._storage_impl.database.query("SELECT COUNT(id) FROM run")
        with pytest.raises(Damaged, match="salvage"), flow._storage_impl.database.write() as connection:
            connection.execute("UPDATE run SET name = name || 'x'")
    problems = [str(problem) for problem in verify(path).problems]
    assert any("2nd reference" in problem for problem in problems), problems
