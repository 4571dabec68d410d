"""What a join step sees of the steps before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Inputs:
    """The flows that come together in a join: ``inputs.step_a.x`` after a branch, ``inputs[0].x`` after a foreach.

    ``flows`` are objects with a ``_current_step``, as Metaflow makes them.
    """

    def __init__(self, flows: Iterable[Any]) -> None:
        self.flows = list(flows)
        for flow in self.flows:
            setattr(self, flow._current_step, flow)

    def __getitem__(self, idx: Any) -> Any:
        return self.flows[idx]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.flows)
