"""Artifacts of every kind: what is loaded, described and shown is the same as in Metaflow's local datastore."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differential_pair import KeyPairs, Pair, agree, compare_artifacts, masked_text, shown
from differential_values import KEPT, OBJECTS, UNPICKLABLE, Frame, same
from metaflow.includefile import UPLOADERS, IncludedFile

from sqlitestore import UnpicklableArtifactException


def saved(flows: Pair, *calls: list[tuple[str, Any]], task: str = "1") -> Pair:
    """Save lists of artifacts in both, one call each, finish the attempts, and return readers."""
    for flow in flows:
        writer = flow.get_task_datastore("1", "start", task, attempt=0, mode="w")
        writer.init_task()
        for artifacts in calls:
            writer.save_artifacts(iter(artifacts), len_hint=len(artifacts))
        writer.done()
    return agree(lambda flow: flow.get_task_datastore("1", "start", task), flows, lambda ds: ds.pathspec)


@pytest.mark.parametrize("make", list(OBJECTS.values()), ids=list(OBJECTS))
def test_an_artifact_comes_back_as_metaflow_gives_it(flows: Pair, make: Callable[[], Any]) -> None:
    """Each kind of object, under two names and in two tasks, is loaded, described and shown alike, and as it was."""
    keys = KeyPairs()
    for task in ("1", "2"):
        readers = saved(flows, [("x", make()), ("y", make()), ("_z", [make()])], task=task)
        compare_artifacts(readers, keys)
        assert same(readers.ours["x"], pickle.loads(pickle.dumps(make(), 5)))
        assert len(set(readers.ours.keys_for_artifacts(["x", "y"]))) == len(
            set(readers.theirs.keys_for_artifacts(["x", "y"]))
        )


@pytest.mark.parametrize("first", OBJECTS["frame"]().columns)
def test_two_loads_share_nothing(flows: Pair, first: str) -> None:
    """Equal artifacts are one blob but objects of their own, each time."""
    frame = OBJECTS["frame"]()
    readers = saved(flows, [("x", frame), ("y", frame)])
    for reader in readers:
        one, other = (value for _, value in reader.load_artifacts(["x", "y"]))
        one[first] = 0
        assert same(other, frame)
        assert same(reader["x"], frame)


@pytest.mark.parametrize("make", list(KEPT.values()), ids=list(KEPT))
def test_an_array_keeps_layout_byte_order_and_flags(flows: Pair, make: Callable[[], Any]) -> None:
    """A pickle of protocol 5 keeps what Metaflow's of protocol 4 changes; the values are equal in both."""
    readers = saved(flows, [("x", make())])
    theirs, ours = (reader["x"] for reader in readers)
    assert same(ours, make())
    assert ours.strides == make().strides
    assert ours.flags.writeable == make().flags.writeable
    assert np.array_equal(ours, theirs)
    assert not same(theirs, ours) or theirs.flags.writeable != ours.flags.writeable


def test_artifacts_are_listed_in_the_order_in_which_they_were_saved(flows: Pair) -> None:
    """``items``, ``iter``, ``to_dict``, ``load_artifacts`` of all, and ``ds_metadata`` have Metaflow's order."""
    readers = saved(flows, [("c", 1), ("a", 2)], [("b", 3), ("c", 4)])
    assert list(readers.theirs) == ["c", "a", "b"]
    agree(list, readers)
    agree(lambda ds: [name for name, _ in ds.items()], readers)
    agree(lambda ds: list(ds.to_dict()), readers)
    agree(lambda ds: list(ds.ds_metadata["objects"]), readers)


def test_names_that_share_a_blob_are_loaded_together(flows: Pair) -> None:
    """``load_artifacts`` groups by blob, in the order in which blobs are first named, and repeats what is repeated."""
    readers = saved(flows, [("a", 1), ("b", 2), ("c", 1), ("d", 3)])
    answers = agree(lambda ds: list(ds.load_artifacts(["d", "a", "b", "c", "d", "a"])), readers)
    assert [name for name, _ in answers.ours] == ["d", "d", "a", "c", "a", "b"]


def test_a_name_saved_again_is_replaced(flows: Pair) -> None:
    """The last value counts, within a call and between calls, also its type."""
    readers = saved(flows, [("x", None), ("y", 1), ("x", "first")], [("y", None), ("x", [2])])
    compare_artifacts(readers, KeyPairs())
    assert readers.ours.to_dict() == {"x": [2], "y": None}
    assert readers.ours.is_none("y")


def test_a_task_without_artifacts_reads_as_empty(flows: Pair) -> None:
    """A done attempt that saved nothing is a task with nothing in it."""
    readers = saved(flows)
    compare_artifacts(readers, KeyPairs())
    agree(lambda ds: ds.items(), readers)
    assert readers.ours.items() == {}


