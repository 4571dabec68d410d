"""The published API has the names, parameters, order and defaults of Metaflow's; what differs stands here, with why."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import metaflow.datastore.content_addressed_store as their_blobs
import metaflow.datastore.datastore_set as their_set
import metaflow.datastore.flow_datastore as their_flow
import metaflow.datastore.inputs as their_inputs
import metaflow.datastore.spin_datastore as their_spin
import metaflow.datastore.task_datastore as their_task
import metaflow.metadata_provider as their_provider
import pytest
from metaflow.datastore.exceptions import DataException as TheirDataException
from metaflow.datastore.exceptions import UnpicklableArtifactException as TheirUnpicklableArtifactException
from metaflow.plugins.datastores.local_storage import LocalStorage

import sqlitestore
from sqlitestore import content_addressed_store, model, spin_datastore, task_reader, task_writer

# Their class, and ours: more than one where the mode picks the class.
CLASSES: dict[str, tuple[type, tuple[type, ...]]] = {
    "FlowDataStore": (their_flow.FlowDataStore, (sqlitestore.FlowDataStore,)),
    "MetadataCache": (their_flow.MetadataCache, (sqlitestore.MetadataCache,)),
    "TaskDataStore": (
        their_task.TaskDataStore,
        (task_reader.TaskDataStoreReader, task_writer.TaskDataStoreWriter, task_reader.TaskDataStoreScrubber),
    ),
    "ContentAddressedStore": (their_blobs.ContentAddressedStore, (sqlitestore.ContentAddressedStore,)),
    "BlobCache": (their_blobs.BlobCache, (sqlitestore.BlobCache,)),
    "ImmutableBlobCache": (their_set.ImmutableBlobCache, (content_addressed_store.ImmutableBlobCache,)),
    "TaskDataStoreSet": (their_set.TaskDataStoreSet, (sqlitestore.TaskDataStoreSet,)),
    "Inputs": (their_inputs.Inputs, (sqlitestore.Inputs,)),
    "SpinTaskDatastore": (their_spin.SpinTaskDatastore, (spin_datastore.SpinTaskDatastore,)),
}

# Private names that Metaflow's runtime, plug-ins and cards use from outside.
USED_BY_THE_RUNTIME = {("TaskDataStore", "_dangerous_save_metadata_post_done")}

# Every difference, by class and name, with its reason. An entry that no longer differs fails the tests.
DIFFERENT = {
    ("FlowDataStore", "default_storage_impl"): "ours has one, the file; Metaflow's is set by its configuration",
    ("FlowDataStore", "__init__"): "ours takes trust, by name only, after all of theirs",
    ("TaskDataStore", "__str__"): "only a reader has artifacts to show; writers and scrubbers have object's",
}


def _members(cls: type) -> list[str]:
    """Return the public members of a class, and the special methods that are written in Python."""
    members = {name: inspect.getattr_static(cls, name) for name in dir(cls)}
    return [
        name
        for name, member in members.items()
        if not name.startswith("_") or (name.startswith("__") and inspect.isfunction(member))
    ]


def _kind(member: Any) -> str:
    if isinstance(member, property | functools.cached_property):
        return "property"
    if isinstance(member, staticmethod | classmethod):
        return type(member).__name__
    return "method" if inspect.isfunction(member) else "attribute"


def _parameters(member: Any) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of each parameter."""
    function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def _names() -> list[tuple[str, str]]:
    names = [(kind, name) for kind, (theirs, _) in CLASSES.items() for name in _members(theirs)]
    return names + sorted(USED_BY_THE_RUNTIME)


def _differences(kind: str, name: str) -> list[str]:
    theirs, ours = CLASSES[kind]
    wanted = inspect.getattr_static(theirs, name)
    found = [inspect.getattr_static(cls, name) for cls in ours if hasattr(cls, name)]
    if not found:
        return [f"{kind}.{name} is missing"]
    differences = []
    for member in found:
        if _kind(member) != _kind(wanted):
            differences.append(f"{kind}.{name} is a {_kind(wanted)} in Metaflow, here a {_kind(member)}")
        elif _kind(member) in {"method", "staticmethod", "classmethod"} and _parameters(member) != _parameters(wanted):
            differences.append(f"{kind}.{name}{_parameters(wanted)} is here {_parameters(member)}")
        elif isinstance(wanted, str | int | float | type(None)) and member != wanted:
            differences.append(f"{kind}.{name} is {wanted!r} in Metaflow, here {member!r}")
    return differences


