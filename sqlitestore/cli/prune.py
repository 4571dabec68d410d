"""``sqlitestore prune`` and ``sqlitestore restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sqlitestore.cli.common import confirm, dry_run_option, json_option, opened, yes_option
from sqlitestore.cli.completion import complete_pathspec
from sqlitestore.cli.units import duration, size

if TYPE_CHECKING:
    from sqlitestore.maintenance.prune import PrunePlan
    from sqlitestore.maintenance.purge import Purged
    from sqlitestore.trash import TrashedRun


@click.command()
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=complete_pathspec)
@click.option("--keep-last", type=click.IntRange(0), metavar="N", help="Keep the N latest runs of each flow.")
@click.option("--older-than", type=duration, metavar="TIME", help="Only runs that nothing happened in for TIME (30d).")
@click.option("--keep-tag", "keep_tags", multiple=True, metavar="TAG", help="Keep runs with this tag; may be repeated.")
@click.option("--max-size", type=size, metavar="SIZE", help="Only the oldest, until the file can have SIZE (2GB).")
@click.option("--data", is_flag=True, help="Let go of what save_data keeps for the flows, too. It has no trash.")
@click.option("--force", is_flag=True, help="Also runs that something seems to be working on.")
@click.option("--purge", is_flag=True, help="Empty the trash: nothing in it can be restored any more.")
@click.option(
    "--trash-age",
    type=duration,
    default="30d",
    show_default=True,
    metavar="TIME",
    help="How long runs stay in trash.",
)
@dry_run_option
@yes_option
@json_option
def prune(
    pathspecs: tuple[str, ...],
    purge: bool,
    trash_age: float,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **rules: Any,
) -> None:
    """Put runs into the trash: those that PATHSPEC names (a flow: its runs), or that the rules choose.

    A run goes if all given rules allow it. `sqlitestore restore` brings it back whole, until it has been in the trash
    for 30 days or --purge empties that; after this, `sqlitestore compact` gives the space back. Content that other runs
    need stays, and so does what save_data keeps, unless --data.

    \b
    Examples:
      sqlitestore prune --keep-last 10 --older-than 30d --keep-tag production
      sqlitestore prune TrainFlow/12 --yes
      sqlitestore prune --purge
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.maintenance import prune as pruning

    progress = TerminalProgress()
    chooses = bool(pathspecs or rules["data"]) or any(rules[name] is not None for name in _CHOOSING)
    if not chooses and not purge:
        raise click.UsageError(
            "Say what shall go: a PATHSPEC, a rule such as --keep-last 10, or --purge for the trash."
        )
    with opened() as storage:
        plan = pruning.PrunePlan()
        if chooses:
            plan = pruning.plan_prune(storage, pathspecs, trash_age=trash_age, progress=progress, **rules)
        in_trash = tuple(each.pathspec for each in storage.tables.trash.runs()) if purge else plan.expired
        answer: dict[str, Any] = {"file": storage.datastore_root, **_plan_json(plan), "purge": list(in_trash)}
        if not as_json:
            _print_plan(plan, in_trash)
        if dry_run or not (plan.runs or plan.data or in_trash):
            if as_json:
                output.print_json(answer | {"done": False})
            elif not dry_run:
                click.echo("There is nothing to prune.")
            return
        confirm("Purge this for good?" if purge or plan.data else "Put these runs into the trash?", yes=yes)
        done = pruning.prune(storage, plan, empty_trash=purge, trash_age=trash_age, progress=progress)
    if as_json:
        output.print_json(answer | {"done": True, "purged": list(done.runs), "freed": done.size})
    else:
        _print_done(plan, done)


_CHOOSING = ("keep_last", "older_than", "max_size")
"""Rules that choose runs by themselves; the others only keep some."""


def _plan_json(plan: PrunePlan) -> dict[str, Any]:
    return {
        "runs": [each._asdict() for each in plan.runs],
        "running": list(plan.running),
        "data": [{"flow": flow, "key": key} for flow, key in plan.data],
        "size": plan.size,
    }


def _print_plan(plan: PrunePlan, in_trash: tuple[str, ...]) -> None:
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean, human_size

    if plan.runs:
        columns = (
            output.Column("run"),
            output.Column("tasks", "count"),
            output.Column("started", "time"),
            output.Column("own", "size"),
            output.Column("tags", "long"),
        )
        rows = [
            {"run": each.pathspec, "tasks": each.tasks, "started": each.time or None, "own": each.own}
            | {"tags": ", ".join(each.tags)}
            for each in plan.runs
        ]
        output.print_table(columns, rows)
    for run in plan.running:
        output.note(f"{clean(run)} stays: something seems to be working on it (--force takes it all the same).")
    if plan.runs or plan.data:
        count = f"{len(plan.runs):,} runs" + (f" and {len(plan.data):,} blobs of save_data" if plan.data else "")
        click.echo(f"{count}; {human_size(plan.size)} of content come back when the trash is emptied.")
    if in_trash:
        click.echo(f"Gone for good from the trash: {clean(', '.join(in_trash))}")


def _print_done(plan: PrunePlan, done: Purged) -> None:
    from sqlitestore.cli.text import human_size

    freed = human_size(done.size)
    if plan.runs and not done.runs:
        click.echo("They are in the trash: `sqlitestore restore` brings them back, `prune --purge` empties it.")
    if done.runs:
        click.echo(
            f"{len(done.runs):,} runs are gone, {freed} are free in the file; `sqlitestore compact` gives them back."
        )


@click.command()
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...")
@json_option
def restore(pathspecs: tuple[str, ...], as_json: bool) -> None:
    """Bring pruned runs back from the trash, whole; without PATHSPEC: list what is in it.

    \b
    Examples:
      sqlitestore restore
      sqlitestore restore TrainFlow/12
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean
    from sqlitestore.maintenance import prune as pruning

    with opened() as storage:
        if not pathspecs:
            _print_trash(storage.tables.trash.runs(), as_json=as_json)
            return
        restored = pruning.restore(storage, pathspecs)
    if as_json:
        output.print_json({"restored": restored})
    else:
        click.echo(f"Restored {clean(', '.join(restored))}.")


def _print_trash(runs: list[TrashedRun], *, as_json: bool) -> None:
    from sqlitestore.cli import output

    rows = [
        {"run": each.pathspec, "pruned": each.trashed, "state": "being purged" if each.purging else "whole"}
        for each in runs
    ]
    if as_json:
        output.print_json({"trash": rows})
    elif rows:
        output.print_table((output.Column("run"), output.Column("pruned", "time"), output.Column("state")), rows)
    else:
        click.echo("The trash is empty.")
