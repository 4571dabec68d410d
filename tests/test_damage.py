"""Damage is an error that names what is hurt, or does not matter; a wrong value is never returned."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import xxhash

import helpers_damage
from helpers_concurrency import Streamed
from helpers_processes import run
from helpers_store import FLOW, dump, incompressible, loose_chunks, rows, save_task, tampering
from sqlitestore import BlobNotFound, Damaged, DataException, FlowDataStore, NotFound
from sqlitestore import blobs as blobs_module
from sqlitestore.codecs import RAW, ZSTD, zstd

LARGE = incompressible(900_000)
SMALL = "a text of no great length, " * 20
LOG = b"line\n" * 60_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A closed file with two tasks that have the same names in all places, metadata, logs, data and a named file."""
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
    """Read everything; each answer is right, or an error that names the thing. Return the errors' kinds by what was read.

    Without ``strict``, a row that is hidden may be missing: finding that out is the work of ``verify``.
    """
    kinds = {}
    for what, (read, right, names) in READS.items():
        try:
            with FlowDataStore(FLOW, ds_root=path) as flow:
                found = read(flow)
        except Damaged as error:
            assert any(name in str(error) for name in [*names, "Blob", path])
            kinds[what] = error.kind
        except NotFound as error:
            assert not strict, f"{what}: {error}"
            kinds[what] = error.kind
        else:
            hidden = not strict and found in NOTHING
            assert hidden or found == right, f"{what}: a wrong answer, and no error"
    return kinds


ALL_OF_A_TASK = {"small", "large", "all", "sizes"}

