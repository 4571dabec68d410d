"""Verify finds whatever is hurt and names it; what is whole, and what others do meanwhile, is no problem."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers_everything
import helpers_verify
import pytest
from helpers_cli import as_process, run
from helpers_inventory import PAGE, pages_of
from helpers_processes import result_of, start
from helpers_store import FLOW, dump, tampering
from sqlite_oracle import digest
from test_damage import DAMAGES
from test_damage import path as damage_path

from sqlitestore import StoreMissing
from sqlitestore.database import Database
from sqlitestore.maintenance.verify import verify
from sqlitestore.schema import FORMAT_3

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*.db"))
TASK = f"{FLOW}/1/a/1"

two_tasks = damage_path  # the fixture of test_damage, for its list of damages


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a closed file with something in every table."""
    return helpers_everything.make(tmp_path_factory.mktemp("everything") / "runs.db")


@pytest.fixture
def path(whole: str, tmp_path: Path) -> str:
    """Return a copy of it that may be damaged."""
    return str(shutil.copy(whole, tmp_path / "runs.db"))


def test_a_whole_store_has_no_problem(path: str) -> None:
    """Everything in it is counted, and nothing is changed."""
    before = dump(path)
    found = verify(path)
    assert found.ok
    assert found.problems == []
    counted = {**found.checked._asdict(), "logs": len(before["log"]), "bytes": sum(row[2] for row in before["blob"])}
    for name, tables in {
        "blobs": ["blob"], "chunks": ["chunk"], "flows": ["flow"], "runs": ["run"], "attempts": ["attempt"],
        "artifacts": ["artifact"], "stubs": ["stub"], "metadata": ["task_metadata"], "data": ["data"],
        "files": ["file", "trashed_file"], "registrations": [name for name in before if name.startswith("registered")],
    }.items():  # fmt: skip
        assert counted[name] == sum(len(before[table]) for table in tables), name
    assert found.checked.logs == len({row[:3] for row in before["log"]})
    assert found.checked.bytes == counted["bytes"]
    assert dump(path) == before
    assert verify(path, quick=True).ok
    assert min(map(len, before.values())) > 0


def test_a_file_at_rest_is_not_touched(tmp_path: Path) -> None:
    """Not even an old format."""
    copy = str(shutil.copy(GOLDEN[0], tmp_path / "old.db"))
    before = Path(copy).read_bytes()
    assert verify(copy).ok
    assert Path(copy).read_bytes() == before


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.stem)
@pytest.mark.parametrize("read_only", [True, False])
def test_files_of_all_formats_are_whole(golden: Path, read_only: bool, tmp_path: Path) -> None:
    """Also where they stay in their format."""
    copy = shutil.copy(golden, tmp_path)
    database = Database(copy, create=False, read_only=read_only)
    assert verify(database).problems == []
    database.close()


# Rows that are damaged by SQL


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damaged_row_is_found(two_tasks: str, name: str) -> None:
    """All that a reader must notice, and what a reader cannot."""
    statement, _ = DAMAGES[name]
    with tampering(two_tasks) as connection:
        connection.execute(statement)
    found = verify(two_tasks)
    assert not found.ok
    assert found.problems


