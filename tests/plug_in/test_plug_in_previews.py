"""Previews of what Metaflow saves, made without unpickling anything."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from metaflow.datastore.content_addressed_store import ContentAddressedStore
from metaflow.datastore.exceptions import UnpicklableArtifactException
from metaflow_extensions.sqlitestore.plugins import serializers
from test_storage_contract import metaflow_flow, query, write_task

from sqlitestore import FlowDataStore
from sqlitestore.paths.stores import open_stores
from sqlitestore.preview import describe

TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


def test_tables_have_previews_where_metaflow_runs(tmp_path: Path) -> None:
    """The serializer that sees them describes them; Metaflow reads the artifact as its own, also when passed on."""
    path = tmp_path / "runs.db"
    values = {"table": TABLE, "series": TABLE["a"], "array": np.arange(3.0), "number": 5}
    write_task(metaflow_flow(path), "1/start/1", values)
    [task] = metaflow_flow(path).get_task_datastores("1", ["start"])
    assert task["table"].equals(TABLE)
    assert task._info["table"]["encoding"] == "pickle-v4"
    clone = metaflow_flow(path).get_task_datastore("2", "start", "1", attempt=0, mode="w")
    clone.init_task()
    clone.clone(task)
    clone.done()
    with FlowDataStore("Flow", ds_root=path) as flow:
        for run in ("1", "2"):
            [found] = flow.get_latest_task_datastores(run)
            previews = {name: info.get("preview") for name, info in found.ds_metadata["info"].items()}
            assert previews == {name: describe(value) for name, value in values.items()}
            assert previews["table"]["columns"] == [["a", "int64"], ["b", "str"]]
            assert found["table"].equals(TABLE)
    assert query(path, "SELECT count(*) FROM file") == [(0,)]


def test_strings_of_tables_are_pickled_together(tmp_path: Path) -> None:
    """The pickle is one that Metaflow reads wherever it is, in a fraction of the size and the time."""
    table = pd.DataFrame({"name": [f"customer {number % 10}" for number in range(20_000)], "x": np.arange(20_000)})
    flow = metaflow_flow(tmp_path / "runs.db")
    write_task(flow, "1/start/1", {"table": table})
    [task] = flow.get_task_datastores("1", ["start"])
    assert task["table"].equals(table)
    assert task._info["table"]["encoding"] == "pickle-v4"
    [(_, blob)] = flow.ca_store.load_blobs(task.keys_for_artifacts(["table"]))
    assert blob.count(b"customer") == 10
    assert blob[:2] == pickle.dumps(None, 4)[:2]
    assert pickle.loads(blob).equals(table)


def test_what_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    """The error is Metaflow's own."""
    with pytest.raises(UnpicklableArtifactException, match='artifact named "lock"'):
        write_task(metaflow_flow(tmp_path / "runs.db"), "1/start/1", {"lock": threading.Lock()})


def test_other_datastores_keep_metaflows_serializer(tmp_path: Path) -> None:
    """Where the datastore is not ours nothing is claimed, and data.json says nothing new."""
    from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
    from metaflow.plugins.datastores.local_storage import LocalStorage

    flow = MetaflowFlowDataStore("Flow", storage_impl=LocalStorage, ds_root=str(tmp_path))
    write_task(flow, "1/start/1", {"table": TABLE})
    [task] = flow.get_task_datastores("1", ["start"])
    assert task._info["table"]["serializer_info"] == {"source": "metaflow"}


def test_a_task_whose_store_was_closed_claims_nothing(tmp_path: Path) -> None:
    """A task that was begun and never done, in a store that is closed, is in no other datastore's way."""
    from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
    from metaflow.plugins.datastores.local_storage import LocalStorage

    metaflow_flow(tmp_path / "runs.db").get_task_datastore("1", "start", "1", attempt=0, mode="w").init_task()
    assert serializers.SQLitePickleSerializer.can_serialize(1)
    [store] = open_stores()
    store.database.close()
    assert not serializers.SQLitePickleSerializer.can_serialize(1)
    flow = MetaflowFlowDataStore("Flow", storage_impl=LocalStorage, ds_root=str(tmp_path))
    write_task(flow, "1/start/1", {"large": "x" * 70_000})
    [task] = flow.get_task_datastores("1", ["start"])
    assert task["large"] == "x" * 70_000


def test_what_is_large_is_never_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metaflow finds a large artifact stored when it comes to store it, so only small ones pass its gzip."""
    packed: list[int] = []
    pack = ContentAddressedStore._pack_v1
    monkeypatch.setattr(
        ContentAddressedStore, "_pack_v1", lambda self, blob: (packed.append(len(blob)), pack(self, blob))[1]
    )
    path = tmp_path / "runs.db"
    values = {"large": np.arange(100_000), "small": 1, "text": "x" * 70_000}
    write_task(metaflow_flow(path), "1/start/1", values)
    assert packed == [5]
    [task] = metaflow_flow(path).get_task_datastores("1", ["start"])
    assert np.array_equal(task["large"], values["large"])
    assert (task["small"], task["text"]) == (1, values["text"])
    assert task._info["large"]["serializer_info"] == {"source": "metaflow"}
    assert not serializers.SQLitePickleSerializer.can_serialize(1)  # no task is being written
    assert query(path, "SELECT count(*) FROM blob WHERE length(key) <> 20") == [(1,)]  # the log
