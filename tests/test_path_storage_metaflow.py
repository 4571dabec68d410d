"""What our classes write through a storage of Metaflow's own, Metaflow's classes read, and the other way round."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
from metaflow.plugins.datastores.local_storage import LocalStorage

from sqlitestore import AttemptDone, FlowDataStore, InvalidType, StoreUnavailable

Opened = tuple[Callable[[Any], Any], str]


@pytest.fixture(params=["local", "s3", "azure"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Return what makes a storage of Metaflow's own, and a root that is empty."""
    if request.param == "local":
        return LocalStorage, str(tmp_path / "root")
    if request.param == "s3":
        from metaflow.plugins.datastores.s3_storage import S3Storage

        return S3Storage, f"s3://{request.getfixturevalue('s3_server').bucket()}/root"
    server = request.getfixturevalue("azure_server")
    return server.storage, f"{server.container()}/root"


ARTIFACTS = {"number": 7, "text": "текст" * 40_000, "again": "текст" * 40_000, "none": None}


def write(flow: Any, task_id: str, attempt: int = 0, *, done: bool = True) -> Any:
    """Write a task."""
    task = flow.get_task_datastore("1", "train", task_id, attempt=attempt, mode="w")
    task.init_task()
    task.save_artifacts(ARTIFACTS.items())
    task.save_metadata({"note": {"from": "somebody"}})
    task.save_logs("runtime", {"stdout": b"one line\n"})
    if done:
        task.done()
    return task


def read(flow: Any) -> dict[str, Any]:
    """Return what a flow's datastore says of its tasks that are done."""
    return {
        task.pathspec: {
            "values": dict(task.load_artifacts(ARTIFACTS)),
            "keys": task.ds_metadata["objects"] if hasattr(task, "ds_metadata") else task._objects,
            "note": task.load_metadata(["note"]),
            "logs": task.load_logs(["runtime"], "stdout"),
            "attempt": task.attempt,
        }
        for task in flow.get_task_datastores(run_id="1")
    }


def expected(attempt: int = 0) -> dict[str, Any]:
    """Return what ``read`` says of a task that ``write`` wrote."""
    return {
        "values": ARTIFACTS,
        "note": {"note": {"from": "somebody"}},
        "logs": [("runtime", b"one line\n")],
        "attempt": attempt,
    }


def without_keys(found: dict[str, Any]) -> dict[str, Any]:
    return {task: {name: value for name, value in said.items() if name != "keys"} for task, said in found.items()}


def test_each_reads_what_the_other_wrote(storage: Opened) -> None:
    """Tasks of both on one root: both see all of them, with artifacts, metadata, logs and attempts."""
    implementation, root = storage
    theirs = MetaflowFlowDataStore("Flow", storage_impl=implementation, ds_root=root)
    with FlowDataStore("Flow", storage_impl=implementation, ds_root=root) as ours:
        assert (ours.TYPE, ours.datastore_root) == (theirs.TYPE, root)
        write(ours, "ours")
        write(theirs, "theirs")
        write(ours, "half", done=False)
        write(theirs, "retried")
        write(ours, "retried", attempt=1)
        said_by_us, said_by_them = read(ours), read(theirs)
        assert said_by_us == said_by_them
        both = {"1/train/ours": expected(), "1/train/theirs": expected(), "1/train/retried": expected(1)}
        assert without_keys(said_by_us) == both
        with pytest.raises(AttemptDone):
            ours.get_task_datastore("1", "train", "theirs", attempt=0, mode="w").init_task()


def test_data_that_is_saved_is_shared(storage: Opened) -> None:
    """What ``save_data`` keeps has Metaflow's key and place, and is stored as it is, for whoever reads it there."""
    implementation, root = storage
    theirs = MetaflowFlowDataStore("Flow", storage_impl=implementation, ds_root=root)
    with FlowDataStore("Flow", storage_impl=implementation, ds_root=root) as ours:
        saved = ours.save_data([b"data", b"more"])
        assert [tuple(each) for each in theirs.save_data([b"data", b"more"])] == saved
        assert dict(theirs.load_data([key for _, key in saved])) == dict(ours.load_data([key for _, key in saved]))
        [(uri, key), _] = saved
        assert key == hashlib.sha1(b"data").hexdigest()
        assert uri == f"{root}/Flow/data/{key[:2]}/{key}"


