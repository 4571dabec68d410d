"""Cards: one, two with ids, one of the default type, one whose drawing fails, and one of a task that fails."""

from __future__ import annotations

from metaflow import FlowSpec, Parameter, card, current, step
from metaflow.cards import Markdown, Table


class CardsFlow(FlowSpec):
    """Draws."""

    failing = Parameter("failing", default=False)

    @card(type="blank")
    @step
    def start(self) -> None:
        """One card."""
        current.card.append(Markdown("# Only one: grüße"))
        self.next(self.two)

    @card(type="blank", id="first")
    @card(type="blank", id="second")
    @step
    def two(self) -> None:
        """Two cards."""
        current.card["first"].append(Markdown("this is the first"))
        current.card["second"].append(Table([["this is", "the second"]]))
        self.next(self.end)

    @card(type="default", id="table")
    @card(type="blank", id="live", refresh_interval=1)
    @step
    def end(self) -> None:
        """A card that draws artifacts, and one that is drawn while the step runs, which may fail."""
        self.result = 1234567
        current.card["live"].append(Markdown("drawn before the end"))
        current.card["live"].refresh()
        if self.failing:
            raise RuntimeError("as wished")


if __name__ == "__main__":
    CardsFlow()
