"""Large blobs: other threads compress, compare and read their chunks, and nobody can tell but by the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import fork
from helpers_store import FLOW, save_task, tampering

from sqlitestore import BlobNotFound, Damaged, FlowDataStore, StoreClosed, background, verify
from sqlitestore.memory_pages import ask_for_large_pages
from sqlitestore.new_chunks import LARGE

CONTENT = {
    "compressed": lambda chance: chance.gamma(2, 20, 3_000_000).round(2),
    "shuffled": lambda chance: chance.integers(0, 1000, 3_000_000),
    "as they are": lambda chance: chance.random(3_000_000),
}
"""By how its chunks are stored."""


@pytest.fixture(scope="module", params=CONTENT)
def numbers(request: pytest.FixtureRequest) -> np.ndarray:
    """Return numbers whose chunks are stored so: dozens that are all different."""
    array = CONTENT[request.param](np.random.default_rng(1))
    assert array.nbytes >= 4 * LARGE
    return array


@pytest.fixture
def saved(tmp_path: Path, numbers: np.ndarray) -> str:
    """Return a store that has them."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "1", x=numbers)
    return path


@pytest.fixture(autouse=True)
def _threads_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads help with a few chunks, too."""
    monkeypatch.setattr(background, "WORTHWHILE", 1)


def load(flow: FlowDataStore, run: str = "1") -> np.ndarray:
    """Return the artifact."""
    [task] = flow.get_latest_task_datastores(run)
    return task["x"]


def chunks(path: str) -> list[tuple[int, int]]:
    """Return ids and codecs of all chunks."""
    with tampering(path) as connection:
        return connection.execute("SELECT id, codec FROM chunk ORDER BY id").fetchall()


def test_they_come_back_and_are_there_once(saved: str, numbers: np.ndarray) -> None:
    """Saved again, their chunks are found, decoded and compared; none is added."""
    before = chunks(saved)
    assert len(before) > 25
    compressed = sum(codec for _, codec in before)
    assert compressed <= 1 if numbers.max() < 1 else compressed > 25
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        save_task(flow, "2", x=numbers)
        assert np.array_equal(load(flow, "1"), numbers)
        assert np.array_equal(load(flow, "2"), numbers)
    assert chunks(saved) == before
    assert verify(saved).ok


def test_a_chunk_with_other_bytes_under_its_digest_is_not_shared(saved: str, numbers: np.ndarray) -> None:
    """Whichever of them it is, saving them again is an error, and the task stays undone."""
    there = len(chunks(saved))
    for number in (3, there // 2, there):
        with tampering(saved) as connection:
            [(row, stored, size, old)] = connection.execute(
                "SELECT id, bytes, size, codec FROM chunk ORDER BY id LIMIT 1 OFFSET ?", (number - 1,)
            ).fetchall()
            other = connection.execute("SELECT bytes FROM chunk WHERE id != ? AND size != ?", (row, size)).fetchall()[0]
            bytes_ = other[0] if old else b"x" * size
            connection.execute("UPDATE chunk SET bytes = ?, codec = ? WHERE id = ?", (bytes_, old, row))
        with FlowDataStore(FLOW, ds_root=saved) as flow, pytest.raises(Damaged):
            save_task(flow, f"again {number}", x=numbers)
        with FlowDataStore(FLOW, ds_root=saved) as flow:
            assert list(flow.get_latest_task_datastores(f"again {number}")) == []
        with tampering(saved) as connection:
            connection.execute("UPDATE chunk SET bytes = ?, codec = ? WHERE id = ?", (stored, old, row))
    assert verify(saved).ok


@pytest.mark.parametrize(
    "what",
    [
        "bytes = zeroblob(length(bytes))",
        "bytes = substr(bytes, 2)",
        "bytes = bytes || x'00'",
        "size = size + 1",
        "size = size - 1",
        "codec = 7",
        "codec = 1 - codec",
        "digest = zeroblob(16)",
    ],
)
@pytest.mark.parametrize("number", [0, 20, -1])
def test_a_damaged_chunk_is_an_error(saved: str, what: str, number: int) -> None:
    """Whichever thread reads it: the error names the blob and the file."""
    row = chunks(saved)[number][0]
    with tampering(saved) as connection:
        connection.execute(f"UPDATE chunk SET {what} WHERE id = ?", (row,))
    with FlowDataStore(FLOW, ds_root=saved) as flow, pytest.raises(Damaged, match=r"runs\.db is damaged"):
        load(flow)


def test_a_chunk_that_is_pruned_while_the_blob_is_read_is_no_damage(saved: str) -> None:
    """The blob was removed, and the error says that."""
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        [task] = flow.get_latest_task_datastores("1")
        key = dict(task.items())["x"]
        with pytest.raises(BlobNotFound, match="was pruned"), flow._storage_impl.open_blob(FLOW, key) as file:  # noqa: PT012
            with tampering(saved) as connection:
                connection.execute("PRAGMA foreign_keys = OFF")
                for table in ("artifact", "blob_chunk", "blob", "chunk"):
                    connection.execute(f"DELETE FROM {table}")
            file.readinto(bytearray(4 * LARGE))


def test_inside_of_a_transaction_they_are_read_in_its_snapshot(saved: str, numbers: np.ndarray) -> None:
    """Other threads, which would not see that snapshot, do not help."""
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        threads = threading.active_count()
        with flow._storage_impl.database.read():
            assert np.array_equal(load(flow), numbers)
            assert threading.active_count() <= threads


def test_a_store_that_is_closed_meanwhile_says_so(saved: str) -> None:
    """Nothing hangs, and no half of the blob is handed out."""
    flow = FlowDataStore(FLOW, ds_root=saved)
    [task] = flow.get_latest_task_datastores("1")
    key = dict(task.items())["x"]
    with pytest.raises(StoreClosed), flow._storage_impl.open_blob(FLOW, key) as file:  # noqa: PT012
        assert len(file.read(1000)) == 1000
        flow.close()
        file.readinto(bytearray(4 * LARGE))


def test_a_forked_child_starts_threads_of_its_own(saved: str, numbers: np.ndarray) -> None:
    """Those of its parent are not there, and it does not wait for them."""
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        assert np.array_equal(load(flow), numbers)
        assert background.begin(lambda: 5).result() == 5

        def child() -> None:
            assert np.array_equal(load(flow), numbers)
            save_task(flow, "child", x=numbers[::-1].copy())

        _, status = os.waitpid(fork(child), 0)
        assert status == 0
        assert np.array_equal(load(flow, "child"), numbers[::-1])
    assert verify(saved).ok


AT_EXIT = """
import atexit, sys, numpy
from sqlitestore import FlowDataStore
array = numpy.arange(3_000_000)
flow = FlowDataStore("F", ds_root=sys.argv[1])
def save():
    task = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
    task.init_task()
    task.save_artifacts([("x", array)])
    task.done()
    [found] = flow.get_latest_task_datastores("1")
    assert numpy.array_equal(found["x"], array)
    flow.close()
