"""Metaflow's client over a file: what it loads is what is there now; asked for one by one, it comes together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import metaflow
import pytest
from metaflow.client import core, filecache
from metaflow_extensions.sqlitestore.plugins.problems import SQLiteFileMissing, SQLiteStoreException
from test_storage_contract import write_task

from sqlitestore import BlobLeftOut, FlowDataStore, export
from sqlitestore.blobs import Blobs
from sqlitestore.paths import task_lookup
from sqlitestore.paths.stores import store_at
from sqlitestore.registrations import RegisteredMetadatum
from sqlitestore.tasks import Tasks

TASKS = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of eight tasks, each with a number, a text and a list."""
    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        for each in range(TASKS):
            write_task(flow, f"1/train/{each}", {"number": each, "text": f"text {each}", "items": [each]})
    return tmp_path / "runs.db"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the client may keep copies in."""
    monkeypatch.setattr(filecache.theirs, "CLIENT_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(core, "filecache", None)
    return tmp_path / "cache"


@pytest.fixture
def _client(path: Path, caches: Path) -> Iterator[None]:
    """Metaflow's client looks at the file."""
    assert not caches.exists()
    metaflow.namespace(None)
    metaflow.metadata(f"sqlite@{path}")
    yield
    metaflow.default_namespace()
    metaflow.default_metadata()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many blobs were loaded alone, and how many times some were together."""
    counts = {"alone": 0, "together": 0}
    alone, together = Blobs.open, Blobs.load_small

    def opened(self: Blobs, key: str) -> Any:
        counts["alone"] += 1
        return alone(self, key)

    def loaded(self: Blobs, keys: Any, largest: int) -> Any:
        counts["together"] += 1
        return together(self, keys, largest)

    monkeypatch.setattr(Blobs, "open", opened)
    monkeypatch.setattr(Blobs, "load_small", loaded)
    return counts


def tasks() -> list[Any]:
    """Return the tasks as the client lists them, by their names."""
    return sorted(metaflow.Step("Flow/1/train"), key=lambda task: int(task.id))


def damage(path: Path, key: str) -> None:
    """Change the bytes of a blob."""
    store = store_at(str(path))
    assert store is not None
    with store.database.write() as connection:
        connection.execute("UPDATE blob SET bytes = zeroblob(length(bytes)) WHERE key = unhex(?)", (key,))


@pytest.mark.usefixtures("_client")
def test_artifacts_of_tasks_come_together(loads: dict[str, int], caches: Path) -> None:
    """The blobs of an artifact that many tasks are asked for come by one query, and no copy is kept in a file."""
    assert [task["text"].data for task in tasks()] == [f"text {each}" for each in range(TASKS)]
    assert loads == {"alone": 1, "together": 1}
    assert not caches.exists()


@pytest.mark.usefixtures("_client")
def test_it_does_not_matter_how_the_client_is_asked(loads: dict[str, int]) -> None:
    """By name, by attribute, by listing all, by listing first and loading later: the same values."""
    assert [task.data.number for task in tasks()] == list(range(TASKS))
    assert [{each.id: each.data for each in task} for task in tasks()] == [
        {"number": each, "text": f"text {each}", "items": [each]} for each in range(TASKS)
    ]
    listed = [task["items"] for task in tasks()]
    assert [each.data for each in listed] == [[each] for each in range(TASKS)]
    assert [each.data for each in listed] == [[each] for each in range(TASKS)]
    assert loads["together"] == 3


@pytest.mark.usefixtures("_client")
def test_damage_hurts_one_task(path: Path) -> None:
    """A damaged blob is an error of the task whose it is; the others load."""
    key = tasks()[3]["text"]._object["sha"]
    damage(path, key)
    for each, task in enumerate(tasks()):
        if each == 3:
            with pytest.raises(SQLiteStoreException, match=f"Blob {key} .* is damaged"):
                _ = task["text"].data
        else:
            assert task["text"].data == f"text {each}"


@pytest.mark.usefixtures("_client")
def test_damaged_rows_hurt_one_task(path: Path) -> None:
    """Tasks are looked up together; what is wrong with the rows of one is no error of those beside it."""
    store = store_at(str(path))
    assert store is not None
    store.registrations.add_metadata("Flow", "1", [metadatum(str(each)) for each in range(TASKS)])
    with store.database.write() as connection:
        connection.execute("UPDATE artifact SET size = size + 1 WHERE name = 'text' AND attempt = 4")
        connection.execute("UPDATE registered_metadata SET value = '2' WHERE task = '5'")
    [hurt] = store.database.query("SELECT task FROM attempt WHERE id = 4")
    for task in tasks():
        if (task.id,) == hurt:
            with pytest.raises(SQLiteStoreException, match=f"train/{task.id} .* is damaged"):
                _ = task["text"]
        elif task.id == "5":
            with pytest.raises(SQLiteStoreException, match="train/5 is damaged"):
                _ = task.metadata
        else:
            assert task["text"].data == f"text {task.id}"
            assert [each.value for each in task.metadata] == ["1"]


def metadatum(task: str) -> RegisteredMetadatum:
    """Return something to register of a task."""
    return RegisteredMetadatum("train", task, "number", "1", "int", [], None, 1)


@pytest.mark.parametrize("order", ["forward", "backward", "mixed"])
@pytest.mark.usefixtures("_client")
def test_tasks_are_looked_up_once(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    """A few with the first that is asked for, more with the next, in whatever order; each has its own values."""
    monkeypatch.setattr(task_lookup, "TOGETHER", 2)
    monkeypatch.setattr(task_lookup, "MORE_TOGETHER", 4)
    found: list[int] = []
    artifacts = Tasks.artifacts

    def looked_up(self: Tasks, attempts: Any) -> Any:
        found.append(len(attempts))
        return artifacts(self, attempts)

    monkeypatch.setattr(Tasks, "artifacts", looked_up)
    asked = {"forward": range(TASKS), "backward": range(TASKS)[::-1], "mixed": (3, 0, 7, 5, 1, 2, 6, 4)}[order]
    listed = tasks()
    assert [listed[each]["number"].data for each in asked] == list(asked)
    assert [listed[each]["text"].data for each in asked] == [f"text {each}" for each in asked]
    assert found == [2, 2, 4]


@pytest.mark.usefixtures("_client")
def test_attempt_that_is_done_meanwhile_is_seen(path: Path) -> None:
    """A task that was retried while the client looks has its new value at the next look, not one fetched before."""
    assert [task["text"].data for task in tasks()[:2]] == ["text 0", "text 1"]
    with FlowDataStore("Flow", ds_root=path) as flow:
        write_task(flow, "1/train/5", {"text": "text of the retry"}, attempt=1)
        write_task(flow, "1/train/8", {"text": "text 8"})
    expected = ["text 0", "text 1", "text 2", "text 3", "text 4", "text of the retry", "text 6", "text 7", "text 8"]
    assert [task["text"].data for task in tasks()] == expected


@pytest.mark.usefixtures("_client")
def test_file_that_was_replaced_is_read_anew(path: Path, tmp_path: Path) -> None:
    """Another file under the path has its own values, whatever was fetched from the first."""
    assert [task["text"].data for task in tasks()[:2]] == ["text 0", "text 1"]
    with FlowDataStore("Flow", ds_root=tmp_path / "other.db") as flow:
        for each in range(TASKS):
            write_task(flow, f"1/train/{each}", {"text": f"other {each}"})
    os.replace(tmp_path / "other.db", path)
    assert [task["text"].data for task in tasks()] == [f"other {each}" for each in range(TASKS)]


@pytest.mark.usefixtures("_client")
def test_client_goes_between_two_files(path: Path, tmp_path: Path) -> None:
    """Tasks of one name in two files, asked in turn, have each their own values."""
    other = tmp_path / "other.db"
    with FlowDataStore("Flow", ds_root=other) as flow:
        for each in range(TASKS):
            write_task(flow, f"1/train/{each}", {"text": f"other {each}"})
    here = tasks()
    metaflow.metadata(f"sqlite@{other}")
    there = tasks()
    found = []
    for of_here, of_there in zip(here, there, strict=True):
        found.append(of_there["text"].data)
        metaflow.metadata(f"sqlite@{path}")
        found.append(of_here["text"].data)
        metaflow.metadata(f"sqlite@{other}")
    assert found == [f"{place} {each}" for each in range(TASKS) for place in ("other", "text")]


@pytest.mark.usefixtures("_client")
def test_blob_at_hand_needs_no_file(path: Path) -> None:
    """What was fetched and checked together is loaded whatever became of the file; who needs the file is told so."""
    artifacts = [task["text"] for task in tasks()]
    assert [each.data for each in artifacts[:2]] == ["text 0", "text 1"]
    os.remove(path)
    assert artifacts[2].data == "text 2"
    with pytest.raises(SQLiteFileMissing, match=str(path)):
        _ = artifacts[1].data


@pytest.mark.usefixtures("_client")
def test_large_artifacts_load_alone(path: Path, loads: dict[str, int]) -> None:
    """What is stored in chunks is read when it is asked for."""
    values = [os.urandom(300_000) for _ in range(3)]
    with FlowDataStore("Flow", ds_root=path) as flow:
        for each, value in enumerate(values):
            write_task(flow, f"2/train/{each}", {"large": value})
    loads.update(alone=0)
    found = sorted(metaflow.Step("Flow/2/train"), key=lambda task: int(task.id))
    assert [task["large"].data for task in found] == values
    assert loads["alone"] == 3


@pytest.mark.usefixtures("_client")
def test_artifact_that_was_left_out_says_so(path: Path, tmp_path: Path) -> None:
    """Of a file that was exported without its large artifacts the client says that, and where they are."""
    with FlowDataStore("Flow", ds_root=path) as flow:
        write_task(flow, "2/train/1", {"large": os.urandom(300_000), "small": 1})
        export(flow, tmp_path / "archive.db", max_artifact_size=1000)
    key = metaflow.Task("Flow/2/train/1")["large"]._object["sha"]
    of_archive = filecache.FileCache()._get_flow_datastore("sqlite", str(tmp_path / "archive.db"), "Flow")
    with pytest.raises(SQLiteStoreException, match="left out") as raised:
        list(of_archive.ca_store.load_blobs([key]))
    assert isinstance(raised.value.__cause__, BlobLeftOut)


@pytest.mark.usefixtures("_client")
def test_threads_load_side_by_side() -> None:
    """Each thread of a client gets every value."""
    loaded: list[Any] = []
    found = tasks()

    def load() -> None:
        loaded.append([(task["number"].data, task["text"].data) for task in found])

    threads = [Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [[(each, f"text {each}") for each in range(TASKS)]] * 4
