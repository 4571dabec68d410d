"""``sqlitestore push`` and ``sqlitestore pull``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from sqlitestore.cli.common import dry_run_option, json_option, opened
from sqlitestore.cli.completion import complete_pathspec

if TYPE_CHECKING:
    from sqlitestore.remote.report import Report

Command = TypeVar("Command", bound=Callable[..., object])

_pathspecs = click.argument("pathspecs", nargs=-1, metavar="[PATHSPEC]...", shell_complete=complete_pathspec)


def _metadata_option(what: str) -> Callable[[Command], Command]:
    return click.option("--metadata", type=click.Path(), metavar="DIR", help=what)


@click.command()
@click.argument("destination", metavar="DEST")
@_pathspecs
@_metadata_option("Write what a local metadata provider keeps also to the folder .metaflow in DIR.")
@dry_run_option
@json_option
def push(destination: str, pathspecs: tuple[str, ...], metadata: str | None, dry_run: bool, as_json: bool) -> None:
    """Copy runs to a datastore of Metaflow's own, where everybody's Metaflow reads them; without PATHSPEC, all.

    DEST is a folder with .metaflow in it (made if it is missing), s3://bucket/prefix, azure://container/prefix or
    gs://bucket/prefix; a PATHSPEC is Flow or Flow/run. Ids stay. What is there is not sent again, and after an
    interruption the same command goes on.

    \b
    Examples:
      sqlitestore --file runs.db push s3://team/metaflow
      sqlitestore --file runs.db push s3://team/metaflow TrainFlow/12 --metadata .
      sqlitestore --file runs.db push /home/ada/project
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.remote.metaflow_storages import storage_at
    from sqlitestore.remote.push import push as push_runs

    with opened() as storage:
        there = storage_at(destination, create=True, dry_run=dry_run)
        provider = None if metadata is None else storage_at(metadata, create=True, dry_run=dry_run)
        report = push_runs(storage, there, pathspecs, metadata=provider, progress=TerminalProgress(), dry_run=dry_run)
    _print(report, "sent", as_json=as_json)


@click.command()
@click.argument("source", metavar="SOURCE")
@_pathspecs
@_metadata_option("Take what a local metadata provider keeps from the folder .metaflow in DIR, not from SOURCE.")
@dry_run_option
@json_option
def pull(source: str, pathspecs: tuple[str, ...], metadata: str | None, dry_run: bool, as_json: bool) -> None:
    """Copy runs of a datastore of Metaflow's own into the file, which is made if it is missing; without PATHSPEC, all.

    SOURCE is a folder with .metaflow in it, s3://bucket/prefix, azure://container/prefix or gs://bucket/prefix; a
    PATHSPEC is Flow or Flow/run. Ids, tags, logs, cards and code packages come along. What is here is not fetched
    again, and after an interruption the same command goes on.

    \b
    Examples:
      sqlitestore --file runs.db pull /home/ada/project
      sqlitestore --file runs.db pull s3://team/metaflow TrainFlow/12
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.remote.metaflow_storages import storage_at
    from sqlitestore.remote.pull import pull as pull_runs

    there = storage_at(source)
    provider = None if metadata is None else storage_at(metadata)
    with opened(create=not dry_run) as storage:
        report = pull_runs(storage, there, pathspecs, metadata=provider, progress=TerminalProgress(), dry_run=dry_run)
    _print(report, "fetched", as_json=as_json)


def _print(report: Report, done: str, *, as_json: bool) -> None:
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean, human_size
    from sqlitestore.errors import Refused

    if as_json:
        output.print_json(report.as_dict())
    else:
        how = f"would be {done}" if report.dry_run else done
        click.echo(
            f"{report.runs + report.runs_there:,} runs ({report.runs_there:,} complete before), "
            f"{report.tasks:,} tasks {how} ({report.tasks_there:,} there before)"
        )
        rest = "" if report.dry_run else f", {report.files:,} files; {human_size(report.bytes)}"
        click.echo(f"{report.blobs:,} blobs {how} ({report.blobs_there:,} there before){rest}")
    for problem in report.problems:
        output.note(f"Not {done}: {clean(problem)}")
    if report.problems:
        raise Refused(f"{len(report.problems):,} of {report.runs:,} runs have a problem.")
