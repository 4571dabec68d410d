"""A foreach over letters, and a join that keeps what each task made."""

from __future__ import annotations

from metaflow import FlowSpec, Parameter, step


class ForeachFlow(FlowSpec):
    """One task for each letter."""

    letters = Parameter("letters", default="abc")

    @step
    def start(self) -> None:
        """Split."""
        self.items = list(self.letters)
        self.shared = "for all"
        self.next(self.work, foreach="items")

    @step
    def work(self) -> None:
        """Do one."""
        self.letter = self.input
        self.number = self.index
        print("work on", self.letter)
        self.next(self.join)

    @step
    def join(self, inputs: list[ForeachFlow]) -> None:
        """Collect, in the order of the split."""
        self.done = [(each.number, each.letter, each.shared) for each in inputs]
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    ForeachFlow()
