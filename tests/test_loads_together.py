"""Small blobs of tasks that were found together are fetched together; what a load gives is the same as ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_store import FLOW, incompressible, save_task, tampering

from sqlitestore import (
    BlobCache,
    Damaged,
    FlowDataStore,
    NotFound,
    StoreClosed,
    TaskDataStoreSet,
    Untrusted,
    compact,
    export,
    plan_prune,
    prune,
)
from sqlitestore.archive.trust import trust_runs
from sqlitestore.artifact_lookup import KEPT
from sqlitestore.storage import SQLiteStorage
from sqlitestore.testing.memory import MemoryStorage

TASKS = 6


class Watched(SQLiteStorage):
    """Notes which blobs are loaded one by one, and which together."""

    def __init__(self, root: Any = None) -> None:
        super().__init__(root)
        self.alone: list[str] = []
        self.together: list[tuple[list[str], dict[str, bytes]]] = []

    def open_blob(self, flow_name: str, key: str) -> Any:
        self.alone.append(key)
        return super().open_blob(flow_name, key)

    def load_small_blobs(self, flow_name: str, keys: Any, largest: int) -> Any:
        found = super().load_small_blobs(flow_name, keys, largest)
        self.together.append((list(keys), dict(found)))
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a store of six tasks with a number, a text and a list each; all have the text ``same``."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        for each in range(TASKS):
            save_task(flow, task=str(each), number=each, text=f"text {each}", items=[each], same="the same")
    return tmp_path / "runs.db"


@pytest.fixture
def flow(path: Path) -> Iterator[FlowDataStore]:
    """Open the store, watched."""
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=path) as flow:
        yield flow


def found(flow: FlowDataStore) -> list[Any]:
    """Look all tasks up."""
    return flow.get_task_datastores("1", ["a"])


def key_of(path: Path, task: str, name: str) -> str:
    """Return the key of an artifact."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        return str(flow.get_task_datastore("1", "a", task).keys_for_artifacts([name])[0])


def damage(path: Path, task: str, name: str) -> None:
    """Change the bytes of an artifact's blob."""
    key = bytes.fromhex(key_of(path, task, name))
    with tampering(path) as connection:
        connection.execute("UPDATE blob SET bytes = zeroblob(length(bytes)) WHERE key = ?", (key,))


def test_second_task_asked_for_a_name_fetches_those_of_all(flow: FlowDataStore) -> None:
    """The first load is one of its own; with the second come the blobs of all others, by one query."""
    storage: Any = flow._storage_impl
    tasks = found(flow)
    assert tasks[0]["text"] == "text 0"
    assert len(storage.alone) == 1
    assert not storage.together
    assert [task["text"] for task in tasks[1:]] == [f"text {each}" for each in range(1, TASKS)]
    assert len(storage.alone) == 1
    [(keys, _)] = storage.together
    assert len(keys) == TASKS - 1


def test_one_task_alone_fetches_nothing_for_the_others(flow: FlowDataStore) -> None:
    """Whoever loads again and again from the same task never wanted the others."""
    storage: Any = flow._storage_impl
    task = found(flow)[2]
    assert [task["text"] for _ in range(5)] == ["text 2"] * 5
    assert dict(task.load_artifacts(["number", "items"])) == {"number": 2, "items": [2]}
    assert not storage.together


@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)])
def test_order_does_not_matter(flow: FlowDataStore, order: tuple[int, ...]) -> None:
    """Tasks are asked in any order, and those of a name are fetched together once."""
    storage: Any = flow._storage_impl
    tasks = found(flow)
    assert [tasks[each]["number"] for each in order] == list(order)
    assert [tasks[each]["number"] for each in order] == list(order)
    assert len(storage.together) == 1


def test_several_names_are_fetched_side_by_side(flow: FlowDataStore) -> None:
    """Each name has its own fetch, also where names take turns, and by whichever call they are loaded."""
    storage: Any = flow._storage_impl
    tasks = found(flow)
    loaded = [(task["number"], dict(task.load_artifacts(["text", "items"])), task.get("same")) for task in tasks]
    assert loaded == [(each, {"text": f"text {each}", "items": [each]}, "the same") for each in range(TASKS)]
    assert len(storage.together) == 4
    assert len(storage.alone) == 4


