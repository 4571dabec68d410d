"""``sqlitestore trust``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import dry_run_option, json_option, opened
from sqlitestore.cli.completion import complete_pathspec


@click.command()
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=complete_pathspec)
@dry_run_option
@json_option
def trust(pathspecs: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Let artifacts be unpickled of runs that came from somebody else: of flows, of runs, or of all that are here.

    Unpickling runs whatever code a pickle names, so do this only if you trust who made the runs. The mark is in the
    file; nobody else is asked again. With --dry-run: list the runs that are not trusted.

    \b
    Examples:
      sqlitestore --file run12.db trust --dry-run
      sqlitestore --file all.db trust TrainFlow/12
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.archive.trust import plan_trust, trust_runs
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean

    with opened() as storage:
        runs = (plan_trust if dry_run else trust_runs)(storage, pathspecs)
    rows = [{"run": each.pathspec, "origin": each.origin} for each in runs]
    if as_json:
        output.print_json({"trusted": not dry_run, "runs": rows})
        return
    if dry_run:
        output.print_table((output.Column("run"), output.Column("origin", "long", "came from")), rows)
    elif rows:
        click.echo(f"{len(rows):,} runs are trusted now: {clean(', '.join(each.pathspec for each in runs))}")
    else:
        click.echo("Nothing here was untrusted.")
