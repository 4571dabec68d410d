"""Values of the wrong kind, that fail half-way, or at the wrong moment: an error, and nothing changes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_store import FLOW, beside, dump, incompressible, loose_chunks, make_store, roots

from sqlitestore import (
    BlobNotFound,
    FlowDataStore,
    InvalidInput,
    InvalidKey,
    InvalidPathspec,
    InvalidType,
    NotAStore,
    StoreClosed,
    TaskDataStoreSet,
    UnpicklableArtifactException,
    WrongMode,
)

MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a file with three done tasks, closed."""
    return make_store(tmp_path / "runs.db")


@pytest.fixture
def flow(path: str) -> Iterator[FlowDataStore]:
    """Open the same file."""
    with FlowDataStore(FLOW, ds_root=path) as opened:
        yield opened


def _writer(flow: FlowDataStore) -> Any:
    return flow.get_task_datastore("9", "a", "1", attempt=0, mode="w")


# Values


class Loud:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no pickle of me")


class LateTrouble:
    """Cannot be pickled, and says so only after 50 MB."""

    def __reduce__(self) -> Any:
        def items() -> Iterator[bytes]:
            for seed in range(50):
                yield incompressible(MIB, seed)
            raise ZeroDivisionError("too late")

        return list, (), None, items()


def _deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 1,
    "open file": lambda: open(os.devnull, "rb"),  # noqa: SIM115 - closed by the test
    "generator": lambda: (x for x in "x"),
    "raises": Loud,
    "raises late": LateTrouble,
    "too deep": _deep,
    "half good": lambda: [incompressible(3 * MIB), Loud()],
}


@pytest.mark.parametrize("name", UNPICKLABLE)
def test_an_object_that_cannot_be_pickled_leaves_nothing(flow: FlowDataStore, name: str) -> None:
    """The error names the artifact and task, its cause is chained; nothing of the call is left behind."""
    before = dump(flow.datastore_root)
    writer = flow.get_task_datastore("7", "a", "1", attempt=0, mode="w")
    writer.init_task()
    bad = UNPICKLABLE[name]()
    with pytest.raises(UnpicklableArtifactException) as caught:
        writer.save_artifacts([("bad", bad), ("never", 1)])
    assert "'bad'" in str(caught.value)
    assert "7/a/1" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value.__cause__, Exception)
    assert not list(writer.items())
    after = dump(flow.datastore_root)
    assert [after[table] for table in ("blob", "chunk", "artifact")] == [
        before[table] for table in ("blob", "chunk", "artifact")
    ]
    writer.save_artifacts([("good", 1)])
    writer.done()
    assert flow.get_task_datastore("7", "a", "1").to_dict() == {"good": 1}
    if hasattr(bad, "close"):
        bad.close()


def _breaking(*things: Any) -> Iterator[Any]:
    yield from things
    raise ZeroDivisionError("half-way")


BEFORE_THE_BREAK: dict[str, list[bytes]] = {
    "nothing": [],
    "small": [b"a", b"b"],
    "large": [incompressible(5 * MIB)],
    "both": [b"a", incompressible(5 * MIB), b"b"],
    "many MiB of small ones": [incompressible(60_000, seed) for seed in range(700)],
    "many MiB of large ones": [incompressible(9 * MIB, seed) for seed in range(4)],
}


@pytest.mark.parametrize("name", BEFORE_THE_BREAK)
def test_an_iterator_that_raises_half_way_saves_nothing(flow: FlowDataStore, name: str) -> None:
    """Its own error reaches the caller; no artifact and no data are recorded, no chunk lies about."""
    before = roots(flow.datastore_root)
    blobs = BEFORE_THE_BREAK[name]
    writer = flow.get_task_datastore("7", "a", "1", attempt=0, mode="w")
    with pytest.raises(ZeroDivisionError, match="half-way"):
        flow.save_data(_breaking(*blobs))
    with pytest.raises(ZeroDivisionError, match="half-way"):
        writer.save_artifacts(_breaking(*((f"x{n}", blob) for n, blob in enumerate(blobs))))
    with pytest.raises(InvalidType, match=f"{len(blobs)}"):
        flow.save_data([*blobs, "text"])
    assert roots(flow.datastore_root) == before
    assert loose_chunks(flow.datastore_root) == 0
    assert not list(writer.items())