def test_each_load_is_an_object_of_its_own(flow: FlowDataStore) -> None:
    """What is changed after a load is as it was saved in the next one, of which blobs are kept no longer."""
    storage: Any = flow._storage_impl
    tasks = found(flow)
    for task in tasks:
        task["items"].append("mine")
    assert [task["items"] for task in tasks] == [[each] for each in range(TASKS)]
    assert len(storage.together) == 1
    assert len(storage.alone) == 1 + TASKS


def test_blob_of_many_tasks_is_fetched_once(flow: FlowDataStore) -> None:
    """Tasks that share a blob each load it."""
    storage: Any = flow._storage_impl
    assert [task["same"] for task in found(flow)] == ["the same"] * TASKS
    [(keys, _)] = storage.together
    assert len(keys) == 1


def test_tasks_without_the_artifact_are_left_out(flow: FlowDataStore) -> None:
    """What only some tasks have is loaded from these, and is missing in the others."""
    save_task(flow, task="more", number=9)
    save_task(flow, task="most", number=10, rare=1)
    save_task(flow, task="also", rare=2)
    assert [task.get("rare") for task in found(flow)] == [None] * TASKS + [None, 1, 2]
    assert [task.get("number") for task in found(flow)] == [*range(TASKS), 9, 10, None]


def test_damage_in_one_blob_hurts_no_other_task(path: Path) -> None:
    """A damaged blob is an error of its own task, that names it; all others load, before and after it."""
    damage(path, "3", "text")
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=path) as flow:
        tasks = found(flow)
        for each, task in enumerate(tasks):
            if each == 3:
                with pytest.raises(Damaged, match=r"Artifact 'text' of task TestFlow/1/a/3: Blob [0-9a-f]+ in"):
                    task["text"]
            else:
                assert task["text"] == f"text {each}"
        assert [task["number"] for task in tasks] == list(range(TASKS))


def test_damaged_row_hurts_no_other_task(path: Path) -> None:
    """A row that damage changed is its own task's; the tasks beside it load."""
    with tampering(path) as connection:
        connection.execute(
            "UPDATE artifact SET type = 'another' WHERE name = 'text'"
            " AND attempt = (SELECT id FROM attempt WHERE task = '3')"
        )
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for each, task in enumerate(found(flow)):
            if each == 3:
                with pytest.raises(Damaged, match="TestFlow/1/a/3"):
                    task["text"]
            else:
                assert task["text"] == f"text {each}"


def test_missing_blob_hurts_no_other_task(path: Path) -> None:
    """A blob that is gone is missing for its own task only."""
    key = bytes.fromhex(key_of(path, "3", "text"))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        tasks = found(flow)
        assert tasks[0]["text"] == "text 0"
        with tampering(path) as connection:
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.execute("DELETE FROM blob WHERE key = ?", (key,))
        for each, task in enumerate(tasks):
            if each == 3:
                with pytest.raises(NotFound, match="Artifact 'text' of task TestFlow/1/a/3"):
                    task["text"]
            else:
                assert task["text"] == f"text {each}"


def test_closed_store_loads_nothing_that_was_fetched(path: Path) -> None:
    """What was fetched before ``close`` is not given after it."""
    flow = FlowDataStore(FLOW, ds_root=path)
    tasks = found(flow)
    assert [tasks[each]["text"] for each in (0, 1)] == ["text 0", "text 1"]
    flow.close()
    for task in tasks:
        with pytest.raises(StoreClosed):
            task["text"]


