"""Scenarios of Metaflow's plug-in, which writes by paths, and of runs that go to a folder of Metaflow's, and come."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from crash_points_of_metaflow import FILE_WRITTEN, follow_files
from crash_states import Unit
from crash_trials import Scenario, by_unit
from crash_upkeep import fill
from crash_writers import DB, TIME, Steps, attempt, opened
from helpers_store import FLOW, incompressible, save_task

from sqlitestore.blobs import payload_of
from sqlitestore.registrations import RegisteredMetadatum
from sqlitestore.schema import NEWEST_FORMAT

LARGE = incompressible(400_000, 41)
PACKAGE = incompressible(90_000, 43)
PACKAGE_KEY = hashlib.sha1(PACKAGE).hexdigest()
RUN = (DB, "attempt", FLOW, "1", "a", "1", 0)
INFO = {"runtime": "dev", "python_version_code": "3.11", "metaflow_version": "2", "script": "flow.py"}


def storage_at(folder: str) -> Any:
    """Return the plug-in's storage over the file, as Metaflow sets it."""
    from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

    SQLiteDatastoreStorage.datastore_root = os.path.join(folder, DB)
    return SQLiteDatastoreStorage(os.path.join(folder, DB))


def closed() -> None:
    """Close what the plug-in has open, as a process does at its end."""
    from sqlitestore.paths import stores

    for store in stores.open_stores():
        store.database.close()


def flow_of_metaflow(folder: str) -> Any:
    """Return Metaflow's own datastore over our file."""
    from metaflow.datastore import FlowDataStore

    storage_at(folder)
    from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

    return FlowDataStore(FLOW, storage_impl=SQLiteDatastoreStorage, ds_root=os.path.join(folder, DB))


def by_paths(folder: str) -> Steps:
    """Have Metaflow write a task, its logs and metadata, write it once more, keep data, cards and strange files."""
    flow = flow_of_metaflow(folder)
    flow.ca_store.save_blobs([b"before any task"])
    yield {(DB, "schema"): NEWEST_FORMAT}
    for value in ("first", "second"):
        task = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
        task.init_task()
        yield {RUN: (True, False, ())} if value == "first" else {}
        task.save_artifacts([("value", value), ("large", LARGE), ("small", incompressible(3_000, 42))])
        yield {}
        task.done()
        yield {RUN: {"value": value, "large": LARGE, "small": incompressible(3_000, 42)}}
        closed()
        flow = flow_of_metaflow(folder)
    task = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w", allow_not_done=True)
    task._dangerous_save_metadata_post_done({"note": [1]})
    yield {(DB, "metadata", FLOW, "1", "a", "1", 0, "note"): "[1]"}
    storage = flow._storage_impl
    storage.save_bytes([(f"{FLOW}/1/a/1/0.task_stdout.log", BytesIO(b"out"))], overwrite=True)
    yield {(DB, "log", FLOW, "1", "a", "1", 0, "task", "stdout"): b"out"}
    storage.save_bytes([("mf.cards/strange", (BytesIO(b"bytes"), {"a": 1}))], overwrite=True)
    yield {(DB, "file", "mf.cards/strange"): ...}
    [(_, key)] = flow.save_data([b"raw"])
    yield {(DB, "data", FLOW, key): "there"}
    closed()


def with_task(folder: str) -> None:
    """Make a file with a task."""
    with opened(folder) as flow:
        save_task(flow, "0", large=LARGE, small="small")


def handing_out(folder: str) -> Steps:
    """Hand out files: from memory, and in a folder where there are no memory files."""
    from sqlitestore.metaflow import handed_out

    handed_out.PREFIX = f"sqlitestore-handed-out-{os.getppid()}-"
    handed_out.BEING_MADE = 0.0
    storage = storage_at(folder)
    path = f"{FLOW}/0/a/1/0.data.json"
    for limit in (handed_out.MEMORY_FILES, 0):
        handed_out.HandedOutFiles.__init__.__defaults__ = (limit,)
        with storage.load_bytes([path]) as loaded:
            for _, file, _ in loaded:
                assert b"objects" in Path(file).read_bytes()
                assert limit or handed_out.PREFIX in file
        yield {}
    closed()


def no_folder_is_left(_folder: str) -> None:
    """No folder of a process that was killed stays in memory."""
    mine = f"sqlitestore-handed-out-{os.getpid()}-"
    places = [place for place in (Path("/", "dev", "shm"), Path(tempfile.gettempdir())) if place.is_dir()]
    assert not [path for place in places for path in place.glob(f"{mine}*")]


