"""The machinery of ``proof_collisions``, shortly; that it misses no seeded fault; and ways in that it does not take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_oracle
from broken_hashes import BrokenHashes
from helpers_processes import fork, wait_for
from helpers_store import FLOW, incompressible, roots, rows, save_task
from proof_collisions import prove

from sqlitestore import Damaged, FlowDataStore, RunExists, merge, salvage, tasks, verify
from sqlitestore import blobs as blobs_module
from sqlitestore import chunk_stream as chunk_stream_module
from sqlitestore import new_chunks as new_chunks_module
from sqlitestore import small_blobs as small_blobs_module
from sqlitestore.blobs import BlobWriter
from sqlitestore.chunk_stream import ChunkStream
from sqlitestore.database import Database
from sqlitestore.holds import hold
from sqlitestore.maintenance.compact import compact
from sqlitestore.maintenance.prune import plan_prune, prune
from sqlitestore.maintenance.prune import restore as restore_run
from sqlitestore.small_blobs import SmallBatch

WAYS = (
    "save_data",
    "artifacts",
    "logs",
    "files",
    "keys given",
    "plug-in",
    "merge",
    "two segments",
    "race, small",
    "race, large",
)


def test_no_collision_goes_unseen(tmp_path: Path) -> None:
    """By every way in there were collisions, of blobs and of chunks, and things that were saved without one."""
    figures = prove(90, 1, str(tmp_path))
    assert figures["collisions"] == 90
    for way in WAYS:
        assert figures[f"saved without a collision by {way}"] > 0
        assert any(figures.get(f"collisions of a {kind} by {way}", 0) > 0 for kind in ("key", "chunk"))
    assert sum(count for name, count in figures.items() if name.startswith("collisions of a chunk")) > 10


# Seeded faults


def _trust(digest: bytes, stored: bytes, data: bytes) -> None:
    """Compare nothing."""


def _compare_sizes(digest: bytes, stored: bytes, data: bytes) -> None:
    if len(stored) != len(data):
        raise new_chunks_module.collision(digest)


def _patch_check(monkeypatch: pytest.MonkeyPatch, check: Callable[[bytes, bytes, bytes], None]) -> None:
    for module in (blobs_module, small_blobs_module, new_chunks_module):
        monkeypatch.setattr(module, "check_equal", check)


def _found_unseen(database: Database, digest: bytes, data: bytes) -> int:
    del data
    found = database.query("SELECT id FROM chunk WHERE digest = ?", (digest,))
    return int(found[0][0]) if found else 0


def _trust_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with what waits, but not with what is stored."""

    def flush(batch: Any) -> None:
        coded = [(key, len(data), *small_blobs_module.codecs.encode(data)) for key, data in batch._waiting.items()]
        with batch._database.write() as connection:
            connection.executemany(small_blobs_module.INSERT_SMALL_BLOB, coded).fetchall()
            hold(connection, batch.times)
        batch._waiting, batch._bytes, batch.times = {}, 0, type(batch.times)()

    monkeypatch.setattr(SmallBatch, "flush", flush)
    for module in (chunk_stream_module, new_chunks_module):
        monkeypatch.setattr(module, "find_chunk", _found_unseen)


def _trust_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with what is stored, but not with what waits."""
    check = new_chunks_module.check_equal
    add, take = SmallBatch.add, ChunkStream._take

    def unchecked_add(batch: Any, key: bytes, data: bytes, times: int = 1) -> None:
        monkeypatch.setattr(small_blobs_module, "check_equal", _trust if key in batch._waiting else check)
        add(batch, key, data, times)
        monkeypatch.setattr(small_blobs_module, "check_equal", check)

    def unchecked_take(stream: ChunkStream, view: memoryview, encoded: Any = None) -> None:
        waits = chunk_stream_module.xxh3_128_digest(bytes(view)) in stream._new._waiting
        monkeypatch.setattr(new_chunks_module, "check_equal", _trust if waits else check)
        take(stream, view, encoded)
        monkeypatch.setattr(new_chunks_module, "check_equal", check)

    monkeypatch.setattr(SmallBatch, "add", unchecked_add)
    monkeypatch.setattr(ChunkStream, "_take", unchecked_take)


def _share_with_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take whatever blob has the key of one that goes in with the done marker."""

    def found(connection: Any, row: Any, opened: Any) -> int:
        del opened
        return int(connection.execute("SELECT id FROM blob WHERE key = ?", (row[0],)).get)

    monkeypatch.setattr(small_blobs_module, "_id_of_equal", found)


def _miss_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not compare where another writer's row made INSERT do nothing."""
    monkeypatch.setattr(new_chunks_module, "find_chunk", _found_unseen)