def test_untrusted_tasks_load_nothing_until_they_are_trusted(tmp_path: Path, path: Path) -> None:
    """Each load asks for trust; nothing is fetched for whom it is refused, and all load once it is given."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        export(flow, tmp_path / "archive.db")
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=tmp_path / "archive.db") as flow:
        storage: Any = flow._storage_impl
        tasks = found(flow)
        for task in tasks:
            with pytest.raises(Untrusted):
                task["text"]
        assert not storage.together
        with FlowDataStore(FLOW, ds_root=tmp_path / "archive.db") as other:
            trust_runs(other, [FLOW])
        assert [task["text"] for task in tasks] == [f"text {each}" for each in range(TASKS)]
        assert len(storage.together) == 1


def test_trust_is_asked_for_what_was_fetched_for_others(tmp_path: Path, path: Path) -> None:
    """Of tasks found together only those of the trusted run are unpickled, though the blobs of all may be at hand."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for each in range(2):
            save_task(flow, run="2", task=str(each), text=f"other {each}")
        export(flow, tmp_path / "archive.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "archive.db") as flow:
        trust_runs(flow, [f"{FLOW}/1"])
        tasks = flow.get_task_datastores(pathspecs=["1/a/0", "2/a/0", "1/a/1", "2/a/1", "1/a/2"])
        assert [task["text"] for task in tasks[::2]] == ["text 0", "text 1", "text 2"]
        for task in tasks[1::2]:
            with pytest.raises(Untrusted):
                task["text"]


class Counting(BlobCache):
    """Keeps all, and notes what it was asked."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[str] = []

    def load_key(self, key: str) -> bytes | None:
        self.asked.append(key)
        return self.kept.get(key)

    def store_key(self, key: str, blob: bytes) -> None:
        self.kept[key] = blob


@pytest.mark.parametrize("loaded_before", [0, 1, 2])
def test_cache_is_asked_first(flow: FlowDataStore, loaded_before: int) -> None:
    """Whatever was fetched when a cache is set, each load from then on asks it, and fills it."""
    storage: Any = flow._storage_impl
    tasks = found(flow)
    assert [task["text"] for task in tasks[:loaded_before]] == [f"text {each}" for each in range(loaded_before)]
    cache = Counting()
    flow.ca_store.set_blob_cache(cache)
    fetches = len(storage.together)
    assert [task["text"] for task in tasks] == [f"text {each}" for each in range(TASKS)]
    assert cache.asked == [task.keys_for_artifacts(["text"])[0] for task in tasks]
    assert len(cache.kept) == TASKS
    assert len(storage.together) == fetches


def test_set_with_preloaded_blobs_fetches_no_others(flow: FlowDataStore) -> None:
    """TaskDataStoreSet's own cache is a cache as any."""
    storage: Any = flow._storage_impl
    tasks = TaskDataStoreSet(flow, "1", steps=["a"], prefetch_data_artifacts=["text"])
    assert [task["text"] for task in tasks] == [f"text {each}" for each in range(TASKS)]
    assert [task["number"] for task in tasks] == list(range(TASKS))
    assert not storage.together


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """One look-up keeps some MiB, whatever the blobs and however many names; what does not fit is loaded alone."""
    names = [f"name{each}" for each in range(4)]
    values = {
        (each, name): incompressible(60_000, 10 * each + index)
        for each in range(40)
        for index, name in enumerate(names)
    }
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=tmp_path / "runs.db") as flow:
        for each in range(40):
            save_task(flow, task=str(each), **{name: values[each, name] for name in names})
        storage: Any = flow._storage_impl
        tasks = found(flow)
        for name in names:  # of each the first two, so that the rest of what is fetched stays
            assert [task[name] for task in tasks[:2]] == [values[each, name] for each in range(2)]
        fetched = [blob for _, blobs in storage.together for blob in blobs.values()]
        assert 0 < sum(map(len, fetched)) <= KEPT
        assert all(task[name] == values[each, name] for each, task in enumerate(tasks) for name in names)