ODD_VALUES: dict[str, Callable[[FlowDataStore], Any]] = {
    "flow": lambda flow: FlowDataStore(FLOW, ds_root=5),  # type: ignore[arg-type]
    "ds_root empty": lambda _: FlowDataStore(FLOW, ds_root=""),
    "ds_root NUL": lambda _: FlowDataStore(FLOW, ds_root="a\0b"),
    "ds_root bytes": lambda _: FlowDataStore(FLOW, ds_root=b"runs.db"),
    "storage": lambda flow: FlowDataStore(FLOW, ds_root=flow.datastore_root, storage_impl=lambda _: 5),
    "mode": lambda flow: flow.get_task_datastore("1", "a", "0", mode="rw"),
    "mode number": lambda flow: flow.get_task_datastore("1", "a", "0", mode=5),
    "attempt text": lambda flow: flow.get_task_datastore("1", "a", "0", attempt="0"),
    "attempt bool": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=True),
    "attempt negative": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=-1),
    "attempt huge": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=2**70),
    "attempts": lambda flow: flow.get_task_datastores("1", attempt="0"),
    "no tasks named": lambda flow: flow.get_latest_task_datastores(),
    "pathspecs text": lambda flow: flow.get_latest_task_datastores(pathspecs="1/a/0"),
    "pathspecs bytes": lambda flow: flow.get_latest_task_datastores(pathspecs=b"1/a/0"),
    "pathspecs number": lambda flow: flow.get_latest_task_datastores(pathspecs=5),
    "pathspec number": lambda flow: flow.get_latest_task_datastores(pathspecs=[5]),
    "steps text": lambda flow: flow.get_latest_task_datastores("1", steps="a"),
    "steps number": lambda flow: flow.get_latest_task_datastores("1", steps=5),
    "step number": lambda flow: flow.get_latest_task_datastores("1", steps=[5]),
    "data_metadata": lambda flow: flow.get_task_datastore("1", "a", "0", data_metadata=5),
    "artifacts a dict": lambda flow: _writer(flow).save_artifacts({"x": 1}),
    "artifacts a number": lambda flow: _writer(flow).save_artifacts(5),
    "artifacts of one": lambda flow: _writer(flow).save_artifacts([("x",)]),
    "artifacts of three": lambda flow: _writer(flow).save_artifacts([("x", 1, 2)]),
    "artifacts of text": lambda flow: _writer(flow).save_artifacts(["xy"]),
    "artifact names text": lambda flow: list(flow.get_task_datastore("1", "a", "0").load_artifacts("text")),
    "artifact names number": lambda flow: list(flow.get_task_datastore("1", "a", "0").load_artifacts(5)),
    "data bytes": lambda flow: flow.save_data(b"bytes"),
    "data text": lambda flow: flow.save_data("text"),
    "data number": lambda flow: flow.save_data(5),
    "datum text": lambda flow: flow.save_data(["text"]),
    "datum None": lambda flow: flow.save_data([None]),
    "datum strided": lambda flow: flow.save_data([memoryview(bytes(100))[::2]]),
    "datum released": lambda flow: flow.save_data([_released()]),
    "blobs": lambda flow: flow.ca_store.save_blobs([1.5]),
    "keys text": lambda flow: list(flow.load_data("0" * 32)),
    "keys number": lambda flow: list(flow.load_data(5)),
    "key number": lambda flow: list(flow.load_data([5])),
    "key bytes": lambda flow: list(flow.load_data([b"0" * 32])),
    "metadata list": lambda flow: _writer(flow).save_metadata([("x", 1)]),
    "metadata set": lambda flow: _writer(flow).save_metadata({"x": {1}}),
    "metadata cycle": lambda flow: _writer(flow).save_metadata({"x": _cycle()}),
    "metadata reserved": lambda flow: _writer(flow).save_metadata({"DONE.lock": ""}),
    "metadata huge int": lambda flow: _writer(flow).save_metadata({"x": 10**5000}),
    "logs text": lambda flow: _writer(flow).save_logs("task", "text"),
    "log number": lambda flow: _writer(flow).save_logs("task", {"stdout": b"good", "stderr": 5}),
    "log surrogate": lambda flow: _writer(flow).save_logs("task", {"stdout": "\ud800"}),
    "log missing file": lambda flow: _writer(flow).save_logs("task", {"stdout": Path("missing")}),
    "no attempt": lambda flow: flow.get_task_datastore("9", "a", "1", mode="w").init_task(),
    "no attempt done": lambda flow: flow.get_task_datastore("9", "a", "1", mode="w").done(),
    "clone": lambda flow: _writer(flow).clone(5),
    "passdown": lambda flow: _writer(flow).passdown_partial(5, ["x"]),
}


