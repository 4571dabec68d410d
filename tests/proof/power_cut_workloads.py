"""Pieces of work that are recorded call by call, and what must be true of the files whenever the power is cut."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import golden_content
import pytest
from helpers_store import FLOW, incompressible

import sqlitestore.database
from sqlitestore import (
    BlobLeftOut,
    FlowDataStore,
    SQLiteStorage,
    change_tags,
    compact,
    export,
    merge,
    plan_prune,
    prune,
    pull,
    push,
    restore,
    salvage,
    trust_runs,
)
from sqlitestore.blobs import payload_of
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import Registrations
from sqlitestore.testing.power_cuts import Disk, everything
from sqlitestore.testing.recording import Name, Recorder, Write
from sqlitestore.testing.watched_vfs import watched

INFO = {"runtime": "dev", "python_version_code": "3.11", "metaflow_version": "2", "script": "flow.py"}
GOLDEN = Path(__file__).parent.parent / "golden"
FILE = "runs.db"


class Mode(NamedTuple):
    """How the file is written, and what of it a power cut may undo."""

    journal: str
    synchronous: str

    def __str__(self) -> str:
        return f"{self.journal}, {self.synchronous}"

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Have every store opened so, also one that opens itself; logs and batches are small, to meet their ends."""
        with pytest.MonkeyPatch.context() as patch:
            original = sqlitestore.database.Database.__init__

            def init(database: Any, *arguments: Any, **named: Any) -> None:
                named["synchronous"] = named.get("synchronous", "normal").replace("normal", self.synchronous)
                original(database, *arguments, **named)

            patch.setattr("sqlitestore.database.Database.__init__", init)
            patch.setattr("sqlitestore.database_file.is_network_file_system", lambda _: self.journal == "delete")
            patch.setattr("sqlitestore.pragmas.CHECKPOINT_BYTES", 250_000)
            patch.setattr("sqlitestore.new_chunks.BATCH", 200_000)
            patch.setattr("sqlitestore.new_chunks.LARGE", 0)  # batches go in by another thread
            patch.setattr("sqlitestore.small_blobs.BATCH", 200_000)
            patch.setattr("sqlitestore.maintenance.reclaim.BATCH", 200_000)
            yield


WAL_NORMAL, WAL_FULL = Mode("wal", "normal"), Mode("wal", "full")
JOURNAL = Mode("delete", "normal")
"""The rollback journal, where both are the same."""

Say = Callable[[str], None]
"""Notes that the work was told of a success; from then on it must last, as far as the mode promises."""

CLOSED = "closed"
"""What is said when the last store is closed: then all is on the disk, in every mode."""


def opened(folder: str, name: str = FILE) -> FlowDataStore:
    """Open the store that the work is about."""
    return FlowDataStore(FLOW, ds_root=os.path.join(folder, name), storage_impl=partial(SQLiteStorage), trust=True)


def content(identity: str, name: str) -> Any:
    """Return what an artifact of this name holds, as a function of whose it is: "noise_1000" is 1,000 bytes."""
    kind, _, size = name.partition("_")
    if kind == "shared":
        return incompressible(int(size), int(size))
    return incompressible(int(size), hash_of(identity)) if kind == "noise" else f"{name} of {identity}"


def hash_of(identity: str) -> int:
    """Return a number that belongs to a text."""
    return int.from_bytes(identity.encode(), "big") % 2**31


def write(flow: FlowDataStore, pathspec: str, *names: str, attempt: int = 0) -> None:
    """Write a done task, with artifacts of these names."""
    task = flow.get_task_datastore(*pathspec.split("/"), attempt=attempt, mode="w")
    task.init_task()
    task.save_artifacts((name, content(f"{pathspec}/{attempt}", name)) for name in names)
    task.done()


def check_content(path: str) -> int:
    """Fail unless all that is done holds what its name says, and what is not done holds nothing; return how many."""
    done = 0
    with FlowDataStore(FLOW, ds_root=path, trust=True) as flow:
        for run in flow._storage_impl.runs(FLOW):
            whole = {task.pathspec: task for task in flow.get_latest_task_datastores(run)}
            for task in flow.get_latest_task_datastores(run, allow_not_done=True):
                assert task.pathspec in whole or list(task) == [], f"{task.pathspec} is not done and has artifacts"
            for task in whole.values():
                assert list(task), f"{task.pathspec} has no artifacts"
                for name in task:
                    with suppress(BlobLeftOut):  # salvage found that it was lost
                        expected = content(f"{task.pathspec}/{task._attempt}", name)
                        assert task[name] == expected, f"{task.pathspec}/{name} is wrong"
                done += 1
    return done


