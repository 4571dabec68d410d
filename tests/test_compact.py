"""Compacting: free pages and what crashed writers left go back to the file system; what a writer holds never does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import golden_content
import pytest
from helpers_processes import fork
from helpers_store import FLOW, incompressible, rows, save_task
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, Refused, SQLiteStorage, StoreReadOnly, compact, holds, plan_prune, prune
from sqlitestore.blobs import payload_of
from sqlitestore.maintenance import compact as compacting
from sqlitestore.maintenance.usage import usage

LARGE = incompressible(3_000_000, 5)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Make a store of a run to keep, and one of 3 MB to prune."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "keep", x=1, large=incompressible(300_000, 1))
        save_task(flow, "go", x=2, large=LARGE)
    return path


def purged(flow: FlowDataStore, run: str = "go") -> None:
    """Prune a run for good."""
    prune(flow, plan_prune(flow, [f"{FLOW}/{run}"]), empty_trash=True)


def test_free_pages_go_back_while_the_file_is_open(path: str) -> None:
    """Also in the eyes of another process; the file has its new size before anybody closes it."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        purged(flow)
        done = compact(flow)
        assert done.before - done.after > 2_900_000
        assert os.path.getsize(path) == done.after
        assert usage(flow._storage_impl.database).free == 0
        assert compact(flow).before == done.after
        assert [task["x"] for task in flow.get_latest_task_datastores("keep")] == [1]
    check_file(path)


def test_a_file_in_a_rollback_journal_shrinks_too(tmp_path: Path) -> None:
    """As on a network file system."""
    path = str(tmp_path / "runs.db")
    storage = SQLiteStorage(path, journal_mode="delete")
    with FlowDataStore(FLOW, storage_impl=lambda _: storage) as flow:
        save_task(flow, "go", large=LARGE)
        purged(flow)
        assert compact(flow).after < 400_000
        assert os.path.getsize(path) < 400_000


@pytest.mark.parametrize("format_", ["format-1", "format-2"])
def test_an_older_file_is_rebuilt_once(tmp_path: Path, format_: str) -> None:
    """Step by step it cannot shrink; the error says what to do, and after that it can."""
    path = tmp_path / "old.db"
    path.write_bytes((Path(__file__).parent / "golden" / f"{format_}.db").read_bytes())
    with FlowDataStore("GoldenFlow", ds_root=path) as flow:
        save_task(flow, "go", large=LARGE)
        purged_plan = plan_prune(flow, ["GoldenFlow/go"])
        prune(flow, purged_plan, empty_trash=True)
        with pytest.raises(Refused, match="--full"):
            compact(flow)
        assert compact(flow, full=True).after < 1_000_000
        save_task(flow, "go", large=LARGE)
        prune(flow, plan_prune(flow, ["GoldenFlow/go"]), empty_trash=True)
        assert compact(flow).after < 1_000_000
    golden_content.check(str(path))
    check_file(path)


def test_a_rebuilt_file_is_the_same_to_every_reader(path: str) -> None:
    """Application id, format and chunk ids stay; nothing is left beside it."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        purged(flow)
        last_chunk = rows(path, "SELECT seq FROM sqlite_sequence")
        compact(flow, full=True)
    assert rows(path, "SELECT seq FROM sqlite_sequence") == last_chunk
    assert rows(path, "PRAGMA application_id") == [(0x53714C73,)]
    assert rows(path, "PRAGMA auto_vacuum") == [(2,)]
    check_file(path)


def test_a_file_that_can_only_be_read_is_left_alone(path: str, as_nobody: object) -> None:
    """With an error that says so."""
    os.chmod(path, 0o444)

    def compacted() -> None:
        with FlowDataStore(FLOW, ds_root=path) as flow, pytest.raises(StoreReadOnly):
            compact(flow)

    as_nobody(compacted)  # type: ignore[operator]


# What nobody needs, and what somebody may


def test_what_a_crashed_writer_left_goes(path: str) -> None:
    """Blobs that were put and chunks of one on its way; after the time for which they might still be wanted."""

    def crash() -> None:
        flow = FlowDataStore(FLOW, ds_root=path)
        writer = flow.get_task_datastore("new", "a", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("waits", "never written"), ("large", incompressible(2_000_000, 7))])
        flow.ca_store.save_blobs([b"left behind"])
        compacting.tables_of(flow).blobs.put([_dying])

    child = fork(crash)
    os.waitpid(child, 0)
    assert rows(path, "SELECT count(*) FROM held") == [(3,)]
    with FlowDataStore(FLOW, ds_root=path) as flow:
        before = usage(flow._storage_impl.database)
        assert before.unreferenced > 4_000_000
        done = compact(flow)
        assert done.is_waiting
        assert usage(flow._storage_impl.database).unreferenced == before.unreferenced
        compact(flow, grace=0)
        assert usage(flow._storage_impl.database).unreferenced == 0
        assert rows(path, "SELECT count(*) FROM held") == [(0,)]
        assert len(flow.get_latest_task_datastores("keep")) == 1
    check_file(path)


def _dying(file: object) -> None:
    """Write more than a transaction's worth of chunks, and die in the middle."""
    file.write(incompressible(20_000_000, 8))  # type: ignore[attr-defined]
    os._exit(9)


def test_holds_of_writers_that_never_came_back_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A week after they were put, blobs that nothing refers to go."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        [(_, key)] = flow.ca_store.save_blobs([b"put, and never referred to" * 100])
        compact(flow)
        assert dict(flow.load_data([key]))
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + holds.LONGEST_HOLD + 60)
        compact(flow)
        assert flow._storage_impl.has_blobs(FLOW, [key]) == [False]


