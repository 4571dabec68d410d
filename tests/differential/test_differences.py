"""Where ours differs from Metaflow's local datastore on purpose: what Metaflow does, and what we do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest
from differential_pair import Pair, agree, open_pair, where, write
from metaflow.datastore.datastore_set import TaskDataStoreSet as TheirTaskDataStoreSet

from sqlitestore import (
    ArtifactNotFound,
    AttemptDone,
    BlobNotFound,
    Damaged,
    FlowDataStore,
    InvalidInput,
    InvalidKey,
    InvalidName,
    TaskDataStoreSet,
)

# What is done stays


def _rewrites(flow: Any) -> list[Any]:
    """Return ways to write the attempt 1/s/1/0 again."""
    writer = flow.get_task_datastore("1", "s", "1", attempt=0, mode="w")
    return [writer.init_task, lambda: writer.save_artifacts([("x", 2)]), writer.done]


def test_a_done_attempt_cannot_be_written_again(flows: Pair) -> None:
    """Metaflow's guard is in the writer's memory: another writer overwrites. Ours is in the file."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
    for again in _rewrites(flows.theirs):
        again()
    assert flows.theirs.get_task_datastore("1", "s", "1")["x"] == 2
    with FlowDataStore("Flow", ds_root=flows.ours.datastore_root) as other:
        for flow in (flows.ours, other):
            for again in _rewrites(flow):
                with pytest.raises(AttemptDone, match=r"1/s/1"):
                    again()
    assert flows.ours.get_task_datastore("1", "s", "1")["x"] == 1


def test_a_writer_that_lost_the_race_is_refused_at_the_end(flows: Pair) -> None:
    """Two writers of one attempt: whoever is done first has written it, whole; the other changes nothing."""
    first, second = (write(flows.ours, "1/s/1", {"x": number}, done=False) for number in (1, 2))
    first.done()
    with pytest.raises(AttemptDone):
        second.done()
    assert flows.ours.get_task_datastore("1", "s", "1").to_dict() == {"x": 1}


def test_a_done_attempt_cannot_be_written_by_another_process(flows: Pair) -> None:
    """The file refuses, so it does not matter who writes."""
    write(flows.ours, "1/s/1", {"x": 1})
    program = """
import sys
from sqlitestore import AttemptDone, FlowDataStore
with FlowDataStore("Flow", ds_root=sys.argv[1]) as flow:
    writer = flow.get_task_datastore("1", "s", "1", attempt=0, mode="w")
    for again in (writer.init_task, lambda: writer.save_artifacts([("x", 2)]), writer.done):
        try:
            again()
        except AttemptDone as error:
            print(error.kind)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, flows.ours.datastore_root], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["attempt_done"] * 3
    assert flows.ours.get_task_datastore("1", "s", "1")["x"] == 1


def test_a_clone_leaves_its_origin_alone(flows: Pair) -> None:
    """Metaflow's clone shares its dicts with the origin; ours copies them."""
    found = []
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
        origin = flow.get_task_datastore("1", "s", "1")
        clone = flow.get_task_datastore("1", "s", "2", attempt=0, mode="w")
        clone.clone(origin)
        clone.save_artifacts([("y", 2)])
        found.append(sorted(origin))
    assert found == [["x", "y"], ["x"]]


# What is not there is an error that says so


def test_a_missing_key_is_an_error_that_names_it(flows: Pair) -> None:
    """Metaflow fails with a TypeError from ``open``; ours is BlobNotFound, also a KeyError."""
    missing = "0123456789abcdef" * 2
    [(_, key)] = flows.ours.save_data([b"there"])
    for load in (flows.ours.load_data, flows.ours.ca_store.load_blobs):
        with pytest.raises(BlobNotFound, match=missing):
            list(load([key, missing]))
    with pytest.raises(TypeError):
        list(flows.theirs.load_data(["0" * 40]))
    with pytest.raises(InvalidKey, match="nonsense"):
        list(flows.ours.load_data(["nonsense"]))


def test_a_missing_artifact_is_an_error_that_names_it_and_the_task(flows: Pair) -> None:
    """Metaflow raises a KeyError of the name alone, or a DataException where there are no artifacts at all."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
    reader = flows.ours.get_task_datastore("1", "s", "1")
    for ask in (lambda: reader["none"], lambda: next(reader.load_artifacts(["x", "none"]))):
        with pytest.raises(ArtifactNotFound, match=r"1/s/1.*'none'"):
            ask()
    with pytest.raises(KeyError):
        flows.theirs.get_task_datastore("1", "s", "1")["none"]


def test_nothing_asked_of_a_task_without_artifacts_is_nothing(flows: Pair) -> None:
    """Metaflow raises when no name is asked of a task that has none."""
    for flow in flows:
        write(flow, "1/s/1", {})
    with pytest.raises(Exception, match="required metadata"):
        list(flows.theirs.get_task_datastore("1", "s", "1").load_artifacts([]))
    assert list(flows.ours.get_task_datastore("1", "s", "1").load_artifacts([])) == []


def test_a_reader_of_an_unfinished_attempt_has_no_artifacts(flows: Pair) -> None:
    """Metaflow's reader lacks the attributes, and fails when asked; ours reads as empty."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1}, done=False)
    with pytest.raises(AttributeError):
        flows.theirs.get_task_datastore("1", "s", "1", allow_not_done=True).items()
    reader = flows.ours.get_task_datastore("1", "s", "1", allow_not_done=True)
    assert (list(reader), reader.items(), "x" in reader, reader.get("x", 5)) == ([], {}, False, 5)


