"""What Metaflow's runtime does with a datastore: registering, persisting, joining, finding sets of tasks, spinning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from differential_machine import Flow
from differential_pair import KeyPairs, Pair, Raised, agree, compare_artifacts, open_pair, where, write
from differential_values import OBJECTS
from metaflow.client.filecache import FileBlobCache, FileCache, TaskMetadataCache
from metaflow.datastore.flow_datastore import MetadataCache as TheirMetadataCache
from metaflow.datastore.inputs import Inputs as TheirInputs
from metaflow.parameters import Parameter

from sqlitestore import Inputs, MetadataCache


class Provider:
    """A metadata provider that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def register_metadata(self, run_id: str, step_name: str, task_id: str, metadata: Any) -> None:
        """Write down all fields."""
        self.calls.append(("metadata", run_id, step_name, task_id, [dict(each._asdict()) for each in metadata]))

    def register_data_artifacts(
        self, run_id: str, step_name: str, task_id: str, attempt_id: int, artifacts: Any
    ) -> None:
        """Write down all but key, root and type of the store, and the version in the encoding."""
        described = [(each.name, each.url, each._fields, type(each.sha), each.type[:7]) for each in artifacts]
        self.calls.append(("artifacts", run_id, step_name, task_id, attempt_id, described))
        self.last = artifacts


def test_a_provider_is_told_the_same(tmp_path: Path) -> None:
    """``done`` registers the attempt and its artifacts, in Metaflow's order; nothing else registers."""
    providers = Pair(Provider(), Provider())
    pairs = [open_pair(tmp_path, metadata=provider) for provider in providers]
    flows = Pair(pairs[0].theirs, pairs[1].ours)
    try:
        for flow in flows:
            write(flow, "1/s/1", {"b": 1, "a": None, "größe": "x"}, attempt=2)
            write(flow, "1/s/2", {})
            write(flow, "1/s/3", {"x": 1}, done=False)
            clone = flow.get_task_datastore("1", "s", "4", attempt=0, mode="w")
            clone.init_task()
            clone.clone(flow.get_task_datastore("1", "s", "1"))
            clone.save_artifacts([("c", 2), ("b", 5)])
            clone.done()
        assert [len(provider.calls) for provider in providers] == [6, 6]
        assert providers.theirs.calls == providers.ours.calls
        objects = flows.ours.get_task_datastore("1", "s", "4").ds_metadata["objects"]
        assert {each.name: each.sha for each in providers.ours.last} == objects
        assert {(each.ds_type, each.ds_root) for each in providers.ours.last} == {
            (flows.ours.TYPE, flows.ours.datastore_root)
        }
    finally:
        for pair in pairs:
            pair.ours.close()


def test_a_provider_that_fails_can_be_told_again(tmp_path: Path) -> None:
    """``done`` raises what the provider raised; calling it again registers, and the task is done once."""

    class Failing(Provider):
        def register_metadata(self, run_id: str, step_name: str, task_id: str, metadata: Any) -> None:
            super().register_metadata(run_id, step_name, task_id, metadata)
            if len(self.calls) == 1:
                raise ConnectionError

    providers = Pair(Failing(), Failing())
    pairs = [open_pair(tmp_path, metadata=provider) for provider in providers]
    flows = Pair(pairs[0].theirs, pairs[1].ours)
    try:
        for flow in flows:
            writer = write(flow, "1/s/1", {"x": 1}, done=False)
            with pytest.raises(ConnectionError):
                writer.done()
            writer.done()
        assert [[call[0] for call in provider.calls] for provider in providers] == [
            ["metadata", "metadata", "artifacts"]
        ] * 2
        agree(lambda flow: flow.get_task_datastore("1", "s", "1")["x"], flows)
    finally:
        for pair in pairs:
            pair.ours.close()


# persist


