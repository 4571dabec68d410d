"""A flow whose middle step says that it is there (file SIGNAL.there), and waits for SIGNAL.go."""

from __future__ import annotations

import os
import time

from metaflow import FlowSpec, Parameter, step


class WaitingFlow(FlowSpec):
    """Waits for two minutes at most."""

    note = Parameter("note", default="none")

    @step
    def start(self) -> None:
        """Be done at once."""
        self.before = "ready"
        print("before the wait")
        self.next(self.wait)

    @step
    def wait(self) -> None:
        """Wait."""
        self.waited = True
        signal = os.environ["SIGNAL"]
        print("waiting", flush=True)
        with open(f"{signal}.there.part", "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        os.rename(f"{signal}.there.part", f"{signal}.there")
        deadline = time.monotonic() + 120
        while not os.path.exists(f"{signal}.go"):
            if time.monotonic() > deadline:
                raise TimeoutError("nobody said go")
            time.sleep(0.02)
        self.next(self.end)

    @step
    def end(self) -> None:
        """Finish."""
        self.after = self.before + ", " + self.note


if __name__ == "__main__":
    WaitingFlow()
