"""Salvage gets what is whole out of damaged files, proves it, and leaves nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import helpers_everything
import helpers_verify
import pytest
from golden_content import check, check_registered
from helpers_cli import Trap, run
from helpers_inventory import PAGE, hurt_tables, inventory, pages_of
from helpers_processes import result_of, start
from helpers_store import FLOW, dump, rows, save_task, tampering

from sqlitestore import FileExists, FlowDataStore, NotAStore, StoreMissing
from sqlitestore.maintenance.page_cells import INDEX_LEAF, parse_page
from sqlitestore.maintenance.salvage import salvage
from sqlitestore.maintenance.verify import verify
from sqlitestore.pragmas import PAGE_SIZE
from sqlitestore.trash import Trash

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*.db"))
TASK = f"{FLOW}/1/a/1"
NOT_TAKEN = {"held", "garbage", "store"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a closed file with something in every table, and trees of several levels."""
    return helpers_everything.make(tmp_path_factory.mktemp("everything") / "runs.db", tasks=40)


@pytest.fixture
def path(whole: str, tmp_path: Path) -> str:
    """Return a copy of it that may be damaged."""
    return str(shutil.copy(whole, tmp_path / "runs.db"))


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Return where to salvage to."""
    return str(tmp_path / "saved.db")


def damaged_pages(path: str, *pages: int) -> None:
    with open(path, "r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(bytes(PAGE))


def test_of_a_whole_file_everything_is_saved(path: str, out: str) -> None:
    """Row for row, with the same ids; the file is not changed, and nothing is beside the new one."""
    before = Path(path).read_bytes()
    report = salvage(path, out)
    assert report.problems == []
    assert report.whole
    old, new = dump(path), dump(out)
    assert {name: rows for name, rows in old.items() if name not in NOT_TAKEN} == {
        name: rows for name, rows in new.items() if name not in NOT_TAKEN
    }
    assert old["store"][0][:4] == new["store"][0][:4]
    assert report.saved._replace(bytes=0) == verify(out).checked._replace(bytes=0)
    assert Path(path).read_bytes() == before
    assert sorted(os.listdir(os.path.dirname(out))) == ["runs.db", "saved.db"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.stem)
@pytest.mark.parametrize("header", [True, False])
def test_files_of_all_formats(golden: Path, header: bool, tmp_path: Path, out: str) -> None:
    """Also without the page that says where the tables are."""
    copy = str(shutil.copy(golden, tmp_path / "old.db"))
    if not header:
        damaged_pages(copy, 1)
    assert salvage(copy, out).whole is header
    assert verify(out).ok
    trust(out)
    check(out)
    if golden.stem != "format-1":
        check_registered(out)


def trust(path: str) -> None:
    connection = apsw.Connection(path)
    connection.execute("DELETE FROM untrusted")
    connection.close()


@pytest.mark.parametrize("name", sorted({name for name, _ in pages_of(str(GOLDEN[-1])).values()} | {"stub", "trash"}))
def test_without_all_inner_pages_of_a_tree_nothing_is_lost(path: str, out: str, name: str) -> None:
    """SQL loses whole tables with one page; the leaves are found without it."""
    pages = pages_of(path)
    inner = [page for page, (table, is_inner) in pages.items() if table == name and is_inner]
    items, stubs = inventory(path)
    tables = dict(schema_of(path))
    damaged_pages(path, *inner)
    report = salvage(path, out)
    assert verify(out).ok
    if not hurt_tables(pages, set(inner)):
        assert inventory(out) == (items, stubs)
    assert report.whole == (not inner or name not in tables)


def schema_of(path: str) -> list[tuple[str, int]]:
    """Return the tables, without the indexes."""
    connection = apsw.Connection(path)
    rows = connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.close()
    return rows


def test_without_its_header_everything_is_there_and_nothing_is_trusted(path: str, out: str) -> None:
    """The first page, zeroed or overwritten: the tables are told by their rows."""
    items, stubs = inventory(path)
    damaged_pages(path, 1)
    assert not salvage(path, out).whole
    found, found_stubs = inventory(out)
    assert {item for item in found if item[0] == "untrusted"} == {
        ("untrusted", *item[1:]) for item in found if item[0] == "run"
    }
    assert {item: value for item, value in found.items() if item[0] != "untrusted"} == {
        item: value for item, value in items.items() if item[0] != "untrusted"
    }
    assert found_stubs == stubs
    assert verify(out).ok


def test_an_artifact_whose_bytes_are_lost_becomes_a_stub(path: str, out: str) -> None:
    """The task stays done; the artifact is named; the others can be loaded."""
    with tampering(path) as connection:
        connection.execute(
            "UPDATE chunk SET bytes = zeroblob(size) WHERE id IN (SELECT p.chunk FROM blob_chunk p JOIN artifact x"
            " ON x.blob = p.blob JOIN attempt a ON a.id = x.attempt JOIN run r ON r.id = a.run"
            " WHERE r.name = '1' AND a.task = '1' AND x.name = 'own' AND p.position = 1)"
        )
    report = salvage(path, out)
    assert [(each.kind, each.pathspec, each.name) for each in report.problems if each.kind != "blob"] == [
        ("artifact", TASK, "own")
    ]
    assert report.saved.stubs == 2
    with FlowDataStore(FLOW, ds_root=out) as flow:
        task = flow.get_task_datastore("1", "a", "1")
        assert task["number"] == 1
        assert len(task["shared"]) == 300_000


def test_what_cannot_be_proven_is_left_out_and_named(path: str, out: str) -> None:
    """A changed row of each kind."""
    with tampering(path) as connection:
        for statement in (
            "UPDATE task_metadata SET value = '1' WHERE task = '1'",
            "UPDATE log SET digest = zeroblob(16) WHERE attempt = 1 AND part = 1",
            "UPDATE file SET size = 1",
            "UPDATE trashed_file SET size = 1",
            "UPDATE registered_run SET tags = '[1]'",
            "UPDATE attempt SET started = 1.0 WHERE id = 2",
            "UPDATE artifact SET type = 'x' WHERE attempt = 3 AND name = 'own'",
        ):
            connection.execute(statement)
    report = salvage(path, out)
    named = {(each.kind, each.pathspec, each.name) for each in report.problems}
    assert {
        ("metadata", TASK, "note"), ("log", f"{FLOW}/1/a/0", "task/stdout"), ("file", "", "cards/1.html"),
        ("file", f"{FLOW}/3", "kept/card.html"), ("registration", f"{FLOW}/1", ""), ("attempt", TASK, ""),
        ("attempt", f"{FLOW}/1/a/2", ""),
    } <= named  # fmt: skip
    assert verify(out).ok
    items = inventory(out)[0]
    assert items["attempt", FLOW, "1", "a", "2", 0][1:] == (None, None)


def test_what_was_deleted_does_not_come_back(path: str, out: str) -> None:
    """A run that was purged and a log that was scrubbed are on free pages; inner pages are lost."""
    from sqlitestore.maintenance.purge import purge

    with FlowDataStore(FLOW, ds_root=path) as flow:
        purge(flow._storage_impl.database)
        Trash(flow._storage_impl.database).put(FLOW, "2")
        purge(flow._storage_impl.database)
        writer = flow.get_task_datastore("1", "a", "0", mode="d")
        writer.scrub_logs(["task"], "stdout")
    pages = pages_of(path)
    items = inventory(path)[0]
    for hurt in ([page for page, (_, inner) in pages.items() if inner], [1]):
        copy = shutil.copy(path, path + ".copy")
        damaged_pages(copy, *hurt)
        salvage(copy, out)
        found = inventory(out)[0]
        assert {item[2] for item in found if item[0] == "attempt"} == {"1"}
        assert {item for item in found if item not in items} <= {("untrusted", *item[1:]) for item in items}
        assert verify(out).ok
        os.unlink(out)


def test_the_log_beside_the_file_counts(path: str, out: str) -> None:
    """What was committed and not yet moved into the file; the log is not changed either."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from helpers_store import save_task, FLOW\n"
        "from sqlitestore import FlowDataStore\n"
        "flow = FlowDataStore(FLOW, ds_root=sys.argv[1]); save_task(flow, 'late', value='late' * 5000)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path, os.path.dirname(__file__)], check=True)
    log = Path(path + "-wal").read_bytes()
    assert log
    assert salvage(path, out).whole
    with FlowDataStore(FLOW, ds_root=out) as flow:
        assert flow.get_task_datastore("late", "a", "1")["value"] == "late" * 5000
    assert Path(path + "-wal").read_bytes() == log
    Path(path + "-wal").write_bytes(log[:-100])  # the commit is incomplete: nothing of it counts
    os.unlink(out)
    assert salvage(path, out).whole
    assert inventory(out)[0]["attempt", FLOW, "late", "a", "1", 0][1] is None  # it had only started


