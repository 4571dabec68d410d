"""New chunks of a large blob go in beside the caller: nobody can tell but by the clock, whatever goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from helpers_processes import in_threads
from helpers_store import FLOW, assert_sound, incompressible, loose_chunks, rows, save_task, tampering

from sqlitestore import (
    AttemptDone,
    DataException,
    FlowDataStore,
    SQLiteStorage,
    StoreUnavailable,
    new_chunks,
    pragmas,
    verify,
)
from sqlitestore.database import Database

SIZE = 24 * 2**20
"""[bytes] Three batches, of which two go in beside the caller."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the store is."""
    return str(tmp_path / "runs.db")


@pytest.fixture
def flow(path: str) -> Any:
    """Return an open store."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        yield flow


def count(path: str) -> int:
    """Return how many chunks there are."""
    [(number,)] = rows(path, "SELECT count(*) FROM chunk")
    return int(number)


def database_of(flow: FlowDataStore) -> Database:
    """Return the database of an open store."""
    database = flow._storage_impl.database  # type: ignore[attr-defined]
    assert isinstance(database, Database)
    return database


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_goes_in_beside_us_comes_back(path: str, journal_mode: Any) -> None:
    """With either journal; another thread wrote it, in several transactions."""
    writers: list[str] = []
    insert = new_chunks.NewChunks._insert

    def watched(self: Any, batch: Any) -> Any:
        writers.append(threading.current_thread().name)
        return insert(self, batch)

    data = incompressible(SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_chunks.NewChunks, "_insert", watched)
        with closing(SQLiteStorage(path, journal_mode=journal_mode)) as storage:
            flow = FlowDataStore(FLOW, storage_impl=lambda _: storage, ds_root=path)
            [(_, key)] = flow.save_data([data])
            assert dict(flow.load_data([key])) == {key: data}
    assert [name == threading.current_thread().name for name in writers] in ([False, False, True], [False] * 3 + [True])
    assert_sound(path)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("failure", [StoreUnavailable, KeyboardInterrupt])
def test_a_batch_that_fails_fails_the_save_and_leaves_nothing(
    flow: FlowDataStore, path: str, monkeypatch: pytest.MonkeyPatch, batch: int, failure: type[BaseException]
) -> None:
    """Whichever batch it is; then the same can be saved."""
    save_task(flow, "before", x=1)
    write, left = Database.write, [batch]

    @contextmanager
    def failing(self: Database) -> Iterator[apsw.Connection]:
        with write(self) as connection:
            yield connection
            if left[0] == 0:
                left[0] = -1
                raise failure("The disk is gone.")
            left[0] -= 1

    data = incompressible(SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", failing)
        with pytest.raises(failure):
            flow.save_data([data])
    [(_, key)] = flow.save_data([data])
    assert dict(flow.load_data([key])) == {key: data}
    flow.close()
    assert loose_chunks(path) == 0
    assert_sound(path)


def test_whoever_gives_up_meanwhile_leaves_nothing(flow: FlowDataStore, path: str) -> None:
    """An object whose pickling fails while a batch of it goes in: that is waited for, and taken out again."""

    class Fails:
        def __reduce__(self) -> Any:
            def items() -> Any:
                yield np.frombuffer(incompressible(SIZE // 2), np.uint8)
                raise ZeroDivisionError

            return list, (), None, items()

    with pytest.raises((ZeroDivisionError, DataException)):
        save_task(flow, "1", x=Fails())
    flow.close()
    assert count(path) == 0
    assert_sound(path)


def test_what_the_store_has_after_all_is_shared(flow: FlowDataStore, path: str) -> None:
    """After much that is new the store is not asked; what it has turns up when it is inserted, and counts once."""
    known = incompressible(SIZE, 1)
    flow.save_data([known])
    before = count(path)
    new = incompressible(SIZE, 2)
    both = np.frombuffer(new, np.uint8), np.frombuffer(known, np.uint8)
    save_task(flow, "1", x=list(both))
    [task] = flow.get_latest_task_datastores("1")
    assert all(np.array_equal(one, other) for one, other in zip(task["x"], both, strict=True))
    alone = count(path) - before
    flow.save_data([new])
    assert count(path) == before + alone  # each of the two was cut as it is when it comes alone
    assert verify(path).ok


def test_where_known_and_new_take_turns_the_store_is_asked(
    flow: FlowDataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if what is known was not asked about but expected, as after an edit."""
    monkeypatch.setattr(new_chunks, "BATCH", 1_000_000)
    asked: list[bool] = []
    add = new_chunks.NewChunks.add

    def watched(self: new_chunks.NewChunks, *chunk: Any) -> None:
        asked.append(not self.only_new)
        add(self, *chunk)

    numbers = np.random.default_rng(1).random(SIZE // 8)
    save_task(flow, "1", x=numbers)
    monkeypatch.setattr(new_chunks.NewChunks, "add", watched)
    edited = np.where(np.arange(len(numbers)) % 250_000 == 9, 3.0, numbers)
    save_task(flow, "2", x=edited)
    assert len(asked) > 10
    assert all(asked)
    [task] = flow.get_latest_task_datastores("2")
    assert np.array_equal(task["x"], edited)


def test_a_collision_with_what_was_not_asked_about_is_noticed(path: str) -> None:
    """The store's chunk is compared although inserting it did nothing."""
    known = incompressible(SIZE, 1)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        flow.save_data([known])
    with tampering(path) as connection:
        connection.execute("UPDATE chunk SET bytes = zeroblob(size), codec = 0 WHERE id > 40")
    with FlowDataStore(FLOW, ds_root=path) as flow, pytest.raises(DataException, match="other bytes under the digest"):
        save_task(flow, "1", x=[np.frombuffer(each, np.uint8) for each in (incompressible(SIZE, 2), known)])


def test_inside_a_transaction_all_goes_in_here(flow: FlowDataStore) -> None:
    """Another thread would wait for its end."""
    numbers = np.random.default_rng(1).integers(0, 1000, 3_000_000)
    with database_of(flow).write():
        [(_, key)] = flow.save_data([numbers.tobytes()])
    assert dict(flow.load_data([key])) == {key: numbers.tobytes()}


def test_many_savers_and_a_transaction_do_not_wait_for_each_other(flow: FlowDataStore) -> None:
    """More threads save than there are to insert, while one saves what needs others to compress it in a transaction."""
    numbers = np.random.default_rng(1).integers(0, 1000, 3_000_000)
    begun = threading.Barrier(9)

    def save(number: int) -> Callable[[], None]:
        def work() -> None:
            begun.wait()
            save_task(flow, str(number), x=numbers + 1000 * number)

        return work

    def save_inside() -> None:
        with database_of(flow).write():
            begun.wait()
            flow.save_data([(numbers - 1).tobytes()])

    in_threads([save_inside, *map(save, range(8))])
    for number in range(8):
        [task] = flow.get_latest_task_datastores(str(number))
        assert np.array_equal(task["x"], numbers + 1000 * number)


def test_a_forked_child_can_go_on_with_it(flow: FlowDataStore) -> None:
    """It has none of its parent's threads, but finds what they inserted; of the two one has done the task."""
    parent, children = os.getpid(), []
    data = [incompressible(SIZE // 2, seed) for seed in (1, 2)]

    class Forks:
        def __reduce__(self) -> Any:
            def items() -> Any:
                yield np.frombuffer(data[0], np.uint8)
                children.append(os.fork())
                yield np.frombuffer(data[1], np.uint8)

            return list, (), None, items()

    try:
        with suppress(AttemptDone):
            save_task(flow, "1", x=Forks())
    except BaseException:
        if os.getpid() != parent:
            os._exit(1)
        raise
    if os.getpid() != parent:
        os._exit(0)
    assert os.waitpid(children[0], 0)[1] == 0
    [task] = flow.get_latest_task_datastores("1")
    assert [each.tobytes() for each in task["x"]] == data


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have logs moved after 2 MB, by large blobs after 8 at the latest."""
    monkeypatch.setattr(pragmas, "CHECKPOINT_BYTES", 2_000_000)
    monkeypatch.setattr(pragmas, "LARGEST_LOG", 8_000_000)


@pytest.mark.usefixtures("short_logs")
def test_the_log_is_moved_while_a_blob_goes_in(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays short, and another thread moves it, again and again."""
    sizes: list[int] = []
    movers: list[str] = []
    move = pragmas.move_the_log

    def watched(connection: apsw.Connection) -> None:
        movers.append(threading.current_thread().name)
        move(connection)

    monkeypatch.setattr(pragmas, "move_the_log", watched)

    class Watches:
        def __reduce__(self) -> Any:
            def items() -> Any:
                for seed in range(10):
                    yield np.frombuffer(incompressible(SIZE // 2, seed), np.uint8)
                    sizes.append(os.path.getsize(path))

            return list, (), None, items()

    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "1", x=Watches())
        assert os.path.getsize(path + "-wal") < 5 * SIZE // 2
    assert sizes[-1] > 5 * SIZE // 2
    assert len(movers) >= 3
    assert threading.current_thread().name not in movers
    assert_sound(path)