@pytest.mark.parametrize("size", [1000, 2_000_000])
@pytest.mark.parametrize("how", ["artifact", "artifact found", "log", "data", "file"])
def test_a_writer_in_flight_never_loses_what_it_put(path: str, size: int, how: str) -> None:
    """Pruned, purged, compacted and swept in between: what it saved is there when it is done.

    "Found" content was there already, in a run that is pruned just then.
    """
    value = LARGE[:size] if how == "artifact found" else incompressible(size, 77)
    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        save_task(flow, "found", value=value) if how == "artifact found" else None

        def everything_goes() -> None:
            prune(other, plan_prune(other, [f"{FLOW}/go"], force=True), empty_trash=True) if first else None
            prune(other, plan_prune(other, [FLOW]), empty_trash=True)
            compact(other, empty_trash=True)
            assert rows(path, "SELECT count(*) FROM artifact") == [(0,)]

        first = True
        if how in {"artifact", "artifact found"}:
            writer = flow.get_task_datastore("new", "a", "1", attempt=0, mode="w")
            writer.init_task()
            writer.save_artifacts([("value", value), ("again", value)])
            everything_goes()
            writer.done()
            [task] = flow.get_latest_task_datastores("new")
            assert (task["value"], task["again"]) == (value, value)
        elif how == "data":
            blobs = iter_then([value, value[::-1]], everything_goes)
            keys = [key for _, key in flow.save_data(blobs)]
            assert [blob for _, blob in flow.load_data(keys)] == [value, value[::-1]]
        elif how == "log":
            logs = flow._storage_impl.tables.logs
            between(logs._blobs, everything_goes)
            writer = flow.get_task_datastore("new", "a", "1", attempt=0, mode="w")
            writer.init_task()
            writer.save_logs("task", {"stdout": value})
            assert flow._storage_impl.load_log(writer._task, 0, "task", "stdout") == value
        else:
            between(flow._storage_impl.tables.files._blobs, everything_goes)
            flow._storage_impl.save_file("some/file", payload_of(value))
            key, found, _ = flow._storage_impl.find_file("some/file") or ("", 0, "")
            assert (found, dict(flow.load_data([key]))) == (size, {key: value})
    assert rows(path, "SELECT count(*) FROM held") == [(0,)]
    check_file(path)


def iter_then(values: list[bytes], then: object) -> object:
    """Yield the values, calling ``then`` before the last."""
    yield values[0]
    then()  # type: ignore[operator]
    yield from values[1:]


def between(blobs: object, then: object) -> None:
    """Call ``then`` when something was put, before it is referred to."""
    put = blobs.put  # type: ignore[attr-defined]

    def put_and(*given: object) -> object:
        stored = put(*given)
        then()  # type: ignore[operator]
        return stored

    blobs.put = put_and  # type: ignore[attr-defined]


def test_others_read_and_write_while_it_works(path: str) -> None:
    """Runs come and go, prune and compact go round and round, and every task is whole whenever it is looked at."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with FlowDataStore(FLOW, ds_root=path) as flow:
                for turn in range(1000):
                    if stop.is_set():
                        return
                    run = f"w{number}-{turn}"
                    value = incompressible(200_000 + turn % 3, turn % 4)  # the same now and then
                    save_task(flow, run, "end", value=value, number=turn)
                    [task] = flow.get_latest_task_datastores(run)
                    assert (task["value"], task["number"]) == (value, turn)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    with FlowDataStore(FLOW, ds_root=path) as flow:
        end = time.monotonic() + 4
        rounds = 0
        while time.monotonic() < end and not errors:
            prune(flow, plan_prune(flow, [FLOW], keep_last=40), empty_trash=True)
            compact(flow)
            rounds += 1
        stop.set()
        for worker in workers:
            worker.join()
        assert errors == []
        assert rounds > 2
        prune(flow, plan_prune(flow, [FLOW], keep_last=1), empty_trash=True)
        compact(flow)
        assert usage(flow._storage_impl.database).unreferenced == 0
    assert os.path.getsize(path) < 1_000_000
    check_file(path)


def test_steps_are_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction moves more than its share of pages, and others come to turn between two of them."""
    monkeypatch.setattr(compacting, "PAGES_AT_ONCE", 20)
    turns: list[int] = []

    class Watching:
        """Writes whenever progress is told: were a transaction open, it would wait for minutes."""

        def start(self, label: str, total: int | None, unit: str) -> None:
            self.moving = label == "Moving pages"

        def advance(self, amount: int) -> None:
            if self.moving:
                other = apsw.Connection(path)
                other.set_busy_timeout(0)
                other.execute("BEGIN IMMEDIATE; ROLLBACK")
                other.close()
                turns.append(amount)

        def finish(self) -> None:
            pass

    with FlowDataStore(FLOW, ds_root=path) as flow:
        purged(flow)
        compact(flow, progress=Watching())
    assert len(turns) > 15
    assert max(turns) <= 20


def test_a_put_that_fails_lets_go_of_nothing_that_another_put_holds(path: str) -> None:
    """What had only waited to be written was not held by it: the same content, put by another writer, stays held."""

    def failing() -> Iterator[bytes]:
        yield b"the same"
        raise ZeroDivisionError

    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        [(_, key)] = flow.ca_store.save_blobs([b"the same"])
        with pytest.raises(ZeroDivisionError):
            other.ca_store.save_blobs(failing())
        compact(other)
        assert dict(flow.load_data([key])) == {key: b"the same"}