def providing(folder: str) -> Steps:
    """Register a run and tasks as Metaflow does, with their metadata, artifacts and tags."""
    from metaflow.metadata_provider import DataArtifact, MetaDatum
    from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider

    os.environ["USERNAME"] = "tester"
    storage_at(folder)
    environment = SimpleNamespace(get_environment_info=lambda: INFO)
    provider = SQLiteMetadataProvider(environment, SimpleNamespace(name=FLOW), None, None)
    provider.register_run_id("named", tags=["one"])
    yield {(DB, "registered run", FLOW, "named"): ...}
    if not (known := provider._registrations().tasks(FLOW, "named", "start")):
        provider.new_task_id("named", "start")
    elif not provider._registrations().metadata(FLOW, "named", [("start", known[0].task)]):
        provider.register_task_id("named", "start", known[0].task)
    yield {
        (DB, "registered task", FLOW, "named", "start", "0"): "there",
        (DB, "registered metadata", FLOW, "named", "start", "0", 0): ...,
    }
    if not provider._registrations().tasks(FLOW, "named", "end", "mine") or not _noted(provider, "end", "mine"):
        provider.register_task_id("named", "end", "mine", 0)
    yield {
        (DB, "registered task", FLOW, "named", "end", "mine"): "there",
        (DB, "registered metadata", FLOW, "named", "end", "mine", 0): ...,
    }
    if "field" not in _noted(provider, "end", "mine"):
        provider.register_metadata("named", "end", "mine", [MetaDatum("field", "value", "type", ["attempt_id:0"])])
    yield {(DB, "registered metadata", FLOW, "named", "end", "mine", len(_noted(provider, "end", "mine")) - 1): ...}
    artifacts = [DataArtifact(name, "s3", "s3://bucket", None, "gzip+pickle-v4", "0" * 40) for name in "ab"]
    provider.register_data_artifacts("named", "end", "mine", 0, artifacts)
    yield {(DB, "registered artifact", FLOW, "named", "end", "mine", 0, name): ... for name in "ab"}
    SQLiteMetadataProvider._mutate_user_tags_for_run(FLOW, "named", tags_to_add=["two"], tags_to_remove=["one"])
    yield {(DB, "registered run", FLOW, "named"): ...}
    closed()


def _noted(provider: Any, step: str, task: str) -> list[str]:
    return [each.field_name for each in provider._registrations().metadata(FLOW, "named", [(step, task)])]


def calls_apart(unit: Unit) -> Any:
    """A task and the metadata that say where it runs are registered by two calls of the plug-in's."""
    return unit[:-1] if unit[1] == "registered metadata" else (unit[1] == "registered step", unit[:4])


# Runs that go to a folder, and come from it


def registered_runs(folder: str) -> None:
    """Make a file with runs as a flow writes them, and an empty folder of Metaflow's."""
    with opened(folder) as flow:
        tables = flow._storage_impl.tables
        for run in ("1", "2"):
            tables.registrations.add_run(FLOW, run, "ada", TIME, {"mine"}, {"user:ada"})
        fill(flow, "1", "2")
        for run in ("1", "2"):
            save_task(flow, run, "end", "9", large=LARGE, small=run)
            card = f"mf.cards/{FLOW}/runs/{run}/noted.html"
            flow._storage_impl.save_file(card, payload_of(b"<html>"), '{"made": 1}')
            flow._storage_impl.put_blobs(FLOW, [payload_of(PACKAGE)], keys=[PACKAGE_KEY], keep=True)
            tables.registrations.add_task(FLOW, run, "end", "9", "ada", TIME)
            for task, step in (("1", "a"), ("2", "a"), ("3", "a"), ("9", "end")):
                package = json.dumps(
                    {"ds_type": "sqlite", "sha": PACKAGE_KEY, "location": f"{FLOW}/data/{PACKAGE_KEY}"}
                )
                fields = {"attempt": "0", "ds-type": "sqlite", "ds-root": ".", "attempt-done": "0"}
                fields |= {"code-package": package}
                tables.registrations.add_metadata(
                    FLOW,
                    run,
                    [
                        RegisteredMetadatum(step, task, name, value, name, ("attempt_id:0",), "ada", TIME + 7)
                        for name, value in fields.items()
                    ],
                )
    os.makedirs(os.path.join(folder, ".metaflow"))


def pushing(folder: str) -> Steps:
    """Push all runs into the folder, and look whether Metaflow has all of each."""
    from sqlitestore.remote.push import push

    follow_files()
    with opened(folder) as flow:
        report = push(flow, folder)
        assert not report.problems, report.problems
        yield {(f".metaflow/{FLOW}/{run}/end/9/0.DONE.lock", "bytes"): ... for run in ("1", "2")}


