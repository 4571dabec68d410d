"""What Metaflow relies on in a storage, one sentence each; the rest is in the differential test."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
from metaflow_extensions.sqlitestore.plugins.problems import SQLiteStoreException
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

from sqlitestore import FlowDataStore, SQLiteStorage
from sqlitestore.paths.stores import open_stores, store_at


def metaflow_flow(path: Path, name: str = "Flow") -> Any:
    """Return Metaflow's own flow datastore over the file."""
    return MetaflowFlowDataStore(name, storage_impl=SQLiteDatastoreStorage, ds_root=str(path))


def write_task(flow: Any, pathspec: str, artifacts: dict[str, Any], attempt: int = 0) -> Any:
    """Write a task through a flow datastore, Metaflow's or ours."""
    task = flow.get_task_datastore(*pathspec.split("/"), attempt=attempt, mode="w")
    task.init_task()
    task.save_artifacts(artifacts.items())
    task.save_logs("task", {"stdout": b"said\n"})
    task.done()
    return task


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Ask the file itself."""
    store = store_at(str(path))
    assert store is not None
    return store.database.query(statement)


def test_what_metaflow_wrote_is_an_ordinary_task(tmp_path: Path) -> None:
    """Artifacts, previews, metadata and logs of Metaflow's class are read by name through our API, and back."""
    path = tmp_path / "runs.db"
    task = write_task(metaflow_flow(path), "1/start/1", {"x": [1, 2], "big": b"z" * 300_000, "none": None})
    task._dangerous_save_metadata_post_done({"local_metadata": ["a", 1]})
    with FlowDataStore("Flow", ds_root=path) as flow:
        [found] = flow.get_latest_task_datastores("1", ["start"])
        assert {name: found[name] for name in found} == {"x": [1, 2], "big": b"z" * 300_000, "none": None}
        assert found.ds_metadata["info"]["x"] == {
            "size": 20,
            "type": "<class 'list'>",
            "encoding": "pickle-v4",
            "serializer_info": {"source": "metaflow"},
            "preview": {"repr": "[1, 2]", "length": 2},
        }
        assert found.load_logs(["task"], "stdout") == [("task", b"said\n")]
        assert found.load_metadata(["local_metadata"]) == {"local_metadata": ["a", 1]}
        write_task(flow, "2/start/1", {"y": {"deep": (1, 2.5)}, "big": b"y" * 300_000})
    [theirs] = metaflow_flow(path).get_task_datastores("2", ["start"])
    assert dict(theirs.load_artifacts(["y", "big"])) == {"y": {"deep": (1, 2.5)}, "big": b"y" * 300_000}
    assert theirs.load_logs(["task"], "stdout") == [("task", b"said\n")]
    assert query(path, "SELECT count(*) FROM file") == [(0,)]


def test_a_blob_is_stored_once_and_without_gzip(tmp_path: Path) -> None:
    """Under its SHA-1, whatever packs it, and by both APIs' chunks together; raw bytes come back."""
    path = tmp_path / "runs.db"
    noise = random.Random(1).randbytes(8_000_000)
    write_task(metaflow_flow(path), "1/start/1", {"a": noise})
    [(size,)] = query(path, "SELECT sum(length(bytes)) FROM chunk")
    write_task(metaflow_flow(path), "1/start/2", {"b": noise})
    with FlowDataStore("Flow", ds_root=path) as flow:
        write_task(flow, "1/start/3", {"c": noise})
    [(size_now,)] = query(path, "SELECT sum(length(bytes)) FROM chunk")
    assert size < 8_100_000
    assert size_now - size < 4_000_000  # our pickle of it has another head, and is cut otherwise for a while
    key = metaflow_flow(path).get_task_datastore("1", "start", "1")._objects["a"]
    storage = SQLiteDatastoreStorage(str(path))
    assert storage.info_file(f"Flow/data/{key[:2]}/{key}") == (True, {"cas_raw": True, "cas_version": 1})
    with storage.load_bytes([f"Flow/data/{key[:2]}/{key}"]) as loaded:
        data = Path(next(loaded)[1]).read_bytes()
    assert pickle.loads(data) == noise
    assert storage.size_file(f"Flow/data/{key[:2]}/{key}") == len(data)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("Flow/1/start/1/0.attempt.json", b'{"time": 5.0}', b'{"time": 6.0}'),
        ("Flow/1/start/1/0.DONE.lock", b'""', b"other"),
        ("Flow/1/start/1/0.task_stdout.log", b"line\n", b"another\n"),
        ("Flow/1/start/1/0.note", b"[1]", b"[2]"),
        ("Flow/1/start/1/note", b"[1]", b"no json"),
        ("Flow/anything/else", b"a", b"b"),
    ],
)
def test_what_is_there_stays_unless_it_shall_be_overwritten(tmp_path: Path, path: str, old: bytes, new: bytes) -> None:
    """Without overwrite a second save changes nothing, and is no error; with it the new bytes are there."""
    storage = SQLiteDatastoreStorage(str(tmp_path / "runs.db"))
    for saved, overwrite, expected in ((old, False, old), (new, False, old), (new, True, new)):
        storage.save_bytes([(path, io.BytesIO(saved))], overwrite=overwrite)
        with storage.load_bytes([path]) as loaded:
            [(_, file_path, metadata)] = loaded
            assert (Path(file_path).read_bytes(), metadata) == (expected, None)
        assert storage.size_file(path) == len(expected)


