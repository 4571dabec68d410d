"""Pruning: which runs the rules choose, what the trash keeps, what goes for good, and what never does."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import run as run_command
from helpers_store import FLOW, incompressible, rows, save_task
from sqlite_oracle import check_file

from sqlitestore import (
    FlowDataStore,
    InvalidInput,
    InvalidPathspec,
    NotFound,
    Refused,
    RunExists,
    change_tags,
    compact,
    export,
    plan_prune,
    prune,
    restore,
)
from sqlitestore.blobs import payload_of
from sqlitestore.maintenance import prune as pruning
from sqlitestore.maintenance.usage import usage
from sqlitestore.registrations import Registrations

SHARED = incompressible(1_500_000, 99)
DAY = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Make a store of five runs that share an artifact, each with one of its own, a log, metadata, tags and a card."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for number in range(5):
            make_run(flow, str(number))
    return path


def make_run(flow: FlowDataStore, run: str) -> None:
    """Save a run that nothing works on any more."""
    number = int(run)
    writer = flow.get_task_datastore(run, "end", "1", attempt=0, mode="w")
    writer.init_task()
    own = incompressible(700_000, number)
    writer.save_artifacts([("shared", SHARED), ("own", own), ("small", number), ("same", 7)])
    writer.save_metadata({"note": run})
    writer.save_logs("task", {"stdout": f"log of {run}\n" * 50})
    writer.done()
    storage = flow._storage_impl
    storage.save_file(f"mf.cards/{FLOW}/runs/{run}/steps/end/tasks/1/cards/x.html", payload_of(f"card {run}".encode()))
    Registrations(storage.database).add_run(FLOW, run, "ada", int(time.time() * 1000), {f"tag{run}"}, {"user:ada"})


def seen(flow: FlowDataStore, run: str) -> Any:
    """Return all that there is of a run."""
    storage = flow._storage_impl
    tasks = [
        (
            task.pathspec,
            task.to_dict(show_private=True),
            task.load_metadata(["note"]),
            task.load_logs(["task"], "stdout"),
        )
        for task in flow.get_latest_task_datastores(run, allow_not_done=True)
    ]
    registered = Registrations(storage.database).records(FLOW, run)
    files = [(name, storage.find_file(name)) for name in storage.files_below(f"mf.cards/{FLOW}/runs/{run}")]
    return tasks, registered, files


def names(flow: FlowDataStore) -> list[str]:
    """Return the names of the flow's runs."""
    return flow._storage_impl.runs(FLOW)


def chosen(flow: FlowDataStore, *pathspecs: str, **rules: Any) -> list[str]:
    """Return the names of the runs that would be pruned."""
    return [each.pathspec.split("/")[1] for each in plan_prune(flow, pathspecs, **rules).runs]


# Which runs


