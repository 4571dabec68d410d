"""A bar on stderr for work that lasts: nothing in a pipe, and nothing for what is done within a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE = 1.0
"""How long nothing is shown [s]."""

REFRESH = 0.1
"""Time between two pictures of the bar [s]; drawn from ``advance``, so there is no thread."""


class TerminalProgress:
    """The ``sqlitestore.progress.Progress`` of the command line. The bar is gone when the stage ends."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._bar: Bar | None = None
        self._stage: tuple[str, int | None, str] = ("", None, "")
        self._done = 0
        self._next_look = 0.0

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Begin a stage."""
        self._stage = (label, total, unit)
        self._done = 0
        self._next_look = time.monotonic() + self._patience if sys.stderr.isatty() else float("inf")

    def advance(self, amount: int) -> None:
        """Count, and draw the bar if it is time."""
        self._done += amount
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + REFRESH
        if self._bar is None:
            self._bar = self._new_bar()
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done)
        self._bar.refresh()

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _new_bar(self) -> Bar:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        label, total, unit = self._stage
        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            count,
            TextColumn("" if unit == "bytes" else unit, markup=False),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr, markup=False, emoji=False),
            transient=True,
            auto_refresh=False,
        )
        bar.add_task(label, total=total)
        return bar