def persisted(flows: Pair, attributes: dict[str, Any], origin: Pair = Pair(None, None), **options: Any) -> Pair:  # noqa: B008
    """Persist flow objects; return readers. The objects must be left alike."""
    writers = agree(lambda flow: flow.get_task_datastore("9", "s", "1", attempt=0, mode="w", **options), flows, where)
    objects = Pair(*(Flow(each, dict(attributes)) for each in origin))
    for writer, thing in zip(writers, objects, strict=True):
        writer.init_task()
        writer.persist(thing)
        writer.done()
    agree(lambda thing: sorted(vars(thing)), objects)
    return agree(lambda flow: flow.get_task_datastore("9", "s", "1"), flows, where)


def test_a_flow_object_is_persisted_alike(flows: Pair) -> None:
    """Methods, properties, parameters and what is ephemeral are no artifacts; the rest is taken off the object."""
    attributes = {
        "x": 1,
        "name": "kept",
        "_private": [2],
        "__dunder": 3,
        "function_of_an_instance": len,
        "own_function": persisted,
        "parameter": Parameter("parameter", default=1),
        "none": None,
    }
    readers = persisted(flows, attributes)
    compare_artifacts(readers, KeyPairs())
    assert sorted(readers.ours) == ["_private", "function_of_an_instance", "name", "none", "x"]


def test_what_the_flows_datastore_holds_is_passed_on(flows: Pair) -> None:
    """Artifacts of the step before stay unless the flow has its own."""
    for flow in flows:
        write(flow, "8/s/1", {"x": "old", "y": "old", "_z": 0})
    origin = agree(lambda flow: flow.get_task_datastore("8", "s", "1"), flows, where)
    readers = persisted(flows, {"x": "new"}, origin)
    compare_artifacts(readers, KeyPairs())
    assert readers.ours.to_dict() == {"x": "new", "y": "old"}


def test_nothing_is_persisted_unless_wanted(flows: Pair) -> None:
    """``persist=False`` leaves the flow object and the task as they are."""
    readers = persisted(flows, {"x": 1}, persist=False)
    agree(sorted, readers)
    assert list(readers.ours) == []


def test_a_class_attribute_cannot_be_taken_off(flows: Pair) -> None:
    """Metaflow's runtime makes class variables properties first; otherwise both fail, with Python's own error."""

    class WithVariable(Flow):
        shared = 5

    for flow in flows:
        writer = flow.get_task_datastore("9", "s", "1", attempt=0, mode="w")
        with pytest.raises(AttributeError):
            writer.persist(WithVariable(None, {}))


def test_inputs_are_reached_by_step_and_index() -> None:
    """The object that a join step is given."""

    class Branch:
        def __init__(self, step: str, x: int) -> None:
            self._current_step, self.x = step, x

    inputs = Pair(
        *(kind(Branch(step, x) for step, x in (("a", 1), ("b", 2), ("a", 3))) for kind in (TheirInputs, Inputs))
    )
    agree(lambda each: (each.a.x, each.b.x, each[0].x, each[-1].x, [branch.x for branch in each]), inputs)
    agree(lambda each: [branch.x for branch in each[1:]], inputs)
    agree(lambda each: len(each.flows), inputs)
    for each in inputs:
        with pytest.raises(IndexError):
            each[3]
        with pytest.raises(AttributeError):
            _ = each.none


# The cache of metadata


def _recording(base: type) -> Any:
    class Recording(base):
        """Keeps what it is given, and writes down what it is asked."""

        def __init__(self) -> None:
            self.kept: dict[Any, Any] = {}
            self.calls: list[Any] = []

        def load_metadata(self, run_id: str, step_name: str, task_id: str, attempt: int) -> Any:
            self.calls.append(("load", run_id, step_name, task_id, attempt))
            return self.kept.get((run_id, step_name, task_id, attempt))

        def store_metadata(self, run_id: str, step_name: str, task_id: str, attempt: int, metadata_dict: Any) -> None:
            self.calls.append(("store", run_id, step_name, task_id, attempt, sorted(metadata_dict["objects"])))
            self.kept[run_id, step_name, task_id, attempt] = metadata_dict

    return Recording


