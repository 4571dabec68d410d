"""A large artifact that a second step takes over unchanged."""

from __future__ import annotations

from metaflow import FlowSpec, step
from values import large_array


class LargeFlow(FlowSpec):
    """20 MB."""

    @step
    def start(self) -> None:
        """Make it."""
        self.large = large_array()
        self.next(self.end)

    @step
    def end(self) -> None:
        """Read it, and store it again under another name."""
        self.total = float(self.large.sum())
        self.again = self.large


if __name__ == "__main__":
    LargeFlow()
