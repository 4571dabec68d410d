"""A foreach over many."""

from __future__ import annotations

from metaflow import FlowSpec, Parameter, step


class WideFlow(FlowSpec):
    """As many tasks as ``--width`` says."""

    width = Parameter("width", default=500)

    @step
    def start(self) -> None:
        """Split."""
        self.numbers = list(range(self.width))
        self.shared = list(range(10_000))
        self.next(self.work, foreach="numbers")

    @step
    def work(self) -> None:
        """Do one."""
        self.square = self.input**2
        print("task of", self.input)
        self.next(self.join)

    @step
    def join(self, inputs: list[WideFlow]) -> None:
        """Add all."""
        self.total = sum(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    WideFlow()
