"""``sqlitestore tag``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import json_option, opened, pathspec_argument


@click.command()
@pathspec_argument(required=True)
@click.option("--add", "add", multiple=True, metavar="TAG", help="Give the run this tag.")
@click.option("--remove", "remove", multiple=True, metavar="TAG", help="Take this tag from the run.")
@json_option
def tag(pathspec: str, add: tuple[str, ...], remove: tuple[str, ...], as_json: bool) -> None:
    """List the tags of a run (Flow/run), or of all runs of a flow (Flow); or change those of a run.

    Tags are removed before others are added, all at once or not at all. System tags stay. Metaflow's client sees the
    same tags, also of a run that was written without Metaflow.

    \b
    Examples:
      sqlitestore tag TrainFlow
      sqlitestore tag TrainFlow/12 --add best --remove candidate
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.archive.tags import change_tags, tags_of
    from sqlitestore.cli import output

    with opened() as storage:
        if add or remove:
            change_tags(storage, pathspec, add=add, remove=remove)
        found = tags_of(storage, pathspec)
    if as_json:
        output.print_json({"runs": [each._asdict() for each in found]})
        return
    rows = [
        {"run": each.pathspec, "tags": ", ".join(each.tags), "system_tags": ", ".join(each.system_tags)}
        for each in found
    ]
    output.print_table((output.Column("run"), output.Column("tags"), output.Column("system_tags")), rows)
