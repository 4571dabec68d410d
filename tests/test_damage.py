"""Damage is an error that names what is hurt, or does not matter; a wrong value is never returned."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers_damage
import pytest
import xxhash
from helpers_processes import run
from helpers_store import FLOW, dump, incompressible, tampering

from sqlitestore import Damaged, DataException, FlowDataStore, NotFound
from sqlitestore.codecs import ZSTD, zstd
from sqlitestore.model import TaskAddress

LARGE = incompressible(900_000)
SMALL = "a text of no great length, " * 20
LOG = b"line\n" * 60_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a closed file: two tasks with the same names in all places, metadata, logs, data and a named file."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in ("1", "2"):
            writer = flow.get_task_datastore("1", "a", task, attempt=0, mode="w")
            writer.init_task()
            writer.save_artifacts([("small", SMALL + task), ("large", LARGE + task.encode()), ("number", int(task))])
            writer.save_metadata({"note": f"of {task}"})
            writer.save_logs("task", {"stdout": LOG})
            writer.save_logs("task", {"stdout": LOG + task.encode()})
            writer.done()
        flow.save_data([b"data", LARGE[::-1]])
        flow._storage_impl.save_file("cards/1.html", lambda file: file.write(b"<html>"), '{"made": 1}')
    return path


READS: dict[str, tuple[Callable[[FlowDataStore], Any], Any, list[str]]] = {
    # what is read; what is right; what the error names
    "small": (lambda flow: flow.get_task_datastore("1", "a", "1")["small"], SMALL + "1", ["1/a/1"]),
    "large": (lambda flow: flow.get_task_datastore("1", "a", "1")["large"], LARGE + b"1", ["1/a/1"]),
    "all": (
        lambda flow: [task.to_dict() for task in flow.get_latest_task_datastores(pathspecs=["1/a/1"])],
        [{"small": SMALL + "1", "large": LARGE + b"1", "number": 1}],
        ["1/a/1"],
    ),
    "sizes": (
        lambda flow: dict(flow.get_task_datastore("1", "a", "1").get_artifact_sizes(["number"])),
        {"number": 5},
        ["1/a/1"],
    ),
    "metadata": (lambda flow: _reader(flow).load_metadata(["note"]), {"note": "of 1"}, ["1/a/1"]),
    "log": (lambda flow: _reader(flow).load_logs(["task"], "stdout"), [("task", LOG + b"1")], ["1/a/1"]),
    "log size": (lambda flow: _reader(flow).get_log_size(["task"], "stdout"), len(LOG) + 1, ["1/a/1"]),
    "times": (lambda flow: [type(a.done) for a in flow._storage_impl.find_run(FLOW, "1", None)], [float] * 2, ["1/a/"]),
    "file": (lambda flow: flow._storage_impl.find_file("cards/1.html")[1:], (6, '{"made": 1}'), ["cards/1.html"]),
    "data": (
        lambda flow: dict(flow.load_data([xxhash.xxh3_128_hexdigest(b"data")])),
        {xxhash.xxh3_128_hexdigest(b"data"): b"data"},
        [],
    ),
}


def _reader(flow: FlowDataStore) -> Any:
    return flow.get_task_datastore("1", "a", "1", attempt=0, allow_not_done=True)


NOTHING: list[Any] = [{"note": None}, [("task", b"")], 0, []]
"""What reading finds where there is nothing."""


def check_reads(path: str, *, strict: bool = True) -> dict[str, str]:
    """Read everything; each answer is right, or an error that names the thing. Return the errors' kinds by what.

    Without ``strict``, a row that is hidden may be missing: finding that out is the work of ``verify``.
    """
    kinds = {}
    for what, (read, right, names) in READS.items():
        try:
            with FlowDataStore(FLOW, ds_root=path) as flow:
                found = read(flow)
        except (Damaged, NotFound) as error:
            message, kinds[what] = str(error), error.kind
        else:
            hidden = not strict and found in NOTHING
            assert hidden or found == right, f"{what}: a wrong answer, and no error"
            continue
        assert any(name in message for name in [*names, "Blob", path])
        assert kinds[what] == Damaged.kind or not strict, f"{what}: {message}"
    return kinds


ALL_OF_A_TASK = {"small", "large", "all", "sizes"}

SWAP = "UPDATE TABLE SET attempt = 13 - attempt; UPDATE TABLE SET attempt = attempt - 10"
"""The rows of the two attempts, the one for the other."""

DAMAGES: dict[str, tuple[str, set[str]]] = {
    # The statement that damages; which reads must notice (others may: they are checked to be right or an error).
    "attempt renamed": ("UPDATE attempt SET task = '3' WHERE task = '2'", {"times"}),
    "attempts swapped": (
        "UPDATE attempt SET task = CAST(13 - task AS TEXT); UPDATE attempt SET task = CAST(task - 10 AS TEXT)",
        ALL_OF_A_TASK | {"times"},
    ),
    "step": ("UPDATE attempt SET step = 'b' WHERE task = '2'", {"times"}),
    "number": ("UPDATE attempt SET number = 1 WHERE task = '1'", ALL_OF_A_TASK | {"times"}),
    "run renamed": ("UPDATE run SET name = '2'; INSERT INTO run SELECT 9, flow, '1' FROM run", set()),
    "another run": ("INSERT INTO run SELECT 9, flow, '0' FROM run; UPDATE run SET name = '1-' WHERE id <> 9", set()),
    "started": ("UPDATE attempt SET started = started + 1", ALL_OF_A_TASK | {"times"}),
    "never started": ("UPDATE attempt SET started = NULL", ALL_OF_A_TASK | {"times"}),
    "not done": ("UPDATE attempt SET done = NULL", ALL_OF_A_TASK | {"times"}),
    "done earlier": ("UPDATE attempt SET done = done - 1", ALL_OF_A_TASK | {"times"}),
    "python": ("UPDATE attempt SET python = '2.7'", ALL_OF_A_TASK | {"times"}),
    "no artifacts' digest": ("UPDATE attempt SET artifacts_digest = NULL", ALL_OF_A_TASK | {"times"}),
    "artifacts' digest": ("UPDATE attempt SET artifacts_digest = zeroblob(16)", ALL_OF_A_TASK | {"times"}),
    "digest": ("UPDATE attempt SET digest = zeroblob(16)", ALL_OF_A_TASK | {"times"}),
    "digest's type": ("UPDATE attempt SET digest = 5", ALL_OF_A_TASK | {"times"}),
    "artifact gone": ("DELETE FROM artifact WHERE name = 'number'", ALL_OF_A_TASK),
    "artifacts gone": ("DELETE FROM artifact", ALL_OF_A_TASK),
    "artifact renamed": ("UPDATE artifact SET name = 'other' WHERE name = 'number'", ALL_OF_A_TASK),
    "artifacts of another": (SWAP.replace("TABLE", "artifact"), ALL_OF_A_TASK),
    "artifact of another": (
        "DELETE FROM artifact WHERE attempt = 1 AND size < 9; UPDATE artifact SET attempt = 1 WHERE name = 'number'",
        ALL_OF_A_TASK,
    ),
    "artifact's blob": (
        "UPDATE artifact SET blob = (SELECT blob FROM artifact WHERE name = 'number' AND attempt = 2)",
        ALL_OF_A_TASK,
    ),
    "artifact's blob missing": ("UPDATE artifact SET blob = 999", ALL_OF_A_TASK),
    "artifact's size": ("UPDATE artifact SET size = 7", ALL_OF_A_TASK),
    "artifact's size negative": ("UPDATE artifact SET size = -1", ALL_OF_A_TASK),
    "artifact's size as text": ("UPDATE artifact SET size = 'big'", ALL_OF_A_TASK),
    "artifact's type": ("UPDATE artifact SET type = '<class ''int''>'", ALL_OF_A_TASK),
    "artifact's encoding": ("UPDATE artifact SET encoding = 'pickle-v2'", ALL_OF_A_TASK),
    "artifact's encoding not text": ("UPDATE artifact SET encoding = CAST(x'ff' AS TEXT)", ALL_OF_A_TASK),
    "artifact's name not text": ("UPDATE artifact SET name = CAST(x'6eff' || name AS TEXT)", ALL_OF_A_TASK),
    "artifact's name a number": ("UPDATE artifact SET name = 5 WHERE name = 'number'", ALL_OF_A_TASK),
    "artifact's info": ("UPDATE artifact SET serializer_info = x'c1'", ALL_OF_A_TASK),
    "artifact's preview": ("UPDATE artifact SET preview = x'81'", ALL_OF_A_TASK),
    "blob's bytes": ("UPDATE blob SET bytes = zeroblob(size), codec = 0 WHERE codec IS NOT NULL", {"small", "data"}),
    "blob's bytes cut": ("UPDATE blob SET bytes = substr(bytes, 2)", {"small", "data"}),
    "blob's bytes NULL": ("UPDATE blob SET bytes = NULL", {"small", "data"}),
    "blob's bytes text": ("UPDATE blob SET bytes = 'text' WHERE bytes IS NOT NULL", {"small", "data"}),
    "blob's bytes a number": ("UPDATE blob SET bytes = 7 WHERE bytes IS NOT NULL", {"small", "data"}),
    "blob's codec": ("UPDATE blob SET codec = 1 - codec", {"small", "data"}),
    "blob's codec unknown": ("UPDATE blob SET codec = 9", {"small", "large", "data"}),
    "blob's codec NULL": ("UPDATE blob SET codec = NULL", {"small", "data"}),
    "blob's codec text": ("UPDATE blob SET codec = 'x'", {"small", "large", "data"}),
    "blob's size": ("UPDATE blob SET size = size + 1", {"small", "large", "data"}),
    "blob's size smaller": ("UPDATE blob SET size = size - 1", {"small", "large", "data"}),
    "blob's size zero": ("UPDATE blob SET size = 0", {"small", "large", "data"}),
    "blob's size negative": ("UPDATE blob SET size = -1", {"small", "large", "data"}),
    "blob's size huge": ("UPDATE blob SET size = 9223372036854775807", {"small", "large", "data"}),
    "blob's size NULL": ("UPDATE blob SET size = NULL", {"small", "large", "data"}),
    "blob's size text": ("UPDATE blob SET size = 'x'", {"small", "large", "data"}),
    "blob's key": ("UPDATE blob SET key = CAST(zeroblob(15) || char(id) AS BLOB)", {"small", "large"}),
    "blob's key short": ("UPDATE blob SET key = substr(key, 1, 15)", {"small", "large"}),
    "chunk's bytes": ("UPDATE chunk SET bytes = zeroblob(length(bytes))", {"large"}),
    "chunk's bytes text": ("UPDATE chunk SET bytes = 'text'", {"large"}),
    "chunk's bytes NULL": ("UPDATE chunk SET bytes = NULL", {"large"}),
    "chunk's size": ("UPDATE chunk SET size = size - 1", {"large"}),
    "chunk's size zero": ("UPDATE chunk SET size = 0", {"large"}),
    "chunk's size negative": ("UPDATE chunk SET size = -5", {"large"}),
    "chunk's size huge": ("UPDATE chunk SET size = 1 << 62", {"large"}),
    "chunk's size NULL": ("UPDATE chunk SET size = NULL", {"large"}),
    "chunk's codec": ("UPDATE chunk SET codec = 1 - codec", {"large"}),
    "chunk's codec unknown": ("UPDATE chunk SET codec = -1", {"large"}),
    "chunk's digest": ("UPDATE chunk SET digest = CAST(zeroblob(15) || char(id) AS BLOB)", {"large"}),
    "chunks gone": ("DELETE FROM chunk", {"large"}),
    "chunk moved": ("UPDATE blob_chunk SET position = 100 - position", {"large"}),
    "chunk left out": ("DELETE FROM blob_chunk WHERE position = 1", {"large"}),
    "last chunk left out": ("DELETE FROM blob_chunk WHERE position > 0", {"large"}),
    "no chunks": ("DELETE FROM blob_chunk", {"large"}),
    "chunk twice": ("INSERT INTO blob_chunk SELECT blob, position + 100, chunk FROM blob_chunk", {"large"}),
    "chunk of another": ("UPDATE blob_chunk SET chunk = (SELECT MIN(id) FROM chunk)", {"large"}),
    "chunk missing": ("UPDATE blob_chunk SET chunk = chunk + 1000", {"large"}),
    "chunk's id text": ("UPDATE blob_chunk SET chunk = 'x'", {"large"}),
    "chunk's id NULL": ("UPDATE blob_chunk SET chunk = NULL", {"large"}),
    "metadata's value": ("UPDATE task_metadata SET value = '\"of 2\"'", {"metadata"}),
    "metadata's name": ("UPDATE task_metadata SET name = 'other'", {"metadata"}),
    "metadata of another": (
        "DELETE FROM task_metadata WHERE task = '1'; UPDATE task_metadata SET task = '1'",
        {"metadata"},
    ),
    "metadata not JSON": ("UPDATE task_metadata SET value = '{'", {"metadata"}),
    "metadata not text": ("UPDATE task_metadata SET value = CAST(x'22ff22' AS TEXT)", {"metadata"}),
    "metadata's digest": ("UPDATE task_metadata SET digest = NULL", {"metadata"}),
    "log's blob": ("UPDATE log SET blob = (SELECT MIN(id) FROM blob)", {"log", "log size"}),
    "log's part": ("UPDATE log SET part = 10 - part", {"log"}),
    "log's first part": ("DELETE FROM log WHERE part = 0", {"log", "log size"}),
    "log's digest": ("UPDATE log SET digest = zeroblob(16)", {"log"}),
    "log of another": (SWAP.replace("TABLE", "log"), {"log"}),
    "file's blob": ("UPDATE file SET blob = (SELECT MIN(id) FROM blob)", {"file"}),
    "file's metadata": ("UPDATE file SET metadata = '{}'", {"file"}),
    "file's digest": ("UPDATE file SET digest = zeroblob(16)", {"file"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_row_is_noticed_when_it_is_read(path: str, name: str) -> None:
    """Damaged, naming what it hurts, where it matters; where it does not, the right value. Never anything else."""
    statement, must_notice = DAMAGES[name]
    before = dump(path)
    with tampering(path) as connection:
        connection.execute(statement)
    assert dump(path) != before
    noticed = check_reads(path, strict="renamed" not in name and "run" not in name and "key" not in name)
    assert must_notice <= set(noticed)


def test_bytes_flipped_anywhere_in_the_file_are_noticed_or_do_not_matter(path: str) -> None:
    """Also in SQLite's own pages: right values or an error of ours, nothing else, and never a crash."""
    whole = Path(path).read_bytes()
    chance = random.Random(7)
    errors = 0
    for _ in range(150):
        damaged = bytearray(whole)
        # Half of the pages hold chunks: the others are where the tables are.
        place = chance.randrange(len(whole)) if chance.random() < 0.3 else _in_a_small_page(whole, chance)
        for offset in range(chance.choice([1, 1, 4, 64])):
            damaged[(place + offset) % len(whole)] ^= chance.randrange(1, 256)
        Path(path).write_bytes(damaged)
        errors += _read_damaged(path)
    assert errors > 20