def _released() -> memoryview:
    view = memoryview(b"bytes")
    view.release()
    return view


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize("name", ODD_VALUES)
def test_values_that_make_no_sense_are_refused_before_anything_changes(flow: FlowDataStore, name: str) -> None:
    """Each is an InvalidInput, so a program can catch them together; the file stays as it was."""
    before = roots(flow.datastore_root)
    with pytest.raises(InvalidInput) as caught:
        ODD_VALUES[name](flow)
    assert str(caught.value)
    assert roots(flow.datastore_root) == before


@pytest.mark.parametrize(
    "key", ["", "0", "0" * 31, "0" * 33, "g" * 32, "A" * 32, "0" * 64, "../" * 11, "\ud800" * 32, "\u0660" * 32]
)
def test_what_has_no_form_of_a_key_is_no_key(flow: FlowDataStore, key: str) -> None:
    """InvalidKey, also when good keys stand before it."""
    with pytest.raises(InvalidKey):
        list(flow.load_data([key]))
    with pytest.raises(InvalidKey):
        flow.ca_store.open_blob(key)


@pytest.mark.parametrize("key", ["0" * 32, "f" * 40])
def test_a_missing_key_is_named(flow: FlowDataStore, key: str) -> None:
    """A KeyError, too; what stood before it was right."""
    [(_, first)] = flow.save_data([b"first"])
    loading = flow.load_data([first, key])
    assert next(loading) == (first, b"first")
    with pytest.raises(BlobNotFound, match=key) as caught:
        next(loading)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    "pathspec",
    [
        "",
        "/",
        "1",
        "1/a",
        "1//1",
        "/1/a/1",
        "1/a/1/0/x",
        "1/a/1/x",
        "1/a/1/-1",
        "1/a/1/\u0663",
        "1/a/1/1.0",
        "1/a/1/ 1",
        "1/a/\0",
        "1/../1",
        f"1/a/1/{10**20}",
        f"1/a/1/{'9' * 5000}",
        "1/a/" + "x" * 256,
        "1/a\n/1",
    ],
)
def test_a_pathspec_that_does_not_parse_shows_the_form(flow: FlowDataStore, pathspec: str) -> None:
    """Not an empty answer, and not the error of whatever stumbled over it."""
    with pytest.raises(InvalidPathspec) as caught:
        flow.get_latest_task_datastores(pathspecs=["1/a/0", pathspec])
    assert caught.value.kind == "invalid_pathspec"


# Wrong moments


