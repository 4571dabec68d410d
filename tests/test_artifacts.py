"""Artifacts of any kind and size come back as they were, and a failure leaves nothing behind."""

from __future__ import annotations

import datetime
import decimal
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sqlitestore import ArtifactNotFound, FlowDataStore, TaskDataStoreSet, UnpicklableArtifactException


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[FlowDataStore]:
    with FlowDataStore("ArtifactFlow", ds_root=tmp_path / "runs.db") as store:
        yield store


def save(flow: FlowDataStore, task_id: str, artifacts: dict[str, Any], run_id: str = "1") -> None:
    task = flow.get_task_datastore(run_id, "step", task_id, attempt=0, mode="w")
    task.init_task()
    task.save_artifacts(artifacts.items())
    task.done()


def count(flow: FlowDataStore, table: str) -> int:
    connection = apsw.Connection(flow.datastore_root, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchall()[0][0])
    finally:
        connection.close()


VALUES = {
    "none": None,
    "numbers": [0, -1, 2**70, 1.5, float("inf"), 1j, True],
    "text": "snow ☃ and \ud800 and \0",
    "bytes": b"\0\xff" * 100_000,
    "bytearray": bytearray(b"x" * 300_000),
    "nested": {"a": [1, (2, {3}), frozenset({4})], ("k",): {"deep": [[[[]]]]}},
    "many": list(range(200_000)),
    "long_text": "line\n" * 100_000,
    "date": datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC),
    "decimal": decimal.Decimal("1.10"),
    "class": Path,
    "function": len,
    "exception": ValueError("what"),
}

ARRAYS = {
    "empty": np.empty((0, 3)),
    "zero_d": np.array(7),
    "float": np.random.default_rng(0).random((500, 700)),
    "fortran": np.asfortranarray(np.random.default_rng(0).random((500, 700))),
    "strided": np.arange(1_000_000)[::3],
    "reversed": np.arange(100_000)[::-1],
    "transposed": np.arange(600_000).reshape(2, 3, 100_000).transpose(2, 0, 1),
    "broadcast": np.broadcast_to(np.arange(300), (400, 300)),
    "big_endian": np.arange(200_000, dtype=">i4"),
    "complex": np.ones(100_000, dtype=complex),
    "bool": np.arange(500_000) % 3 == 0,
    "half": np.arange(200_000, dtype=np.float16),
    "structured": np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", "U5")]),
    "text": np.array(["a", "bc", "☃"] * 50_000),
    "bytes": np.array([b"a", b"bc"] * 100_000),
    "dates": np.arange("1970-01", "2026-01", dtype="datetime64[D]"),
    "objects": np.array([{"a": 1}, None, [1, 2]], dtype=object),
    "masked": np.ma.masked_array(np.arange(100_000), mask=np.arange(100_000) % 2),
    "read_only": np.frombuffer(b"\1" * 500_000, dtype=np.uint8),
    "zeros": np.zeros(2_000_000),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back(flow: FlowDataStore, name: str) -> None:
    """Any picklable object, small or large, equals itself after saving and loading."""
    save(flow, "1", {name: VALUES[name]})
    found = flow.get_task_datastore("1", "step", "1")[name]
    assert type(found) is type(VALUES[name])
    assert repr(found) == repr(VALUES[name])


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back(flow: FlowDataStore, name: str) -> None:
    """Arrays of any layout and dtype keep shape, dtype and values, and can be written to."""
    array = ARRAYS[name]
    save(flow, "1", {name: array})
    found = flow.get_task_datastore("1", "step", "1")[name]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    plain = pickle.loads(pickle.dumps(array, protocol=5))
    assert found.flags.writeable == plain.flags.writeable
    assert found.flags.f_contiguous == plain.flags.f_contiguous


def test_tables_come_back(flow: FlowDataStore) -> None:
    """DataFrames and series of many dtypes and indexes keep everything."""
    frame = pd.DataFrame(
        {
            "number": np.arange(50_000),
            "real": np.random.default_rng(0).random(50_000),
            "text": ["a", "bb", None, "☃"] * 12_500,
            "category": pd.Categorical(["x", "y"] * 25_000),
            "date": pd.date_range("2013-01-01", periods=50_000, freq="h", tz="America/New_York"),
            "nullable": pd.array([1, None] * 25_000, dtype="Int64"),
        },
        index=pd.MultiIndex.from_product([range(500), range(100)], names=["a", "b"]),
    )
    save(flow, "1", {"frame": frame, "series": frame["text"], "empty": frame.iloc[:0], "slice": frame.iloc[::7]})
    task = flow.get_task_datastore("1", "step", "1")
    pd.testing.assert_frame_equal(task["frame"], frame)
    pd.testing.assert_series_equal(task["series"], frame["text"])
    pd.testing.assert_frame_equal(task["empty"], frame.iloc[:0])
    pd.testing.assert_frame_equal(task["slice"], frame.iloc[::7])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=30,
    )
)
def test_any_builtin_value_comes_back(flow: FlowDataStore, value: object) -> None:
    """Whatever Hypothesis thinks of comes back equal."""
    task_id = str(count(flow, "attempt"))
    save(flow, task_id, {"value": value})
    assert flow.get_task_datastore("1", "step", task_id)["value"] == value


