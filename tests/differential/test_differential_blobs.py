"""The content-addressed store: blobs, caches and transfers, against Metaflow's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from differential_pair import KeyPairs, Pair, Raised, agree, compare_artifacts, open_pair
from differential_values import OBJECTS, blobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metaflow.datastore.content_addressed_store import BlobCache as TheirBlobCache

from sqlitestore import BlobCache

LARGE = bytes(range(256)) * 20_000


def contents(loaded: Iterator[Any]) -> list[bytes]:
    """Return the blobs without their keys."""
    return [each[1] for each in loaded]


@given(lists=st.lists(st.lists(blobs, max_size=5), min_size=1, max_size=3), raw=st.booleans(), data=st.data())
@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large, HealthCheck.too_slow],
)
def test_blobs_are_saved_and_loaded_alike(
    flows: Pair, lists: list[list[bytes]], raw: bool, data: st.DataObject
) -> None:
    """Results in the order given, duplicates included; a URI for raw blobs only; loaded in any order."""
    keys = KeyPairs()
    known: list[tuple[Pair, bytes]] = []
    for each in lists:
        saved = agree(
            lambda flow, each=each: flow.ca_store.save_blobs(iter(each), raw=raw, len_hint=len(each)),
            flows,
            lambda results: [(result.uri is None, type(result.key), result._fields) for result in results],
        )
        for theirs, ours, blob in zip(*saved, each, strict=True):
            keys.check(theirs.key, ours.key)
            known.append((Pair(theirs.key, ours.key), blob))
    asked = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
    for side, flow in enumerate(flows):
        loaded = list(flow.ca_store.load_blobs(pair[side] for pair, _ in asked))
        assert loaded == [(pair[side], blob) for pair, blob in asked]


def test_bytes_like_blobs_are_taken_alike(flows: Pair) -> None:
    """Bytearrays and memoryviews are the bytes that they hold."""
    forms = [b"same", bytearray(b"same"), memoryview(b"same"), memoryview(bytearray(b"..same.."))[2:6]]
    saved = agree(lambda flow: flow.save_data(forms), flows, lambda results: len({key for _, key in results}))
    assert len({key for _, key in saved.ours}) == 1


@pytest.mark.parametrize("given", [["text"], [5], [None], 5, b"bytes", "text", [[b"nested"]]])
def test_what_is_not_a_list_of_bytes_is_refused(flows: Pair, given: Any) -> None:
    """Other types are an error in both."""
    assert isinstance(agree(lambda flow: flow.save_data(given), flows).ours, Raised)


@pytest.mark.parametrize("keys", [["0" * 40], ["0" * 32], ["none"], [""], [None], [5], "text"])
def test_a_key_that_is_not_there_is_an_error(flows: Pair, keys: Any) -> None:
    """Missing, malformed, and of another type."""
    assert isinstance(agree(lambda flow: list(flow.load_data(keys)), flows).ours, Raised)


def test_nothing_is_loaded_before_it_is_asked_for(flows: Pair) -> None:
    """``load_data`` and ``load_blobs`` are iterators: errors come when they are advanced."""
    for load in ("load_data", "load_blobs"):
        for flow in flows:
            loading = getattr(flow if load == "load_data" else flow.ca_store, load)(["0" * 32])
            assert iter(loading) is loading
            with pytest.raises(Exception, match=r".*"):
                next(loading)


def _recording(base: type) -> Any:
    class Recording(base):
        """Keeps what it is given (with ``keep``), and writes down what it is asked."""

        def __init__(self, *, keep: bool) -> None:
            self.keep, self.kept, self.calls = keep, {}, []

        def load_key(self, key: str) -> bytes | None:
            self.calls.append(("load", key))
            return self.kept.get(key)

        def store_key(self, key: str, blob: bytes) -> None:
            self.calls.append(("store", key, bytes(blob)))
            if self.keep:
                self.kept[key] = blob

        def calls_by_key(self, names: dict[str, Any]) -> dict[Any, list[Any]]:
            """Return the calls for each key, with names in the place of keys."""
            by_key: dict[Any, list[Any]] = {}
            for kind, key, *blob in self.calls:
                by_key.setdefault(names[key], []).append((kind, *blob))
            return by_key

    return Recording


def caches(flows: Pair, *, keep: bool) -> Pair:
    """Set caches that record."""
    pair = Pair(_recording(TheirBlobCache)(keep=keep), _recording(BlobCache)(keep=keep))
    for flow, cache in zip(flows, pair, strict=True):
        flow.ca_store.set_blob_cache(cache)
    return pair


@pytest.mark.parametrize("keep", [True, False])
def test_a_cache_is_asked_and_filled_alike(flows: Pair, keep: bool) -> None:
    """For each key: asked before the store, and given the blob if it lacked it; saving does not touch it."""
    pair = caches(flows, keep=keep)
    content = [b"one", LARGE, b""]
    keys = [[key for _, key in flow.save_data(content)] for flow in flows]
    assert [cache.calls for cache in pair] == [[], []]
    for asked in ([0], [2, 1, 0], [1], []):
        answers = [contents(flow.load_data(key[i] for i in asked)) for flow, key in zip(flows, keys, strict=True)]
        assert sorted(answers[0]) == sorted(answers[1]) == sorted(content[i] for i in asked)
        calls = [
            cache.calls_by_key({key: i for i, key in enumerate(of_it)}) for cache, of_it in zip(pair, keys, strict=True)
        ]
        assert calls[0] == calls[1]


@pytest.mark.parametrize("keep", [True, False])
def test_loading_artifacts_asks_a_cache_alike(flows: Pair, keep: bool) -> None:
    """Artifacts come through the cache of the flow's store, and a blob that two names share is asked for once."""
    for flow in flows:
        writer = flow.get_task_datastore("1", "s", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("x", "shared"), ("y", "shared"), ("z", LARGE)])
        writer.done()
    pair = caches(flows, keep=keep)
    readers = agree(lambda flow: flow.get_task_datastore("1", "s", "1"), flows, lambda ds: ds.pathspec)
    for names in (["x"], ["z"], ["x", "z"], ["x", "y"]):
        agree(lambda ds, names=names: sorted(ds.load_artifacts(names)), readers)
        calls = [
            {name: [call[0] for call in calls] for name, calls in cache.calls_by_key(_names_by_key(reader)).items()}
            for cache, reader in zip(pair, readers, strict=True)
        ]
        assert calls[0] == calls[1], f"after load_artifacts({names})"