def test_what_is_asked_twice_is_answered_twice(tmp_path: Path) -> None:
    """As often as it was asked, in the order asked, each with a file of its own."""
    storage = SQLiteDatastoreStorage(str(tmp_path / "runs.db"))
    flow = metaflow_flow(tmp_path / "runs.db")
    [(_, small), (_, large)] = flow.save_data([b"small", b"l" * 100_000])
    paths = [f"Flow/data/{key[:2]}/{key}" for key in (small, small, large, small)]
    for asked in (paths[:2], paths, ["no", paths[0], "no"]):
        with storage.load_bytes(asked) as loaded:
            found = [(path, Path(file).read_bytes() if file else None) for path, file, _ in loaded]
        contents = {paths[0]: b"small", paths[2]: b"l" * 100_000, "no": None}
        assert found == [(path, contents[path]) for path in asked]


def test_saved_data_are_kept(tmp_path: Path) -> None:
    """What save_data stores (code packages) is a root of its flow, and has the location that Metaflow expects."""
    path = tmp_path / "runs.db"
    flow = metaflow_flow(path)
    data = [b"package", b"p" * 100_000]
    saved = flow.save_data(data)
    keys = [hashlib.sha1(each).hexdigest() for each in data]
    assert [key for _, key in saved] == keys
    assert query(path, "SELECT lower(hex(key)) FROM data JOIN blob ON blob = id ORDER BY size") == [(k,) for k in keys]
    assert SQLiteDatastoreStorage.get_datastore_root_from_location(saved[0][0], "Flow") == str(path)
    assert dict(flow.load_data(keys, force_raw=True)) == dict(zip(keys, data, strict=True))


def test_an_attempt_may_be_written_again(tmp_path: Path) -> None:
    """As Metaflow's contract says, also when it is done; the file then says what was written last."""
    path = tmp_path / "runs.db"
    write_task(metaflow_flow(path), "1/start/1", {"x": 1, "old": 2})
    write_task(metaflow_flow(path), "1/start/1", {"x": 3})
    [task] = metaflow_flow(path).get_task_datastores("1", ["start"])
    assert (task["x"], "old" in task) == (3, False)
    with FlowDataStore("Flow", ds_root=path) as flow:
        [found] = flow.get_latest_task_datastores("1")
        assert dict(found.to_dict()) == {"x": 3}


def test_a_document_that_says_more_is_kept_to_the_letter(tmp_path: Path) -> None:
    """A later Metaflow may add a field to data.json: it is read back, and the artifacts are there natively too."""
    path = tmp_path / "runs.db"
    write_task(metaflow_flow(path), "1/start/1", {"x": 1})
    storage = SQLiteDatastoreStorage(str(path))
    with storage.load_bytes(["Flow/1/start/1/0.data.json"]) as loaded:
        [(name, file_path, _)] = loaded
        document = json.loads(Path(file_path).read_bytes())
    richer = json.dumps(document | {"later": 1}).encode()
    storage.save_bytes([(name, io.BytesIO(richer))], overwrite=True)
    with storage.load_bytes([name]) as loaded:
        assert Path(next(loaded)[1]).read_bytes() == richer
    with FlowDataStore("Flow", ds_root=path) as flow:
        assert flow.get_latest_task_datastores("1")[0]["x"] == 1


def test_nobody_sees_half_a_task(tmp_path: Path) -> None:
    """data.json and DONE.lock appear together; while the iterator runs no transaction is open."""
    path = tmp_path / "runs.db"
    flow = metaflow_flow(path)
    write_task(flow, "1/start/1", {"x": 1})
    storage = SQLiteDatastoreStorage(str(path))
    key = hashlib.sha1(b"blob").hexdigest()

    def documents() -> Iterator[Any]:
        yield "Flow/1/start/2/0.attempt.json", io.BytesIO(b'{"time": 5.0}')
        yield f"Flow/data/{key[:2]}/{key}", (io.BytesIO(gzip.compress(b"blob")), {"cas_raw": False, "cas_version": 1})
        store_at(str(path)).database.query("SELECT 1")  # type: ignore[union-attr]
        other = SQLiteStorage(path)  # another connection can write just now
        other.save_file("beside", lambda file: file.write(b"1"))
        other.close()
        yield "Flow/1/start/2/0.data.json", io.BytesIO(b'{"objects": {}, "info": {}, "python_version": "3"}')
        assert flow.get_task_datastores("1", ["start"], allow_not_done=True)[0].task_id == "1"
        raise RuntimeError("the task is killed")

    with pytest.raises(RuntimeError):
        storage.save_bytes(documents(), overwrite=True)
    assert [task.task_id for task in flow.get_task_datastores("1", ["start"])] == ["1"]
    assert storage.is_file(["Flow/1/start/2/0.data.json", "beside"]) == [False, True]


