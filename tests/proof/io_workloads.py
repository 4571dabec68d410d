"""What is done to a store while its files fail: each a function that can be done again, and says what it read."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import golden_content
from helpers_store import FLOW, incompressible, save_task
from io_templates import (
    LARGE,
    NEW,
    OWN,
    SECRET,
    SMALL,
    make_alone,
    make_base,
    make_golden,
    make_hot,
    make_nothing,
    opened,
    path_in,
)
from xxhash import xxh3_128_hexdigest

from sqlitestore import (
    AttemptDone,
    FileExists,
    FlowDataStore,
    NotFound,
    change_tags,
    compact,
    diff,
    export,
    merge,
    plan_prune,
    prune,
    restore,
    salvage,
    tags_of,
    trust_runs,
    verify,
)
from sqlitestore.blobs import payload_of
from sqlitestore.database import Database
from sqlitestore.maintenance.purge import purge
from sqlitestore.model import TaskAddress
from sqlitestore.schema import ARCHIVE
from sqlitestore.tables import tables_of

ENVIRONMENT = {"runtime": "dev", "python_version_code": "3.11", "metaflow_version": "2", "script": "flow.py"}


@dataclass(frozen=True, slots=True)
class Workload:
    """``make`` fills the folder beforehand. ``work`` is given the open store, or the folder if it ``opens_itself``.

    What it returns is the same whenever it succeeds, also when it is done again after it failed late.
    """

    name: str
    work: Callable[[Any], Any]
    make: Callable[[str], None]
    opens_itself: bool = False
    journal: Any = None


class Reported(Exception):
    """What ``verify`` found, which is no error of its own."""


def folder_of(flow: FlowDataStore) -> str:
    """Return the folder of an open store."""
    return os.path.dirname(str(flow.datastore_root))


def save(flow: FlowDataStore, run: str, step: str = "a", task: str = "1", attempt: int = 0, **artifacts: Any) -> None:
    """Save a task; whoever does it again, after an error that came late, may hear that it is done."""
    with suppress(AttemptDone):
        save_task(flow, run, step, task, attempt, **artifacts)


# Writing


def create(folder: str, journal: Any = None) -> None:
    """Make a new store, with a task in it."""
    with opened(folder, journal) as flow:
        save(flow, "new", small=SMALL)


def create_archive(folder: str) -> None:
    """Make an archive."""
    Database(path_in(folder), kind=ARCHIVE).close()


def save_large(flow: FlowDataStore) -> None:
    """Save an artifact in many batches, beside one that is there and a small one."""
    save(flow, "new", new=NEW, large=LARGE, small=SMALL)


def save_small(flow: FlowDataStore) -> None:
    """Save some tasks of small artifacts, one of them twice, and their metadata."""
    for number in range(3):
        save(flow, "new", "small", str(number), number=number, same=SMALL, again=SMALL)
        address = TaskAddress(FLOW, "new", "small", str(number))
        flow._storage_impl.save_metadata(address, 0, {"a": "1", "b": f"[{number}]"}, overwrite=True)


def retry(flow: FlowDataStore) -> None:
    """Save a first attempt that is never done, then a second one."""
    flow.get_task_datastore("new", "retry", "1", attempt=0, mode="w").init_task()
    save(flow, "new", "retry", "1", attempt=1, new=OWN, number=1)


def save_logs(flow: FlowDataStore) -> Any:
    """Save a log in growing parts, and one more of another stream."""
    task = flow.get_task_datastore("new", "logs", "1", attempt=0, mode="w")
    task.init_task()
    log = incompressible(90_000, 4)
    for size in (10_000, 60_000, 90_000):
        task.save_logs("task", {"stdout": log[:size], "stderr": b"short"})
    return flow.get_task_datastore("new", "logs", "1", attempt=0, allow_not_done=True).load_logs(["task"], "stdout")


def scrub(flow: FlowDataStore) -> Any:
    """Replace a log by another text."""
    task = flow.get_task_datastore("base", "a", "2", attempt=0, mode="d", allow_not_done=True)
    task.scrub_logs(["task"], "stderr")
    assert flow._storage_impl.has_blobs(FLOW, [xxh3_128_hexdigest(SECRET)]) == [False]
    return flow.get_task_datastore("base", "a", "2", attempt=0, allow_not_done=True).load_logs(["task"], "stderr")


def save_data(flow: FlowDataStore) -> Any:
    """Save blobs without a task, in chunks and in rows, one twice."""
    return [key for _, key in flow.save_data([b"data", NEW, b"data", b"", OWN])]


def save_file(flow: FlowDataStore) -> Any:
    """Save a named file, replace one, delete one."""
    storage: Any = flow._storage_impl
    storage.save_file("cards/2.html", payload_of(NEW), None, overwrite=True)
    storage.save_file("cards/1.html", payload_of(b"<html>2"), "{}", overwrite=True)
    storage.save_file("cards/3.html", payload_of(b"<html>3"), overwrite=True)
    storage.delete_file("cards/3.html")
    return storage.find_file("cards/2.html"), storage.files_below("cards")


def tag(flow: FlowDataStore) -> Any:
    """Change tags, and read them."""
    change_tags(flow, f"{FLOW}/base", add=["best", "of all"], remove=["first"])
    return tags_of(flow, f"{FLOW}/base")


def trust(flow: FlowDataStore) -> Any:
    """Trust the run that was imported, and load it."""
    with suppress(NotFound):
        trust_runs(flow, [f"{FLOW}/imported"])
    return flow.get_task_datastore("imported", "a", "1")["own"]


# Reading


def look(flow: FlowDataStore) -> Any:
    """Look up tasks, artifacts, logs, data and files, and load them."""
    storage: Any = flow._storage_impl
    said: list[Any] = [storage.flows(), storage.runs(FLOW), storage.files_below("")]
    for task in flow.get_latest_task_datastores("base", allow_not_done=True):
        said += [task.pathspec, list(task), task.load_logs(["task"], "stdout"), task.ds_metadata]
    for task in flow.get_task_datastores("old"):
        said += [task.pathspec, task.to_dict(), list(task.keys_for_artifacts(["own", "text"]))]
    said += [flow.get_task_datastore("base", "a", "1")["large"], tables_of(flow).data.kept(FLOW)]
    keys = sorted(tables_of(flow).data.kept(FLOW))
    return repr([*said, list(flow.load_data(keys)), storage.has_blobs(FLOW, keys), storage.find_file("cards/1.html")])


def look_anew(folder: str) -> Any:
    """Open the store, and look."""
    with opened(folder) as flow:
        return look(flow)


def read_beside(flow: FlowDataStore) -> Any:
    """Save a large artifact while another connection has a snapshot, which shows nothing of it."""
    with opened(folder_of(flow)) as other:
        ask = partial(other._storage_impl.runs, FLOW)
        with tables_of(other).database.read():
            before = ask()
            save_large(flow)
            between = ask()
        seen = ["new" in before or "new" not in runs for runs in (before, between)]
        return seen, "new" in ask(), other.get_task_datastore("base", "a", "1")["large"]


def in_threads(flow: FlowDataStore) -> None:
    """Save from a thread that ends, whose connection closes with it."""
    errors: list[BaseException] = []

    def save() -> None:
        try:
            save_large(flow)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def verify_store(flow: FlowDataStore) -> None:
    """Verify it, in the whole and quickly."""
    for quick in (True, False):
        if problems := verify(flow, quick=quick).problems:
            raise Reported("\n".join(map(str, problems)))


# The life of the file


def prune_runs(flow: FlowDataStore) -> Any:
    """Put two runs into the trash."""
    there = [f"{FLOW}/{run}" for run in ("old", "older") if run in flow._storage_impl.runs(FLOW)]
    if there:
        prune(flow, plan_prune(flow, there))
    return flow._storage_impl.runs(FLOW)


def restore_run(flow: FlowDataStore) -> Any:
    """Bring a run back from the trash."""
    with suppress(NotFound):
        restore(flow, [f"{FLOW}/gone"])
    return flow.get_task_datastore("gone", "a", "1")["own"]


def purge_trash(flow: FlowDataStore) -> Any:
    """Empty the trash."""
    purge(tables_of(flow).database)
    return tables_of(flow).trash.runs()


def compact_store(flow: FlowDataStore, *, full: bool = False) -> None:
    """Empty the trash, and give the space back."""
    compact(flow, full=full, empty_trash=True, grace=0)


def import_runs(flow: FlowDataStore) -> Any:
    """Import the runs of an archive: one is here, the other is not."""
    merge(flow, [os.path.join(folder_of(flow), "archive.db")])
    return flow._storage_impl.runs(FLOW)


def export_runs(flow: FlowDataStore) -> Any:
    """Export it all, and read the archive."""
    out = os.path.join(folder_of(flow), "out.db")
    with suppress(FileExists):
        export(flow, out)
    with FlowDataStore(FLOW, ds_root=out, trust=True) as archive:
        return archive._storage_impl.runs(FLOW), archive.get_task_datastore("old", "a", "1").to_dict()


def salvage_store(folder: str) -> Any:
    """Salvage a file that is whole."""
    out = os.path.join(folder, "out.db")
    with suppress(FileExists):
        salvage(path_in(folder), out)
    with FlowDataStore(FLOW, ds_root=out) as saved:
        return look(saved)


def compare(flow: FlowDataStore) -> Any:
    """Compare two runs, and a store with an archive of a part of it."""
    with FlowDataStore(FLOW, ds_root=os.path.join(folder_of(flow), "archive.db")) as archive:
        return diff(flow, f"{FLOW}/old", f"{FLOW}/older").differences, diff(flow, other=archive).differences


def open_golden(folder: str) -> Any:
    """Open a file of an older format, which is migrated by that, and read it whole."""
    golden_content.check(path_in(folder))


def close_late(folder: str) -> None:
    """Open, save and close; what was saved before is moved into the file by that."""
    with opened(folder) as flow:
        save(flow, "new", new=OWN)


# Metaflow's plug-in


def plug_in(folder: str) -> Any:
    """Save and load by the storage class of the plug-in, and register a run, a task and tags by its provider."""
    import metaflow  # noqa: F401 - first: it loads its plug-ins by itself
    from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
    from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

    from sqlitestore.paths.stores import open_stores

    root = patch.object(SQLiteDatastoreStorage, "datastore_root", path_in(folder))
    with root, patch.dict(os.environ, USERNAME="tester"):
        try:
            storage = SQLiteDatastoreStorage(path_in(folder))
            blobs = [(f"{FLOW}/files/{number}", io.BytesIO(data)) for number, data in enumerate((b"small", NEW))]
            storage.save_bytes(iter(blobs), overwrite=True)
            with storage.load_bytes([path for path, _ in blobs]) as loaded:
                read = [(path, Path(file).read_bytes()) for path, file, _ in loaded]
            environment = SimpleNamespace(get_environment_info=lambda: ENVIRONMENT)
            provider = SQLiteMetadataProvider(environment, SimpleNamespace(name=FLOW), None, None)
            provider.register_run_id("registered", tags=["a"])
            provider.register_task_id("registered", "start", "1", 0)
            SQLiteMetadataProvider.mutate_user_tags_for_run(FLOW, "registered", tags_to_add=["b"])
            return read, SQLiteMetadataProvider.get_object("run", "self", {}, None, FLOW, "registered")["tags"]
        finally:
            for store in open_stores():
                store.database.close()


def _all() -> list[Workload]:
    stores = {
        "save large": save_large,
        "save small": save_small,
        "retry": retry,
        "logs": save_logs,
        "scrub": scrub,
        "save_data": save_data,
        "files": save_file,
        "tags": tag,
        "trust": trust,
        "look": look,
        "read beside": read_beside,
        "thread": in_threads,
        "verify": verify_store,
        "prune": prune_runs,
        "restore": restore_run,
        "purge": purge_trash,
        "compact": compact_store,
        "compact full": partial(compact_store, full=True),
        "import": import_runs,
        "export": export_runs,
        "diff": compare,
    }
    found = [Workload(name, work, make_base) for name, work in stores.items()]
    for name in ("save large", "look", "prune", "purge", "compact full", "import"):
        found.append(Workload(f"{name}, journal", stores[name], make_alone, journal="delete"))
    openers: dict[str, tuple[Callable[[Any], Any], Callable[[str], None]]] = {
        "create": (create, make_nothing),
        "create, journal": (partial(create, journal="delete"), make_nothing),
        "create archive": (create_archive, make_nothing),
        "open": (look_anew, make_base),
        "hot log": (look_anew, make_hot(None)),
        "hot journal": (look_anew, make_hot("delete")),
        "salvage": (salvage_store, make_base),
        "migrate 1": (open_golden, make_golden(1)),
        "migrate 2": (open_golden, make_golden(2)),
        "close": (close_late, make_base),
        "plug-in": (plug_in, make_base),
    }
    return found + [Workload(name, work, make, opens_itself=True) for name, (work, make) in openers.items()]


WORKLOADS = {each.name: each for each in _all()}
"""All, by name."""