def _names_by_key(reader: Any) -> dict[str, str]:
    return {key: name for name, key in sorted(reader.items())}


def test_what_a_cache_holds_is_what_is_loaded(flows: Pair) -> None:
    """A cache's answer counts, also for keys that the store lacks; without a cache the store's does."""
    for flow, cache in zip(flows, caches(flows, keep=True), strict=True):
        [(_, key)] = flow.save_data([b"stored"])
        cache.kept = {key: b"cached", "f" * 32: b"only cached"}
        assert contents(flow.load_data([key, "f" * 32])) == [b"cached", b"only cached"]
        flow.ca_store.set_blob_cache(None)
        assert contents(flow.load_data([key])) == [b"stored"]


@pytest.mark.parametrize("source", [0, 1])
def test_blobs_are_transferred_between_stores(tmp_path: Path, source: int) -> None:
    """What ``load_blobs(is_transfer=True)`` of one yields, ``save_blobs(is_transfer=True)`` of another takes."""
    content = [b"one", LARGE, b""]
    pairs = [open_pair(tmp_path, number=number) for number in (1, 2)]
    try:
        from_, to = Pair(*pairs[0]), Pair(*pairs[1])
        sources = (from_.theirs, from_.theirs) if source == 0 else (from_.theirs, from_.ours)
        for origin, target in zip(sources, to, strict=True):
            keys = [each.key for each in origin.ca_store.save_blobs(content)]
            loaded = list(origin.ca_store.load_blobs(keys, is_transfer=True))
            assert [(key, blob, sorted(meta)) for key, blob, meta in loaded] == [
                (key, blob, ["cas_raw", "cas_version"]) for key, blob in zip(keys, content, strict=True)
            ]
            saved = target.ca_store.save_blobs(iter(loaded), is_transfer=True)
            assert [result.key for result in saved] == keys
            assert [result.uri.removeprefix(target.datastore_root) for result in saved] == [
                f"/Flow/data/{key[:2]}/{key}" for key in keys
            ]
            assert list(target.ca_store.load_blobs(keys)) == list(zip(keys, content, strict=True))
    finally:
        for pair in pairs:
            pair.ours.close()


def _task(flow: Any, number: str, artifacts: dict[str, Any]) -> Any:
    writer = flow.get_task_datastore("1", "s", number, attempt=0, mode="w")
    writer.init_task()
    writer.save_artifacts(artifacts.items())
    writer.done()
    return flow.get_task_datastore("1", "s", number)


@pytest.mark.parametrize("names", [None, ["x"], ["x", "none", "x"], [], ["none"]])
def test_artifacts_are_transferred_between_stores(tmp_path: Path, names: Any) -> None:
    """``transfer_artifacts`` brings the blobs, ``passdown_partial`` the names; nothing moves within a store."""
    artifacts = {"x": OBJECTS["frame"](), "y": "text", "z": "text"}
    pairs = [open_pair(tmp_path, number=number) for number in (1, 2)]
    try:
        origins = Pair(*(_task(flow, "1", artifacts) for flow in pairs[0]))
        writers = Pair(*(flow.get_task_datastore("9", "s", "1", attempt=0, mode="w") for flow in pairs[1]))
        for origin, writer in zip(origins, writers, strict=True):
            writer.transfer_artifacts(origin, names)
            writer.transfer_artifacts(origin, names=names)
            writer.passdown_partial(origin, artifacts if names is None else names)
        agree(lambda ds: sorted(ds.ds_metadata["objects"]), writers)
        compare_artifacts(writers, KeyPairs())
        agree(lambda ds: ds.transfer_artifacts(ds), writers)
        agree(lambda ds: (ds.init_task(), ds.done()), writers, str)
        readers = Pair(*(flow.get_task_datastore("9", "s", "1") for flow in pairs[1]))
        compare_artifacts(readers, KeyPairs())
    finally:
        for pair in pairs:
            pair.ours.close()


def test_a_task_of_metaflows_store_moves_into_ours(flows: Pair) -> None:
    """Blobs keep the SHA-1 that Metaflow gave them, artifacts their names, and both load the same."""
    origin = _task(flows.theirs, "1", {"x": OBJECTS["frame"](), "y": None, "größe": 10**400})
    writer = flows.ours.get_task_datastore("1", "s", "1", attempt=0, mode="w")
    writer.transfer_artifacts(origin)
    writer.clone(origin)
    writer.init_task()
    writer.done()
    reader = flows.ours.get_task_datastore("1", "s", "1")
    assert dict(reader.items()) == dict(origin.items())
    compare_artifacts(Pair(origin, reader), KeyPairs())
    blob = flows.ours.load_data(reader.keys_for_artifacts(["x"]))
    assert [hashlib.sha1(each).hexdigest() for each in contents(blob)] == origin.keys_for_artifacts(["x"])