atexit.register(save)
if sys.argv[2] == "used":
    import concurrent.futures.thread
    from sqlitestore.background import begin
    begin(int).result()
"""


@pytest.mark.parametrize("threads", ["used", "unused"])
def test_they_are_saved_while_python_ends(tmp_path: Path, threads: str) -> None:
    """No thread can be started any more then: the work is done where it is needed."""
    path = str(tmp_path / "runs.db")
    done = subprocess.run([sys.executable, "-c", AT_EXIT, path, threads], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["runs.db"]
    assert verify(path).ok


@pytest.mark.parametrize("possible", [0, 1, 2])
def test_where_no_thread_can_be_started_the_work_is_done_here(
    saved: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch, possible: int
) -> None:
    """Also where some could be started before: what is queued for them is not done after its buffer is gone."""
    start, left = threading.Thread.start, [True] * possible

    def start_some(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    for threads in (background._threads, background._writers):
        monkeypatch.setattr(threads, "_executor", None)
    monkeypatch.setattr(threading.Thread, "start", start_some)
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        assert np.array_equal(load(flow), numbers)
        save_task(flow, "2", x=numbers + possible)
        assert np.array_equal(load(flow, "2"), numbers + possible)


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * 2**20 + 5])
def test_asking_for_large_pages_changes_no_byte(size: int) -> None:
    """Wherever the buffer begins and ends, and what lies beside it, too."""
    whole = bytearray(os.urandom(size + 2000))
    before = bytes(whole)
    for begin in (0, 1, 999):
        ask_for_large_pages(memoryview(whole)[begin : begin + size])
        assert whole == before


def test_where_the_kernel_knows_no_large_pages_they_come_back_too(
    saved: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other systems nothing is asked."""
    monkeypatch.setattr("sqlitestore.memory_pages._madvise", lambda: None)
    with FlowDataStore(FLOW, ds_root=saved) as flow:
        assert np.array_equal(load(flow), numbers)