def test_rules_must_all_allow_a_run_to_go(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pathspecs say for which runs the rules are; tags and places among the latest keep runs."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        assert chosen(flow, keep_last=2) == ["0", "1", "2"]
        assert chosen(flow, keep_last=0) == ["0", "1", "2", "3", "4"]
        assert chosen(flow, keep_last=9) == []
        assert chosen(flow, keep_last=2, keep_tags=["tag1", "other"]) == ["0", "2"]
        assert chosen(flow, keep_last=0, keep_tags=["user:ada"]) == []
        assert chosen(flow, FLOW) == ["0", "1", "2", "3", "4"]
        assert chosen(flow, f"{FLOW}/3", f"{FLOW}/1") == ["1", "3"]
        assert chosen(flow, f"{FLOW}/3", f"{FLOW}/1", keep_last=1) == ["1"]
        assert chosen(flow, older_than=60) == []
        assert chosen(flow, older_than=0) == ["0", "1", "2", "3", "4"]
        now = time.time()
        monkeypatch.setattr(pruning.time, "time", lambda: now + 2 * DAY)
        assert chosen(flow, older_than=DAY, keep_last=4) == ["0"]
        assert chosen(flow, older_than=3 * DAY) == []


def test_keep_last_is_meant_for_each_flow(path: str) -> None:
    """The latest run of another flow stays, too."""
    with FlowDataStore("Other", ds_root=path) as other:
        save_task(other, "1", x=1)
        save_task(other, "2", x=1)
        plan = plan_prune(other, keep_last=1)
        assert [each.pathspec for each in plan.runs] == ["Other/1", *(f"{FLOW}/{number}" for number in range(4))]
        assert [each.pathspec for each in plan_prune(other, ["Other"], keep_last=1).runs] == ["Other/1"]


def test_a_file_that_is_too_large_loses_its_oldest_runs(path: str) -> None:
    """As many as it takes, counting what runs share only when the last of them goes."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        full = usage(flow._storage_impl.database).file
        assert chosen(flow, max_size=full) == []
        assert chosen(flow, max_size=full - 1) == ["0"]
        wanted = full - 1_600_000
        assert chosen(flow, max_size=wanted) == ["0", "1", "2"]
        plan = plan_prune(flow, max_size=wanted)
        for gone in (plan._replace(runs=plan.runs[:2]), plan):
            prune(flow, gone, empty_trash=True)
            compact(flow)
            assert (usage(flow._storage_impl.database).file <= wanted) == (gone is plan)
        assert chosen(flow, max_size=0) == ["3", "4"]


def test_a_plan_says_what_comes_back(path: str) -> None:
    """The size of one run is what only it needs; that of all is more than their sum, and the bytes do come back."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        before = usage(flow._storage_impl.database)
        plan = plan_prune(flow, [f"{FLOW}/0"])
        [planned] = plan.runs
        assert (planned.tasks, planned.tags) == (1, ("tag0", "user:ada"))
        assert planned.own == plan.size == before.runs[0].own + len("card 0")
        everything = plan_prune(flow, [FLOW])
        assert everything.size == before.stored
        prune(flow, plan, empty_trash=True)
        assert before.stored - usage(flow._storage_impl.database).stored == plan.size


@pytest.mark.parametrize(
    ("pathspecs", "rules", "error"),
    [
        ([], {}, InvalidInput),
        ([f"{FLOW}/9"], {}, NotFound),
        (["Nothing"], {}, NotFound),
        ([f"{FLOW}/1/end"], {}, InvalidPathspec),
        (["a\x00b"], {}, InvalidPathspec),
        ([], {"keep_last": -1}, InvalidInput),
        ([], {"older_than": -1.0}, InvalidInput),
        ([], {"max_size": -1}, InvalidInput),
    ],
)
def test_what_names_nothing_prunes_nothing(path: str, pathspecs: Any, rules: Any, error: type[Exception]) -> None:
    """Also where another pathspec names a run."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        with pytest.raises(error):
            plan_prune(flow, pathspecs, **rules)
        if pathspecs:
            with pytest.raises(error):
                plan_prune(flow, [f"{FLOW}/1", *pathspecs], **rules)
        assert len(names(flow)) == 5


def test_a_run_that_something_works_on_stays(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules pass it over and say so, naming it is refused, and force takes it; after a day it counts as crashed."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        writer = flow.get_task_datastore("8", "a", "1", attempt=0, mode="w")
        writer.init_task()
        plan = plan_prune(flow, keep_last=0)
        assert (len(plan.runs), plan.running) == (5, (f"{FLOW}/8",))
        with pytest.raises(Refused, match=f"{FLOW}/8"):
            plan_prune(flow, [f"{FLOW}/8"])
        assert chosen(flow, f"{FLOW}/8", force=True) == ["8"]
        now = time.time()
        with monkeypatch.context() as later:
            later.setattr(pruning.time, "time", lambda: now + DAY + 60)
            assert chosen(flow, f"{FLOW}/8") == ["8"]
        again = flow.get_task_datastore("8", "a", "1", attempt=1, mode="w")
        again.init_task()
        again.done()  # the attempt before it is over, however it ended
        assert chosen(flow, f"{FLOW}/8") == ["8"]


def test_a_run_of_metaflow_between_two_tasks_stays(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task of it is running for a moment, but it has not come to its end."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        Registrations(flow._storage_impl.database).add_run(FLOW, "7", "ada", 0, (), {"user:ada"})
        save_task(flow, "7", "start", x=1)
        assert plan_prune(flow, keep_last=0).running == (f"{FLOW}/7",)
        now = time.time()
        with monkeypatch.context() as later:
            later.setattr(pruning.time, "time", lambda: now + 700)
            assert "7" in chosen(flow, keep_last=0)
        save_task(flow, "7", "end", x=1)
        assert "7" in chosen(flow, keep_last=0)


def test_tags_of_our_own_make_no_run_of_metaflow(path: str) -> None:
    """A run of our API is over when its tasks are, tagged or not."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "9", "train", x=1)
        change_tags(flow, f"{FLOW}/9", add=["best"])
        assert "9" in chosen(flow, keep_last=0)
        assert "9" not in chosen(flow, keep_last=0, keep_tags=["best"])


# The trash


def test_a_pruned_run_is_nowhere_and_comes_back_whole(path: str) -> None:
    """Artifacts, metadata, logs, tags, registrations and cards, by every look; others stay as they are."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        before = {run: seen(flow, run) for run in "01234"}
        prune(flow, plan_prune(flow, [f"{FLOW}/1", f"{FLOW}/3"]))
        assert names(flow) == ["0", "2", "4"]
        assert [run.name for run in Registrations(flow._storage_impl.database).runs(FLOW)] == ["0", "2", "4"]
        assert seen(flow, "1") == ([], Registrations(flow._storage_impl.database).records(FLOW, "1"), [])
        assert Registrations(flow._storage_impl.database).run(FLOW, "1") is None
        assert {run: seen(flow, run) for run in "024"} == {run: before[run] for run in "024"}
        assert restore(flow, [f"{FLOW}/3", f"{FLOW}/1"]) == [f"{FLOW}/3", f"{FLOW}/1"]
        assert {run: seen(flow, run) for run in "01234"} == before
    check_file(path)
    assert rows(path, "SELECT count(*) FROM trash") == [(0,)]


def test_no_command_shows_what_is_in_the_trash_as_if_it_were_not(path: str) -> None:
    """`ls` and `show` know nothing of it; `du` names it apart, and `restore` lists it."""
    run_command(path, "prune", f"{FLOW}/1", "--yes")
    assert json.loads(run_command(path, "ls", FLOW, "--json").stdout)["runs"][1]["run"] == "2"
    assert run_command(path, "ls", f"{FLOW}/1").exit_code == 1
    assert "trash/" not in run_command(path, "ls", FLOW).stdout + run_command(path, "show", FLOW).stdout
    users = json.loads(run_command(path, "du", "--json").stdout)["users"]
    assert [user["run"] for user in users if user["kind"] == "trash"] == ["1 (trash)"]
    [trashed] = json.loads(run_command(path, "restore", "--json").stdout)["trash"]
    assert (trashed["run"], trashed["state"]) == (f"{FLOW}/1", "whole")


def test_a_name_is_free_while_its_run_is_in_the_trash(path: str) -> None:
    """A new run takes it; the old one then comes back only when the name is free again, the latest pruned first."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        old = seen(flow, "1")
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]))
        save_task(flow, "1", "end", x="another")
        with pytest.raises(RunExists, match=f"{FLOW}/1"):
            restore(flow, [f"{FLOW}/1"])
        assert [task["x"] for task in flow.get_latest_task_datastores("1")] == ["another"]
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]))
        restore(flow, [f"{FLOW}/1"])
        assert [task["x"] for task in flow.get_latest_task_datastores("1")] == ["another"]
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]), empty_trash=False)
        flow._storage_impl.database.query("SELECT 1")
        trash = flow._storage_impl.tables.trash.runs()
        assert [run.run_id for run in trash] == ["1", "1"]
        restore(flow, [f"{FLOW}/1"])
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]), empty_trash=True)
        assert old[0][0][1]["own"] == incompressible(700_000, 1)