# Damage is not hidden


def test_get_does_not_swallow_damage(flows: Pair) -> None:
    """Metaflow's ``get`` gives the default when a blob cannot be unpacked; ours says what is damaged."""
    for flow in flows:
        write(flow, "1/s/1", {"x": "value"})
    key = flows.theirs.get_task_datastore("1", "s", "1").ds_metadata["objects"]["x"]
    Path(flows.theirs.datastore_root, "Flow", "data", key[:2], key).write_bytes(b"not gzip")
    assert flows.theirs.get_task_datastore("1", "s", "1").get("x", "default") == "default"

    connection = apsw.Connection(flows.ours.datastore_root)
    connection.execute("UPDATE blob SET bytes = zeroblob(length(bytes)) WHERE bytes IS NOT NULL")
    connection.close()
    reader = flows.ours.get_task_datastore("1", "s", "1")
    with pytest.raises(Damaged, match="'x'"):
        reader.get("x", "default")
    with pytest.raises(Damaged):
        reader.is_none("x")
    assert reader.get("none", "default") == "default"


def test_a_transferred_blob_must_have_its_key(flows: Pair) -> None:
    """Metaflow stores any bytes under the key that comes with them; ours checks."""
    moved = [("0" * 40, b"other bytes", {"cas_raw": True, "cas_version": 1})]
    flows.theirs.ca_store.save_blobs(moved, is_transfer=True)
    with pytest.raises(InvalidKey, match="0" * 40):
        flows.ours.ca_store.save_blobs(moved, is_transfer=True)
    with pytest.raises(BlobNotFound):
        list(flows.ours.load_data(["0" * 40]))


def test_a_failed_save_leaves_the_earlier_artifact_described(flows: Pair) -> None:
    """Metaflow keeps the new type with the old value when a later artifact of the call cannot be pickled."""
    answers = []
    for flow in flows:
        writer = write(flow, "1/s/1", {"x": 5}, done=False)
        with pytest.raises(Exception, match="bad"):
            writer.save_artifacts([("x", None), ("bad", lambda: None)])
        writer.done()
        reader = flow.get_task_datastore("1", "s", "1")
        answers.append((reader.is_none("x"), reader["x"]))
    assert answers == [(True, 5), (False, 5)]


# Sets of tasks


def test_a_set_of_tasks_without_a_foreach_stack_works(flows: Pair) -> None:
    """Metaflow needs the artifact that only its runtime writes; ours indexes the tasks that have it."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
        write(flow, "1/s/2", {"x": 2, "_foreach_stack": []})
    with pytest.raises(KeyError):
        TheirTaskDataStoreSet(flows.theirs, "1")
    found = TaskDataStoreSet(flows.ours, "1", prefetch_data_artifacts=["x"])
    assert [task["x"] for task in found] == [1, 2]
    assert found.get_with_pathspec("1/s/1")["x"] == 1
    assert list(found.pathspec_index_cache) == ["1/s[]"]
    assert found.get_with_pathspec_index("1/s[]")["x"] == 2


# Names


@pytest.mark.parametrize("name", ["attempt.json", "DONE.lock", "data.json"])
def test_the_state_of_an_attempt_is_not_metadata(flows: Pair, name: str) -> None:
    """In Metaflow, saving such a name starts or finishes an attempt behind everybody's back; ours refuses."""
    writer = write(flows.ours, "1/s/1", {}, done=False)
    for arguments in (({name: {}},), ({f"0.{name}": {}}, True, False), ({f"1.{name}": {}, "m": 1}, True, False)):
        with pytest.raises(InvalidName, match=name):
            writer.save_metadata(*arguments)
    assert not writer.has_metadata("m", add_attempt=False)
    assert flows.ours.get_task_datastores("1") == []


def test_a_writer_needs_an_attempt(flows: Pair) -> None:
    """Without a number Metaflow writes files that nothing finds; ours asks for one."""
    writers = agree(lambda flow: flow.get_task_datastore("1", "s", "1", mode="w"), flows, where)
    for call in (
        lambda ds: ds.init_task(),
        lambda ds: ds.save_logs("task", {"stdout": b"x"}),
        lambda ds: ds.done(),
    ):
        call(writers.theirs)
        with pytest.raises(InvalidInput, match="attempt"):
            call(writers.ours)
    agree(lambda flow: flow.get_task_datastores("1"), flows)


