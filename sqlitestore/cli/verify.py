"""``sqlitestore verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sqlitestore.cli.common import json_option

if TYPE_CHECKING:
    from sqlitestore.maintenance.verification import Problem, Verification

HURT = 1
"""Exit code when something is hurt."""


@click.command()
@click.option("--quick", is_flag=True, help="Leave out the bytes of blobs: seconds, whatever they hold.")
@json_option
def verify(quick: bool, as_json: bool) -> None:
    """Check that everything in the file is as it was written; nothing is unpickled, and nothing changed.

    SQLite's own checks, then every chunk, key, digest and count. Each problem is a line that says what is hurt, down
    to the artifact; then the exit code is 1, and `sqlitestore salvage` gets out what is whole. Others may go on
    working meanwhile.

    \b
    Examples:
      sqlitestore --file runs.db verify
      sqlitestore --file runs.db verify --quick --json
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.location import resolve_root
    from sqlitestore.maintenance.verify import verify as check

    path = resolve_root(click.get_current_context().find_root().params.get("file"))
    found = check(path, quick=quick, progress=TerminalProgress())
    if as_json:
        output.print_json(_answer(found))
    else:
        print_problems(found.problems, found.found)
        click.echo(_closing_line(found))
    if not found.ok:
        raise click.exceptions.Exit(HURT)


def print_problems(problems: list[Problem], found: int) -> None:
    """Print a line for each problem, and how many more there are."""
    from sqlitestore.cli.text import clean

    for problem in problems:
        click.echo(clean(problem))
    if found > len(problems):
        click.echo(f"... and {found - len(problems):,} more")


def problem_row(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON has it."""
    return dict(problem._asdict())


def _closing_line(found: Verification) -> str:
    from sqlitestore.cli.text import clean, human_size

    checked = found.checked
    parts = [f"{checked.attempts:,} attempts", f"{checked.artifacts + checked.stubs:,} artifacts"]
    if not found.quick:
        parts.insert(0, f"{human_size(checked.bytes)} in {checked.blobs:,} blobs and {checked.chunks:,} chunks")
    parts.append(f"{checked.logs:,} logs")
    parts.append(f"{checked.metadata + checked.registrations + checked.files + checked.data:,} other records")
    outcome = "nothing is hurt" if found.ok else f"{found.found:,} problems"
    quick = " (quick: no bytes were read)" if found.quick else ""
    return f"{clean(found.path)}: {outcome}; checked {', '.join(parts)} in {found.seconds:.1f} s{quick}"


def _answer(found: Verification) -> dict[str, Any]:
    return {
        "file": found.path,
        "ok": found.ok,
        "quick": found.quick,
        "checked": dict(found.checked._asdict()),
        "found": found.found,
        "problems": [problem_row(problem) for problem in found.problems],
        "seconds": found.seconds,
    }