def what_is_done_is_whole(folder: str) -> None:
    """Of every attempt that is done for Metaflow its artifacts are there, as Metaflow packs them, with their keys."""
    root = Path(folder, ".metaflow")
    for done in root.glob(f"{FLOW}/*/*/*/*.DONE.lock"):
        data = json.loads(done.with_name(done.name.replace("DONE.lock", "data.json")).read_bytes())
        for name, key in data["objects"].items():
            blob = root / FLOW / "data" / key[:2] / key
            assert hashlib.sha1(gzip.decompress(blob.read_bytes())).hexdigest() == key or len(key) == 32, name
            assert Path(f"{blob}_meta").exists(), f"{name} of {done} has no metadata, so Metaflow cannot load it"


def metaflow_loads_it(folder: str) -> None:
    """Metaflow itself finds each task of each run, with its artifacts."""
    from metaflow.datastore import FlowDataStore
    from metaflow.plugins.datastores.local_storage import LocalStorage

    what_is_done_is_whole(folder)
    flow = FlowDataStore(FLOW, storage_impl=LocalStorage, ds_root=os.path.join(folder, ".metaflow"))
    for run in ("1", "2"):
        tasks = flow.get_task_datastores(run_id=run)
        assert len(tasks) == 4
        for task in tasks:
            assert dict(task.load_artifacts(["large" if task.step_name == "end" else "text"]))


def a_folder_of_runs(folder: str) -> None:
    """Make a folder of Metaflow's with runs, and a file that has none of them."""
    from sqlitestore.remote.push import push

    with ExitStack() as work:
        work.callback(os.rename, os.path.join(folder, "project", ".metaflow"), os.path.join(folder, ".metaflow"))
        os.makedirs(os.path.join(folder, "project"))
        registered_runs(os.path.join(folder, "project"))
        with opened(os.path.join(folder, "project")) as flow:
            push(flow, os.path.join(folder, "project"))
    shutil.rmtree(os.path.join(folder, "project"))
    with opened(folder) as flow:
        save_task(flow, "0", small=1)


def pulling(folder: str) -> Steps:
    """Pull all runs out of the folder."""
    from sqlitestore.remote.pull import pull

    with opened(folder) as flow:
        report = pull(flow, folder)
        assert not report.problems, report.problems
        yield {attempt(run, "end", "9"): {"large": LARGE, "small": run} for run in ("1", "2")} | {
            (DB, "registered run", FLOW, "1"): '["mine"] ["user:ada"] 0',
            (DB, "registered run", FLOW, "2"): '["mine"] ["user:ada"] 0',
            (DB, "data", FLOW, PACKAGE_KEY): "there",
        }


def attempt_may_be_known(unit: Unit, value: Any) -> bool:
    """Logs come before the attempt that they belong to."""
    return unit[1] == "attempt" and value == (False, False, ())


METAFLOW = ("metaflow", "metaflow.plugins.datastores.local_storage", "metaflow.metadata_provider")

PLUG_IN = (
    Scenario(
        "Metaflow writes by paths",
        by_paths,
        (
            "paths-blobs-put", "paths-flow-known", "paths-attempt-saved", "paths-attempt-restarted",
            "paths-attempt-rewritten", "paths-file-saved", "paths-log-saved", "paths-blob-put",
            "paths-metadatum-saved", "rewrite-artifacts-deleted", "rewrite-restarted",
        ),
        together=by_unit,
        imports=METAFLOW,
    ),
    Scenario(
        "files are handed out",
        handing_out,
        ("handed-out-in-memory", "handed-out-as-file", "handed-out-folder-made", "handed-out-folder-removed"),
        with_task,
        final=no_folder_is_left,
        imports=METAFLOW,
    ),
    Scenario(
        "Metaflow registers",
        providing,
        ("provider-task-made", "provider-task-known", "tags-updated", "metadatum-registered", "artifacts-registered"),
        together=calls_apart,
        imports=METAFLOW,
    ),
    Scenario(
        "push",
        pushing,
        (
            "push-blobs-sent", "push-run-files-sent", "push-run-registered", "push-logs-sent", "push-data-sent",
            "push-done-sent", "push-documents-written", "push-tasks-registered", FILE_WRITTEN,
        ),
        registered_runs,
        by_unit,
        looks=what_is_done_is_whole,
        final=metaflow_loads_it,
        imports=METAFLOW,
    ),
    Scenario(
        "pull",
        pulling,
        (
            "pull-run-registered", "pull-run-files-brought", "pull-blobs-put", "pull-blobs-brought",
            "pull-logs-brought", "pull-attempts-written", "pull-tasks-registered", "pull-task-registered",
        ),
        a_folder_of_runs,
        by_unit,
        attempt_may_be_known,
        imports=METAFLOW,
    ),
)  # fmt: skip