DAMAGES: dict[str, tuple[str, set[str]]] = {
    # The statement that damages; which reads must notice (others may: they are checked to be right or an error).
    "attempt renamed": ("UPDATE attempt SET task = '3' WHERE task = '2'", {"times"}),
    "attempts swapped": (
        "UPDATE attempt SET task = CASE task WHEN '1' THEN '-' ELSE '1' END; UPDATE attempt SET task='2' WHERE task='-'",
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
    "artifacts of another": ("UPDATE artifact SET attempt = 13 - attempt; UPDATE artifact SET attempt = attempt - 10", ALL_OF_A_TASK),
    "artifact of another": (
        "DELETE FROM artifact WHERE attempt = 1 AND name = 'number'; "
        "UPDATE artifact SET attempt = 1 WHERE attempt = 2 AND name = 'number'",
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
    "artifact's name not text": ("UPDATE artifact SET name = CAST(x'6eff' AS TEXT) WHERE name = 'number'", ALL_OF_A_TASK),
    "artifact's name a number": ("UPDATE artifact SET name = 5 WHERE name = 'number'", ALL_OF_A_TASK),
    "artifact's info": ("UPDATE artifact SET serializer_info = x'c1'", ALL_OF_A_TASK),
    "artifact's preview": ("UPDATE artifact SET preview = x'81'", ALL_OF_A_TASK),
    "blob's bytes": ("UPDATE blob SET bytes = zeroblob(length(bytes)), codec = 0 WHERE bytes IS NOT NULL", {"small", "data"}),
    "blob's bytes cut": ("UPDATE blob SET bytes = substr(bytes, 2)", {"small", "data"}),
    "blob's bytes NULL": ("UPDATE blob SET bytes = NULL", {"small", "data"}),
    "blob's bytes text": ("UPDATE blob SET bytes = 'text' WHERE bytes IS NOT NULL", {"small", "data"}),
    "blob's bytes a number": ("UPDATE blob SET bytes = 7 WHERE bytes IS NOT NULL", {"small", "data"}),
    "blob's codec": ("UPDATE blob SET codec = 1 - codec", {"small", "data"}),
    "blob's codec unknown": ("UPDATE blob SET codec = 9", {"small", "large", "data"}),
    "blob's codec NULL": ("UPDATE blob SET codec = NULL", {"small", "data"}),
    "blob's codec text": ("UPDATE blob SET codec = 'x'", {"small", "large", "data"}),
    "blob's size": ("UPDATE blob SET size = size + 1", {"small", "large", "data", "log size"}),
    "blob's size smaller": ("UPDATE blob SET size = size - 1", {"small", "large", "data", "log size"}),
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
    "metadata of another": ("UPDATE task_metadata SET task = '0' WHERE task = '1'; UPDATE task_metadata SET task = '1' WHERE task = '2'", {"metadata"}),
    "metadata not JSON": ("UPDATE task_metadata SET value = '{'", {"metadata"}),
    "metadata not text": ("UPDATE task_metadata SET value = CAST(x'22ff22' AS TEXT)", {"metadata"}),
    "metadata's digest": ("UPDATE task_metadata SET digest = NULL", {"metadata"}),
    "log's blob": ("UPDATE log SET blob = (SELECT MIN(id) FROM blob)", {"log", "log size"}),
    "log's part": ("UPDATE log SET part = 10 - part", {"log"}),
    "log's first part": ("DELETE FROM log WHERE part = 0", {"log", "log size"}),
    "log's digest": ("UPDATE log SET digest = zeroblob(16)", {"log"}),
    "log of another": ("UPDATE log SET attempt = 13 - attempt; UPDATE log SET attempt = attempt - 10", {"log"}),
    "file's blob": ("UPDATE file SET blob = (SELECT MIN(id) FROM blob)", {"file"}),
    "file's metadata": ("UPDATE file SET metadata = '{}'", {"file"}),
    "file's path": ("DELETE FROM file WHERE path = '-'; UPDATE file SET path = 'cards/1.html', digest = zeroblob(16)", {"file"}),
}  # fmt: skip


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


# Chunks that vanish under a writer


def _delete_loose_chunks(path: str) -> int:
    """Do what prune does, by a connection that is not ours."""
    connection = apsw.Connection(path)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.set_busy_timeout(10_000)
    connection.execute("DELETE FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)")
    deleted = connection.changes()
    connection.close()
    return deleted


def _delete_once(path: str, then: Callable[[], object] = lambda: None) -> tuple[Streamed, list[int]]:
    deleted: list[int] = []

    def between(number: int) -> None:
        if number == 35 and not deleted:
            deleted.append(_delete_loose_chunks(path))
            then()

    return Streamed(40, between), deleted


def test_chunks_that_are_pruned_while_their_blob_is_saved_are_put_again(tmp_path: Path) -> None:
    """The foreign key refuses the last transaction, and the writer begins again."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, x=1)
        streamed, deleted = _delete_once(path)
        save_task(flow, "2", streamed=streamed)
        assert deleted[0] > 100
        found = flow.get_task_datastore("2", "a", "1")["streamed"]
        assert found == [incompressible(2**20, number) for number in range(40)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    assert loose_chunks(path) == 0


def test_a_pruned_chunks_number_that_is_taken_by_another_is_noticed(tmp_path: Path) -> None:
    """SQLite gives the number of a deleted row to the next: the foreign key is content with that, the blob is not."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, x=1)
        streamed, deleted = _delete_once(path, lambda: save_task(flow, "other", noise=incompressible(60_000_000, 99)))
        save_task(flow, "2", streamed=streamed)
        assert deleted[0] > 100
        found = flow.get_task_datastore("2", "a", "1")["streamed"]
        assert found == [incompressible(2**20, number) for number in range(40)]
        assert flow.get_task_datastore("other", "a", "1")["noise"] == incompressible(60_000_000, 99)


def test_a_blob_that_is_pruned_before_it_is_kept_is_not_reported_as_saved(tmp_path: Path) -> None:
    """Between the blob's transaction and the one that keeps it, another process may prune: saved again, or an error."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, x=1)
        storage = flow._storage_impl
        keep = storage._data.keep  # type: ignore[attr-defined]

        def prune_first(*arguments: Any) -> None:
            storage._data.keep = keep  # type: ignore[attr-defined]
            connection = apsw.Connection(path)
            connection.execute("DELETE FROM blob WHERE id NOT IN (SELECT blob FROM artifact)")
            connection.close()
            keep(*arguments)

        storage._data.keep = prune_first  # type: ignore[attr-defined]
        try:
            [(_, key)] = flow.save_data([b"pruned at once"])
        except BlobNotFound:
            return
        assert dict(flow.load_data([key])) == {key: b"pruned at once"}


# Equal digests of different bytes


class _Constant:
    """A hash that an attacker has broken."""

    def update(self, data: object) -> None:
        """Take anything."""

    def digest(self) -> bytes:
        """Return the same for everything."""
        return bytes(16)

    def hexdigest(self) -> str:
        """Return the same for everything."""
        return "00" * 16


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[FlowDataStore]:
    """An empty store."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as opened:
        yield opened


def _break_blob_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {data for pair in COLLISIONS.values() for data in pair if len(data) < 100}
    monkeypatch.setattr(blobs_module, "xxh3_128", _Constant)
    monkeypatch.setattr(blobs_module, "xxh3_128_digest", lambda data: bytes(16) if data in small else _digest(data))


_digest = xxhash.xxh3_128_digest

COLLISIONS = {
    "small": (b"one", b"two"),
    "small, longer": (b"one", b"one and more"),
    "small, shorter": (b"one and more", b"one"),
    "large": (incompressible(900_000, 1), incompressible(900_000, 2)),
    "large, at the end": (LARGE + b"1", LARGE + b"2"),
    "large, longer": (LARGE, LARGE + incompressible(400_000, 3)),
    "large, shorter": (LARGE + incompressible(400_000, 3), LARGE),
    "large, shorter by a block": (incompressible(2 * 2**20), incompressible(2 * 2**20)[: 2**20]),
    "small, then large": (b"one", LARGE),
    "large, then small": (LARGE, b"one"),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", COLLISIONS)
def test_blobs_made_to_collide_are_never_shared(
    flow: FlowDataStore, monkeypatch: pytest.MonkeyPatch, name: str, together: bool
) -> None:
    """A match of keys is not trusted: bytes are compared, Damaged is raised, and the first blob stays as it is."""
    _break_blob_keys(monkeypatch)
    first, second = COLLISIONS[name]
    if together:
        with pytest.raises(Damaged):
            flow.save_data([first, second])
        return
    [(_, key)] = flow.save_data([first])
    with pytest.raises(Damaged, match="0" * 32):
        flow.save_data([second])
    assert [data for _, data in flow.load_data([key])] == [first]
    assert flow.save_data([first])[0][1] == key


def test_chunks_made_to_collide_are_never_shared(flow: FlowDataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one blob, in one batch, and with what is stored."""
    save_task(flow, x=LARGE)
    monkeypatch.setattr(blobs_module, "xxh3_128_digest", lambda data: bytes(16))
    for data in (incompressible(900_000, 5), incompressible(2_000_000, 6)):
        with pytest.raises(Damaged):
            flow.save_data([data])
    one, other = incompressible(100_000, 7), incompressible(100_000, 8)
    with pytest.raises(Damaged):
        flow.save_data([one, other])
    monkeypatch.undo()
    assert flow.get_task_datastore("1", "a", "1")["x"] == LARGE
    assert loose_chunks(flow.datastore_root) == 0


def test_damage_found_while_saving_is_an_error_too(path: str) -> None:
    """Deduplication against a damaged chunk must not share it."""
    with tampering(path) as connection:
        connection.execute("UPDATE chunk SET bytes = zeroblob(length(bytes)), codec = ?", (RAW,))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        with pytest.raises(Damaged):
            save_task(flow, "2", large=LARGE + b"1")
        [(_, key)] = flow.save_data([incompressible(500_000, 9)])
        assert dict(flow.load_data([key])) == {key: incompressible(500_000, 9)}


def test_the_digests_in_use_are_the_real_ones() -> None:
    """What the tests above take out must be what the engine uses."""
    assert blobs_module.xxh3_128_digest is xxhash.xxh3_128_digest
    assert blobs_module.xxh3_128 is xxhash.xxh3_128
    assert "sqlitestore.blobs" in sys.modules
