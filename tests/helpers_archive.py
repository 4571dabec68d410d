"""What the tests of export, import, trust, diff and tags share: full stores, and all that public calls say of one."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers_cli
from helpers_store import incompressible, save_task

from sqlitestore import BlobLeftOut, FlowDataStore, SQLiteStorage
from sqlitestore.blobs import payload_of
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum
from sqlitestore.tables import tables_of

LARGE = incompressible(300_000, 3)
OTHER = "OtherFlow"
FLOW = "ArchiveFlow"
CARD = "mf.cards/{flow}/runs/{run}/steps/{step}/tasks/{task}/cards/default-{task:0>40}.html"


def make_full(path: str | Path) -> str:
    """Make a store with something of everything that belongs to runs, to tasks, to flows, and to nobody."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for run in ("1", "rün 2"):
            _write_run(flow, run)
        flow.save_data([b"kept", LARGE, b""])
        flow._storage_impl.save_file(f"{FLOW}/notes.txt", payload_of(b"of the flow"), '{"a": 1}')
        flow._storage_impl.save_file("anything", payload_of(b"of nobody"))
    with FlowDataStore(OTHER, ds_root=path) as flow:
        save_task(flow, "1", "only", "0", same=LARGE, own="other")
        flow.save_data([b"other data"])
    return str(path)


def _write_run(flow: FlowDataStore, run: str) -> None:
    """Write a run: a task that failed first, one that is not done, and one that everything is registered of."""
    storage: Any = flow._storage_impl
    failed = flow.get_task_datastore(run, "train", "1", attempt=0, mode="w")
    failed.init_task()
    failed.save_logs("runtime", {"stderr": b"killed " + run.encode()})
    task = flow.get_task_datastore(run, "train", "1", attempt=1, mode="w")
    task.init_task()
    task.save_artifacts(
        [("name", run), ("large", LARGE), ("again", LARGE), ("größe", {"deep": [1, 2.5]}), ("no", None)]
    )
    task.save_metadata({"tags": ["a", 2**80], "none": None})
    task.save_metadata({"of the task": 1.5}, add_attempt=False)
    for size in (11, 30):
        task.save_logs("task", {"stdout": b"first line\nsecond line of it\n"[:size]})
    task.done()
    flow.get_task_datastore(run, "train", "2", attempt=0, mode="w").init_task()
    save_task(flow, run, "end", "3", total=len(run), own=incompressible(5_000, len(run)))
    for step, name in (("train", "1"), ("end", "3")):
        path = CARD.format(flow=FLOW, run=run, step=step, task=name)
        storage.save_file(path, payload_of(f"card of {run}".encode()), '{"x": null}')
    registrations = tables_of(flow).registrations
    registrations.add_run(FLOW, run, "ada", 1_700_000_000_000, {"a", run}, {"user:ada"})
    registrations.new_task_id(FLOW, run, "train", None, 1_700_000_000_001)
    metadatum = RegisteredMetadatum(
        "train", "0", "list", ["a", 2**70], "t", ("attempt_id:0",), "ada", 1_700_000_000_123
    )
    [(_, package)] = flow.save_data([f"code of {run}".encode()])
    sha = json.dumps({"sha": package, "ds_type": "sqlite"})
    registrations.add_metadata(
        FLOW, run, [metadatum, metadatum._replace(value=None), metadatum._replace(field_name="code-package", value=sha)]
    )
    artifact = RegisteredArtifact(0, "far", "pickle-v4", "0" * 40, "s3", ":root:s3://b", None, 1_700_000_000_123)
    registrations.add_artifacts(FLOW, run, "train", "0", [artifact])


def six_runs(path: str | Path, size: int = 12_000_000) -> str:
    """Make six runs that share ``size`` bytes, each with something of its own."""
    shared = incompressible(size, 6)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for run in range(6):
            save_task(flow, str(run), "a", "0", shared=shared, own=incompressible(100_000, run + 10))
    return str(path)


# All that there is to be said


