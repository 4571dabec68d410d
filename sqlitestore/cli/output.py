"""The three forms of every answer: tables on a terminal, tab-separated text in a pipe, JSON where it was asked for.

An answer is made of rows: mappings from stable keys to plain values, sizes in bytes and times in seconds. They are the
JSON; a list of columns says which of them a table shows, and how.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import click

from sqlitestore.cli.text import clean, human_size, iso_time, local_time, plain_value

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]
Kind = Literal["text", "long", "count", "size", "time"]

LONGEST_CELL = 10_000
"""[characters] Of a text on a terminal; names have 255 bytes at most, and JSON and a pipe get all of it."""


class Column(NamedTuple):
    """A key of the rows as a column. "long" text is cut at the edge of a terminal (never elsewhere)."""

    key: str
    kind: Kind = "text"
    title: str = ""

    @property
    def heading(self) -> str:
        """The title, which is the key where nothing else is said."""
        return self.title or self.key.replace("_", " ")


def on_terminal() -> bool:
    """Whether the answer goes to a terminal."""
    return sys.stdout.isatty()


def binary_stdout() -> BinaryIO:
    """Return the stream for bytes, behind the text printed so far."""
    sys.stdout.flush()
    return sys.stdout.buffer


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of ``data``: with PYTHONUNBUFFERED, stdout takes what fits into the pipe and drops the rest."""
    view = memoryview(data)
    while view.nbytes:
        view = view[file.write(view) :]


def print_json(answer: Row) -> None:
    """Print one JSON document; ASCII only, so nothing in it can reach a terminal's controls."""
    click.echo(json.dumps(plain_value(with_iso_times(answer)), indent=2, allow_nan=False))


def print_table(columns: Sequence[Column], rows: Iterable[Row], title: str = "") -> None:
    """Print rows as a table; in a pipe a line each, under a line with the columns' keys."""
    if on_terminal():
        _print_rich(*_rich_table(columns, rows, title))
        return
    click.echo("\t".join(column.title or column.key for column in columns))
    for row in rows:
        click.echo("\t".join(_plain_cell(column.kind, row.get(column.key)) for column in columns))


def print_facts(columns: Sequence[Column], row: Row, title: str = "") -> None:
    """Print one row as a line for each column."""
    if not on_terminal():
        for column in columns:
            click.echo(f"{column.key}\t{_plain_cell(column.kind, row.get(column.key))}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    if title:
        table.add_row(Text(clean(_cut(title)), style="bold"))
    for column in columns:
        value = _terminal_cell(column.kind, row.get(column.key))
        if column.kind == "size" and (row.get(column.key) or 0) >= 1000:  # noqa: PLR2004
            value = f"{value}  ({row[column.key]:,} bytes)"
        table.add_row(Text(column.heading, style="dim"), Text(value, overflow="fold"))
    _print_rich(table)


def print_heading(text: str) -> None:
    """Print what sets the parts of an answer apart; in a pipe an empty line and a comment."""
    if on_terminal():
        from rich.text import Text

        _print_rich(Text("\n" + clean(_cut(text)), style="bold"))
    else:
        click.echo(f"\n# {clean(text)}")


def note(text: str) -> None:
    """Tell people something that is not part of the answer."""
    click.echo(clean(text), err=True)


def with_iso_times(value: Any) -> Any:
    """Return ``value`` with ``<key>_iso`` beside each time; ``TIMES`` are the keys that hold one."""
    if isinstance(value, Mapping):
        row: dict[Any, Any] = {}
        for key, item in value.items():
            row[key] = with_iso_times(item)
            if key in TIMES and (item is None or isinstance(item, int | float)):
                row[f"{key}_iso"] = iso_time(item)
        return row
    if isinstance(value, list):
        return [with_iso_times(item) for item in value]
    return value


TIMES = frozenset({"started", "finished", "created"})
"""Keys of the rows that hold a time [s since 1970]."""


def _plain_cell(kind: Kind, value: Any) -> str:
    if value is None:
        return ""
    return (iso_time(value) or "") if kind == "time" else clean(value)


def _terminal_cell(kind: Kind, value: Any) -> str:
    if kind == "time":
        return local_time(value)
    if value is None:
        return ""
    if kind == "size":
        return human_size(value)
    return f"{value:,}" if kind == "count" else clean(_cut(value))


def _cut(value: object) -> str:
    """Return a text of LONGEST_CELL characters at most; to lay out a forged name of megabytes takes minutes."""
    text = str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}..."


_STATES = {"done": "green", "failed": "red", "running": "yellow"}


def _rich_table(columns: Sequence[Column], rows: Iterable[Row], title: str) -> tuple[Table, int]:
    """Return the table, and the width that it needs at least."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[_terminal_cell(column.kind, row.get(column.key)) for column in columns] for row in rows]
    least = [_least_width(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
    table = Table(
        title=Text(clean(_cut(title)), style="bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD
    )
    for column, width in zip(columns, least, strict=True):
        long = column.kind == "long"
        table.add_column(
            Text(column.heading),
            justify="right" if column.kind in {"count", "size"} else "left",
            no_wrap=column.kind not in {"text", "time"},
            overflow="ellipsis" if long else "fold",
            min_width=width,
            max_width=max(width, _rest_of_line(columns, cells)) if long else None,
        )
    for row in cells:
        table.add_row(
            *(
                Text(cell, style=_STATES.get(cell, "") if column.key == "state" else "")
                for cell, column in zip(row, columns, strict=True)
            )
        )
    return table, sum(least) + 3 * len(columns) + 1


_NARROW: dict[Kind, int] = {"text": 16, "time": 10, "long": 20}
"""Columns of a terminal that text, a time or a preview can be broken to; numbers are never broken."""


def _least_width(column: Column, cells: Sequence[str]) -> int:
    return min(_width(column, cells), _NARROW.get(column.kind, 1000))


def _width(column: Column, cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, [column.heading, *cells]))


def _rest_of_line(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    """Return the width that is left for the one long column: rich would take it from the others."""
    used = sum(
        _width(column, [row[index] for row in cells]) for index, column in enumerate(columns) if column.kind != "long"
    )
    return _console().width - used - 3 * len(columns) - 1


def _print_rich(renderable: Any, least_width: int = 0) -> None:
    console = _console()
    # On a terminal that is narrower, lines run over its edge: ugly, but rich would leave columns out.
    console.width = max(console.width, least_width)
    console.print(renderable)


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
