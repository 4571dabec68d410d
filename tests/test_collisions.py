"""What is stored once is what it should be: chunks that vanish under a writer, and digests made to collide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import xxhash
from helpers_concurrency import Streamed
from helpers_store import FLOW, incompressible, loose_chunks, rows, save_task, tampering

from sqlitestore import BlobNotFound, Damaged, FlowDataStore
from sqlitestore import blobs as blobs_module
from sqlitestore import chunk_stream as chunk_stream_module
from sqlitestore.codecs import RAW

LARGE = incompressible(900_000)

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
    """Open an empty store."""
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
    for module in (blobs_module, chunk_stream_module):
        monkeypatch.setattr(module, "xxh3_128_digest", lambda data: bytes(16))
    for data in (incompressible(900_000, 5), incompressible(2_000_000, 6)):
        with pytest.raises(Damaged):
            flow.save_data([data])
    one, other = incompressible(100_000, 7), incompressible(100_000, 8)
    with pytest.raises(Damaged):
        flow.save_data([one, other])
    monkeypatch.undo()
    assert flow.get_task_datastore("1", "a", "1")["x"] == LARGE
    assert loose_chunks(flow.datastore_root) == 0


def test_damage_found_while_saving_is_an_error_too(tmp_path: Path) -> None:
    """Deduplication against a damaged chunk must not share it."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, large=LARGE + b"1")
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
    assert chunk_stream_module.xxh3_128_digest is xxhash.xxh3_128_digest
    assert blobs_module.xxh3_128 is xxhash.xxh3_128
