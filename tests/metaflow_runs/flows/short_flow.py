"""As little as a flow can be."""

from __future__ import annotations

from metaflow import FlowSpec, Parameter, step


class ShortFlow(FlowSpec):
    """Passes a note on."""

    note = Parameter("note", default="none")

    @step
    def start(self) -> None:
        """Take it."""
        self.taken = self.note
        print("note:", self.note)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Hand it on."""
        self.handed_on = f"{self.taken}!"


if __name__ == "__main__":
    ShortFlow()