def test_half_a_transaction_is_undone(path: str, out: str) -> None:
    """A file in rollback mode whose writer was killed: the journal beside it has the pages as they were."""
    code = (
        "import apsw, os, sys; c = apsw.Connection(sys.argv[1]); c.execute('PRAGMA journal_mode=DELETE')\n"
        "c.execute('PRAGMA cache_size=1; BEGIN; UPDATE attempt SET started = 1.0; DELETE FROM artifact;"
        " DELETE FROM chunk'); c.cache_flush(); os._exit(0)"
    )
    items = inventory(path)[0]
    subprocess.run([sys.executable, "-c", code, path], check=True)
    journal = Path(path + "-journal").read_bytes()
    assert journal[:2] == b"\xd9\xd5"
    copy = str(shutil.copy(path, path + ".copy"))
    assert not salvage(copy, out).whole  # without its journal
    os.unlink(out)
    assert salvage(path, out).whole
    assert inventory(out)[0] == items
    assert Path(path + "-journal").read_bytes() == journal


def test_other_page_sizes(path: str, out: str) -> None:
    """Told without the header: by what the pages look like."""
    items = inventory(path)[0]
    for page_size in (512, 4096, 65536):
        copy = path + f"-{page_size}"
        shutil.copy(path, copy)
        connection = apsw.Connection(copy)
        connection.execute(f"PRAGMA journal_mode=DELETE; PRAGMA page_size={page_size}; VACUUM").fetchall()
        connection.close()
        content = bytearray(Path(copy).read_bytes())
        assert int.from_bytes(content[16:18], "big") == page_size % 65535  # 65536 stands there as 1
        content[:100] = bytes(100)
        Path(copy).write_bytes(content)
        salvage(copy, out)
        found = inventory(out)[0]
        assert {item for item in found if item[0] != "untrusted"} == {item for item in items if item[0] != "untrusted"}
        os.unlink(out)