@pytest.mark.parametrize(("kind", "name"), [each for each in _names() if each not in DIFFERENT])
def test_a_member_is_as_in_metaflow(kind: str, name: str) -> None:
    """Each public member is there, of the same kind, with the same parameters, order and defaults, or same value."""
    assert _differences(kind, name) == []


@pytest.mark.parametrize(("kind", "name"), list(DIFFERENT))
def test_a_listed_difference_is_still_one(kind: str, name: str) -> None:
    """The list of differences holds nothing that became equal."""
    assert _differences(kind, name) != []


def test_a_member_of_a_mode_is_in_its_class_only() -> None:
    """What needs a mode in Metaflow is in that mode's class, and only there, so that types tell who may do what."""
    reader, writer, scrubber = CLASSES["TaskDataStore"][1]
    for name in ("load_logs", "load_metadata", "get_log_size", "keys_for_artifacts", "get_artifact_sizes", "is_none"):
        assert [hasattr(cls, name) for cls in (reader, writer, scrubber)] == [True, False, False]
    for name in ("init_task", "save_artifacts", "save_metadata", "save_logs", "done", "clone", "persist"):
        assert [hasattr(cls, name) for cls in (reader, writer, scrubber)] == [False, True, False]
    assert [hasattr(cls, "scrub_logs") for cls in (reader, writer, scrubber)] == [False, False, True]


def test_instances_have_the_same_public_attributes(tmp_path: Path) -> None:
    """What Metaflow's constructors set, and what its runtime reads by a private name, ours have too."""
    theirs = their_flow.FlowDataStore("F", storage_impl=LocalStorage, ds_root=str(tmp_path / "metaflow"))
    with sqlitestore.FlowDataStore("F", ds_root=tmp_path / "ours.db") as ours:
        tasks = [flow.get_task_datastore("1", "s", "1", attempt=0, mode="w") for flow in (theirs, ours)]
        sets = [
            their_set.TaskDataStoreSet(theirs, "1"),
            sqlitestore.TaskDataStoreSet(ours, "1"),
        ]
        inputs = [their_inputs.Inputs([]), sqlitestore.Inputs([])]
        spins = [
            their_spin.SpinTaskDatastore("F", "1", "s", "1", tasks[0], {}),
            spin_datastore.SpinTaskDatastore("F", "1", "s", "1", tasks[1], {}),
        ]
        for their, our in ((theirs, ours), tasks, (theirs.ca_store, ours.ca_store), sets, inputs, spins):
            public = {name for name in vars(their) if not name.startswith("_")}
            used = {"_storage_impl", "_objects", "_info", "_metadata_cache", "_blob_cache", "_mode"} & set(vars(their))
            assert {name for name in public | used if not hasattr(our, name)} == set()


def test_their_published_name_is_there_too() -> None:
    """``get_latest_task_datastores`` takes the first parameters of ``get_task_datastores``, in their order."""
    ours = sqlitestore.FlowDataStore
    assert [each[0] for each in _parameters(ours.get_latest_task_datastores)] == [
        "self",
        "run_id",
        "steps",
        "pathspecs",
        "allow_not_done",
    ]
    assert _parameters(ours.get_latest_task_datastores) == _parameters(ours.get_task_datastores)[:5]


def test_results_have_the_same_fields() -> None:
    """Named tuples that callers see have Metaflow's fields in Metaflow's order."""
    pairs = [
        (their_blobs.ContentAddressedStore.save_blobs_result, sqlitestore.ContentAddressedStore.save_blobs_result),
        (their_provider.MetaDatum, model.MetaDatum),
        (their_provider.DataArtifact, model.DataArtifact),
    ]
    for theirs, ours in pairs:
        assert ours._fields == theirs._fields


def test_the_errors_have_metaflows_names() -> None:
    """Code that catches errors by name, or asks for the headline's class, finds the names."""
    assert sqlitestore.DataException.__name__ == TheirDataException.__name__
    assert sqlitestore.UnpicklableArtifactException.__name__ == TheirUnpicklableArtifactException.__name__
    assert issubclass(sqlitestore.UnpicklableArtifactException, sqlitestore.DataException)
