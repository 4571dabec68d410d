"""What a golden file holds: written by scripts/make_golden with the version of its day, read by every later one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from sqlitestore import FlowDataStore
from sqlitestore.blobs import payload_of

NOISE = np.random.default_rng(7).random(40_000)
SMOOTH = np.arange(200_000)
DATA = b"kept by save_data\n" * 10
LOG = "first line\nsecond line ☃\n"


def artifacts(task_id: str) -> dict[str, Any]:
    """Return what each task of the run saved: inline and chunked, raw and compressed, shared and own."""
    return {"name": f"task {task_id}", "noise": NOISE, "smooth": SMOOTH, "nothing": None, "größe": {"deep": [1, 2.5]}}


def write(ds_root: str) -> None:
    """Make a store with something of everything."""
    with FlowDataStore("GoldenFlow", ds_root=ds_root) as flow:
        for task_id in ("1", "2"):
            task = flow.get_task_datastore("17", "train", task_id, attempt=0, mode="w")
            task.init_task()
            if task_id == "2":  # failed once, then done
                task.save_logs("runtime", {"stderr": b"killed"})
                task = flow.get_task_datastore("17", "train", task_id, attempt=1, mode="w")
                task.init_task()
            task.save_artifacts(artifacts(task_id).items())
            task.save_metadata({"tags": ["a", 2**80], "none": None})
            task.save_metadata({"of the task": 1.5}, add_attempt=False)
            task.save_logs("task", {"stdout": LOG[:11]})
            task.save_logs("task", {"stdout": LOG})
            task.done()
        unfinished = flow.get_task_datastore("17", "train", "3", attempt=0, mode="w")
        unfinished.init_task()
        flow.save_data([DATA, b""])
        flow._storage_impl.save_file("GoldenFlow/cards/1.html", payload_of(b"<html>"), '{"type": "card"}')


def check(ds_root: str) -> None:
    """Raise AssertionError unless everything that ``write`` wrote is read from the store."""
    with FlowDataStore("GoldenFlow", ds_root=ds_root) as flow:
        tasks = flow.get_latest_task_datastores("17", ["train"])
        assert [(task.task_id, task.attempt) for task in tasks] == [("1", 0), ("2", 1)]
        for task in tasks:
            expected = artifacts(task.task_id)
            assert list(task) == list(expected)
            for name, value in expected.items():
                assert np.array_equal(task[name], value)
            assert task.load_metadata(["tags", "none"]) == {"tags": ["a", 2**80], "none": None}
            assert task.load_metadata(["of the task"], add_attempt=False) == {"of the task": 1.5}
            assert task.load_logs(["task"], "stdout") == [("task", LOG.encode())]
            assert task.ds_metadata["info"]["noise"]["preview"]["shape"] == [40_000]
        failed = flow.get_task_datastore("17", "train", "2", attempt=0, allow_not_done=True)
        assert failed.load_logs(["runtime"], "stderr") == [("runtime", b"killed")]
        assert len(flow.get_latest_task_datastores("17", ["train"], allow_not_done=True)) == 3
        keys = ["f61644e17fd8273ca0a0e21b053c3bff", "99aa06d3014798d86001c324468d497f"]
        assert [blob for _, blob in flow.load_data(keys)] == [DATA, b""]
        key, size, metadata = flow._storage_impl.find_file("GoldenFlow/cards/1.html") or ("", 0, "")
        assert (size, metadata) == (6, '{"type": "card"}')
        with flow._storage_impl.open_blob("GoldenFlow", key) as file:
            assert isinstance(file, io.BytesIO)
            assert file.read() == b"<html>"