def test_room_is_made_by_loading(tmp_path: Path) -> None:
    """What was loaded is kept no longer, so names one after the other all find room."""
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=tmp_path / "runs.db") as flow:
        for each in range(40):
            save_task(
                flow,
                task=str(each),
                **{name: incompressible(60_000, 10 * each + len(name)) for name in ("a", "bb", "ccc")},
            )
        storage: Any = flow._storage_impl
        tasks = found(flow)
        for name in ("a", "bb", "ccc"):
            assert all(task[name] == incompressible(60_000, 10 * each + len(name)) for each, task in enumerate(tasks))
        assert len(storage.alone) == 3
        assert [len(blobs) for _, blobs in storage.together] == [39] * 3


def test_large_blobs_are_never_fetched_ahead(tmp_path: Path) -> None:
    """Blobs in chunks are read when they are loaded, also beside small ones of the same name."""
    values = [incompressible(300_000 if each % 2 else 100, each) for each in range(TASKS)]
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=tmp_path / "runs.db") as flow:
        for each, value in enumerate(values):
            save_task(flow, task=str(each), value=value)
        storage: Any = flow._storage_impl
        assert [task["value"] for task in found(flow)] == values
        [(_, blobs)] = storage.together
        assert {len(blob) < 1000 for blob in blobs.values()} == {True}
        assert len(blobs) == 2


def test_row_that_claims_to_be_small_is_not_fetched(path: Path) -> None:
    """The bytes count, not what a forged row says of them; the load says what is wrong."""
    key = bytes.fromhex(key_of(path, "3", "text"))
    with tampering(path) as connection:
        connection.execute("UPDATE blob SET bytes = zeroblob(5000000) WHERE key = ?", (key,))
    with FlowDataStore(FLOW, storage_impl=Watched, ds_root=path) as flow:
        storage: Any = flow._storage_impl
        tasks = found(flow)
        assert [task["text"] for task in tasks if task.task_id != "3"] == [f"text {e}" for e in range(TASKS) if e != 3]
        [(_, blobs)] = storage.together
        assert key.hex() not in blobs
        with pytest.raises(Damaged, match="TestFlow/1/a/3"):
            tasks[3]["text"]


def test_run_purged_in_between_loads_from_what_is_kept(path: Path) -> None:
    """What was fetched is a snapshot: it loads after the run is gone. What was not is not found."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        tasks = found(flow)
        assert [tasks[each]["text"] for each in (0, 1)] == ["text 0", "text 1"]
        with FlowDataStore(FLOW, ds_root=path) as other:
            prune(other, plan_prune(other, [f"{FLOW}/1"]), empty_trash=True)
            compact(other, grace=0)
        assert [task["text"] for task in tasks[2:]] == [f"text {each}" for each in range(2, TASKS)]
        for task in tasks:
            with pytest.raises(NotFound):
                task["text"]
            with pytest.raises(NotFound):
                task["number"]


def test_threads_load_side_by_side(tmp_path: Path) -> None:
    """Threads that load from the same tasks each get every value, whoever fetched it."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        for each in range(60):
            save_task(flow, task=str(each), number=each, items=[each])
        for _ in range(10):
            tasks = found(flow)
            loaded: list[Any] = []
            start = threading.Barrier(4)

            def load(tasks: list[Any] = tasks, loaded: list[Any] = loaded, start: threading.Barrier = start) -> None:
                start.wait()
                loaded.append([(task["number"], task["items"]) for task in tasks])

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert loaded == [[(each, [each]) for each in range(60)]] * 4


@pytest.mark.parametrize("make", [MemoryStorage, SQLiteStorage])
def test_every_storage_loads_from_tasks_found_together(tmp_path: Path, make: Callable[..., Any]) -> None:
    """A storage that has no small blobs to fetch together loads them one by one."""
    with FlowDataStore(FLOW, storage_impl=make, ds_root=str(tmp_path / "runs.db")) as flow:
        for each in range(3):
            save_task(flow, task=str(each), text=f"text {each}")
        tasks = found(flow)
        assert [task["text"] for task in tasks] == ["text 0", "text 1", "text 2"]
        flow.close()
        with pytest.raises(StoreClosed):
            tasks[0]["text"]
