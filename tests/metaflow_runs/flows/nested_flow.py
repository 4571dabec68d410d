"""A foreach in a foreach."""

from __future__ import annotations

from metaflow import FlowSpec, step


class NestedFlow(FlowSpec):
    """Two outer tasks, with as many inner ones as their number says."""

    @step
    def start(self) -> None:
        """Split."""
        self.outer = [1, 2]
        self.next(self.middle, foreach="outer")

    @step
    def middle(self) -> None:
        """Split again."""
        self.inner = [f"{self.input}{letter}" for letter in "xyz"[: self.input]]
        self.next(self.leaf, foreach="inner")

    @step
    def leaf(self) -> None:
        """Note where this is."""
        self.name_of_leaf = self.input
        self.stack = [(index, size, value) for index, size, value in self.foreach_stack()]
        self.next(self.join_inner)

    @step
    def join_inner(self, inputs: list[NestedFlow]) -> None:
        """Collect the leaves of one."""
        self.leaves = [each.name_of_leaf for each in inputs]
        self.next(self.join_outer)

    @step
    def join_outer(self, inputs: list[NestedFlow]) -> None:
        """Collect all."""
        self.leaves = [each.leaves for each in inputs]
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    NestedFlow()