def save(folder: str, say: Say) -> None:
    """Save tasks, a failed attempt and its retry, logs that grow, metadata, data and a named file."""
    with opened(folder) as flow:
        say("opened")
        write(flow, "1/a/1", "small", "noise_20000", "noise_200000", "shared_100000")
        say("a task")
        failed = flow.get_task_datastore("1", "a", "2", attempt=0, mode="w")
        failed.init_task()
        failed.save_logs("task", {"stderr": b"failed\n"})
        say("a failure")
        write(flow, "1/a/2", "small", "shared_100000", attempt=1)
        say("a retry")
        storage: Any = flow._storage_impl
        address = TaskAddress(FLOW, "1", "a", "2")
        for size in (1, 3_000, 30_000):
            storage.save_log(address, 1, "task", "stdout", io.BytesIO(b"line\n" * size))
            say("a log")
        storage.scrub_log(address, 0, "task", "stderr", b"[hidden]")
        storage.save_metadata(address, 1, {"late": "1", "again": '"x"'}, overwrite=True)
        say("metadata")
        flow.save_data([b"a", incompressible(150_000, 9), b"a"])
        say("data")
        storage.save_file("cards/1.html", payload_of(b"<html>"), "{}")
        storage.save_file("cards/1.html", payload_of(b"<html>2"), None, overwrite=True)
        storage.delete_file("cards/1.html")
        say("files")
    say(CLOSED)
    with opened(folder) as flow:
        for number in range(3):
            write(flow, f"2/a/{number}", "small", f"noise_{300 * number + 10}")
            say("a small task")
    say(CLOSED)


def save_huge(folder: str, say: Say) -> None:
    """Save artifacts of many batches, while a reader keeps the log from being used again."""
    with opened(folder) as flow, opened(folder) as reader:
        write(flow, "1/a/1", "noise_700000")
        say("a huge artifact")
        database = reader._storage_impl.database
        with database.read() if database.reads_beside_writers else nullcontext():
            database.query("SELECT * FROM store")
            write(flow, "1/a/2", "noise_400000", "shared_200000")
            say("beside a reader")
        write(flow, "1/a/3", "shared_200000", "small")
        say("again")
        flow.save_data([incompressible(500_000, 5)])
        say("huge data")
    say(CLOSED)


def some_runs(folder: str, name: str = FILE, runs: tuple[str, ...] = ("1", "2", "3")) -> None:
    """Make a store of three runs that share content."""
    with opened(folder, name) as flow:
        for run in runs:
            for task in range(2):
                write(flow, f"{run}/a/{task}", "small", "shared_200000", f"noise_{90_000 + int(run)}")
            path = f"mf.cards/{FLOW}/runs/{run}/steps/a/tasks/0/cards/card.html"
            flow._storage_impl.save_file(path, payload_of(f"<html>{run}".encode()))
        register(flow)


def register(flow: FlowDataStore) -> None:
    """Register the first run."""
    registrations = Registrations(flow._storage_impl.database)
    registrations.add_run(FLOW, "1", "ada", 1_700_000_000_000, {"good"}, {"sys"})
    registrations.new_task_id(FLOW, "1", "a", "0", 1_700_000_000_001)


def come_and_go(folder: str, say: Say) -> None:
    """Prune, restore, purge and compact, and write between."""
    with opened(folder) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/1"], force=True))
        say("pruned")
        write(flow, "4/a/0", "small", "shared_200000")
        restore(flow, [f"{FLOW}/1"])
        say("restored")
        prune(flow, plan_prune(flow, [f"{FLOW}/1", f"{FLOW}/2"], force=True), empty_trash=True)
        say("purged")
        compact(flow, grace=0)
        say("compacted")
        write(flow, "5/a/0", "noise_100000")
        say("a task")
    say(CLOSED)


def rebuild(folder: str, say: Say) -> None:
    """Prune a run, and build the file anew."""
    with opened(folder) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/1"], force=True), empty_trash=True)
        compact(flow, full=True, grace=0)
        say("rebuilt")
    say(CLOSED)


def bring_together(folder: str, say: Say) -> None:
    """Import another file's runs, trust and tag them, and export one."""
    with opened(folder) as flow:
        merge(flow, [os.path.join(folder, "other.db")])
        say("imported")
        trust_runs(flow, [f"{FLOW}/7"])
        change_tags(flow, f"{FLOW}/7", add=["best"])
        say("tagged")
        export(flow, os.path.join(folder, "out.db"), [f"{FLOW}/7", f"{FLOW}/1"])
        say("exported out.db")
    say(CLOSED)


def other_runs(folder: str) -> None:
    """Make the store, and the other file."""
    some_runs(folder)
    some_runs(folder, "other.db", ("7", "8"))


def get_out(folder: str, say: Say) -> None:
    """Salvage what a damaged file still holds."""
    salvage(os.path.join(folder, FILE), os.path.join(folder, "out.db"))
    say("exported out.db")


def damaged(folder: str) -> None:
    """Make the store, with a hole in it."""
    some_runs(folder)
    path = Path(folder, FILE)
    data = bytearray(path.read_bytes())
    data[-20_000:-12_000] = bytes(8_000)
    path.write_bytes(data)


def golden(number: int, folder: str) -> None:
    """Have a file of an older version."""
    shutil.copy(GOLDEN / f"format-{number}.db", os.path.join(folder, FILE))