def _hold_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the blob, but go on holding the one that it collided with."""

    def share(writer: Any, stream: ChunkStream) -> None:
        writer._compare(stream)
        stream.undo()

    monkeypatch.setattr(BlobWriter, "_share", share)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "nothing is compared": lambda patch: _patch_check(patch, _trust),
    "only sizes are compared": lambda patch: _patch_check(patch, _compare_sizes),
    "not compared with the store": _trust_the_store,
    "not compared with what waits": _trust_what_waits,
    "not compared where an attempt is done": _share_with_done,
    "a race of two inserts": _miss_the_race,
    "large blobs are not compared": lambda patch: patch.setattr(BlobWriter, "_compare", lambda writer, stream: None),
    "held for ever": _hold_for_ever,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A product that shares what it should not is found out, and the error says with which seed."""
    FAULTS[fault](monkeypatch)
    with pytest.raises(AssertionError, match=r"seed 2, store \d+: .*(nobody noticed|held for ever)"):
        prove(150, 2, str(tmp_path))


# Ways in that the random ones do not take


@pytest.fixture
def broken() -> Iterator[BrokenHashes]:
    """Give hashes of no bits at all to every module."""
    hashes = BrokenHashes(0, 0)
    with hashes.in_use():
        yield hashes


@pytest.mark.parametrize("size", [20, 100_000])
def test_of_processes_at_the_same_moment_one_wins(tmp_path: Path, broken: BrokenHashes, size: int) -> None:
    """Four processes save different bytes of one digest at once: one has saved, three have an error, none is wrong."""
    path = str(tmp_path / "runs.db")
    FlowDataStore(FLOW, ds_root=path).close()
    ready, go, said = os.pipe(), os.pipe(), os.pipe()

    def save(number: int) -> None:
        with FlowDataStore(FLOW, ds_root=path) as flow:
            os.close(go[1])
            os.write(ready[1], b".")
            os.read(go[0], 1)  # returns when the parent closes its end
            try:
                flow.save_data([incompressible(size, number)])
                os.write(said[1], b"saved %d\n" % number)
            except Damaged:
                os.write(said[1], b"refused\n")

    children = [fork(save, number) for number in range(4)]
    for _ in children:
        os.read(ready[0], 1)
    os.close(go[1])
    wait_for(*children)
    words = os.read(said[0], 1000).split(b"\n")[:-1]
    assert words.count(b"refused") == 3
    [winner] = [int(word.split()[1]) for word in words if word.startswith(b"saved")]
    with FlowDataStore(FLOW, ds_root=path) as flow:
        assert [data for _, data in flow.load_data(["0" * 32])] == [incompressible(size, winner)]
    assert roots(path)["held"] == []


def test_salvage_takes_no_chunk_for_another(tmp_path: Path) -> None:
    """Of two chunks of one digest in a stranger's file the first stays, and the other's blob is reported as lost."""
    path, saved = str(tmp_path / "runs.db"), str(tmp_path / "saved.db")
    one, other = incompressible(100_000, 1), incompressible(100_000, 2)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        keys = [key for _, key in flow.save_data([one, other])]
    connection = sqlite_oracle.apsw.Connection(path)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'digest BLOB NOT NULL UNIQUE', 'digest BLOB NOT NULL') "
        "WHERE name = 'chunk'; DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_chunk_1'"
    )
    connection.execute("PRAGMA writable_schema=RESET")
    connection.execute("UPDATE chunk SET digest = zeroblob(16)")
    connection.close()
    with BrokenHashes(128, 0).in_use():
        result = salvage(path, saved)
        with FlowDataStore(FLOW, ds_root=saved) as flow:
            assert verify(flow).ok
            assert [flow._storage_impl.has_blobs(FLOW, [key])[0] for key in keys] == [True, False]
            assert dict(flow.load_data(keys[:1])) == {keys[0]: one}
    assert any(problem.name == keys[1] for problem in result.problems)


def test_the_upkeep_of_a_file_shares_nothing(tmp_path: Path) -> None:
    """With broken hashes a run goes to the trash and comes back, and the file is rebuilt: all as it was."""
    path = str(tmp_path / "runs.db")
    values = [incompressible(size, size) for size in (10, 100_000, 500_000)]
    with BrokenHashes(16, 16).in_use(), FlowDataStore(FLOW, ds_root=path) as flow:
        for number, value in enumerate(values):
            save_task(flow, str(number), value=value)
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]))
        compact(flow, full=True)
        restore_run(flow, [f"{FLOW}/1"])
        compact(flow)
        found = [flow.get_task_datastore(str(number), "a", "1")["value"] for number in range(3)]
    assert found == values


def test_runs_are_compared_by_content_not_by_the_digests_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one name whose rows all have one digest are two runs: import refuses, and changes nothing."""
    monkeypatch.setattr(tasks, "xxh3_128_digest", lambda data: bytes(16))
    paths = [str(tmp_path / name) for name in ("runs.db", "other.db")]
    for number, path in enumerate(paths):
        with FlowDataStore(FLOW, ds_root=path) as flow:
            save_task(flow, value=number)
    assert len({digest for path in paths for (digest,) in rows(path, "SELECT digest FROM attempt")}) == 1
    before = roots(paths[0])
    with FlowDataStore(FLOW, ds_root=paths[0]) as flow:
        with pytest.raises(RunExists):
            merge(flow, [paths[1]])
        assert flow.get_task_datastore("1", "a", "1")["value"] == 0
    assert roots(paths[0]) == before