def test_items_is_the_view_of_a_dict(flows: Pair) -> None:
    """Code that unites or intersects ``items()`` gets what it gets from Metaflow."""
    readers = saved(flows, [("x", 1)])
    agree(lambda ds: type(ds.items()).__name__, readers)
    agree(lambda ds: len(ds.items() | {("y", "key")}), readers)


@pytest.mark.parametrize("word", UNPICKLABLE)
def test_an_artifact_that_cannot_be_pickled_is_refused_by_both(flows: Pair, word: str) -> None:
    """The error of ours names the artifact; nothing of the call is recorded, and the task goes on."""
    writers = agree(
        lambda flow: flow.get_task_datastore("1", "start", "1", attempt=0, mode="w"), flows, lambda ds: ds.pathspec
    )
    agree(lambda ds: ds.init_task(), writers)
    refused = agree(lambda ds: ds.save_artifacts([("good", 1), ("bad one", UNPICKLABLE[word]())]), writers)
    assert isinstance(refused.ours.error, UnpicklableArtifactException)
    assert "bad one" in str(refused.ours.error)
    agree(lambda ds: ("good" in ds, "bad one" in ds), writers)
    agree(lambda ds: ds.save_artifacts([("x", 2)]), writers)
    agree(lambda ds: ds.done(), writers)
    agree(lambda flow: flow.get_task_datastore("1", "start", "1"), flows, sorted)


def test_an_iterator_that_raises_half_way_records_nothing(flows: Pair) -> None:
    """Its own error comes out, and none of its artifacts is there."""

    def half() -> Any:
        yield "x", 1
        raise ZeroDivisionError

    for flow in flows:
        writer = flow.get_task_datastore("1", "start", "1", attempt=0, mode="w")
        with pytest.raises(ZeroDivisionError):
            writer.save_artifacts(half())
        assert "x" not in writer


@pytest.mark.parametrize(
    "options",
    [
        {"include": {"a": 1}},
        {"include": "abc"},
        {"include": ("a", "a", "none")},
        {"max_value_size": 60_000},
        {"max_value_size": 10**6},
        {"max_value_size": -1},
        {"show_private": 1, "max_value_size": 60_000, "include": ["a", "_p"]},
    ],
)
def test_a_selection_is_shown_alike(flows: Pair, options: dict[str, Any]) -> None:
    """``to_dict`` and ``format`` select, hide and replace the same values."""
    readers = saved(flows, [("a", "x" * 50_000), ("b", bytes(70_000)), ("c", None), ("_p", [1]), ("größe", 0.1)])
    agree(lambda ds: ds.to_dict(**options), readers, shown)
    agree(lambda ds: ds.format(**options), readers, masked_text)


def test_the_sizes_shown_are_those_of_the_serialized_bytes(flows: Pair) -> None:
    """``format`` and ``get_artifact_sizes`` agree with the blob; the text around them is Metaflow's."""
    readers = saved(flows, [("x", "text")])
    [(_, size)] = readers.ours.get_artifact_sizes(["x"])
    assert str(readers.ours) == f"*x* [size: {size} type: <class 'str'>] = text"
    assert masked_text(str(readers.ours)) == masked_text(str(readers.theirs))


def test_an_included_file_is_shown_by_its_content(flows: Pair, tmp_path: Path) -> None:
    """Metaflow's IncludedFile counts with the file's size, and ``to_dict`` decodes it."""
    content = "line\n" * 100

    class Handler:
        """Stands for a place where included files are kept."""

        @staticmethod
        def size(descriptor: dict[str, Any]) -> int:
            return len(descriptor["content"])

        @staticmethod
        def load(descriptor: dict[str, Any]) -> str:
            return descriptor["content"]

    descriptor = {"type": "of this test", "content": content}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UPLOADERS, "of this test", Handler)
        readers = saved(flows, [("file", IncludedFile(descriptor)), ("x", 1)])
        answers = agree(lambda ds: dict(ds.get_artifact_sizes(["file"])), readers)
        assert answers.ours == {"file": 500}
        agree(lambda ds: ds.to_dict(), readers, shown)
        agree(lambda ds: ds.to_dict(max_value_size=499), readers, shown)
        agree(lambda ds: ds.to_dict(max_value_size=500)["file"], readers)
        agree(lambda ds: ds.format(include=["file"]), readers)


def test_an_index_in_a_foreach_is_written_alike(flows: Pair) -> None:
    """``pathspec_index`` comes from the artifacts ``_foreach_stack`` and ``_iteration_stack``."""
    stack = [Frame("start", "x", 3, 2), Frame("inner", "y", 5, 0)]
    for task, artifacts in enumerate(
        (
            [("_foreach_stack", stack)],
            [("_foreach_stack", [])],
            [("_foreach_stack", stack), ("_iteration_stack", [1, 2])],
        )
    ):
        readers = saved(flows, artifacts, task=str(task))
        answer = agree(lambda ds: ds.pathspec_index, readers)
    assert answer.ours == "1/start[2,0][1,2]"
    agree(lambda ds: ds.pathspec_index, saved(flows, [("x", 1)], task="without"))