@pytest.fixture
def metadata_caches(flows: Pair) -> Pair:
    """Set caches that record, over some tasks: done, retried, and running."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
        write(flow, "1/s/1", {"y": 2}, attempt=1)
        write(flow, "1/s/2", {"x": 1}, done=False)
        write(flow, "1/t/3", {"z": 1})
    caches = Pair(_recording(TheirMetadataCache)(), _recording(MetadataCache)())
    for flow, cache in zip(flows, caches, strict=True):
        flow.set_metadata_cache(cache)
    return caches


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attempt": 0},
        {"attempt": 1},
        {"attempt": 2},
        {"attempt": 1, "allow_not_done": True},
        {"attempt": 1, "data_metadata": {"objects": {}, "info": {}}},
        {"data_metadata": {"objects": {}, "info": {}}},
        {"attempt": 0, "mode": "d"},
    ],
)
def test_a_metadata_cache_is_asked_alike_for_one_task(flows: Pair, metadata_caches: Pair, options: Any) -> None:
    """The same calls, twice, and the same answer with the cache warm."""
    for _ in range(2):
        readers = agree(lambda flow: flow.get_task_datastore("1", "s", "1", **options), flows, where)
        agree(lambda ds: sorted(ds.ds_metadata["objects"]), readers)
        assert metadata_caches.theirs.calls == metadata_caches.ours.calls


@pytest.mark.parametrize("options", [{}, {"attempt": 0}, {"allow_not_done": True}, {"include_prior": True}])
def test_a_metadata_cache_is_asked_alike_for_many_tasks(flows: Pair, metadata_caches: Pair, options: Any) -> None:
    """A look-up of many tasks knows their artifacts anyhow: it fills the cache and does not ask it."""
    for _ in range(2):
        agree(lambda flow: flow.get_task_datastores("1", **options), flows, lambda found: sorted(map(where, found)))
        assert sorted(metadata_caches.theirs.calls) == sorted(metadata_caches.ours.calls)


def test_what_a_metadata_cache_holds_is_what_is_read(flows: Pair, metadata_caches: Pair) -> None:
    """A cached description is taken without a look-up, until the cache is taken away."""
    for flow, cache in zip(flows, metadata_caches, strict=True):
        described = flow.get_task_datastore("1", "t", "3").ds_metadata
        cache.kept["1", "s", "1", 0] = described
    agree(lambda flow: list(flow.get_task_datastore("1", "s", "1", attempt=0)), flows)
    agree(lambda flow: flow.get_task_datastore("1", "s", "1", attempt=0)["z"], flows)
    for flow in flows:
        flow.set_metadata_cache(None)
    agree(lambda flow: list(flow.get_task_datastore("1", "s", "1", attempt=0)), flows)


def test_metaflows_own_caches_work_with_ours(flows: Pair, tmp_path: Path) -> None:
    """The file caches of its client keep blobs and descriptions of ours, and give them back to a later reader."""
    for flow in flows:
        write(flow, "1/s/1", {word: make() for word, make in OBJECTS.items()})
        files = FileCache(cache_dir=str(tmp_path / "cache"), max_size=10**9)
        place = (flow.TYPE, flow.datastore_root, flow.flow_name)
        flow.set_metadata_cache(TaskMetadataCache(files, *place))
        flow.ca_store.set_blob_cache(FileBlobCache(files, FileCache.flow_ds_id(*place)))
    keys = KeyPairs()
    for _ in range(2):
        readers = agree(lambda flow: flow.get_task_datastore("1", "s", "1", attempt=0), flows, where)
        compare_artifacts(readers, keys)
    assert list((tmp_path / "cache").rglob("*.blob"))


# Spin


def test_a_spun_task_reads_what_is_laid_over_first(flows: Pair) -> None:
    """``orig_flow_datastore`` and ``spin_artifacts``: values of the user over those of the original task."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1, "y": 2, "none": None, "_transition": ["next"], "_foreach_stack": []})
        write(flow, "1/s/2", {})
    overlay = {"x": "mine", "nothing": None}
    by_parent = {"1/s/1": overlay}
    for join_type, artifacts in ((None, overlay), ("foreach", by_parent), ("foreach", {}), (None, {})):
        spun = agree(
            lambda flow, join=join_type, artifacts=artifacts: flow.get_task_datastore(
                "1", "s", "1", join_type=join, orig_flow_datastore=flow, spin_artifacts=artifacts
            ),
            flows,
            lambda ds: (ds.flow_name, ds.run_id, ds.step_name, ds.task_id, ds.spin_artifacts),
        )
        for name in ("x", "y", "none", "nothing", "_transition", "missing"):
            agree(lambda ds, name=name: name in ds, spun)
            agree(lambda ds, name=name: ds[name], spun)
            agree(lambda ds, name=name: ds.is_none(name), spun)
        agree(lambda ds: sorted(name for name, _ in ds.items()), spun)
        agree(lambda ds: sorted(ds._info), spun)
        agree(lambda ds: where(ds.orig_datastore), spun)


