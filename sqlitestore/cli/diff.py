"""``sqlitestore diff``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sqlitestore.cli.common import json_option
from sqlitestore.cli.completion import complete_pathspec

if TYPE_CHECKING:
    from sqlitestore.archive.diff import Difference
    from sqlitestore.archive.things import Side
    from sqlitestore.tables import Tables


class Given(NamedTuple):
    """What an argument means: a file (None: that of ``--file``), and what in it (None: all, or what the other says)."""

    file: str | None
    pathspec: str | None


@click.command()
@click.argument("a", shell_complete=complete_pathspec)
@click.argument("b", shell_complete=complete_pathspec)
@click.option("--details", is_flag=True, help="Of two files: list all that differs in their runs.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there are differences (also if it could not be done).")
@json_option
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, details: bool, exit_code: bool, as_json: bool) -> None:
    """Show what differs between A and B: two runs, steps or tasks, or two files. Nothing is unpickled.

    Each of A and B is a PATHSPEC (Flow/run[/step[/task]]) in the store that --file names, or FILE, or FILE:PATHSPEC.
    The name of a file that is there is a FILE; if a flow of the store is called the same, that is an error: write
    ./FILE then. FILE beside a PATHSPEC means that pathspec in the file. Files are only read.

    Artifacts are compared by key, logs line by line. The same run in two files is compared in everything. Two different
    runs are compared by their latest attempts, without times, run ids, the contents of cards and the like.

    \b
    Examples:
      sqlitestore diff TrainFlow/12 TrainFlow/13
      sqlitestore diff TrainFlow/12 archive.db
      sqlitestore diff TrainFlow/12/train/40 old.db:TrainFlow/7/train/40
      sqlitestore diff runs.db archive.db --exit-code
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.archive.diff import diff as differences_between
    from sqlitestore.cli import output
    from sqlitestore.cli.progress import TerminalProgress

    with ExitStack() as stack:
        files = _Files(ctx.find_root().params.get("file"), stack)
        given = [files.meaning(argument) for argument in (a, b)]
        stores = [files.open(each.file) for each in given]
        found = differences_between(
            stores[0],
            given[0].pathspec,
            given[1].pathspec,
            other=stores[1],
            details=details,
            progress=TerminalProgress(),
        )
        if as_json:
            rows = [_json_row(each) for each in found.differences]
            output.print_json({"a": a, "b": b, "differences": rows})
        elif found.differences:
            output.print_table(_columns(), map(_row, found.differences), f"{a} and {b}")
        else:
            output.note(f"No differences between {a} and {b}.")
    if exit_code and found.differences:
        ctx.exit(1)


class _Files:
    """Opens each file once, for reading only."""

    def __init__(self, default: str | None, stack: ExitStack) -> None:
        self._default = default
        self._stack = stack
        self._opened: dict[str, Tables] = {}

    def open(self, file: str | None) -> Tables:
        """Return the tables of a file (None: that of ``--file``). Raises what opening raises."""
        from sqlitestore.database import Database
        from sqlitestore.location import resolve_root
        from sqlitestore.maintenance.row_types import odd_rows_are_damage
        from sqlitestore.tables import Tables

        path = os.path.realpath(resolve_root(self._default if file is None else file))
        if path not in self._opened:
            database = Database(path, create=False, read_only=True)
            self._stack.callback(database.close)
            self._stack.enter_context(odd_rows_are_damage(database))
            self._opened[path] = Tables(database)
        return self._opened[path]

    def meaning(self, argument: str) -> Given:
        """Return what an argument means. Raises InvalidInput if it may be a file as well as a flow, NotFound."""
        from sqlitestore.errors import InvalidInput, NotFound, StoreMissing

        flow = argument.partition("/")[0]
        if os.path.isfile(os.path.expanduser(argument)):
            if self._may_be_flow(flow):
                raise InvalidInput(
                    f"{argument} is a file, and {flow} is a flow of the store: write ./{argument} for the file, or "
                    f"{self.open(None).database.path}:{argument} for what is in the store."
                )
            return Given(argument, None)
        for position, character in enumerate(argument):
            if character == ":" and os.path.isfile(os.path.expanduser(argument[:position])):
                return Given(argument[:position], argument[position + 1 :] or None)
        try:
            there = self._has_flow(flow)
        except StoreMissing as error:
            raise StoreMissing(
                f"{argument} is no file that is there. As a pathspec it needs a store: {error}"
            ) from error
        if not there:
            raise NotFound(
                f"{argument} is neither a file that is there nor a pathspec: {self.open(None).database.path} has no "
                f"flow {flow!r}."
            )
        return Given(None, argument)

    def _may_be_flow(self, name: str) -> bool:
        """Return whether a flow of the store has the name of a file; without a store, none has."""
        from sqlitestore.errors import DataException

        try:
            return self._has_flow(name)
        except DataException:
            return False

    def _has_flow(self, flow: str) -> bool:
        return flow in self.open(None).tasks.flows()


def _columns() -> Any:
    from sqlitestore.cli.output import Column

    return (
        Column("change"),
        Column("kind"),
        Column("pathspec"),
        Column("attempt", "count"),
        Column("name"),
        Column("size_a", "size", "size a"),
        Column("size_b", "size", "size b"),
        Column("what", "long", "what"),
    )


def _row(found: Difference) -> dict[str, Any]:
    """Return a difference for a table: what it is in words, each side by its preview."""
    row = {key: value for key, value in found._asdict().items() if key not in {"a", "b", "detail"}}
    sides = [_line(side) for side in (found.a, found.b) if side is not None]
    said = sides[0] if len(sides) == 1 or sides[0] == sides[1] else " -> ".join(side or "(nothing)" for side in sides)
    parts = (said, found.detail) if found.kind == "run" else (found.detail, said)
    what = ": ".join(part for part in parts if part)
    return row | {"size_a": found.a and found.a.size, "size_b": found.b and found.b.size, "what": what}


def _line(side: Side) -> str:
    from sqlitestore.cli.text import preview_line

    return preview_line(_preview(side))


def _preview(side: Side) -> dict[str, Any]:
    from sqlitestore.errors import Damaged

    try:
        return dict(side.preview)
    except Damaged as error:  # what a stranger put there must not hide the rest
        return {"repr": f"(no preview: {type(error).__name__})"}


def _json_row(found: Difference) -> dict[str, Any]:
    return found._asdict() | {
        name: None if side is None else side._asdict() | {"preview": _preview(side)}
        for name, side in (("a", found.a), ("b", found.b))
    }
