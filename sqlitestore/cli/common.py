"""What the commands share: options, and opening the store."""

from __future__ import annotations

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


@contextmanager
def opened() -> Iterator[SQLiteStorage]:
    """Open the store that ``--file`` names (or the default one), never making a file, and close it afterwards."""
    from sqlitestore.errors import StoreMissing
    from sqlitestore.storage import SQLiteStorage

    file = click.get_current_context().find_root().params.get("file")
    try:
        storage = SQLiteStorage(file, create=False)
    except StoreMissing as error:
        if file is not None:
            raise
        raise StoreMissing(
            f"{error} Say which with --file FILE, or METAFLOW_DATASTORE_SYSROOT_SQLITE in the environment."
        ) from error
    try:
        yield storage
    finally:
        storage.close()