def everything(path: str | Path, flows: tuple[str, ...] = (), *, trust: bool = True) -> dict[str, Any]:
    """Return what every public call says of a file (of some flows), values and all."""
    storage = SQLiteStorage(path, create=False)
    try:
        said: dict[str, Any] = {}
        for name in flows or storage.flows():
            flow = FlowDataStore(name, ds_root=path, storage_impl=lambda _: storage, trust=trust)
            said[name] = {run: of_run(flow, run) for run in storage.runs(name)}
            kept = sorted(tables_of(storage).data.kept(name))
            said[name]["data"] = [(key, data) for key, data in flow.load_data(kept)]
        if not flows:
            said["files"] = {file: of_file(storage, file) for file in storage.files_below("")}
    finally:
        storage.close()
    return said


def of_run(flow: FlowDataStore, run: str) -> dict[str, Any]:
    """Return what all calls say of a run."""
    storage: Any = flow._storage_impl
    name = type_name(flow)
    latest = flow.get_latest_task_datastores(run, allow_not_done=True)
    attempts = storage.find_run(name, run, None)
    return {
        "latest": [(task.pathspec, task.attempt) for task in latest],
        "done": [(task.pathspec, task.attempt) for task in flow.get_task_datastores(run)],
        "attempts": [each._replace(reference=None, origin=None) for each in attempts],
        "tasks": {(each.task, each.number): of_attempt(flow, each.task, each.number) for each in attempts},
        "registered": tables_of(flow).registrations.records(name, run),
        "cli": {arguments: by_command(flow, name, *arguments) for arguments in _commands(name, run, latest)},
    }


def type_name(flow: FlowDataStore) -> str:
    """Return the name of the flow."""
    return str(flow.flow_name)


def _commands(flow: str, run: str, tasks: Any) -> list[tuple[str, ...]]:
    calls = [(command, f"{flow}/{run}") for command in ("ls", "show", "tag")]
    return calls + [(command, f"{flow}/{task.pathspec}") for task in tasks for command in ("ls", "show", "logs")]


def by_command(flow: FlowDataStore, name: str, command: str, pathspec: str) -> Any:
    """Return what a command says as JSON, but for the file's name and whether it is trusted."""
    outcome = helpers_cli.run(flow.datastore_root, command, pathspec, "--json")
    assert outcome.exit_code == 0, (outcome.output, name)
    return {key: value for key, value in json.loads(outcome.stdout).items() if key not in {"file", "untrusted"}}


def of_attempt(flow: FlowDataStore, task: Any, number: int) -> dict[str, Any]:
    """Return what a reader of an attempt says."""
    storage: Any = flow._storage_impl
    reader = flow.get_task_datastore(*task[1:], attempt=number, mode="r", allow_not_done=True)
    names = list(reader)
    logs = dict(storage.log_sizes(task, number))
    return {
        "names": names,
        "metadata": reader.ds_metadata,
        "keys": reader.keys_for_artifacts([*names, "missing"]),
        "sizes": list(reader.get_artifact_sizes(names)),
        "values": unless_left_out(lambda: repr(reader.to_dict(show_private=True))),
        "one by one": [unless_left_out(lambda name=each: repr(reader[name])) for each in names],
        "is none": [unless_left_out(lambda name=each: repr(reader.is_none(name))) for each in names],
        "bytes": {each: digest(storage, task.flow_name, key) for each, key in reader.items()},
        "of attempt": storage.load_metadata(task, number),
        "of task": storage.load_metadata(task, None),
        "logs": {each: storage.load_log(task, number, *each) for each in logs},
        "log sizes": logs,
        "text": unless_left_out(lambda: str(reader)),
    }


def digest(storage: Any, flow: str, key: str) -> str:
    """Return the digest of a blob's bytes."""

    def read() -> str:
        with storage.open_blob(flow, key) as file:
            return hashlib.sha256(file.read()).hexdigest()

    return unless_left_out(read)


def unless_left_out(load: Callable[[], str]) -> str:
    """Return what is loaded, or that an export left it out."""
    try:
        return load()
    except BlobLeftOut:
        return "(left out)"


def of_file(storage: Any, path: str) -> tuple[Any, str]:
    """Return key, size and metadata of a named file, and its content."""
    found = storage.find_file(path)
    return found, digest(storage, "", found[0])


def only_run(said: dict[str, Any], flow: str, *runs: str) -> dict[str, Any]:
    """Return what was said of some runs of a flow."""
    return {run: said[flow][run] for run in runs}


def content(path: str | Path) -> bytes:
    """Return the bytes of a file."""
    with io.open(path, "rb") as file:  # noqa: UP020 - as for any file
        return file.read()
