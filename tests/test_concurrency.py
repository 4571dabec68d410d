"""Many processes and threads on one file: no lock errors, nothing lost, nothing torn."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import helpers_concurrency
import pytest
from helpers_concurrency import Streamed, counting_pages
from helpers_processes import in_threads, result_of, run, start
from helpers_store import FLOW, assert_sound, beside, incompressible, loose_chunks, rows, save_task

from sqlitestore import FlowDataStore, SQLiteStorage, StoreBusy

BOUND = 32 * 2**20
"""[bytes] That a transaction may add to the file: tens of MiB, as the design promises."""


@pytest.mark.parametrize(
    ("processes", "threads", "tasks"), [(16, 4, 6), pytest.param(16, 4, 100, marks=pytest.mark.long)]
)
def test_sixteen_processes_of_four_threads_share_a_file(
    tmp_path: Path, processes: int, threads: int, tasks: int
) -> None:
    """All write and read at once; every reader sees every done task whole, and at the end all are there."""
    path = str(tmp_path / "runs.db")
    read = run(helpers_concurrency.write_and_read, path, processes, threads, tasks, timeout=3000)
    assert read == processes * threads * tasks
    assert_sound(path)
    assert loose_chunks(path) == 0
    assert rows(path, "SELECT COUNT(*) FROM attempt WHERE done IS NULL") == [(0,)]
    assert beside(path) == ["runs.db"]


def test_an_attempt_that_many_finish_is_done_once(tmp_path: Path) -> None:
    """Exactly one done() wins, the others get AttemptDone, and all artifacts are the winner's."""
    assert run(helpers_concurrency.race_for_done, str(tmp_path / "runs.db"), 4, 3, 12) == [1] * 12


def test_an_array_that_all_save_at_once_is_stored_once(tmp_path: Path) -> None:
    """Whoever comes second finds the first one's chunks, also in the middle of their batches."""
    path = str(tmp_path / "runs.db")
    size = 40 * 2**20
    assert run(helpers_concurrency.save_the_same, path, 8, size) == 8
    [(stored,)] = rows(path, "SELECT SUM(length(bytes)) FROM chunk")
    assert size <= stored <= size * 1.03  # the pickle's own bytes beside the array's
    assert loose_chunks(path) == 0
    assert_sound(path)


