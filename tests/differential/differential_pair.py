"""Metaflow's own local datastore and ours, asked the same questions.

``agree`` is the whole idea: the same call on both, and the same answer or an error from both. What differs by nature
(the hash in a key, the pickle protocol, the root) is taken out of the answers by name here, and nothing else.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from differential_values import same
from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
from metaflow.plugins.datastores.local_storage import LocalStorage

from sqlitestore import DataException, FlowDataStore, TaskDataStore

RESERVED = ("attempt.json", "DONE.lock", "data.json")
SOURCES = ("runtime", "task", "a_b")
STREAMS = ("stdout", "stderr")


class Raised(NamedTuple):
    """That a call raised."""

    error: Exception


class Pair(NamedTuple):
    """The same thing of Metaflow and of ours."""

    theirs: Any
    ours: Any


def open_pair(folder: Path, flow_name: str = "Flow", *, number: int = 0, **options: Any) -> Pair:
    """Return flow datastores over roots in ``folder``; another ``number`` means other roots."""
    theirs = MetaflowFlowDataStore(
        flow_name, storage_impl=LocalStorage, ds_root=str(folder / f"metaflow{number}"), **options
    )
    return Pair(theirs, FlowDataStore(flow_name, ds_root=folder / f"ours{number}.db", **options))


def write(flow: Any, pathspec: str, artifacts: dict[str, Any], *, attempt: int = 0, done: bool = True) -> Any:
    """Write a task and return its writer."""
    writer = flow.get_task_datastore(*pathspec.split("/"), attempt=attempt, mode="w")
    writer.init_task()
    writer.save_artifacts(artifacts.items())
    if done:
        writer.done()
    return writer


def outcome(call: Callable[[Any], Any], subject: Any) -> Any:
    """Return what ``call(subject)`` returns, or that it raised."""
    try:
        return call(subject)
    except Exception as error:
        return Raised(error)


def agree(
    call: Callable[[Any], Any], pair: Pair, view: Callable[[Any], Any] = lambda answer: answer, what: str = ""
) -> Any:
    """Make the same call on both; check that both raise, or that both give the same seen through ``view``.

    Return a Pair of the answers, or of two Raised. An error of ours must be a DataException.
    """
    theirs, ours = outcome(call, pair.theirs), outcome(call, pair.ours)
    if isinstance(theirs, Raised) or isinstance(ours, Raised):
        assert isinstance(theirs, Raised), f"{what}: only ours raises: {ours!r}; Metaflow says {theirs!r}"
        assert isinstance(ours, Raised), f"{what}: only Metaflow raises: {theirs!r}; ours says {ours!r}"
        assert isinstance(ours.error, DataException), f"{what}: not a DataException: {ours!r} (Metaflow: {theirs!r})"
    else:
        assert same(view(theirs), view(ours)), f"{what}: Metaflow says {view(theirs)!r}, ours {view(ours)!r}"
    return Pair(theirs, ours)


class KeyPairs:
    """Which keys of ours stand for which of Metaflow's: a blob that is one there must be one here, and back."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}

    def check(self, theirs: str | None, ours: str | None) -> None:
        """Assert that the two keys mean the same blob as ever."""
        if theirs is None or ours is None:
            assert theirs is ours, f"key {theirs} of Metaflow, {ours} of ours"
            return
        assert self._ours.setdefault(theirs, ours) == ours, "equal in Metaflow, different here"
        assert self._theirs.setdefault(ours, theirs) == theirs, "equal here, different in Metaflow"


def masked_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of ``ds_metadata["info"]`` without what the protocol and the preview change."""
    return {"type": info["type"], "has": sorted({"size", "type", "encoding"} & set(info))}


def masked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return ``ds_metadata`` without keys and order."""
    infos = {name: masked_info(info) for name, info in sorted(metadata["info"].items())}
    return {"objects": sorted(metadata["objects"]), "info": infos, "fields": sorted(metadata)}


def masked_text(text: str) -> str:
    """Return what ``format`` returns, without sizes and addresses."""
    return re.sub(r" at 0x[0-9a-f]+", " at ?", re.sub(r"\[size: \d+ ", "[size: ? ", text))


