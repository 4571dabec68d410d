"""A control task that starts another one beside itself: tasks whose ids the metadata provider did not make."""

from __future__ import annotations

from metaflow import FlowSpec, current, parallel, step


class ParallelFlow(FlowSpec):
    """Two nodes."""

    @step
    def start(self) -> None:
        """Split."""
        self.next(self.train, num_parallel=2)

    @parallel
    @step
    def train(self) -> None:
        """Be one of them."""
        self.node = (current.parallel.node_index, current.parallel.num_nodes)
        self.next(self.join)

    @step
    def join(self, inputs: list[ParallelFlow]) -> None:
        """Collect."""
        self.nodes = sorted(each.node for each in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    ParallelFlow()