def test_many_files_of_one_call_can_be_opened_at_its_end(tmp_path: Path) -> None:
    """All paths of a load are there until the block ends, more than a process has descriptors for, and none after."""
    storage = SQLiteDatastoreStorage(str(tmp_path / "runs.db"))
    names = [f"files/{number}" for number in range(1500)]
    storage.save_bytes([(name, io.BytesIO(name.encode())) for name in names])
    with storage.load_bytes([*names, "missing", names[0]]) as loaded:
        found = list(loaded)
        assert [name for name, _, _ in found] == [*names, "missing", names[0]]
        assert found[-2] == ("missing", None, None)
        contents = [Path(path).read_text() for _, path, _ in found if path]
        assert contents == [*names, names[0]]
        paths = [path for _, path, _ in found if path]
    assert not [path for path in paths if os.path.exists(path) and Path(path).read_bytes().startswith(b"files/")]


def test_missing_files_cost_a_query_and_no_file(tmp_path: Path) -> None:
    """Who asks a store that is not there gets nothing, and makes nothing."""
    storage = SQLiteDatastoreStorage(str(tmp_path / "runs.db"))
    assert storage.is_file(["Flow/1/start/1/0.DONE.lock", "x"]) == [False, False]
    assert (storage.info_file("x"), storage.size_file("x"), storage.list_content(["Flow", ""])) == (
        (False, None), None, [],
    )  # fmt: skip
    with storage.load_bytes(["a", "b", "a"]) as loaded:
        assert list(loaded) == [("a", None, None), ("b", None, None), ("a", None, None)]
    assert os.listdir(tmp_path) == []


def test_cards_are_files_in_the_store(tmp_path: Path) -> None:
    """A root may be a folder in the file, also when it is set on the instance later."""
    path = tmp_path / "runs.db"
    storage = SQLiteDatastoreStorage(str(path))
    storage.save_bytes([("Flow/1/start/1/0.attempt.json", io.BytesIO(b'{"time": 5.0}'))])
    storage.datastore_root = f"{path}/mf.cards"
    storage.save_bytes([("Flow/runs/1/default-a.html", (io.BytesIO(b"<html>"), {"a": 1}))], overwrite=True)
    cards = SQLiteDatastoreStorage(f"{path}/mf.cards")
    assert [tuple(each) for each in cards.list_content(["Flow/runs/1"])] == [("Flow/runs/1/default-a.html", True)]
    assert cards.info_file("Flow/runs/1/default-a.html") == (True, {"a": 1})
    assert not cards.is_file(["Flow/1/start/1/0.attempt.json"])[0]
    assert query(path, "SELECT path FROM file") == [("mf.cards/Flow/runs/1/default-a.html",)]


def test_a_folder_means_the_default_file_in_it(tmp_path: Path) -> None:
    """As for the rest of the package."""
    storage = SQLiteDatastoreStorage(str(tmp_path))
    assert storage.datastore_root == str(tmp_path / "metaflow.db")


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    """A notebook that looks at a path sees the file that is there now."""
    path = tmp_path / "runs.db"
    storage = SQLiteDatastoreStorage(str(path))
    storage.save_bytes([("a", io.BytesIO(b"1"))])
    path.unlink()
    assert storage.is_file(["a"]) == [False]
    storage.save_bytes([("b", io.BytesIO(b"2"))])
    assert storage.is_file(["a", "b"]) == [False, True]
    assert len(open_stores()) == 1


def test_problems_are_metaflows_exceptions(tmp_path: Path) -> None:
    """Metaflow's command line prints them without a traceback: a path with '@', another program's file, no folder."""
    with pytest.raises(SQLiteStoreException, match="has '@' in it"):
        SQLiteDatastoreStorage(str(tmp_path / "me@home.db"))
    (tmp_path / "text.db").write_text("no database at all, but long enough to be one" * 20)
    with pytest.raises(SQLiteStoreException, match=r"text\.db is not an SQLite database"):
        SQLiteDatastoreStorage(str(tmp_path / "text.db")).is_file(["a"])
    with pytest.raises(SQLiteStoreException, match="There is no folder"):
        SQLiteDatastoreStorage(str(tmp_path / "no" / "runs.db")).save_bytes([("a", io.BytesIO(b""))])