def migrate(folder: str, say: Say) -> None:
    """Open a file of an older version, and write into it."""
    with FlowDataStore("GoldenFlow", ds_root=os.path.join(folder, FILE)) as flow:
        say("migrated")
        task = flow.get_task_datastore("18", "train", "1", attempt=0, mode="w")
        task.init_task()
        task.save_artifacts(golden_content.artifacts("1").items())
        task.done()
        say("a task")
    say(CLOSED)


def plug_in(folder: str, say: Say) -> None:
    """Write as Metaflow does, through its own classes and the plug-in's storage and provider."""
    import metaflow  # noqa: F401 - first: it loads its plug-ins by itself
    from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
    from metaflow.metadata_provider import DataArtifact, MetaDatum
    from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
    from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

    from sqlitestore.paths.stores import open_stores

    path = os.path.join(folder, FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SQLiteDatastoreStorage, "datastore_root", path)
        patch.setenv("USERNAME", "tester")
        environment = SimpleNamespace(get_environment_info=lambda: INFO)
        provider = SQLiteMetadataProvider(environment, SimpleNamespace(name=FLOW), None, None)
        run = provider.new_run_id(tags=["a"], sys_tags=["user:ada"])
        say("a run")
        number = provider.new_task_id(run, "a")
        say("a task's id")
        flow: Any = MetaflowFlowDataStore(FLOW, storage_impl=SQLiteDatastoreStorage, ds_root=path)
        task = flow.get_task_datastore(run, "a", number, attempt=0, mode="w")
        task.init_task()
        names = ("small", "noise_120000")
        task.save_artifacts((name, content(f"{run}/a/{number}/0", name)) for name in names)
        task.save_logs("task", {"stdout": b"said\n"})
        task.done()
        say("a done task")
        provider.register_metadata(run, "a", number, [MetaDatum("attempt_ok", "True", "internal", ["attempt_id:0"])])
        artifact = DataArtifact("far", "s3", "s3://b/x", "0" * 40, "pickle-v4", "int")
        provider.register_data_artifacts(run, "a", number, 0, [artifact])
        say("registered")
        provider.mutate_user_tags_for_run(FLOW, run, tags_to_add=["b"], tags_to_remove=["a"])
        say("tags")
        for store in open_stores():
            store.database.close()
        say(CLOSED)


def far_runs(folder: str) -> None:
    """Have runs where Metaflow keeps them."""
    some_runs(folder, "far.db", ("7",))
    os.mkdir(os.path.join(folder, "far"))
    with opened(folder, "far.db") as flow:
        push(flow, os.path.join(folder, "far"))


def pull_runs(folder: str, say: Say) -> None:
    """Pull runs into a new file."""
    with opened(folder) as flow:
        pull(flow, os.path.join(folder, "far"))
        say("pulled")
    say(CLOSED)


def cut_off(folder: str) -> None:
    """Leave what a power cut leaves in the middle of a commit with a journal, or of moving a log into the file."""
    before = os.path.join(folder, "before")
    os.mkdir(before)
    recorder = Recorder(before)
    with watched(recorder):
        save_huge(before, recorder.said)
    disk = Disk(recorder)
    [database] = {step.file for step in recorder.steps if isinstance(step, Name) and step.path.endswith(FILE)}
    for number, step in enumerate(recorder.steps):
        disk.apply(step)
        if number > len(recorder.steps) // 2 and isinstance(step, Write) and step.file == database:
            break
    for path, data in everything(disk).items():
        Path(folder, os.path.basename(path)).write_bytes(data)
    shutil.rmtree(before)
    assert len(os.listdir(folder)) > 1, "there is no journal, and no log"


def recover(folder: str, say: Say) -> None:
    """Open what was cut off, and go on."""
    with opened(folder) as flow:
        say("opened")
        write(flow, "9/a/1", "small")
        say("a task")
    say(CLOSED)


class Workload(NamedTuple):
    """One piece of work; ``prepare`` makes what is on the disk before, and ``files`` are what it changes and makes."""

    work: Callable[[str, Say], None]
    prepare: Callable[[str], None] = lambda _: None
    modes: tuple[Mode, ...] = (WAL_NORMAL, JOURNAL)
    files: tuple[str, ...] = (FILE,)


EVERY = (WAL_NORMAL, WAL_FULL, JOURNAL)
WORKLOADS = {
    "save": Workload(save, modes=EVERY),
    "save huge": Workload(save_huge, modes=EVERY),
    "come and go": Workload(come_and_go, some_runs, (WAL_NORMAL, WAL_FULL, JOURNAL)),
    "rebuild": Workload(rebuild, some_runs),
    "bring together": Workload(bring_together, other_runs, files=(FILE, "out.db")),
    "salvage": Workload(get_out, damaged, (WAL_NORMAL,), ("out.db",)),
    "migrate format 1": Workload(migrate, partial(golden, 1), (WAL_NORMAL, WAL_FULL, JOURNAL)),
    "migrate format 2": Workload(migrate, partial(golden, 2), (WAL_NORMAL, JOURNAL)),
    "recover": Workload(recover, cut_off, (WAL_NORMAL, WAL_FULL, JOURNAL)),
    "plug-in": Workload(plug_in),
    "pull": Workload(pull_runs, far_runs, (WAL_NORMAL,)),
}
