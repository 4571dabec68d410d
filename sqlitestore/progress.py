"""How long work reports its progress: a protocol, and the silent default.

The core prints nothing. A caller that wants a bar (the command line does) passes an object of this shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Each = TypeVar("Each")


class Progress(Protocol):
    """Receives how much of a piece of work is done."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Begin a stage called ``label`` of ``total`` ``unit`` (None: not known)."""

    def advance(self, amount: int) -> None:
        """Count ``amount`` more as done."""

    def finish(self) -> None:
        """End the stage, also when it failed."""


class SilentProgress:
    """Reports nothing: the default everywhere in the core."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Ignore the stage."""

    def advance(self, amount: int) -> None:
        """Ignore the amount."""

    def finish(self) -> None:
        """Ignore the end."""


SILENT = SilentProgress()


def reporting(things: Sequence[Each], label: str, progress: Progress, unit: str = "runs") -> Iterator[Each]:
    """Yield the things as one stage of the work."""
    progress.start(label, len(things), unit)
    try:
        for thing in things:
            yield thing
            progress.advance(1)
    finally:
        progress.finish()
