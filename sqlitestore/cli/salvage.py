"""``sqlitestore salvage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sqlitestore.cli.common import json_option
from sqlitestore.cli.verify import print_problems, problem_row

if TYPE_CHECKING:
    from sqlitestore.maintenance.salvage import SalvageReport

LOST = 1
"""Exit code when something was lost."""


@click.command()
@click.argument("damaged", required=False, type=click.Path(), metavar="[FILE]")
@click.option("-o", "--output", "out", required=True, type=click.Path(), metavar="OUT", help="The store to be made.")
@json_option
def salvage(damaged: str | None, out: str, as_json: bool) -> None:
    """Get everything that is whole out of a damaged file, into a new store.

    FILE is only read, page by page, so it may be one that nothing opens any more. Only what proves itself by its
    digests is taken; what is not whole is listed, and then the exit code is 1 (OUT is there all the same). OUT must
    not exist.

    \b
    Examples:
      sqlitestore salvage runs.db -o saved.db
      sqlitestore --file runs.db salvage -o saved.db --json
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.location import resolve_root
    from sqlitestore.maintenance.salvage import salvage as rescue

    path = resolve_root(damaged or click.get_current_context().find_root().params.get("file"))
    report = rescue(path, out, progress=TerminalProgress())
    if as_json:
        answer = {"file": report.path, "out": report.out, "whole": report.whole, "saved": report.saved._asdict()}
        problems = [problem_row(problem) for problem in report.problems]
        output.print_json(answer | {"found": report.found, "problems": problems, "seconds": report.seconds})
    else:
        print_problems(report.problems, report.found)
        click.echo(_closing_line(report))
    if not report.whole:
        raise click.exceptions.Exit(LOST)


def _closing_line(report: SalvageReport) -> str:
    from sqlitestore.cli.text import clean, human_size

    saved = report.saved
    outcome = "all was whole" if report.whole else f"{report.found:,} problems"
    stubs = f", {saved.stubs:,} artifacts without their bytes" if saved.stubs else ""
    return (
        f"{clean(report.out)}: {outcome}; saved {human_size(saved.bytes)} in {saved.blobs:,} blobs, "
        f"{saved.attempts:,} attempts with {saved.artifacts:,} artifacts{stubs}, {saved.logs:,} logs and "
        f"{saved.metadata + saved.registrations + saved.files + saved.data:,} other records in {report.seconds:.1f} s"
    )