def test_two_names_of_one_object_give_two_objects(flow: FlowDataStore) -> None:
    """Artifacts that share their bytes do not share the loaded object."""
    save(flow, "1", {"a": [1, 2], "b": [1, 2]})
    loaded = dict(flow.get_task_datastore("1", "step", "1").load_artifacts(["a", "b"]))
    loaded["a"].append(3)
    assert loaded["b"] == [1, 2]
    assert count(flow, "blob") == 1


def test_the_stored_bytes_are_a_plain_pickle(flow: FlowDataStore) -> None:
    """Nothing is locked in: the blob under the key is what pickle.loads reads, also for a large array."""
    array = np.random.default_rng(1).random(300_000)
    save(flow, "1", {"array": array, "text": "x"})
    keys = dict(flow.get_task_datastore("1", "step", "1").items())
    blobs = dict(flow.load_data([keys["array"], keys["text"]]))
    assert np.array_equal(pickle.loads(blobs[keys["array"]]), array)
    assert pickle.loads(blobs[keys["text"]]) == "x"


class Fails:
    """Cannot be pickled, and says so late: after ``before`` was written."""

    def __init__(self, before: object, error: Exception) -> None:
        self.before, self.error = before, error

    def __reduce__(self) -> Any:
        return (list, ([self.before, _Raises(self.error)],))


class _Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (lambda: None, "lambda"),
        ((number for number in ()), "generator"),
        (Fails(None, RuntimeError("at once")), "at once"),
        (Fails(np.random.default_rng(0).random(5_000_000), KeyError("after 40 MB")), "after 40 MB"),
    ],
    ids=["lambda", "generator", "raises", "raises late"],
)
def test_what_cannot_be_pickled_is_named_and_leaves_nothing(flow: FlowDataStore, value: object, cause: str) -> None:
    """The error names task and artifact and chains the cause; no artifact, blob or chunk of the call stays."""
    task = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
    task.init_task()
    with pytest.raises(UnpicklableArtifactException) as caught:
        task.save_artifacts([("fine", 1), ("broken", value), ("never", 2)])
    assert "'broken'" in str(caught.value)
    assert "ArtifactFlow/1/step/1" in str(caught.value)
    assert cause in str(caught.value.__cause__)
    assert dict(task.items()) == {}
    assert [count(flow, table) for table in ("blob", "chunk", "artifact")] == [0, 0, 0]
    task.save_artifacts([("fine", 1)])
    task.done()
    assert list(flow.get_task_datastore("1", "step", "1")) == ["fine"]


def test_a_missing_artifact_is_named(flow: FlowDataStore) -> None:
    """The error is a KeyError too, and names task and artifact."""
    save(flow, "1", {"a": 1})
    task = flow.get_task_datastore("1", "step", "1")
    with pytest.raises(ArtifactNotFound, match=r"ArtifactFlow/1/step/1.*'b'"):
        task["b"]
    with pytest.raises(KeyError):
        list(task.load_artifacts(["a", "b"]))
    assert task.get("b", 7) == 7


def test_a_buffer_that_changes_while_it_is_saved_is_never_stored_wrong(flow: FlowDataStore) -> None:
    """An object whose own pickling changes an array that was written before loads as one of its states, undamaged."""
    array = np.zeros(3_000_000)

    class Changes:
        def __reduce__(self) -> Any:
            array[:] += 1
            return (int, ())

    save(flow, "1", {"both": [array, Changes()]})
    found = flow.get_task_datastore("1", "step", "1")["both"][0]
    assert set(np.unique(found)) <= {0.0, 1.0}


def test_a_set_prefetches_shared_blobs_once(flow: FlowDataStore) -> None:
    """TaskDataStoreSet loads the named artifacts of all its tasks into memory, each blob once."""
    shared = np.arange(200_000)
    for number in range(5):
        save(flow, str(number), {"shared": shared, "own": number})
    tasks = TaskDataStoreSet(flow, "1", steps=["step"], prefetch_data_artifacts=["shared", "not there"])
    asked: list[str] = []
    storage = flow._storage_impl
    original = storage.open_blob
    storage.open_blob = lambda name, key: asked.append(key) or original(name, key)  # type: ignore[method-assign, func-returns-value]
    assert all(np.array_equal(task["shared"], shared) for task in tasks)
    assert not asked
    assert [task["own"] for task in tasks] == list(range(5))
    assert tasks.get_with_pathspec("1/step/3")["own"] == 3
    assert tasks.get_with_pathspec("1/step/9") is None
