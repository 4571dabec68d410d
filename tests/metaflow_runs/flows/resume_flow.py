"""A flow that fails in the step that FAIL_IN names."""

from __future__ import annotations

import os

from metaflow import FlowSpec, Parameter, current, step


def maybe_fail() -> None:
    """Fail if this step shall."""
    if os.environ.get("FAIL_IN") == current.step_name:
        raise RuntimeError(f"{current.step_name} fails, as asked")


class ResumeFlow(FlowSpec):
    """Every step notes in which run it was executed."""

    seed = Parameter("seed", default=1)

    @step
    def start(self) -> None:
        """Split."""
        maybe_fail()
        self.ran_in = {"start": current.run_id}
        self.items = [self.seed, self.seed + 1]
        print("started")
        self.next(self.work, foreach="items")

    @step
    def work(self) -> None:
        """Do one."""
        maybe_fail()
        self.ran_in = {**self.ran_in, "work": current.run_id}
        self.square = self.input**2
        print("square", self.square)
        self.next(self.join)

    @step
    def join(self, inputs: list[ResumeFlow]) -> None:
        """Collect."""
        maybe_fail()
        self.ran_in = {**inputs[0].ran_in, "join": current.run_id}
        self.origin = current.origin_run_id
        self.total = sum(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""
        maybe_fail()
        self.ran_in = {**self.ran_in, "end": current.run_id}
        self.result = self.total * 10


if __name__ == "__main__":
    ResumeFlow()
