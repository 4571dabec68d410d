"""Two branches whose artifacts are merged."""

from __future__ import annotations

from metaflow import FlowSpec, step


class BranchFlow(FlowSpec):
    """Left and right."""

    @step
    def start(self) -> None:
        """Split."""
        self.common = [1, 2, 3]
        self.disputed = "before"
        self.next(self.left, self.right)

    @step
    def left(self) -> None:
        """Say something of its own."""
        self.only_left = "L"
        self.disputed = "left"
        self.scratch = 1
        self.next(self.merge)

    @step
    def right(self) -> None:
        """Say something else."""
        self.only_right = "R"
        self.disputed = "right"
        self.scratch = 2
        self.next(self.merge)

    @step
    def merge(self, inputs: list[BranchFlow]) -> None:
        """Decide what is disputed, take the rest."""
        self.disputed = f"{inputs.left.disputed} or {inputs.right.disputed}"
        self.merge_artifacts(inputs, exclude=["scratch"])
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    BranchFlow()