def test_nothing_is_unpickled(tmp_path: Path, out: str) -> None:
    """Neither by verify nor by salvage."""
    marker = tmp_path / "unpickled"
    path = str(tmp_path / "trap.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, trap=Trap(marker))
    assert verify(path).ok
    assert salvage(path, out).whole
    assert not marker.exists()


# Files that are no stores, or not there


def test_nothing_is_made_of_what_is_no_store(tmp_path: Path, path: str, out: str) -> None:
    """And no file is replaced."""
    (tmp_path / "text").write_text("hello\n" * 10_000)
    (tmp_path / "empty").write_text("")
    for name in ("text", "empty"):
        with pytest.raises(NotAStore):
            salvage(tmp_path / name, out)
    with pytest.raises(StoreMissing):
        salvage(tmp_path / "none", out)
    Path(out).write_text("mine")
    with pytest.raises(FileExists):
        salvage(path, out)
    assert Path(out).read_text() == "mine"
    with pytest.raises(FileExists):
        salvage(path, path)
    assert sorted(os.listdir(tmp_path)) == ["empty", "runs.db", "saved.db", "text"]


def test_an_interrupt_leaves_no_file(tmp_path: Path, path: str, out: str) -> None:
    """Whenever it comes."""

    class Interrupt:
        def __init__(self, after: int) -> None:
            self.left = after

        def start(self, *_: Any) -> None:
            pass

        finish = start

        def advance(self, _: int) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    for after in (1, 100, 520, 600):
        with pytest.raises(KeyboardInterrupt):
            salvage(path, out, progress=Interrupt(after))
        assert os.listdir(tmp_path) == ["runs.db"]


def test_the_command_says_what_is_lost(path: str, out: str) -> None:
    """Exit code 0 if all was whole, 1 if not; the file may be an argument or an option."""
    result = run(path, "salvage", "-o", out)
    assert result.exit_code == 0, result.output
    assert "all was whole" in result.stdout
    assert run(path, "salvage", path, "-o", out).exit_code == 1
    os.unlink(out)
    damaged_pages(path, 1)
    result = run("/nowhere", "salvage", path, "-o", out, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["saved"]["attempts"] == 121
    assert not answer["whole"]
    assert "page 1" in [each["name"] for each in answer["problems"]]
    assert verify(out).ok
    os.unlink(out)
    assert "structure page 1:" in run(path, "salvage", "-o", out).stdout


def test_the_command_can_be_interrupted(tmp_path: Path, path: str, out: str) -> None:
    """Ctrl-C leaves nothing."""
    code = (
        "import sys; from sqlitestore.maintenance import salvage_attempts as s\n"
        "from sqlitestore.cli import main\n"
        "def wait(*a):\n print('here', flush=True)\n import time; time.sleep(60)\n"
        f"s.AttemptSalvage._save = wait\nsys.exit(main(['salvage', {path!r}, '-o', {out!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert os.listdir(tmp_path) == ["runs.db"]


def test_a_pointer_to_another_cell_is_damage(tmp_path: Path) -> None:
    """The cell that nothing points at any more is a row that is gone, though the page's bytes add up."""
    path = helpers_everything.make(tmp_path / "runs.db", tasks=12, size=1000)
    data = Path(path).read_bytes()
    seen = 0
    for number in range(2, len(data) // PAGE_SIZE + 1):
        page = bytearray(data[(number - 1) * PAGE_SIZE : number * PAGE_SIZE])
        whole = parse_page(bytes(page), number)
        if whole.hurt or whole.kind != INDEX_LEAF or len(whole.cells) < 2:
            continue
        pairs = [
            (one, other) for one, other in pairwise(whole.cells) if whole.cells[one].size == whole.cells[other].size
        ]
        for one, other in pairs:
            turned = page.copy()
            turned[8 + 2 * other : 10 + 2 * other] = page[8 + 2 * one : 10 + 2 * one]
            assert parse_page(bytes(turned), number).hurt
            seen += 1
    assert seen > 20


def test_a_page_that_stands_twice_is_damage(tmp_path: Path, out: str) -> None:
    """What was there before the copy is lost without a trace; that something is, salvage says, and verify does."""
    path = helpers_everything.make(tmp_path / "runs.db", tasks=60, size=100)
    leaves: dict[str, list[int]] = {}
    for page, (name, inner) in pages_of(path).items():
        if not inner and name in {"task_metadata", "attempt", "artifact"}:
            leaves.setdefault(name, []).append(page)
    name, (first, second, *_) = next((name, pages) for name, pages in leaves.items() if len(pages) > 1)
    data = bytearray(Path(path).read_bytes())
    data[(second - 1) * PAGE : second * PAGE] = data[(first - 1) * PAGE : first * PAGE]
    Path(path).write_bytes(data)
    assert f"a page of the table {name} is a copy of another" in str(salvage(path, out).problems)
    assert not verify(path).ok
    assert verify(out).ok


@pytest.mark.parametrize("lost", [False, True])
def test_an_index_of_keys_that_is_wrong_costs_no_attempt(path: str, out: str, lost: bool) -> None:
    """Each artifact's key is told by the table or by the index, whichever the attempt's digest proves.

    So also where content is ``lost``, which otherwise tells the key.
    """
    if lost:
        with tampering(path) as connection:
            connection.execute("UPDATE blob SET bytes = zeroblob(length(bytes)) WHERE bytes IS NOT NULL")
    keys = [key for (key,) in rows(path, "SELECT key FROM blob ORDER BY id")]
    index = [page for page, (name, _) in pages_of(path).items() if name == "sqlite_autoindex_blob_1"]
    data = bytearray(Path(path).read_bytes())
    for page in index:
        for key in keys:
            place = data.find(key, (page - 1) * PAGE, page * PAGE)
            if place >= 0:
                data[place + 7] ^= 16
    Path(path).write_bytes(data)
    whole = inventory_of_done(path)
    assert whole
    assert not salvage(path, out).whole
    assert inventory_of_done(out) == whole


def inventory_of_done(path: str) -> list[Any]:
    """Return what is done."""
    return rows(path, "SELECT run, step, task, number, done FROM attempt WHERE done IS NOT NULL ORDER BY 1, 2, 3, 4")


def test_no_run_is_trusted_when_an_untrusted_one_has_another_number(path: str, out: str) -> None:
    """Its row has no digest, but the rows are not in the order of their numbers any more."""
    *first, last = [run for (run,) in rows(path, "SELECT id FROM run ORDER BY id")]
    assert len(first) > 1
    with tampering(path) as connection:
        connection.execute("DELETE FROM untrusted")
        connection.executemany("INSERT INTO untrusted VALUES (?, 'theirs')", [(run,) for run in first])
    [page] = [page for page, (name, _) in pages_of(path).items() if name == "untrusted"]
    data = bytearray(Path(path).read_bytes())
    start = (page - 1) * PAGE
    cell = start + int.from_bytes(data[start + 8 : start + 10])
    assert data[cell + 1] == first[0]
    data[cell + 1] = last
    Path(path).write_bytes(data)
    salvage(path, out)
    assert rows(out, "SELECT count(*) FROM untrusted") == rows(out, "SELECT count(*) FROM run")


def test_no_run_is_trusted_when_flows_and_trust_changed_places(path: str, out: str) -> None:
    """Rows of the two tables look alike; the index of flows tells that something is wrong."""
    [flow] = [page for page, (name, _) in pages_of(path).items() if name == "flow"]
    [untrusted] = [page for page, (name, _) in pages_of(path).items() if name == "untrusted"]
    data = bytearray(Path(path).read_bytes())
    places = [slice((page - 1) * PAGE, page * PAGE) for page in (flow, untrusted)]
    data[places[0]], data[places[1]] = data[places[1]], data[places[0]]
    Path(path).write_bytes(data)
    salvage(path, out)
    assert rows(out, "SELECT count(*) FROM untrusted") == rows(out, "SELECT count(*) FROM run")


def test_no_run_is_trusted_when_the_flows_stand_in_the_place_of_trust(path: str, out: str) -> None:
    """A page that is a copy of that of the flows says of runs with other numbers that they are untrusted."""
    runs = [run for (run,) in rows(path, "SELECT id FROM run ORDER BY id")]
    with tampering(path) as connection:
        connection.execute("DELETE FROM untrusted")
        connection.execute("INSERT INTO untrusted VALUES (?, 'theirs')", (runs[-1],))
    assert runs[-1] not in [flow for (flow,) in rows(path, "SELECT id FROM flow")]
    [flow] = [page for page, (name, _) in pages_of(path).items() if name == "flow"]
    [untrusted] = [page for page, (name, _) in pages_of(path).items() if name == "untrusted"]
    data = bytearray(Path(path).read_bytes())
    data[(untrusted - 1) * PAGE : untrusted * PAGE] = data[(flow - 1) * PAGE : flow * PAGE]
    Path(path).write_bytes(data)
    salvage(path, out)
    assert rows(out, "SELECT count(*) FROM untrusted") == rows(out, "SELECT count(*) FROM run")


def test_a_name_that_rows_speak_against_needs_a_second_place(path: str, out: str) -> None:
    """A run's name is damaged in the table, and its index is lost: no run is saved under the damaged name."""
    names = {name for (name,) in rows(path, "SELECT name FROM run")}
    row, name = rows(path, "SELECT r.id, r.name FROM run AS r JOIN attempt AS a ON a.run = r.id ORDER BY r.id LIMIT 1")[
        0
    ]
    [index] = [page for page, (tree, _) in pages_of(path).items() if tree == "sqlite_autoindex_run_1"]
    with tampering(path) as connection:
        connection.execute("UPDATE run SET name = 'x' || substr(name, 2) WHERE id = ?", (row,))
    damaged_pages(path, index)
    report = salvage(path, out)
    saved = {name for (name,) in rows(out, "SELECT name FROM run")}
    assert saved
    assert saved <= names - {name}
    assert f"{FLOW}/x{name[1:]}" in {problem.pathspec for problem in report.problems if problem.kind == "run"}


def test_memory_is_bounded(tmp_path: Path) -> None:
    """For a blob of 300 MB, to verify and to salvage it."""
    with start(helpers_verify.memory, str(tmp_path / "runs.db"), 300_000_000) as process:
        outcome = result_of(process)
    assert outcome["ok"]
    assert outcome["verifying"] < 64 * 2**20
    assert outcome["salvaging"] < 96 * 2**20
