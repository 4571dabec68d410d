"""A step that repeats itself, then one of two branches."""

from __future__ import annotations

from metaflow import FlowSpec, Parameter, step


class SwitchFlow(FlowSpec):
    """Counts down, then goes left or right."""

    way = Parameter("way", default="left")

    @step
    def start(self) -> None:
        """Begin."""
        self.left_to_do = 3
        self.next(self.count)

    @step
    def count(self) -> None:
        """Count one down, until there is nothing left to do."""
        self.left_to_do -= 1
        self.state = "more" if self.left_to_do else "enough"
        self.next({"more": self.count, "enough": self.choose}, condition="state")

    @step
    def choose(self) -> None:
        """Go one way."""
        self.next({"left": self.left, "right": self.right}, condition="way")

    @step
    def left(self) -> None:
        """One way."""
        self.went = "left"
        self.next(self.end)

    @step
    def right(self) -> None:
        """The other."""
        self.went = "right"
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    SwitchFlow()
