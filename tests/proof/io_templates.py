"""The files on which the workloads of the I/O errors start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers_store import FLOW, incompressible, save_task

from sqlitestore import FlowDataStore, SQLiteStorage, change_tags, export, merge, plan_prune, prune
from sqlitestore.blobs import payload_of
from sqlitestore.tables import tables_of

GOLDEN = Path(__file__).parent.parent / "golden"
LARGE, OWN, NEW = incompressible(150_000, 1), incompressible(90_000, 2), incompressible(200_000, 3)
SMALL = {"name": "task", "deep": [1, 2.5]}
SECRET = b"a secret"


def path_in(folder: str) -> str:
    """Return the store's path."""
    return os.path.join(folder, "runs.db")


def opened(folder: str, journal: Any = None) -> FlowDataStore:
    """Open the store of a folder."""
    storage = partial(SQLiteStorage, journal_mode=journal)
    return FlowDataStore(FLOW, ds_root=path_in(folder), storage_impl=storage)


def make_nothing(_: str) -> None:
    """Leave the folder empty."""


def make_base(folder: str, journal: Any = None) -> None:
    """Make a store with something to read, to prune, to restore and to import."""
    with FlowDataStore(FLOW, ds_root=os.path.join(folder, "other.db")) as other:
        for run in ("imported", "imported too"):
            save_task(other, run, shared=LARGE, own=incompressible(80_000, len(run)))
        export(other, os.path.join(folder, "archive.db"))
        export(other, os.path.join(folder, "one.db"), [f"{FLOW}/imported"])
    with opened(folder, journal) as flow:
        save_task(flow, "base", large=LARGE, small=SMALL)
        task = flow.get_task_datastore("base", "a", "2", attempt=0, mode="w")
        task.init_task()
        task.save_metadata({"tags": ["x", 1]})
        task.save_logs("task", {"stdout": b"line\n" * 3000, "stderr": SECRET})
        for run in ("old", "older", "gone"):
            save_task(flow, run, shared=LARGE, own=incompressible(70_000, len(run)), text=run)
        flow.save_data([b"kept", OWN])
        flow._storage_impl.save_file("cards/1.html", payload_of(b"<html>"), '{"a": 1}')
        merge(flow, [os.path.join(folder, "one.db")])
        prune(flow, plan_prune(flow, [f"{FLOW}/gone"]))
        change_tags(flow, f"{FLOW}/base", add=["first"])
    os.unlink(os.path.join(folder, "other.db"))
    os.unlink(os.path.join(folder, "one.db"))


def make_alone(folder: str) -> None:
    """Make a store that has a rollback journal."""
    make_base(folder, "delete")


def make_golden(number: int) -> Callable[[str], None]:
    """Make it a file of an older format."""
    return lambda folder: shutil.copy(GOLDEN / f"format-{number}.db", path_in(folder)) and None


def make_hot(journal: Any) -> Callable[[str], None]:
    """Leave what a killed process leaves: a log that was not moved, or a journal of what was half written."""

    def make(folder: str) -> None:
        source = os.path.join(folder, "source")
        os.mkdir(source)
        make_base(source, journal)
        with opened(source, journal) as flow, tables_of(flow).database.write() as connection:
            connection.execute("PRAGMA cache_size=1").fetchall()
            connection.execute("UPDATE blob SET size = 0")
            connection.execute("UPDATE chunk SET size = 1, bytes = zeroblob(length(bytes))")
            if journal is None:
                connection.execute("ROLLBACK")
                save_task(flow, "from the log", large=NEW)
                connection.execute("BEGIN")
            for name in os.listdir(source):
                if name.startswith("runs.db") and not name.endswith("-shm"):
                    shutil.copy(os.path.join(source, name), folder)
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
        shutil.rmtree(source)

    return make
