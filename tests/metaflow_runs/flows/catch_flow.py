"""Failures that are caught: an exception, a timeout, and processes that are killed."""

from __future__ import annotations

import os
import signal
import time

from metaflow import FlowSpec, catch, retry, step, timeout


class CatchFlow(FlowSpec):
    """Goes on after what went wrong."""

    @step
    def start(self) -> None:
        """Split."""
        self.next(self.risky, self.slow, self.dies)

    @catch(var="failure", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def risky(self) -> None:
        """Fail in every attempt."""
        self.got_so_far = 5
        if self.got_so_far:
            raise ValueError("too much")
        self.next(self.join)

    @catch(var="late", print_exception=False)
    @timeout(seconds=1)
    @step
    def slow(self) -> None:
        """Take longer than allowed."""
        self.begun = True
        time.sleep(60)
        self.next(self.join)

    @catch(var="death", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def dies(self) -> None:
        """End without any goodbye."""
        self.got_so_far = 6
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.join)

    @step
    def join(self, inputs: list[CatchFlow]) -> None:
        """See what there is."""
        self.failure = inputs.risky.failure
        self.late = inputs.slow.late
        self.begun = inputs.slow.begun
        self.death = inputs.dies.death
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    CatchFlow()