def test_restoring_is_all_or_nothing(path: str) -> None:
    """A run that is not in the trash keeps those beside it there."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]))
        for given in ([f"{FLOW}/1", f"{FLOW}/2"], [f"{FLOW}/1", f"{FLOW}/1"], [f"{FLOW}/1", FLOW]):
            with pytest.raises((NotFound, InvalidPathspec)):
                restore(flow, given)
        assert "1" not in names(flow)


# Emptying it


def test_what_is_purged_is_gone_and_nothing_else(path: str) -> None:
    """Content that others share stays, that of the run alone goes, and the file keeps its invariants."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        before = {run: seen(flow, run) for run in "024"}
        plan = plan_prune(flow, [f"{FLOW}/1", f"{FLOW}/3"])
        done = prune(flow, plan, empty_trash=True)
        assert set(done.runs) == {f"{FLOW}/1", f"{FLOW}/3"}
        assert {run: seen(flow, run) for run in "024"} == before
        with pytest.raises(NotFound):
            restore(flow, [f"{FLOW}/1"])
        found = usage(flow._storage_impl.database)
        assert (found.unreferenced, found.trashed) == (0, 0)
    check_file(path)
    assert rows(path, "SELECT count(*) FROM garbage") == [(0,)]
    assert rows(path, "SELECT count(*) FROM file") == [(3,)]


