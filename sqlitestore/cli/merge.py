"""``sqlitestore import``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import json_option, opened


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option("--rename", is_flag=True, help="Give another name to a run whose name is taken by another run.")
@click.option("--trust", is_flag=True, help="Let the new runs be unpickled; only if you trust who made them.")
@json_option
def import_(files: tuple[str, ...], rename: bool, trust: bool, as_json: bool) -> None:
    """Bring the runs of other files into this one (made if it is missing), under their ids.

    A run that is here already is skipped; a run of its name with other content is an error, and then nothing is
    imported. Everything is checked on its way. Artifacts of what came are not unpickled before `sqlitestore trust`.

    \b
    Examples:
      sqlitestore --file all.db import run12.db run13.db
      sqlitestore --file all.db import from-ada.db --rename
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.archive.merge import merge
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.cli.text import clean, human_size
    from sqlitestore.database import Database

    for file in files:  # before a new file is made for them
        Database(file, create=False, read_only=True).close()
    with opened(create=True) as storage:
        done = merge(storage, files, rename=rename, trust=trust, progress=TerminalProgress())
    if as_json:
        output.print_json(done._asdict())
        return
    click.echo(
        f"{len(done.added):,} runs imported ({done.tasks:,} tasks, {done.artifacts:,} artifacts, "
        f"{human_size(done.size)}), {len(done.skipped):,} were here."
    )
    for old, new in done.renamed:
        click.echo(f"  {clean(old)} is {clean(new)} here")
    if done.added and not trust:
        output.note("What came is not unpickled before `sqlitestore trust`.")
