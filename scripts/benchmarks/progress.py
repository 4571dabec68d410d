"""A bar on a terminal: what is measured, how much of it is done, time left. Nothing in a pipe."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TerminalProgress:
    """What ``Session`` tells, drawn by rich."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr, markup=False, emoji=False)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("")

    def start(self, label: str, total: int) -> None:
        self._bar.update(self._task, description=label, total=total)
        self._bar.start()

    def tell(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def advance(self, amount: int) -> None:
        self._bar.advance(self._task, amount)

    def finish(self) -> None:
        self._bar.stop()
