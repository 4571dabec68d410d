"""``sqlitestore logs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sqlitestore.cli.common import attempt_option, json_option, opened, pathspec_argument

if TYPE_CHECKING:
    from sqlitestore.model import Attempt
    from sqlitestore.storage import DataStoreStorage


@click.command()
@pathspec_argument(required=True)
@click.option("--stdout", "streams", flag_value="stdout", multiple=True, help="Only what went to stdout.")
@click.option("--stderr", "streams", flag_value="stderr", multiple=True, help="Only what went to stderr.")
@click.option("--source", metavar="NAME", help="Only of this source (Metaflow's are 'runtime' and 'task').")
@attempt_option
@json_option
def logs(pathspec: str, streams: tuple[str, ...], source: str | None, attempt: int | None, as_json: bool) -> None:
    """Print the logs of a task: of all sources, stdout and stderr.

    Into a pipe or file go the bytes as they were saved, one log after the other. On a terminal each has a heading, and
    control characters are shown rather than obeyed.

    \b
    Examples:
      sqlitestore logs TrainFlow/12/train/40
      sqlitestore logs TrainFlow/12/train/40 --stderr --attempt 0
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output

    with opened() as storage:
        place = lookup.find(storage, pathspec, ("task",))
        found, _ = lookup.attempt_of(storage, place.task, attempt)
        chosen = _chosen(storage, found, streams, source)
        texts = [(each, storage.load_log(found.task, found.number, *each) or b"") for each in chosen]
    if as_json:
        logs = [
            {"source": each[0], "stream": each[1], "size": len(text), "text": text.decode(errors="replace")}
            for each, text in texts
        ]
        output.print_json({"pathspec": place.pathspec, "attempt": found.number, "logs": logs})
        return
    if not texts:
        output.note(f"Attempt {found.number} of {place.pathspec} has no such log.")
    for each, text in texts:
        _print(each, text)


def _chosen(
    storage: DataStoreStorage, attempt: Attempt, streams: tuple[str, ...], source: str | None
) -> list[tuple[str, str]]:
    """Return source and stream of the logs asked for. A source that is not there raises NotFound."""
    from sqlitestore.errors import NotFound

    there = list(storage.log_sizes(attempt.task, attempt.number))
    sources = sorted({each[0] for each in there})
    if source is not None and source not in sources:
        names = ", ".join(sources) or "none at all"
        raise NotFound(
            f"Attempt {attempt.number} of {attempt.task.pathspec} has no logs of {source!r}; its sources: {names}."
        )
    return [
        (name, stream)
        for name, stream in there
        if (source is None or name == source) and (not streams or stream in streams)
    ]


def _print(log: tuple[str, str], text: bytes) -> None:
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean_lines

    if output.on_terminal():
        output.print_heading(f"{' '.join(log).strip()} ({len(text):,} bytes)")
        click.echo(clean_lines(text.decode(errors="replace")), nl=not text.endswith(b"\n"))
        return
    stdout = output.binary_stdout()
    output.write_all(stdout, text)
    stdout.flush()
