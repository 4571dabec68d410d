"""``sqlitestore compact``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import confirm, dry_run_option, json_option, opened, yes_option
from sqlitestore.cli.units import duration


@click.command()
@click.option("--full", is_flag=True, help="Rebuild the file: takes a lock, and room for a copy.")
@click.option("--purge", is_flag=True, help="Empty the trash first: pruned runs cannot be restored any more.")
@click.option(
    "--grace",
    type=duration,
    default="7d",
    show_default=True,
    metavar="TIME",
    help="What a writer put and nothing refers to is left alone for so long. 0 if nobody is writing.",
)
@dry_run_option
@yes_option
@json_option
def compact(full: bool, purge: bool, grace: float, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Give space back to the file system: free pages, and what crashed writers left. Others may go on working.

    \b
    Examples:
      sqlitestore compact
      sqlitestore compact --purge --yes
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.cli.text import clean, human_size
    from sqlitestore.maintenance.compact import compact as give_back
    from sqlitestore.maintenance.usage import usage

    progress = TerminalProgress()
    with opened() as storage:
        trash = [each.pathspec for each in storage.tables.trash.runs()] if purge else []
        if dry_run:
            found = usage(storage.database, progress)
            size = found.comes_back + (found.trashed if purge else 0)
            if as_json:
                output.print_json({"done": False, "comes_back": size, "purge": trash})
            else:
                click.echo(f"About {human_size(size)} of {human_size(found.file)} would come back.")
            return
        if trash:
            output.note(f"In the trash: {clean(', '.join(trash[:20]))}{' ...' if len(trash) > 20 else ''}")  # noqa: PLR2004
            confirm(f"Purge {len(trash):,} runs for good?", yes=yes)
        done = give_back(storage, full=full, empty_trash=purge, grace=grace, progress=progress)
    if as_json:
        output.print_json({"done": True, **done._asdict()})
        return
    click.echo(f"{human_size(done.before)} before, {human_size(done.after)} after.")
    if done.is_waiting:
        output.note("A large artifact is being saved: what crashed writers left of such ones stays until later.")