def _in_a_small_page(whole: bytes, chance: random.Random) -> int:
    page = chance.choice([start for start in range(0, len(whole), 8192) if whole[start] in {2, 5, 10, 13}] or [0])
    return page + chance.randrange(8192)


def _read_damaged(path: str) -> bool:
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    failed = False
    for what, (read, right, _) in READS.items():
        try:
            with FlowDataStore(FLOW, ds_root=path) as flow:
                found = read(flow)
        except DataException:
            failed = True
        else:
            hidden = found in NOTHING or (what == "times" and found == [float])
            assert hidden or found == right, f"{what}: a wrong answer, and no error"
    return failed


# Attacks on memory


@pytest.mark.parametrize("kind", ["bomb", "bomb small", "endless", "window", "huge row", "claims"])
def test_a_stranger_cannot_fill_the_memory(tmp_path: Path, kind: str) -> None:
    """A frame of a gigabyte of zeros, sizes that are lies, windows of gigabytes: Damaged, in bounded memory."""
    outcome = run(helpers_damage.load_bomb, str(tmp_path / "runs.db"), kind)
    assert outcome["errors"] == ["damaged"] * len(outcome["errors"])
    assert outcome["errors"]
    assert outcome["grown"] < 64 * 2**20


def test_a_frame_may_not_be_longer_or_shorter_than_it_says(path: str) -> None:
    """By one byte."""
    for content in (SMALL.encode() * 300, SMALL.encode() * 300 + b"x"):
        with tampering(path) as connection:
            frame = zstd.compress(content)
            connection.execute("UPDATE chunk SET codec = ?, bytes = ?, size = ?", (ZSTD, frame, len(content) - 1))
            connection.execute("UPDATE blob SET codec = ?, bytes = ?, size = ?", (ZSTD, frame, len(content) + 1))
        with FlowDataStore(FLOW, ds_root=path) as flow, pytest.raises(Damaged):
            flow.get_task_datastore("1", "a", "1")["small"]


