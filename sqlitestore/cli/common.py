"""What the commands share: options, and opening the store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from sqlitestore.cli.completion import complete_pathspec

if TYPE_CHECKING:
    from sqlitestore.storage import SQLiteStorage

Command = TypeVar("Command", bound=Callable[..., object])


def pathspec_argument(*, required: bool, metavar: str = "PATHSPEC") -> Callable[[Command], Command]:
    """Return the decorator for the argument PATHSPEC, completed from the file."""
    return click.argument(
        "pathspec",
        required=required,
        metavar=metavar if required else f"[{metavar}]",
        shell_complete=complete_pathspec,
    )


attempt_option = click.option(
    "--attempt", type=click.IntRange(0), metavar="N", help="The attempt to look at (default: the latest)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, and stop there.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; stop unless the answer is yes. In a pipe nobody answers: --yes it must be."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("Nobody is there to be asked: give --yes to do it, or --dry-run to see what it is.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(0)


@contextmanager
def opened(*, create: bool = False) -> Iterator[SQLiteStorage]:
    """Open the store that ``--file`` names (or the default one), and close it afterwards; ``create`` makes the file."""
    from sqlitestore.errors import StoreMissing
    from sqlitestore.maintenance.row_types import odd_rows_are_damage
    from sqlitestore.storage import SQLiteStorage

    file = click.get_current_context().find_root().params.get("file")
    try:
        storage = SQLiteStorage(file, create=create)
    except StoreMissing as error:
        if file is not None:
            raise
        raise StoreMissing(
            f"{error} Say which with --file FILE, or METAFLOW_DATASTORE_SYSROOT_SQLITE in the environment."
        ) from error
    try:
        with odd_rows_are_damage(storage.database):
            yield storage
    finally:
        storage.close()
