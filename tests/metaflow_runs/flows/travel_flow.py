"""A bit of everything that a run leaves behind, for runs that travel to other datastores."""

from __future__ import annotations

import os

from metaflow import FlowSpec, IncludeFile, Parameter, card, current, retry, step
from metaflow.cards import Markdown


class TravelFlow(FlowSpec):
    """Reads an included file, tries again, goes in parallel, draws, and may fail at its end."""

    note = IncludeFile("note", default=os.environ.get("NOTE", __file__))
    width = Parameter("width", default=3)

    @retry(times=1, minutes_between_retries=0)
    @step
    def start(self) -> None:
        """Fail once."""
        print(f"attempt {current.retry_count}: grüße")
        if current.retry_count == 0 and not os.environ.get("FAIL_AT_END"):
            raise RuntimeError("at the first attempt")
        self.parts = list(range(self.width))
        self.large = "large" * 100_000
        self.next(self.work, foreach="parts")

    @card(type="blank")
    @step
    def work(self) -> None:
        """Draw."""
        self.part = self.input
        self.read = self.note[:10]
        current.card.append(Markdown(f"# part {self.part}"))
        self.next(self.join)

    @step
    def join(self, inputs) -> None:
        """Add up."""
        self.total = sum(each.part for each in inputs)
        self.merge_artifacts(inputs, include=["large"])
        self.next(self.end)

    @step
    def end(self) -> None:
        """Fail if told so."""
        if os.environ.get("FAIL_AT_END"):
            raise RuntimeError("at the end")
        print("the end", self.total)


if __name__ == "__main__":
    TravelFlow()