@pytest.mark.parametrize("pieces", [64, pytest.param(600, marks=pytest.mark.long)])
def test_a_large_save_blocks_nobody_for_longer_than_one_bounded_transaction(tmp_path: Path, pieces: int) -> None:
    """While an artifact is being saved, others read and finish tasks; its data come in bounded transactions."""
    path = str(tmp_path / "runs.db")
    with start(helpers_concurrency.save_much, path, pieces) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        for number in range(pieces // 8):
            assert saver.stdout.readline() == "under way\n", saver.communicate()[1]
            if number % 8 == 0:
                run(helpers_concurrency.small_tasks, path, number // 8, timeout=120)
            assert saver.poll() is None
            saver.stdin.write("go on\n")
            saver.stdin.flush()
        outcome = result_of(saver)
    assert outcome["waits"] == pieces // 8
    assert outcome["all"] >= pieces * 2**20
    assert outcome["largest"] <= BOUND
    with FlowDataStore(FLOW, ds_root=path) as flow:
        large = flow.get_task_datastore("large", "a", "1")["large"]
        assert all(piece == incompressible(2**20, number) for number, piece in enumerate(large))
        assert len(large) == pieces


def test_transactions_are_bounded_for_every_kind_of_save(tmp_path: Path) -> None:
    """Many small blobs, large ones, large ones that compress well, one after the other in one call."""
    sizes: list[int] = []
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow, counting_pages(sizes):
        flow.save_data(incompressible(60_000, number) for number in range(800))
        flow.save_data([incompressible(45_000_000, 1), bytes(200_000_000), incompressible(45_000_000, 2)])
        save_task(flow, noise=[incompressible(10_000, number) for number in range(5_000)])
    assert sum(sizes) >= 180_000_000
    assert max(sizes) <= BOUND


def test_a_reader_in_the_middle_of_its_work_blocks_no_writer(tmp_path: Path) -> None:
    """Iterators and open blobs hold no transaction: writers go on, and the log can be moved into the file."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        save_task(flow, noise=incompressible(3_000_000))
        [(_, small), (_, large)] = flow.save_data([b"small", incompressible(5_000_000)])
        loading = flow.load_data([small, large, small])
        next(loading)
        with flow.ca_store.open_blob(large) as file:
            assert file.read(10) == incompressible(5_000_000)[:10]
            save_task(other, "2", x=2)
            with other._storage_impl.database.read() as connection:
                pass
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]
            assert file.read() == incompressible(5_000_000)[10:]
        assert dict(loading) == {small: b"small", large: incompressible(5_000_000)}


def test_objects_may_use_the_store_while_they_are_pickled(tmp_path: Path) -> None:
    """No transaction is open while somebody's code runs: neither a deadlock nor a mixture of transactions."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        saved: list[str] = []

        def between(number: int) -> None:
            save_task(flow, "inner", task=str(number), x=number)
            in_threads([lambda: saved.append(flow.save_data([b"%d" % number, incompressible(100_000, number)])[0][1])])

        save_task(flow, "outer", streamed=Streamed(40, between))
        assert len(flow.get_task_datastore("outer", "a", "1")["streamed"]) == 40
        assert [task["x"] for task in flow.get_latest_task_datastores("inner")] == list(range(40))
        assert [int(data) for _, data in flow.load_data(saved)] == list(range(40))


def test_a_save_can_be_fed_from_the_same_store(tmp_path: Path) -> None:
    """Copying is ``save_data(blob for _, blob in load_data(keys))``."""
    path = tmp_path / "runs.db"
    blobs = [b"small", incompressible(2_000_000), b"", incompressible(20_000_000, 2), b"other"]
    with FlowDataStore(FLOW, ds_root=path) as flow:
        keys = [key for _, key in flow.save_data(blobs)]
        copied = FlowDataStore("Other", ds_root=path).save_data(blob for _, blob in flow.load_data(keys))
        assert [key for _, key in copied] == keys


def test_logs_that_two_processes_save_are_never_mixed(tmp_path: Path) -> None:
    """Each has its own source, and one they share: that is, at any time, the whole text of one of them."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        flow.get_task_datastore("1", "a", "1", attempt=0, mode="w").init_task()
        reader = flow.get_task_datastore("1", "a", "1", allow_not_done=True)
        with (
            start(helpers_concurrency.append_to_log, path, "one", 80) as one,
            start(helpers_concurrency.append_to_log, path, "two", 80) as two,
        ):
            while one.poll() is None or two.poll() is None:
                for source, log in reader.load_logs(["one", "two", "shared"], "stdout"):
                    _check_log(source, log)
            result_of(one)
            result_of(two)
        assert [len(log.splitlines()) for _, log in reader.load_logs(["one", "two", "shared"], "stdout")] == [80] * 3


def _check_log(source: str, log: bytes) -> None:
    lines = log.decode().splitlines()
    writers = {line.split()[0] for line in lines}
    assert len(writers) <= 1
    assert source == "shared" or writers <= {source}
    assert [int(line.split()[1]) for line in lines] == list(range(len(lines)))


def test_threads_whose_store_is_closed_end_with_store_closed(tmp_path: Path) -> None:
    """Whatever they were doing; what they finished is whole, and there is one file."""
    path = str(tmp_path / "runs.db")
    endings = run(helpers_concurrency.close_while_others_work, path, 6, timeout=120)
    assert endings == ["StoreClosed"] * 6 + ["closed"]
    assert_sound(path)
    assert beside(path) == ["runs.db"]
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in flow.get_latest_task_datastores("1"):
            assert task["noise"] == incompressible(70_000, task["x"])


def test_threads_that_end_take_their_connections_along(tmp_path: Path) -> None:
    """A thread pool that grows and shrinks must not run out of files."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        for number in range(30):
            in_threads([lambda task=f"{number}-{thread}": save_task(flow, task=task, x=1) for thread in range(4)])
        assert len(flow.get_latest_task_datastores("1")) == 120
        assert len(flow._storage_impl.database._connections._handles) <= 2


def test_stores_that_share_a_file_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Closing one must not take the locks or the log of the other, in whatever thread."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=path) as lasting:

        def open_and_close(thread: int) -> None:
            for number in range(8):
                with FlowDataStore(FLOW, ds_root=path) as flow:
                    save_task(flow, task=f"{thread}-{number}", x=number)
                save_task(lasting, task=f"{thread}-{number}-lasting", x=number)

        in_threads([lambda thread=thread: open_and_close(thread) for thread in range(4)])
        assert len(lasting.get_latest_task_datastores("1")) == 64
    assert_sound(path)


def test_who_waits_too_long_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs inside a transaction (a debugger, a suspended laptop) is an error in the end: StoreBusy."""
    monkeypatch.setattr("sqlitestore.pragmas.BUSY_TIMEOUT", 0.05)
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        save_task(flow, x=1)
        with other._storage_impl.database.write():
            outcome: list[Any] = []

            def write() -> None:
                with pytest.raises(StoreBusy) as caught:
                    save_task(flow, "2", x=2)
                outcome.append(caught.value)

            in_threads([write])
            assert flow.get_task_datastore("1", "a", "1")["x"] == 1
        [error] = outcome
        assert path in str(error)
        assert isinstance(error, OSError)
        save_task(flow, "2", x=2)


def test_the_rollback_journal_is_as_safe_with_many_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log cannot be used: readers and writers take turns, without an error."""
    path = tmp_path / "runs.db"

    def work(who: int) -> None:
        with FlowDataStore(FLOW, ds_root=path, storage_impl=_with_journal) as flow:
            for number in range(6):
                save_task(flow, task=f"{who}-{number}", x=number)
                assert all("x" in task for task in flow.get_latest_task_datastores("1"))

    in_threads([lambda who=who: work(who) for who in range(4)])
    with FlowDataStore(FLOW, ds_root=path, storage_impl=_with_journal) as flow:
        assert len(flow.get_latest_task_datastores("1")) == 24
    assert beside(path) == ["runs.db"]


def _with_journal(root: Any) -> SQLiteStorage:
    return SQLiteStorage(root, journal_mode="delete")


def test_the_same_large_object_saved_by_threads_of_one_store_is_stored_once(tmp_path: Path) -> None:
    """Each thread has its own connection; dedup must not depend on whose."""
    path = tmp_path / "runs.db"
    noise = incompressible(20_000_000)
    barrier = threading.Barrier(4)
    with FlowDataStore(FLOW, ds_root=path) as flow:

        def save(task: str) -> None:
            barrier.wait()
            save_task(flow, task=task, noise=noise)

        in_threads([lambda task=str(task): save(task) for task in range(4)])
        assert all(task["noise"] == noise for task in flow.get_latest_task_datastores("1"))
    [(stored,)] = rows(path, "SELECT SUM(length(bytes)) FROM chunk")
    assert stored <= len(noise) * 1.05
    assert loose_chunks(path) == 0
