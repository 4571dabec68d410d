"""What a golden file holds: written by scripts/make_golden with the version of its day, read by every later one."""

from __future__ import annotations

import io
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sqlitestore import BlobLeftOut, FlowDataStore, Untrusted
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import payload_of
from sqlitestore.maintenance.prune import plan_prune, prune
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum, Registrations

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
        register(Registrations(flow._storage_impl.database))
        come_and_go(flow)


TAGS, SYSTEM_TAGS = frozenset({"grün", "b"}), frozenset({"user:ada"})
METADATUM = RegisteredMetadatum("train", "0", "list", ["a", 2**70], "t", ("attempt_id:0",), "ada", 1_700_000_000_123)
ARTIFACT = RegisteredArtifact(0, "far", "pickle-v4", "0" * 40, "s3", ":root:s3://b", None, 1_700_000_000_123)


def register(registrations: Registrations) -> None:
    """Register what format 2 brought: a run, its step and task, metadata and an artifact of another datastore."""
    registrations.add_run("GoldenFlow", "17", "ada", 1_700_000_000_000, {"a", "b"}, SYSTEM_TAGS)
    registrations.change_tags("GoldenFlow", "17", lambda tags, _: (tags - {"a"}) | {"grün"})
    assert registrations.new_task_id("GoldenFlow", "17", "train", None, 1_700_000_000_001) == "0"
    registrations.add_metadata("GoldenFlow", "17", [METADATUM, METADATUM._replace(value=None)])
    registrations.add_artifacts("GoldenFlow", "17", "train", "0", [ARTIFACT])


def come_and_go(flow: FlowDataStore) -> None:
    """Make what format 3 brought: a run in the trash with its file, and one that was imported, with a stub."""
    for run, value in (("22", "pruned"), ("22", "again")):
        task = flow.get_task_datastore(run, "train", "1", attempt=0, mode="w")
        task.init_task()
        task.save_artifacts([("what", value)])
        task.done()
        flow._storage_impl.save_file("mf.cards/GoldenFlow/runs/22/card.html", payload_of(value.encode()))
        if value == "pruned":
            prune(flow, plan_prune(flow, ["GoldenFlow/22"]))
    with TemporaryDirectory() as folder:
        archive = f"{folder}/archive.db"
        with FlowDataStore("GoldenFlow", ds_root=f"{folder}/other.db") as other:
            task = other.get_task_datastore("21", "train", "1", attempt=0, mode="w")
            task.init_task()
            task.save_artifacts([("small", 1), ("large", NOISE[::-1].copy())])
            task.done()
            export(other, archive, max_artifact_size=1000)
        merge(flow, [archive])


def check_come_and_gone(ds_root: str) -> None:
    """Raise AssertionError unless everything that ``come_and_go`` made is there, and comes back from the trash."""
    with FlowDataStore("GoldenFlow", ds_root=ds_root) as flow:
        [task] = flow.get_latest_task_datastores("22")
        assert task["what"] == "again"
        [imported] = flow.get_latest_task_datastores("21")
        assert list(imported) == ["small", "large"]
        with suppress(Untrusted):
            raise AssertionError(imported["small"])
        trash = flow._storage_impl.tables.trash
        assert [run.pathspec for run in trash.runs()] == ["GoldenFlow/22"]
        prune(flow, plan_prune(flow, ["GoldenFlow/22"]))
        trash.restore("GoldenFlow", "22")
        key, _, _ = flow._storage_impl.find_file("mf.cards/GoldenFlow/runs/22/card.html") or ("", 0, "")
        assert dict(flow.load_data([key])) == {key: b"again"}
    with FlowDataStore("GoldenFlow", ds_root=ds_root, trust=True) as flow:
        [imported] = flow.get_latest_task_datastores("21")
        assert imported["small"] == 1
        with suppress(BlobLeftOut):
            raise AssertionError(imported["large"])


def check_registered(ds_root: str) -> None:
    """Raise AssertionError unless everything that ``register`` wrote is read from the store."""
    with FlowDataStore("GoldenFlow", ds_root=ds_root) as flow:
        registrations = Registrations(flow._storage_impl.database)
        [run] = registrations.runs("GoldenFlow")
        assert run == ("17", "ada", 1_700_000_000_000, TAGS, SYSTEM_TAGS, 1)
        assert registrations.steps("GoldenFlow", "17") == [("train", "", None, 1_700_000_000_001)]
        assert registrations.tasks("GoldenFlow", "17") == [("train", "0", None, 1_700_000_000_001)]
        found = registrations.metadata("GoldenFlow", "17", [("train", "0")])
        assert found == [METADATUM, METADATUM._replace(value=None)]
        assert registrations.artifacts("GoldenFlow", "17", [("train", "0")]) == {("train", "0"): [ARTIFACT]}


def check(ds_root: str) -> None:
    """Raise AssertionError unless everything that ``write`` wrote is read from the store, as far as format 1 goes."""
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
