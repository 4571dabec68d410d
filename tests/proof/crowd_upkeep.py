"""What the members of the crowd do that look after the file, or take runs out of it and into it."""

from __future__ import annotations

import os
from typing import Any

from crowd_content import FLOW, check_task, live_pathspec
from crowd_member import Member, Setting
from crowd_roles import check_run, latest_run
from sqlite_oracle import check_file

from sqlitestore import (
    FlowDataStore,
    NotFound,
    compact,
    export,
    merge,
    plan_prune,
    prune,
    restore,
    verify,
)

IMPORTED = "imported-"
IMPORTED_TASKS = 3


def pruner(member: Member) -> None:
    """Prune passing runs, restore some, and purge the others; a run has one pruner, who says what became of it."""
    pruners = sorted(name for name in member.setting.members if name.startswith(member.role))
    mine = pruners.index(member.name)
    trash: list[str] = []
    with member.open() as flow:
        member.write_task(flow, live_pathspec(member.name, 0))
        while member.goes_on():
            what = member.chance.random()
            if what < 0.5 and (heard := member.heard("run", "passer")):
                if sum(heard[1].encode()) % len(pruners) == mine and heard[1] not in trash:
                    _prune(member, flow, heard[1], trash)
            elif what < 0.8 and trash:
                _restore(member, flow, trash)
            elif what > 0.93:
                with member.timed("trash emptied"):
                    purged = prune(flow, plan_prune(flow, [], keep_last=10**6), empty_trash=True)
                member.count("runs purged", len(purged.runs))


def _prune(member: Member, flow: FlowDataStore, run: str, trash: list[str]) -> None:
    """Prune a run, which may be gone for good."""
    with member.answered_by(NotFound), member.timed("runs pruned"):
        plan = plan_prune(flow, [f"{FLOW}/{run}"])
        member.say("prunes", run)
        prune(flow, plan)
        assert run not in flow._storage_impl.runs(FLOW), f"{run} was pruned, and is there"
        trash.append(run)


def _restore(member: Member, flow: FlowDataStore, trash: list[str]) -> None:
    """Take a run out of the trash, unless another has emptied that."""
    run = trash.pop(member.chance.randrange(len(trash)))
    with member.answered_by(NotFound), member.timed("runs restored"):
        restore(flow, [f"{FLOW}/{run}"])
        member.say("restored", run)


def compactor(member: Member) -> None:
    """Give back what nobody needs, again and again."""
    with member.open() as flow:
        while member.goes_on():
            with member.timed("compacted"):
                compact(flow)


def verifier(member: Member) -> None:
    """Verify the file while all others work, all of it or quickly, open or by its path."""
    with member.open() as flow:
        while member.goes_on():
            quick = member.rounds % 2 == 1
            store: Any = member.setting.path if member.chance.random() < 0.3 else flow
            with member.timed(f"verified{' quickly' if quick else ''}"):
                outcome = verify(store, quick=quick)
            assert outcome.ok, f"verify(quick={quick}) of a sound file found {outcome.problems[:5]}"
            member.count("blobs verified", outcome.checked.blobs)


def exporter(member: Member) -> None:
    """Export runs while they are written; each archive is a file of its own, sound and of one snapshot."""
    out = os.path.join(member.setting.place("archives"), f"{member.name}.db")
    with member.open() as flow:
        member.write_task(flow, live_pathspec(member.name, 0))
        while member.goes_on():
            run = latest_run(member)
            with member.timed("live runs exported"):
                exported = export(flow, out, [f"{FLOW}/{run}"])
            assert exported.tasks, f"the archive of {run} is empty"
            check_file(out)
            with FlowDataStore(FLOW, ds_root=out, trust=True) as archive:
                check_run(run, archive.get_latest_task_datastores(run, allow_not_done=True))
                for task in archive.get_latest_task_datastores(run)[-5:]:
                    check_task(task, task.pathspec, final=False)
                    member.count("exported tasks read")
            os.unlink(out)


def prepare_archive(setting: Setting, name: str) -> None:
    """Make the archive that a member imports: runs with the content that passing runs have, too."""
    live_file, archive = setting.place("archives", "source.db"), setting.place("archives", f"{name} source.db")
    with FlowDataStore(FLOW, ds_root=live_file) as flow:
        for pathspec in imported_pathspecs(name):
            writer = flow.get_task_datastore(*pathspec.split("/"), attempt=0, mode="w")
            writer.init_task()
            writer.save_artifacts([("name", pathspec), ("numbers", list(range(len(pathspec))))])
            writer.save_artifacts([("large", pathspec.encode() * 20_000)])
            writer.done()
        export(flow, archive, [f"{FLOW}/{run}" for run in _runs(name)])
    os.unlink(live_file)


def _runs(name: str) -> list[str]:
    return [f"{IMPORTED}{name}-{number}" for number in range(2)]


def imported_pathspecs(name: str) -> list[str]:
    """Return the tasks that a member imports."""
    return [f"{run}/end/{task}" for run in _runs(name) for task in range(IMPORTED_TASKS)]


def check_imported(flow: FlowDataStore, name: str) -> None:
    """Fail unless all that a member imported is there."""
    found = flow.get_latest_task_datastores(pathspecs=imported_pathspecs(name))
    assert [task.pathspec for task in found] == imported_pathspecs(name), f"what {name} imported is not all there"
    for task in found:
        pathspec = task.pathspec
        expected = {"name": pathspec, "numbers": list(range(len(pathspec))), "large": pathspec.encode() * 20_000}
        assert task.to_dict() == expected, f"{pathspec} was imported as something else"


def importer(member: Member) -> None:
    """Import runs, prune them for good, and import them again; at the end they are there."""
    archive = member.setting.place("archives", f"{member.name} source.db")
    with member.open(trust=True) as flow:
        while member.goes_on():
            with member.timed("archives imported"):
                merged = merge(flow, [archive])
            assert len(merged.added) + len(merged.skipped) == len(_runs(member.name))
            check_imported(flow, member.name)
            if member.chance.random() < 0.5:
                with member.timed("imported runs purged"):
                    plan = plan_prune(flow, [f"{FLOW}/{run}" for run in _runs(member.name)])
                    prune(flow, plan, empty_trash=True)
        merge(flow, [archive])
        member.say("imported", member.name)
