"""Kills prune, restore, purge, compact, import, export and salvage of one file; in a process of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from helpers_processes import fork
from helpers_store import FLOW, incompressible, rows, save_task
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, compact, export, merge, plan_prune, prune, restore
from sqlitestore.maintenance.salvage import salvage

SHARED = incompressible(900_000, 1)
ARCHIVE = "archive.db"


def make(folder: str) -> str:
    """Make a store of six runs that share content, and an archive of six others that share it too."""
    path = os.path.join(folder, "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for number in range(12):
            for task in range(3):
                save_task(flow, f"r{number}", "end", str(task), shared=SHARED, own=own(number, task), number=number)
        export(flow, os.path.join(folder, ARCHIVE), [f"{FLOW}/r{number}" for number in range(6, 12)])
        prune(flow, plan_prune(flow, [f"{FLOW}/r{number}" for number in range(6, 12)]), empty_trash=True)
        compact(flow)
    return path


def own(number: int, task: int) -> bytes:
    """Return what only one task has."""
    return incompressible(150_000, 100 + 10 * number + task)


def kill_again_and_again(folder: str, kills: int, seed: int) -> dict[str, int]:
    """Kill work on the file at random moments, and look at what is there each time; return how often what was seen."""
    chance = random.Random(seed)
    path = make(folder)
    archive = Path(folder, ARCHIVE).read_bytes()
    seen = {"pruned": 0, "purging": 0, "garbage": 0, "imported": 0, "partial files": 0, "files made": 0}
    for _ in range(kills):
        worker = fork(_work, folder, chance.random())
        time.sleep(0.02 + chance.random() * 0.25)
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        if os.path.exists(f"{path}-wal"):
            FlowDataStore(FLOW, ds_root=path).close()
        check_file(path)
        _check_runs(path, seen)
        _check_archives(folder, seen)
        assert Path(folder, ARCHIVE).read_bytes() == archive, "what was imported has changed"
    _tidy(folder)
    return seen


def _work(folder: str, luck: float) -> None:
    chance = random.Random(luck)
    path = os.path.join(folder, "runs.db")
    while True:
        if (
            chance.random() < 0.15
        ):  # by itself: closing a file that it reads past SQLite ends this process's locks on it
            salvage(path, _out(folder))
        with FlowDataStore(FLOW, ds_root=path, trust=True) as flow:
            _do(flow, folder, chance)


def _do(flow: FlowDataStore, folder: str, chance: random.Random) -> None:
    runs = flow._storage_impl.runs(FLOW)
    going = [f"{FLOW}/{run}" for run in chance.sample(runs, min(len(runs), 2))]
    what = chance.randrange(6)
    if what == 0 and len(runs) > 2:
        prune(flow, plan_prune(flow, going))
    elif what == 1 and len(runs) > 2:
        prune(flow, plan_prune(flow, going), empty_trash=True)
    elif what == 2:
        there = {run.pathspec for run in flow._storage_impl.tables.trash.runs() if not run.purging}
        restore(flow, [pathspec for pathspec in sorted(there) if pathspec.split("/")[1] not in runs][:1])
    elif what == 3:
        compact(flow)
    elif what == 4:
        merge(flow, [os.path.join(folder, ARCHIVE)])
    else:
        export(flow, _out(folder), going[:1])


def _out(folder: str) -> str:
    """Return the path of a file that is not there."""
    out = os.path.join(folder, "out.db")
    if os.path.exists(out):
        os.unlink(out)
    return out


def _check_runs(path: str, seen: dict[str, int]) -> None:
    """Every run that is there is whole: all its tasks, with what was saved."""
    with FlowDataStore(FLOW, ds_root=path, trust=True) as flow:
        for run in flow._storage_impl.runs(FLOW):
            tasks = flow.get_latest_task_datastores(run)
            assert [task.task_id for task in tasks] == ["0", "1", "2"], run
            for task in tasks:
                number = int(run[1:])
                assert task.to_dict() == {"shared": SHARED, "own": own(number, int(task.task_id)), "number": number}
            seen["imported"] += int(run[1:]) >= 6
        trash = flow._storage_impl.tables.trash.runs()
        seen["pruned"] += len(trash)
        seen["purging"] += sum(run.purging for run in trash)
    seen["garbage"] += rows(path, "SELECT count(*) > 0 FROM garbage")[0][0]


def _check_archives(folder: str, seen: dict[str, int]) -> None:
    """An export, or what was salvaged, is whole or not there, whatever hidden files it left."""
    out = os.path.join(folder, "out.db")
    if os.path.exists(out):
        check_file(out)
        with FlowDataStore(FLOW, ds_root=out, trust=True) as flow:
            runs = flow._storage_impl.runs(FLOW)
            assert runs
            assert all(len(flow.get_latest_task_datastores(run)) == 3 for run in runs)
        seen["files made"] += 1
    seen["partial files"] += sum(name.endswith(".partial") for name in os.listdir(folder))


def _tidy(folder: str) -> None:
    """All goes on where it was left: the file ends as small as a fresh one, and no hidden file stays."""
    path, fresh = os.path.join(folder, "runs.db"), os.path.join(folder, "out.db")
    if os.path.exists(fresh):
        os.unlink(fresh)
    with FlowDataStore(FLOW, ds_root=path, trust=True) as flow:
        merge(flow, [os.path.join(folder, ARCHIVE)])
        compact(flow, empty_trash=True, grace=0)
        export(flow, fresh)
    assert os.path.getsize(path) < os.path.getsize(fresh) * 1.03
    assert not [name for name in os.listdir(folder) if name.endswith(".partial")]
    check_file(path)
    shutil.rmtree(folder)


def kill(folder: str, kills: int, seed: int) -> Any:
    """Do it in a new folder."""
    os.makedirs(folder)
    return kill_again_and_again(folder, kills, seed)