def shown(values: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of ``to_dict`` in the order of names, comparable between the two packages."""
    return {
        name: str(value) if type(value).__name__ == "ArtifactTooLarge" else value
        for name, value in sorted(values.items())
    }


def where(datastore: Any) -> Any:
    """Return what a task datastore is of."""
    return datastore.pathspec, datastore.attempt


def relative_location(datastore: Any, source: str, stream: str) -> str:
    """Return ``get_log_location`` below the root."""
    location = datastore.get_log_location(source, stream)
    root = datastore.parent_datastore.datastore_root
    assert location.startswith(root)
    return location[len(root) :]


def compare_artifacts(pair: Pair, keys: KeyPairs, missing: Iterable[str] = ("missing", "")) -> None:
    """Ask two readers (or writers) everything about their artifacts."""
    reading = pair.ours._mode == "r"
    names = [name for name, _ in agree(lambda ds: list(ds.items()), pair, _names_of_items, "items").theirs]
    agree(lambda ds: ds.ds_metadata, pair, masked_metadata, "ds_metadata")
    for name in [*names, *missing]:
        agree(lambda ds, name=name: ds[name], pair, what=f"[{name!r}]")
        agree(lambda ds, name=name: list(ds.load_artifacts([name, name])), pair, what=f"load_artifacts {name!r}")
        agree(lambda ds, name=name: (ds.get(name), ds.get(name, 5), name in ds), pair, what=f"get {name!r}")
        if reading:
            agree(lambda ds, name=name: ds.is_none(name), pair, what=f"is_none {name!r}")
            agree(lambda ds, name=name: list(ds.get_artifact_sizes([name])), pair, lambda sizes: sizes[0][0], "sizes")
    if names:  # of a task without any, see test_differences.py
        agree(lambda ds: list(ds.load_artifacts(names[::-1])), pair, lambda loaded: dict(sorted(loaded)), "load all")
    for options in (
        {},
        {"show_private": True},
        {"max_value_size": 0},
        {"max_value_size": 10**9, "show_private": True},
        {"include": [*names[:2], "missing"]},
        {"include": [], "show_private": True},
    ):
        agree(lambda ds, options=options: ds.to_dict(**options), pair, shown, f"to_dict {options}")
        if reading:
            agree(lambda ds, options=options: ds.format(**options), pair, masked_text, f"format {options}")
    if reading:
        asked = [*names, *missing, *names]
        agree(sorted, pair, what="iter")
        agree(str, pair, masked_text, "str")
        for theirs, ours in zip(*agree(lambda ds: ds.keys_for_artifacts(asked), pair, len, "keys"), strict=True):
            keys.check(theirs, ours)
        _compare_own_sizes(pair.ours, names)


def _names_of_items(items: Any) -> list[str]:
    return sorted(name for name, _ in items)


def _compare_own_sizes(ours: Any, names: list[str]) -> None:
    """Sizes are of the serialized bytes: those under the key."""
    found = ours.keys_for_artifacts(names)
    blobs = dict(ours.parent_datastore.load_data(found))
    assert dict(ours.get_artifact_sizes(names)) == {
        name: len(blobs[key]) for name, key in zip(names, found, strict=True)
    }


def compare_records(pair: Pair, metadata_names: Iterable[str] = ()) -> None:
    """Ask two task datastores everything about their metadata and logs."""
    logs = [f"{source}_{stream}.log" for source in SOURCES for stream in STREAMS]
    for name in [*metadata_names, *RESERVED, *logs]:
        for asked in (name, f"0.{name}", f"1.{name}"):
            agree(
                lambda ds, name=asked: (ds.has_metadata(name), ds.has_metadata(name, False)), pair, what=f"has {name}"
            )
    if pair.ours._mode != "r":
        return
    for add_attempt in (True, False):
        asked = [*metadata_names, *(f"{number}.{name}" for number in (0, 1) for name in (*metadata_names, *RESERVED))]
        agree(lambda ds, asked=asked, add=add_attempt: ds.load_metadata(asked, add), pair, _metadata_view, "metadata")
    agree(lambda ds: ds.load_metadata(RESERVED), pair, _metadata_view, "reserved metadata")
    for stream in STREAMS:
        agree(lambda ds, stream=stream: ds.get_log_size([*SOURCES, "task"], stream), pair, what="get_log_size")
        agree(lambda ds, stream=stream: ds.get_legacy_log_size(stream), pair, what="get_legacy_log_size")
        agree(lambda ds, stream=stream: relative_location(ds, "task", stream), pair, what="get_log_location")
        for override in (None, 0, 1, 5):
            agree(
                lambda ds, stream=stream, override=override: (
                    ds.load_logs(SOURCES[::-1], stream, override),
                    ds.load_logs(["task", "none", "task"], stream, attempt_override=override),
                    ds.load_log_legacy(stream, override),
                ),
                pair,
                what=f"logs {stream} {override}",
            )


def _metadata_view(values: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of ``load_metadata`` without times, keys and the store's type."""
    seen = {}
    for name, value in values.items():
        if value is not None and name.endswith("attempt.json"):
            value = {field: type(each) for field, each in value.items()}  # noqa: PLW2901
        elif value is not None and name.endswith("data.json"):
            plain = {field: value[field] for field in ("version", "attempt")}
            value = plain | masked_metadata(value) | {"fields": sorted(value)}  # noqa: PLW2901
        seen[name] = value
    return seen


def compare_readers(pair: Pair, keys: KeyPairs, metadata_names: Iterable[str] = ()) -> None:
    """Ask two readers everything."""
    agree(where, pair, what="pathspec and attempt")
    agree(lambda ds: (ds.run_id, ds.step_name, ds.task_id), pair, what="names")
    if hasattr(pair.theirs, "_objects"):
        compare_artifacts(pair, keys)
    else:  # Metaflow leaves the attribute out of a reader whose attempt is not done, and fails when asked
        assert (list(pair.ours), dict(pair.ours.items()), "x" in pair.ours) == ([], {}, False)
    compare_records(pair, metadata_names)


def log_for(datastore: Any, form: str, data: bytes, folder: Path) -> Any:
    """Return the log ``data`` in one of the forms that ``save_logs`` takes."""
    if form == "text":
        return data.decode()
    if form == "stream":
        stream = io.BytesIO(b"skipped" + data)
        stream.seek(7)
        return stream
    if form == "path" and isinstance(datastore, TaskDataStore):  # Metaflow leaves the file open: a ResourceWarning
        number, path = tempfile.mkstemp(dir=folder)  # one call may save several
        with os.fdopen(number, "wb") as file:
            file.write(data)
        return Path(path)
    return data


LOG_FORMS = ("text", "bytes", "stream", "path")
