"""Tasks found together in a TaskDataStoreSet, against Metaflow's."""

from __future__ import annotations

from typing import Any

import pytest
from differential_pair import Pair, agree, where, write
from differential_values import Frame
from metaflow.datastore.datastore_set import TaskDataStoreSet as TheirTaskDataStoreSet

from sqlitestore import TaskDataStoreSet

PATHSPECS = ("1/fit/0", "1/fit/1", "1/fit/2", "1/join/9", "2/fit/0", "", "1/fit")
INDEXES = ("1/fit[0]", "1/fit[1]", "1/fit[2]", "1/fit[2][4]", "1/join[]", "2/fit[]", "")


def sets(flows: Pair, run_id: str | None, **options: Any) -> Pair:
    """Return a TaskDataStoreSet of each, or two Raised."""
    kinds = {type(flows.theirs): TheirTaskDataStoreSet, type(flows.ours): TaskDataStoreSet}
    return agree(
        lambda flow: kinds[type(flow)](flow, run_id, **options), flows, lambda found: sorted(map(where, found))
    )


def write_foreach(flows: Pair) -> None:
    """Write a foreach of three tasks, the last retried, and a join that runs."""
    for flow in flows:
        for index in range(3):
            stack = [Frame("start", "carrier", 3, index)]
            write(flow, f"1/fit/{index}", {"_foreach_stack": stack, "shared": "s" * 100, "own": index})
        write(flow, "1/fit/2", {"_foreach_stack": stack, "own": "again", "_iteration_stack": [4]}, attempt=1)
        write(flow, "1/join/9", {"_foreach_stack": []}, done=False)
        write(flow, "2/fit/0", {"_foreach_stack": []})


def test_a_set_finds_its_tasks_again(flows: Pair) -> None:
    """By pathspec and by index in the foreach; what is not in the set is None."""
    write_foreach(flows)
    for options in ({}, {"steps": ["fit"]}, {"pathspecs": ["1/fit/2", "1/fit/0", "1/join/9"]}, {"steps": ["none"]}):
        for prefetch in (None, [], ["shared", "own", "none"]):
            found = sets(flows, "1", prefetch_data_artifacts=prefetch, **options)
            agree(lambda each: [ds and where(ds) for ds in map(each.get_with_pathspec, PATHSPECS)], found)
            agree(lambda each: [ds and where(ds) for ds in map(each.get_with_pathspec_index, INDEXES)], found)
            agree(lambda each: sorted(each.pathspec_index_cache), found)
            agree(lambda each: sorted(each.pathspec_cache), found)
            agree(lambda each: sorted((ds.pathspec, ds["own"], ds.get("shared")) for ds in each), found)


def test_a_set_of_pathspecs_is_in_their_order(flows: Pair) -> None:
    """As a join needs its inputs."""
    write_foreach(flows)
    found = sets(flows, None, pathspecs=["1/fit/2", "1/fit/0", "1/fit/1"])
    agree(lambda each: [ds["own"] for ds in each], found)
    agree(lambda each: [where(ds) for ds in each.task_datastores], found)


def test_a_set_with_unfinished_tasks_has_no_index(flows: Pair) -> None:
    """With ``allow_not_done`` Metaflow indexes nothing."""
    write_foreach(flows)
    found = sets(flows, "1", allow_not_done=True)
    agree(lambda each: (len(list(each)), each.pathspec_cache, each.pathspec_index_cache), found)
    agree(lambda each: (each.get_with_pathspec("1/fit/0"), each.get_with_pathspec_index("1/fit[0]")), found)


def test_prefetched_artifacts_are_loaded_once(flows: Pair) -> None:
    """A set keeps the blobs asked for in memory, and reads everything else from the store."""
    write_foreach(flows)
    found = sets(flows, "1", steps=["fit"], prefetch_data_artifacts=["shared", "own"])
    for flow, each in zip(flows, found, strict=True):
        keys = {key for ds in each for key in ds.keys_for_artifacts(["shared", "own"]) if key}
        cache = flow.ca_store._blob_cache
        assert {key for key in keys if cache.load_key(key) is None} == set()
        assert cache.load_key("f" * 40) is None
        cache.store_key("f" * 40, b"not kept")
        assert cache.load_key("f" * 40) is None


def test_a_set_of_spun_tasks_has_no_index(flows: Pair) -> None:
    """A spun datastore has no pathspec: with unfinished tasks allowed the set is made, else both fail."""
    write_foreach(flows)
    kinds = {type(flows.theirs): TheirTaskDataStoreSet, type(flows.ours): TaskDataStoreSet}
    agree(
        lambda flow: kinds[type(flow)](
            flow, "1", pathspecs=["1/fit/1"], allow_not_done=True, orig_flow_datastore=flow, spin_artifacts={"own": 7}
        ),
        flows,
        lambda found: [(ds["own"], ds["shared"]) for ds in found],
    )
    for flow in flows:
        with pytest.raises(AttributeError):
            kinds[type(flow)](flow, "1", pathspecs=["1/fit/1"], orig_flow_datastore=flow, spin_artifacts={})