def test_a_method_of_another_mode_says_which_mode_it_needs(flow: FlowDataStore) -> None:
    """An AttributeError, too, so that hasattr() answers rightly."""
    reader = flow.get_task_datastore("1", "a", "0")
    writer, scrubber = _writer(flow), flow.get_task_datastore("1", "a", "0", mode="d")
    for datastore, names in {
        reader: ["save_artifacts", "done", "init_task", "save_logs", "save_metadata", "persist", "scrub_logs"],
        writer: ["scrub_logs", "load_logs", "get_artifact_sizes", "is_none", "format"],
        scrubber: ["save_artifacts", "done", "load_logs", "init_task"],
    }.items():
        for name in names:
            with pytest.raises(WrongMode, match=name):
                getattr(datastore, name)
            assert not hasattr(datastore, name)
        assert not hasattr(datastore, "no_such_method")


def _closed(path: str) -> dict[str, Callable[[], Any]]:
    """Return what can still be called on things that came from a store, now closed."""
    flow = FlowDataStore(FLOW, ds_root=path)
    keys = [key for _, key in flow.save_data([b"one", b"two", incompressible(3 * MIB)])]
    reader, untouched = (flow.get_latest_task_datastores("1", ["b"])[0] for _ in range(2))
    scrubber, writer = flow.get_task_datastore("1", "b", "1", mode="d"), _writer(flow)
    artifacts, data = reader.load_artifacts(["large", "large"]), flow.load_data([*keys, *keys])
    small = flow.load_data([*keys[:2], *keys[:2]])
    for iterator in (artifacts, data, small):
        next(iterator)
    opened = flow.ca_store.open_blob(keys[2])
    flow.close()
    flow.close()
    return {
        "get_latest_task_datastores": lambda: flow.get_latest_task_datastores("1"),
        "pathspecs": lambda: flow.get_latest_task_datastores(pathspecs=["1/a/0"]),
        "get_task_datastore": lambda: flow.get_task_datastore("1", "a", "0"),
        "set": lambda: TaskDataStoreSet(flow, "1"),
        "save_data": lambda: flow.save_data([b"x"]),
        "save_data large": lambda: flow.save_data([incompressible(MIB, 5)]),
        "load_data": lambda: list(flow.load_data(keys)),
        "save_blobs": lambda: flow.ca_store.save_blobs([b"x"]),
        "load_blobs": lambda: next(flow.ca_store.load_blobs(keys)),
        "open_blob": lambda: flow.ca_store.open_blob(keys[0]),
        "opened blob": opened.__enter__().read,
        "half consumed artifacts": lambda: list(artifacts),
        "half consumed data": lambda: list(data),
        "half consumed small data": lambda: list(small),
        "artifact": lambda: reader["large"],
        "first artifact": lambda: untouched["large"],
        "items": untouched.items,
        "to_dict": reader.to_dict,
        "has_metadata": lambda: reader.has_metadata("x"),
        "load_metadata": lambda: reader.load_metadata(["x"]),
        "load_logs": lambda: reader.load_logs(["task"], "stdout"),
        "get_log_size": lambda: reader.get_log_size(["task"], "stdout"),
        "scrub_logs": lambda: scrubber.scrub_logs(["task"], "stdout"),
        "init_task": writer.init_task,
        "save_artifacts": lambda: writer.save_artifacts([("x", 1)]),
        "save_metadata": lambda: writer.save_metadata({"x": 1}),
        "save_logs": lambda: writer.save_logs("task", {"stdout": b"x"}),
        "done": writer.done,
    }


def test_whatever_came_from_a_closed_store_says_so(path: str) -> None:
    """Flow, readers, writers, iterators half consumed: StoreClosed, which names the file; and the file stays whole."""
    calls = _closed(path)
    before = dump(path)
    answers, messages = {}, []
    for name, call in calls.items():
        try:
            answers[name] = call()
        except StoreClosed as error:
            messages.append(str(error))
    assert answers == {}
    assert all(path in message for message in messages)
    assert dump(path) == before
    assert beside(path) == ["runs.db"]


def test_errors_survive_pickling() -> None:
    """So that they come out of the worker processes of an executor."""
    for error in (NotAStore("file x"), BlobNotFound("key y"), UnpicklableArtifactException("artifact z")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.kind) == (type(error), str(error), error.kind)