def test_spun_tasks_are_found_together(flows: Pair) -> None:
    """Look-ups of many tasks hand the three parameters on."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
        write(flow, "1/s/2", {"x": 2})
        write(flow, "1/s/3", {"x": 3}, done=False)
    overlay = {"1/s/2": {"x": "mine"}}
    for options in ({"run_id": "1"}, {"pathspecs": ["1/s/2", "1/s/1"]}, {"run_id": "1", "attempt": 0}):
        agree(
            lambda flow, options=options: flow.get_task_datastores(
                **options, join_type="foreach", orig_flow_datastore=flow, spin_artifacts=overlay
            ),
            flows,
            lambda found: sorted((ds.task_id, type(ds).__name__, str(ds["x"])) for ds in found),
        )


def test_a_spun_task_is_persisted_into_another_store(tmp_path: Path) -> None:
    """Artifacts that the spun step did not replace are brought over from the original's store."""
    pairs = [open_pair(tmp_path, number=number) for number in (1, 2)]
    try:
        for flow in pairs[0]:
            write(flow, "1/s/1", {"x": "old", "y": [1, 2], "_transition": "gone"})
        spun = Pair(
            *(
                flow.get_task_datastore("1", "s", "1", orig_flow_datastore=origin, spin_artifacts={})
                for flow, origin in zip(pairs[1], pairs[0], strict=True)
            )
        )
        readers = persisted(pairs[1], {"x": "new"}, spun)
        compare_artifacts(readers, KeyPairs())
        assert readers.ours.to_dict() == {"x": "new", "y": [1, 2]}
    finally:
        for pair in pairs:
            pair.ours.close()


@pytest.mark.parametrize("mode", ["r", "w", "d"])
def test_each_method_belongs_to_its_modes(flows: Pair, mode: str) -> None:
    """What Metaflow refuses in a mode ours refuses too, with an error that is a DataException."""
    for flow in flows:
        write(flow, "1/s/1", {"x": 1})
    stores = agree(lambda flow: flow.get_task_datastore("1", "s", "1", attempt=0, mode=mode), flows, where)
    calls = {
        "r": [
            lambda ds: ds.load_logs(["task"], "stdout"),
            lambda ds: ds.load_log_legacy("stdout"),
            lambda ds: ds.load_metadata(["m"]),
            lambda ds: ds.get_log_size(["task"], "stdout"),
            lambda ds: ds.get_legacy_log_size("stdout"),
            lambda ds: list(ds.get_artifact_sizes([])),
            lambda ds: ds.keys_for_artifacts(["none"]),
            lambda ds: ds.is_none("none"),
            lambda ds: ds.format(include=["none"]),
        ],
        "w": [
            lambda ds: ds.save_metadata({}),
            lambda ds: ds._dangerous_save_metadata_post_done({}),
            lambda ds: ds.save_logs("task", {}),
            lambda ds: ds.passdown_partial(ds, []),
            lambda ds: ds.clone(ds),
            lambda ds: ds.transfer_artifacts(ds),
        ],
        "d": [lambda ds: ds.scrub_logs([], "stdout")],
    }
    for needed, methods in calls.items():
        for call in methods:
            answers = agree(call, stores)
            assert isinstance(answers.ours, Raised) == (needed != mode)