@pytest.mark.parametrize("name", [b"run-1", FLOW.encode()])
def test_a_name_that_table_and_index_tell_differently_is_an_error(tmp_path: Path, name: bytes) -> None:
    """Names of flows and runs have no digest; they stand twice, and a list never has one that was not written."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=str(path)) as flow:
        flow.get_task_datastore("run-1", "a", "1", attempt=0, mode="w").init_task()
        assert _names(flow) == [FLOW, "run-1"]
    content = path.read_bytes()
    places = [place for place in range(len(content)) if content.startswith(name, place)]
    assert len(places) == 2
    for place in places:
        path.write_bytes(content[:place] + b"X" + content[place + 1 :])
        with FlowDataStore(FLOW, ds_root=str(path)) as flow, pytest.raises(Damaged, match=path.name):
            _names(flow)


def _names(flow: FlowDataStore) -> list[str]:
    storage: Any = flow._storage_impl
    return [*storage.flows(), *storage.runs(FLOW)]


def test_an_index_that_leads_to_another_task_is_an_error(tmp_path: Path) -> None:
    """The row that it leads to is whole, but it is not what was asked for."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=str(path)) as flow:
        flow.get_task_datastore("1", "a", "task-1", attempt=0, mode="w").init_task()
    content = path.read_bytes()
    places = [place for place in range(len(content)) if content.startswith(b"task-1", place)]
    assert len(places) == 2
    kinds = set()
    for place in places:
        path.write_bytes(content[:place] + b"task-3" + content[place + 6 :])
        with FlowDataStore(FLOW, ds_root=str(path)) as flow:
            for task in ("task-1", "task-3"):
                try:
                    found = flow._storage_impl.find_tasks([TaskAddress(FLOW, "1", "a", task)])
                    kinds.add((task, *(each.task.task_id for each in found)))
                except Damaged as error:
                    kinds.add((task, error.kind))
    assert ("task-3", "damaged") in kinds
    assert kinds <= {("task-1",), ("task-3",), ("task-1", "task-1"), ("task-1", "damaged"), ("task-3", "damaged")}