def test_files_are_metaflows(tmp_path: Path) -> None:
    """On disk there is Metaflow's layout: SHA-1 of a pickle, gzip with its metadata, documents with their fields."""
    with FlowDataStore("Flow", storage_impl=LocalStorage, ds_root=str(tmp_path)) as flow:
        write(flow, "1")
        key = flow.get_task_datastore("1", "train", "1").ds_metadata["objects"]["text"]
    blob = tmp_path / "Flow" / "data" / key[:2] / key
    data = gzip.decompress(blob.read_bytes())
    assert hashlib.sha1(data).hexdigest() == key
    assert pickle.loads(data) == ARTIFACTS["text"]
    assert json.loads(Path(f"{blob}_meta").read_text()) == {"cas_raw": False, "cas_version": 1}
    document = json.loads((tmp_path / "Flow/1/train/1/0.data.json").read_text())
    assert {"datastore", "version", "attempt", "python_version", "objects", "info"} < set(document)
    assert (document["datastore"], document["info"]["text"]["encoding"]) == ("local", "pickle-v4")
    assert (tmp_path / "Flow/1/train/1/0.DONE.lock").read_text() == '""'


class _Recorded(LocalStorage):
    """Notes what is saved, in order; and breaks where it is told to."""

    saved: list[str] = []  # noqa: RUF012
    breaks_at = ""

    def save_bytes(self, path_and_bytes_iter, overwrite=False, len_hint=0):
        def noted():
            for path, item in path_and_bytes_iter:
                if self.breaks_at and path.endswith(self.breaks_at):
                    raise OSError("the cable")
                self.saved.append(path)
                yield path, item

        super().save_bytes(noted(), overwrite, len_hint)


@pytest.mark.parametrize("breaks_at", ["data.json", "DONE.lock"])
def test_done_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks_at: str) -> None:
    """Blobs, data.json, DONE.lock, in this order: whatever breaks in between, the task is not done yet."""
    monkeypatch.setattr(_Recorded, "saved", [])
    with FlowDataStore("Flow", storage_impl=_Recorded, ds_root=str(tmp_path)) as flow:
        monkeypatch.setattr(_Recorded, "breaks_at", breaks_at)
        with pytest.raises(StoreUnavailable, match="the cable"):
            write(flow, "1")
        assert flow.get_task_datastores(run_id="1") == []
        monkeypatch.setattr(_Recorded, "breaks_at", "")
        write(flow, "1")
        assert len(flow.get_task_datastores(run_id="1")) == 1
    assert [path.rpartition(".")[0].rpartition("/")[2] for path in _Recorded.saved[-2:]] == ["0.data", "0.DONE"]
    blobs = [path for path in _Recorded.saved if "/data/" in path]
    assert len(blobs) == len(set(blobs)) == 3, "what is there is not sent again"


def test_damaged_blob_is_noticed(tmp_path: Path) -> None:
    """What is read is checked against its key, as everywhere."""
    from sqlitestore import Damaged

    with FlowDataStore("Flow", storage_impl=LocalStorage, ds_root=str(tmp_path)) as flow:
        write(flow, "1")
        task = flow.get_task_datastore("1", "train", "1")
        key = task.ds_metadata["objects"]["text"]
        (tmp_path / "Flow" / "data" / key[:2] / key).write_bytes(gzip.compress(pickle.dumps("other")))
        with pytest.raises(Damaged, match=key):
            task["text"]


def test_what_is_no_storage_is_refused() -> None:
    """An object that is neither kind of storage says so."""
    with pytest.raises(InvalidType, match="neither"):
        FlowDataStore("Flow", storage_impl=lambda root: {"root": root})