def test_logs_are_kept_apart_whatever_their_names(flows: Pair) -> None:
    """In Metaflow, source ``a`` with stream ``b_c`` is the file of source ``a_b`` with stream ``c``."""
    for flow in flows:
        writer = write(flow, "1/s/1", {}, done=False)
        writer.save_logs("a", {"b_c": b"one"})
        writer.save_logs("a_b", {"c": b"two"})
        writer.done()
    found = [flow.get_task_datastore("1", "s", "1").load_logs(["a"], "b_c") for flow in flows]
    assert found == [[("a", b"two")], [("a", b"one")]]


@pytest.mark.parametrize("name", ["a/b", "", "..", "a\nb", "x" * 300, 5])
def test_names_that_no_file_could_have_are_refused(flows: Pair, name: Any) -> None:
    """Metaflow takes some of them, as folders or as keys in JSON; ours says what a name may be."""
    writer = write(flows.ours, "1/s/1", {"x": 1}, done=False)
    for call in (
        lambda: writer.save_artifacts([("good", 1), (name, 2)]),
        lambda: writer.save_metadata({"good": 1, name: 2}),
        lambda: writer.save_logs(name, {"stdout": b"x"}),
        lambda: writer.save_logs("task", {name: b"x"}),
        lambda: flows.ours.get_task_datastore("1", "s", name),
        lambda: FlowDataStore(name, ds_root=flows.ours.datastore_root),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert list(writer) == ["x"]
    assert not writer.has_metadata("good")


def test_names_that_come_with_another_stores_task_are_checked_too(flows: Pair) -> None:
    """A name that ``save_artifacts`` refuses does not get in by ``clone`` or ``passdown_partial`` either."""
    write(flows.theirs, "1/s/1", {"a/b\n": 1})
    origin = flows.theirs.get_task_datastore("1", "s", "1")
    for number, take in enumerate((lambda ds: ds.clone(origin), lambda ds: ds.passdown_partial(origin, list(origin)))):
        writer = write(flows.ours, f"1/s/{number}", {}, done=False)
        writer.transfer_artifacts(origin)
        with pytest.raises(InvalidName):
            _take_and_finish(writer, take)
    assert flows.ours.get_task_datastores("1") == []


def _take_and_finish(writer: Any, take: Any) -> None:
    take(writer)
    writer.done()


# Blobs


def test_blobs_are_shared_by_all_flows(tmp_path: Path) -> None:
    """Metaflow keeps a folder of blobs for each flow; ours stores the same bytes once in the file."""
    one, two = open_pair(tmp_path, "One"), open_pair(tmp_path, "Two")
    try:
        keys = [flow.save_data([b"same"])[0][1] for flow in one]
        with pytest.raises(TypeError):
            list(two.theirs.load_data([keys[0]]))
        assert list(two.ours.load_data([keys[1]])) == [(keys[1], b"same")]
    finally:
        one.ours.close()
        two.ours.close()


def test_force_raw_gives_what_was_saved(flows: Pair) -> None:
    """Metaflow gives the gzip of a blob that was not saved raw; ours has no form of its own to show."""
    for flow, expected in zip(flows, (b"\x1f\x8b", b"bl"), strict=True):
        [saved] = flow.ca_store.save_blobs([b"blob"])
        [(_, blob)] = flow.ca_store.load_blobs([saved.key], force_raw=True)
        assert blob[:2] == expected


def test_blobs_come_in_the_order_asked_with_a_cache_too(flows: Pair) -> None:
    """Metaflow yields what the cache has first."""
    for flow, expected in zip(flows, ([b"b", b"a"], [b"a", b"b"]), strict=True):
        keys = [key for _, key in flow.save_data([b"a", b"b"])]
        set_ = TaskDataStoreSet if isinstance(flow, FlowDataStore) else TheirTaskDataStoreSet
        write(flow, "1/s/1", {"x": 1, "_foreach_stack": []})
        set_(flow, "1", prefetch_data_artifacts=["x"])
        flow.ca_store._blob_cache._preloaded[keys[1]] = b"b"
        assert [blob for _, blob in flow.load_data(keys)] == expected


def test_more_forms_of_a_log_are_taken(flows: Pair) -> None:
    """Bytearrays and memoryviews; Metaflow refuses them."""
    writer = write(flows.ours, "1/s/1", {}, done=False)
    writer.save_logs("task", {"stdout": bytearray(b"one"), "stderr": memoryview(b"two")})
    writer.done()
    reader = flows.ours.get_task_datastore("1", "s", "1")
    assert [reader.load_logs(["task"], stream) for stream in ("stdout", "stderr")] == [
        [("task", b"one")],
        [("task", b"two")],
    ]