@pytest.mark.parametrize("going", [[1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_a_pruned_and_compacted_file_is_as_small_as_a_fresh_one(path: str, tmp_path: Path, going: list[int]) -> None:
    """The bytes are given back to the file system."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/{number}" for number in going]))
        compact(flow, empty_trash=True)
        export(flow, tmp_path / "fresh.db")
    assert os.path.getsize(path) <= 1.03 * os.path.getsize(tmp_path / "fresh.db")
    check_file(path)


def test_the_trash_is_emptied_by_age(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune takes what has been there for 30 days, and says so before."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/0"]))
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + 31 * DAY)
        plan = plan_prune(flow, [f"{FLOW}/1"])
        assert plan.expired == (f"{FLOW}/0",)
        assert prune(flow, plan).runs == (f"{FLOW}/0",)
        assert [run.run_id for run in flow._storage_impl.tables.trash.runs()] == ["1"]


def test_what_save_data_keeps_stays_unless_it_is_said(path: str) -> None:
    """Also where only pruned runs had the same content; but never a code package that a run needs."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        [(_, kept), (_, package)] = flow.save_data([SHARED, b"code" * 1000])
        registrations = Registrations(flow._storage_impl.database)
        from sqlitestore.registrations import RegisteredMetadatum

        value = json.dumps({"ds_type": "sqlite", "sha": package, "location": "./code"})
        registrations.add_metadata(
            FLOW, "4", [RegisteredMetadatum("end", "1", "code-package", value, "code-package", (), None, 0)]
        )
        prune(flow, plan_prune(flow, [FLOW], keep_last=1), empty_trash=True)
        assert dict(flow.load_data([kept, package])) == {kept: SHARED, package: b"code" * 1000}
        plan = plan_prune(flow, [FLOW], keep_last=1, data=True)
        assert [key for _, key in plan.data] == [kept]
        prune(flow, plan)
        assert [task["shared"] for task in flow.get_latest_task_datastores("4")] == [SHARED]
        assert dict(flow.load_data([package])) == {package: b"code" * 1000}
        prune(flow, plan_prune(flow, [FLOW], data=True), empty_trash=True)
        assert rows(path, "SELECT count(*) FROM blob") == [(0,)]


def test_data_alone_takes_no_run(path: str) -> None:
    """It is no rule that chooses runs; also what a flow keeps that has none goes."""
    with FlowDataStore("Without", ds_root=path) as other:
        [(_, lonely)] = other.save_data([b"of a flow without runs"])
        with FlowDataStore(FLOW, ds_root=path) as flow:
            [(_, key)] = flow.save_data([b"kept"])
            plan = plan_prune(flow, data=True)
            assert (plan.runs, {each for _, each in plan.data}) == ((), {key, lonely})
            prune(flow, plan)
            assert len(names(flow)) == 5
            assert flow._storage_impl.has_blobs(FLOW, [key, lonely]) == [False, False]
    assert run_command(path, "prune", "--data", "--yes").exit_code == 0
    assert len(json.loads(run_command(path, "ls", FLOW, "--json").stdout)["runs"]) == 5


def test_a_purge_that_was_interrupted_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is not offered for restoring, and the next purge finishes it."""
    from sqlitestore.maintenance import purge as purging

    with FlowDataStore(FLOW, ds_root=path) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/0", f"{FLOW}/1"]))
        with monkeypatch.context() as broken:
            broken.setattr(purging, "collect_garbage", interrupt)
            with pytest.raises(KeyboardInterrupt):
                prune(flow, pruning.PrunePlan(), empty_trash=True)
        assert rows(path, "SELECT count(*) > 0 FROM garbage") == [(1,)]
        with monkeypatch.context() as broken:
            broken.setattr(purging, "_delete_attempts", interrupt)
            with pytest.raises(KeyboardInterrupt):
                prune(flow, pruning.PrunePlan(), empty_trash=True)
        [left] = flow._storage_impl.tables.trash.runs()
        assert left.purging
        with pytest.raises(NotFound, match="being purged"):
            restore(flow, [left.pathspec])
        prune(flow, plan_prune(flow, [f"{FLOW}/2"]))  # whatever its age
        assert [run.run_id for run in flow._storage_impl.tables.trash.runs()] == ["2"]
        assert rows(path, "SELECT count(*) FROM garbage") == [(0,)]
    check_file(path)


def interrupt(*_: object) -> None:
    """Be Ctrl-C."""
    raise KeyboardInterrupt


def prune_everything(path: str, number: int) -> int:
    """Prune and purge all runs but the latest, again and again, as another process does too; return how many went."""
    gone = 0
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for turn in range(30):
            save_task(flow, f"{number}-{turn}", "end", own=incompressible(100_000, turn), who=number)
            gone += len(prune(flow, plan_prune(flow, keep_last=1), empty_trash=turn % 2 == 0).runs)
            compact(flow)
    return gone


def test_two_prunes_at_once(path: str) -> None:
    """They take nothing from each other but work; the latest run stays, and every run goes once."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        gone = sum(pool.map(prune_everything, [path, path], [1, 2]))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        gone += len(prune(flow, plan_prune(flow, keep_last=1), empty_trash=True).runs)
        assert len(names(flow)) == 1
        assert gone >= 5 + 60 - 1
        compact(flow)
        assert usage(flow._storage_impl.database).unreferenced == 0
    check_file(path)


def test_a_purge_that_another_overtook_takes_no_run_that_came_since(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of the purged run's row, and those of its attempts, are another's by now."""
    from sqlitestore.maintenance import purge as purging

    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        prune(flow, plan_prune(flow, [f"{FLOW}/4"]))
        for step in ("_mark", "_delete_some_attempts", "_delete_some_files", "_delete_the_run"):
            work = getattr(purging, "_in_turn")  # noqa: B009
            overtaken = []

            def overtaking(
                database: Any, run: Any, delete: Any, step: str = step, work: Any = work, overtaken: Any = overtaken
            ) -> int:
                if delete.__class__.__name__ == "function" and delete.__name__ == step and not overtaken:
                    overtaken.append(step)
                    prune(other, pruning.PrunePlan(), empty_trash=True)
                    make_run(other, "4")
                return work(database, run, delete)

            with monkeypatch.context() as slow:
                slow.setattr(purging, "_in_turn", overtaking)
                prune(flow, pruning.PrunePlan(), empty_trash=True)
            assert overtaken == [step]
            [task] = flow.get_latest_task_datastores("4")
            assert task["own"] == incompressible(700_000, 4)
            assert task.load_logs(["task"], "stdout") == [("task", b"log of 4\n" * 50)]
            assert flow._storage_impl.files_below(f"mf.cards/{FLOW}/runs/4") != []
            prune(flow, plan_prune(flow, [f"{FLOW}/4"]))
    check_file(path)


# The command


def test_nobody_is_asked_in_a_pipe_and_nothing_happens(path: str) -> None:
    """Without --yes it is an error that names the way; with --dry-run the plan is all."""
    before = Path(path).read_bytes()
    result = run_command(path, "prune", f"{FLOW}/1")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    result = run_command(path, "prune", "--keep-last", "1", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert (len(plan["runs"]), plan["done"]) == (4, False)
    assert run_command(path, "prune").exit_code == 2
    assert run_command(path, "prune", "--keep-last", "x").exit_code == 2
    assert run_command(path, "prune", "--older-than", "soon").exit_code == 2
    assert run_command(path, "prune", "--max-size", "-5").exit_code == 2
    assert run_command(path, "prune", f"{FLOW}/77", "--yes").exit_code == 1
    assert Path(path).read_bytes() == before


def test_a_life_at_the_command_line(path: str) -> None:
    """Prune, restore, prune and purge, compact: each says what it did."""
    assert "2 runs" in run_command(path, "prune", "--keep-last", "3", "--yes").stdout
    assert f"{FLOW}/0" in run_command(path, "restore").stdout
    assert "Restored" in run_command(path, "restore", f"{FLOW}/0").stdout
    done = json.loads(
        run_command(path, "prune", "--keep-last", "1", "--older-than", "0s", "--purge", "--yes", "--json").stdout
    )
    assert set(done["purged"]) == {f"{FLOW}/{number}" for number in range(4)}
    assert done["freed"] > 4 * 700_000
    size = os.path.getsize(path)
    done = json.loads(run_command(path, "compact", "--json").stdout)
    assert done["after"] == os.path.getsize(path) < size - 4 * 700_000
    assert run_command(path, "restore").stdout == "The trash is empty.\n"
    assert "nothing to prune" in run_command(path, "prune", "--keep-last", "1", "--yes").stdout
    assert run_command(path, "restore", f"{FLOW}/0").exit_code == 1
