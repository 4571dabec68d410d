"""``sqlitestore export``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import json_option, opened
from sqlitestore.cli.completion import complete_pathspec
from sqlitestore.cli.units import size


@click.command()
@click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=complete_pathspec)
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="OUT", help="The new file; an existing one stays."
)
@click.option(
    "--max-artifact-size", type=size, metavar="SIZE", help="Only name artifacts that are larger (as 10MB, serialized)."
)
@json_option
def export(pathspecs: tuple[str, ...], output: str, max_artifact_size: int | None, as_json: bool) -> None:
    """Write flows, runs, steps or tasks to a new file, with all that they need; without PATHSPEC, everything.

    The file keeps all ids, can be opened where nothing can be written, and is not trusted: whoever gets it looks at it
    as at any other, and unpickles from it only after `sqlitestore trust`.

    \b
    Examples:
      sqlitestore export TrainFlow/12 -o run12.db
      sqlitestore export TrainFlow/12/train TrainFlow/13 -o some.db --max-artifact-size 10MB
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.archive.export import export as write_archive
    from sqlitestore.cli import output as answers
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.cli.text import clean, human_size

    with opened() as storage:
        done = write_archive(
            storage, output, pathspecs, max_artifact_size=max_artifact_size, progress=TerminalProgress()
        )
    if as_json:
        answers.print_json(done._asdict())
        return
    click.echo(
        f"{output}: {done.runs:,} runs, {done.tasks:,} tasks, {done.artifacts:,} artifacts, {human_size(done.size)}"
    )
    if done.left_out:
        click.echo(f"Left out {len(done.left_out):,} artifacts ({human_size(done.left_out_size)}), named in it:")
        for pathspec in done.left_out[:20]:
            click.echo(f"  {clean(pathspec)}")
        if len(done.left_out) > 20:  # noqa: PLR2004
            click.echo(f"  and {len(done.left_out) - 20:,} more (--json lists them)")
