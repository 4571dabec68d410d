"""A step that fails twice and then succeeds; with ``--hopeless`` it never does."""

from __future__ import annotations

import sys

from metaflow import FlowSpec, Parameter, current, retry, step


class RetryFlow(FlowSpec):
    """Three attempts at most."""

    hopeless = Parameter("hopeless", default=False)

    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self) -> None:
        """Fail, unless it is the last attempt."""
        self.tried = current.retry_count
        print(f"attempt {self.tried}")
        if self.tried < 2 or self.hopeless:
            print(f"bad luck {self.tried}", file=sys.stderr)
            raise RuntimeError(f"attempt {self.tried} fails")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""


if __name__ == "__main__":
    RetryFlow()
