"""``sqlitestore logs``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

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
@click.option("--timestamps", is_flag=True, help="Begin each line that has a time with it, in local time.")
@click.option("--raw", is_flag=True, help="Print the bytes as they are stored, with Metaflow's prefixes.")
@attempt_option
@json_option
def logs(
    pathspec: str,
    streams: tuple[str, ...],
    source: str | None,
    timestamps: bool,
    raw: bool,
    attempt: int | None,
    as_json: bool,
) -> None:
    """Print the logs of a task: of all sources, stdout and stderr.

    Metaflow begins each line with time, source and an id. They are taken off, and the sources of a stream put together
    by time. Logs without such prefixes are printed as they were saved, one after the other.

    Into a pipe or file goes just that. On a terminal each text has a heading, and control characters are shown rather
    than obeyed.

    With --json each source stands by itself. Its "text" is without prefixes too, unless --raw is given; "size" is that
    of the stored bytes.

    \b
    Examples:
      sqlitestore logs TrainFlow/12/train/40
      sqlitestore logs TrainFlow/12/train/40 --stderr --attempt 0
      sqlitestore logs TrainFlow/12/train/40 --timestamps
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output

    if raw and timestamps:
        raise click.UsageError("--raw prints what is stored, with its times in UTC: leave out --timestamps.")
    with opened() as storage:
        place = lookup.find(storage, pathspec, ("task",))
        found, _ = lookup.attempt_of(storage, place.task, attempt)
        chosen = _chosen(storage, found, streams, source)
        stored = [_Log(*each, storage.load_log(found.task, found.number, *each) or b"") for each in chosen]
    if as_json:
        rows = [
            {"source": log.source, "stream": log.stream, "size": len(log.text)}
            | {"text": (log if raw else _readable([log], timestamps)).text.decode(errors="replace")}
            for log in stored
        ]
        output.print_json({"pathspec": place.pathspec, "attempt": found.number, "logs": rows})
        return
    if not stored:
        output.note(f"Attempt {found.number} of {place.pathspec} has no such log.")
    for log in stored if raw else [_readable(group, timestamps) for group in _groups(stored)]:
        _print(log)


class _Log(NamedTuple):
    source: str
    stream: str
    text: bytes


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


def _groups(logs: list[_Log]) -> list[list[_Log]]:
    """Return what is printed as one text each: all sources of a stream that has Metaflow's prefixes, else one log."""
    from sqlitestore.mflog import is_mflog

    merging = {log.stream for log in logs if is_mflog(log.text)}
    groups: dict[tuple[str, ...], list[_Log]] = {}
    for log in logs:
        key = (log.stream,) if log.stream in merging else (log.stream, log.source)
        groups.setdefault(key, []).append(log)
    return list(groups.values())


def _readable(logs: list[_Log], timestamps: bool) -> _Log:
    """Return the logs of a stream as one, by time and without Metaflow's prefixes."""
    from sqlitestore.mflog import is_mflog, merged

    if not any(is_mflog(log.text) for log in logs):
        [log] = logs
        return log
    text = b"".join(
        f"{_local(line.time)} ".encode() + line.text if timestamps and line.time else line.text
        for line in merged([log.text for log in logs])
    )
    return _Log(", ".join(log.source for log in logs), logs[0].stream, text)


def _local(time: datetime) -> str:
    try:
        return time.astimezone().replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # the year 1, west of Greenwich
        return "?"


def _print(log: _Log) -> None:
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean_lines

    if output.on_terminal():
        output.print_heading(f"{log.source} {log.stream}".strip() + f" ({len(log.text):,} bytes)")
        click.echo(clean_lines(log.text.decode(errors="replace")), nl=not log.text.endswith(b"\n"))
        return
    stdout = output.binary_stdout()
    output.write_all(stdout, log.text)
    stdout.flush()