OWN = "(SELECT a.id FROM attempt a JOIN run r ON r.id = a.run WHERE r.name = '1' AND a.task = '1')"
BLOB = f"(SELECT blob FROM artifact WHERE attempt = {OWN} AND name = '%s')"
CHUNKS = f"SELECT chunk FROM blob_chunk WHERE blob = {BLOB}"
PLACES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    # The statement, and (kind, pathspec, name) that must be among the problems.
    "chunk": (
        f"UPDATE chunk SET bytes = zeroblob(size) WHERE id IN ({CHUNKS % 'own'})",
        [("artifact", TASK, "own")],
    ),
    "shared chunk": (
        f"DELETE FROM chunk WHERE id IN ({CHUNKS % 'shared'} AND position = 0)",
        [("artifact", f"{FLOW}/{run}/a/{task}", "shared") for run in "123" for task in "012"],
    ),
    "blob in its row": (f"UPDATE blob SET bytes = x'01' WHERE id = {BLOB % 'small'}", [("artifact", TASK, "small")]),
    "blob's list": (
        f"DELETE FROM blob_chunk WHERE blob = {BLOB % 'own'} AND position > 0", [("artifact", TASK, "own")],
    ),
    "blob gone": (f"DELETE FROM blob WHERE id = {BLOB % 'own'}", [("artifact", TASK, "own")]),
    "artifact's row": (
        f"DELETE FROM artifact WHERE attempt = {OWN} AND name = 'small'", [("attempt", TASK, "")],
    ),
    "artifact's size": (
        f"UPDATE artifact SET size = 1 WHERE attempt = {OWN} AND name = 'small'", [("artifact", TASK, "small")],
    ),
    "artifact's position": (
        f"UPDATE artifact SET position = position + 5 WHERE attempt = {OWN}", [("attempt", TASK, "")],
    ),
    "attempt": (f"UPDATE attempt SET done = done + 1 WHERE id = {OWN}", [("attempt", TASK, "")]),
    "not done": (f"UPDATE attempt SET done = NULL WHERE id = {OWN}", [("attempt", TASK, "")]),
    "log": (f"DELETE FROM log WHERE attempt = {OWN} AND part = 0", [("log", TASK, "task/stdout")]),
    "log's digest": (
        f"UPDATE log SET digest = x'00' WHERE attempt = {OWN} AND part = 1", [("log", TASK, "task/stdout")],
    ),
    "log's bytes": (
        f"UPDATE blob SET bytes = x'00' WHERE id = (SELECT blob FROM log WHERE attempt = {OWN} AND part = 1)",
        [("log", TASK, "task/stdout")],
    ),
    "log's blob gone": (
        f"DELETE FROM blob WHERE id = (SELECT blob FROM log WHERE attempt = {OWN} AND part = 1)",
        [("log", TASK, "task/stdout")],
    ),
    "metadata": ("UPDATE task_metadata SET value = '1' WHERE task = '1'", [("metadata", TASK, "note")]),
    "file": ("UPDATE file SET size = size + 1", [("file", "", "cards/1.html")]),
    "file's bytes": (
        "UPDATE blob SET bytes = x'00' WHERE id = (SELECT blob FROM file)", [("file", "", "cards/1.html")],
    ),
    "file's blob gone": ("DELETE FROM blob WHERE id = (SELECT blob FROM file)", [("file", "", "cards/1.html")]),
    "trashed file": ("UPDATE trashed_file SET metadata = '[]'", [("file", f"{FLOW}/3", "kept/card.html")]),
    "data's bytes": (
        "UPDATE blob SET bytes = zeroblob(4) WHERE size = 4 AND id IN (SELECT blob FROM data)",
        [("data", FLOW, "*"), ("data", "OtherFlow", "*")],
    ),
    "data's blob gone": ("UPDATE data SET blob = 12345 WHERE flow = 2", [("data", "OtherFlow", "id 12345")]),
    "data's flow gone": ("UPDATE data SET flow = 99 WHERE flow = 2", [("data", "?", "*")]),
    "registered run": ("UPDATE registered_run SET tags = '[]'", [("registration", f"{FLOW}/1", "")]),
    "registered step": ("UPDATE registered_step SET ts_epoch = 5", [("registration", "GoldenFlow/17/train", "")]),
    "registered task": (
        "UPDATE registered_task SET user_name = 'x'", [("registration", "GoldenFlow/17/train/0", "")],
    ),
    "registered metadata": (
        "UPDATE registered_metadata SET value = '7' WHERE position = 1",
        [("registration", "GoldenFlow/17/train/0", "list")],
    ),
    "registered metadata gone": (
        "DELETE FROM registered_metadata WHERE position = 0", [("registration", "GoldenFlow/17/train/0", "")],
    ),
    "registered artifact": (
        "UPDATE registered_artifact SET sha = 'x'", [("registration", "GoldenFlow/17/train/0", "far")],
    ),
    "registered of no run": ("UPDATE registered_artifact SET run = 99", [("registration", "?/?/train/0", "far")]),
    "run": ("UPDATE run SET name = '4' WHERE name = '1'", [("attempt", f"{FLOW}/4/a/1", "")]),
    "run's flow gone": ("UPDATE run SET flow = 77 WHERE name = '1'", [("run", "?/1", "")]),
    "run's name illegal": ("UPDATE run SET name = 'a/b' WHERE name = '1'", [("run", f"{FLOW}/a/b", "")]),
    "flow": ("UPDATE flow SET name = 'No' WHERE id = 1", [("attempt", "No/1/a/1", "")]),
    "stub": ("UPDATE stub SET key = zeroblob(16)", [("attempt", f"{FLOW}/2/a/0", "")]),
    "stub's key": ("UPDATE stub SET key = x'00'", [("artifact", f"{FLOW}/2/a/0", "own")]),
    "stub gone": ("DELETE FROM stub", [("attempt", f"{FLOW}/2/a/0", "")]),
    "trash's name": ("UPDATE trash SET name = '9'", [("attempt", f"{FLOW}/9/a/1", "")]),
    "trash's run gone": ("UPDATE trash SET run = 55", [("trash", "?/3", "")]),
    "trash gone": ("DELETE FROM trash", [("attempt", f"{FLOW}/trash/3/a/1", "")]),
    "trash's time": ("UPDATE trash SET trashed = -1.0", [("trash", f"{FLOW}/3", "")]),
    "trashed, and named": ("UPDATE run SET name = '3' WHERE name LIKE 'trash%'", [("trash", f"{FLOW}/3", "")]),
    "untrusted": ("UPDATE untrusted SET run = 55", [("untrusted", "?", "")]),
    "held": ("UPDATE held SET key = x'01'", [("held", "", "01")]),
    "garbage": ("UPDATE garbage SET chunk = -1", [("garbage", "", "-1")]),
    "sequence": ("UPDATE sqlite_sequence SET seq = 1", [("table", "", "sqlite_sequence")]),
    "sequence gone": ("DELETE FROM sqlite_sequence", [("table", "", "sqlite_sequence")]),
    "store": ("UPDATE store SET created = -5.0", [("table", "", "store")]),
    "store's identity": ("UPDATE store SET uuid = x'05'", [("store", "", "")]),
    "a reference": ("UPDATE registered_task SET run = 98", [("reference", "", "registered_task")]),
    "chunk that nobody needs": (
        "INSERT INTO chunk(digest, size, codec, bytes) VALUES (zeroblob(16), 3, 0, x'010203')", [("chunk", "", "*")],
    ),
    "blob that nobody needs": (
        "INSERT INTO blob(key, size, codec, bytes) VALUES (zeroblob(16), 3, 0, x'010203')", [("blob", "", "00" * 16)],
    ),
    "blob of both kinds": (
        f"INSERT INTO blob_chunk SELECT {BLOB % 'small'}, 0, 1", [("artifact", TASK, "small")],
    ),
    "SHA-1": (
        "INSERT INTO blob(key, size, codec, bytes) VALUES (zeroblob(20), 3, 0, x'010203')", [("blob", "", "00" * 20)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_what_is_hurt_is_named(path: str, name: str) -> None:
    """Down to pathspec and artifact, for a row of every table."""
    statement, expected = PLACES[name]
    before = dump(path)
    with tampering(path) as connection:
        connection.execute(statement)
    assert dump(path) != before or name.startswith("sequence")
    found = verify(path)
    for kind, pathspec, label in expected:
        named = [each for each in found.problems if each.kind == kind and each.pathspec == pathspec]
        assert [each for each in named if label in {"*", each.name}], "\n".join(map(str, found.problems))


@pytest.mark.parametrize("done", [None, 5.0])
def test_an_attempt_is_done_with_all_that_belongs_to_it_or_not(path: str, done: float | None) -> None:
    """Also where its digest is right: artifacts without a done marker, and half a marker."""
    with tampering(path) as connection:
        row = connection.execute(f"SELECT id, started FROM attempt WHERE id = {OWN}").fetchone()
        assert row is not None
        right = digest(FLOW, "1", "a", "1", 0, row[1], done, None, None)
        statement = "UPDATE attempt SET done = ?, python = NULL, artifacts_digest = NULL, digest = ? WHERE id = ?"
        connection.execute(statement, (done, right, row[0]))
    messages = [each.message for each in verify(path).problems if (each.kind, each.pathspec) == ("attempt", TASK)]
    assert any(("not done" if done is None else "half done") in message for message in messages)


def test_every_table_is_damaged_in_a_test() -> None:
    """One that comes later does not slip through."""
    tables = {name for name, sql in FORMAT_3.items() if sql.startswith("CREATE TABLE")}
    assert not {name for name in tables if not any(f" {name} " in statement for statement, _ in PLACES.values())}


def test_quick_finds_rows_and_leaves_bytes(path: str) -> None:
    """Rows are checked against their digests; a byte in a chunk is for the full one."""
    with tampering(path) as connection:
        connection.execute(PLACES["chunk"][0])
    assert verify(path, quick=True).ok
    assert not verify(path).ok
    with tampering(path) as connection:
        connection.execute(PLACES["metadata"][0])
    assert not verify(path, quick=True).ok


def test_a_row_that_only_the_index_has_is_named(path: str) -> None:
    """As after the loss of a page of the table."""
    page = _leaf(path, "attempt")
    _overwrite(path, page, b"")
    found = verify(path)
    assert ("attempt", TASK) in {(each.kind, each.pathspec) for each in found.problems}


def test_an_index_that_tells_something_else_is_found(path: str) -> None:
    """Only SQLite's own check compares a table with its indexes."""
    page = _leaf(path, "artifact_by_blob")
    with open(path, "rb") as file:
        file.seek((page - 1) * 8192)
        content = file.read(8192)
    _overwrite(path, page, content.replace(b"small", b"smalk", 1))
    for quick in (False, True):
        assert {problem.kind for problem in verify(path, quick=quick).problems} == {"structure"}


def _leaf(path: str, table: str) -> int:
    """Return the number of a leaf page of a table."""
    import apsw

    connection = apsw.Connection(path)
    page = connection.execute("SELECT MIN(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).get
    connection.close()
    assert isinstance(page, int)
    return page


def _overwrite(path: str, page: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek((page - 1) * 8192)
        file.write(content.ljust(8192, b"\0"))


@pytest.mark.parametrize("table", [name for name, sql in FORMAT_3.items() if sql.startswith("CREATE")])
def test_a_page_that_is_zeroed_is_found(path: str, table: str) -> None:
    """Of every table and index; the rest is checked all the same."""
    _overwrite(path, _leaf(path, table), b"")
    found = verify(path)
    assert not found.ok
    if table not in {"store", "attempt", "run", "flow"}:
        assert found.checked.attempts == 10, found.problems


def test_damage_that_ends_the_check_of_sqlite_hides_no_other(path: str) -> None:
    """Where a row cannot be read it goes no further; the tables behind are then checked by themselves."""
    [index] = [page for page, (name, _) in pages_of(path).items() if name == "sqlite_autoindex_flow_1"]
    attempts = _leaf(path, "attempt")
    data = bytearray(Path(path).read_bytes())
    names = slice((index - 1) * PAGE, index * PAGE)
    assert data[names].count(FLOW.encode()) == 1
    data[names] = data[names].replace(FLOW.encode(), FLOW[:-1].encode() + b"?")
    start = (attempts - 1) * PAGE
    for number in range(3):  # a cell: size, id, then the size of the record's head, which cannot be this
        place = start + 8 + 2 * number
        cell = start + int.from_bytes(data[place : place + 2])
        while data[cell] & 0x80:
            cell += 1
        cell += 1
        while data[cell] & 0x80:
            cell += 1
        data[cell + 1] = 0x7F
    Path(path).write_bytes(data)
    found = verify(path)
    assert ("structure", "attempt") in {(problem.kind, problem.name) for problem in found.problems}
    assert "sqlite_autoindex_flow_1" in " ".join(problem.message for problem in found.problems)


@pytest.mark.parametrize("damage", ["header", "schema", "cut", "text", "empty"])
def test_a_file_that_cannot_be_opened_is_one_problem(path: str, damage: str) -> None:
    """Of the kind "store"."""
    content = bytearray(Path(path).read_bytes())
    if damage == "header":
        content[:100] = bytes(100)
    elif damage == "schema":
        content[200:8192] = bytes(8192 - 200)
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = b"hello\n" * 1000 if damage == "text" else b""
    Path(path).write_bytes(content)
    found = verify(path)
    assert [problem.kind for problem in found.problems] == ["store"]
    assert not found.ok


def test_no_file_is_an_error(tmp_path: Path) -> None:
    """There is nothing to verify, and none is made."""
    with pytest.raises(StoreMissing):
        verify(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_others_that_write_and_prune_meanwhile_are_no_problem(tmp_path: Path) -> None:
    """Four processes save, prune and purge; verify never takes that for damage."""
    path = helpers_everything.make(tmp_path / "runs.db", tasks=2)
    workers = [start(helpers_verify.work, path, worker, 6.0) for worker in range(4)]
    try:
        end = time.monotonic() + 5
        rounds = 0
        while time.monotonic() < end:
            found = verify(path)
            assert found.ok, "\n".join(map(str, found.problems[:10]))
            rounds += 1
        assert rounds > 1
        assert sum(result_of(worker) for worker in workers) > 4
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert verify(path).ok


# The command line


def test_the_command_says_what_is_hurt(path: str) -> None:
    """A line for each problem and a closing line; exit codes 0 and 1; JSON has the same."""
    result = run(path, "verify")
    assert result.exit_code == 0
    assert "nothing is hurt" in result.stdout
    assert "10 attempts" in result.stdout
    with tampering(path) as connection:
        connection.execute(PLACES["blob in its row"][0])
    result = run(path, "verify")
    assert result.exit_code == 1
    assert f"artifact {TASK} attempt 0 small: its bytes are hurt" in result.stdout
    assert "problems" in result.stdout.splitlines()[-1]
    result = run(path, "verify", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    assert [each["name"] for each in answer["problems"] if each["kind"] == "artifact"] == ["small"]
    assert json.loads(run(path, "verify", "--json", "--quick").stdout)["ok"]


def test_the_command_can_be_interrupted(path: str) -> None:
    """Ctrl-C ends it at once, and the file is as it was."""
    before = dump(path)
    code = (
        "import sys; from sqlitestore.maintenance import verify_content as v\n"
        "from sqlitestore.cli import main\n"
        "def wait(*a):\n print('here', flush=True)\n import time; time.sleep(60)\n"
        f"v.ContentCheck._check_blob = wait\nsys.exit(main(['--file', {path!r}, 'verify']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert dump(path) == before
    assert as_process(path, "verify").returncode == 0
