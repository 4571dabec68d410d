"""Three steps in a row: parameters, included files, artifacts of many types, logs, and what ``current`` says."""

from __future__ import annotations

import os
import sys

from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, current, step
from values import STORED, WORDS


class LinearFlow(FlowSpec):
    """Stores what ``values.STORED`` has."""

    count = Parameter("count", default=3)
    rate = Parameter("rate", default=0.25)
    title = Parameter("title", default="Bücher & Co")
    loud = Parameter("loud", default=False)
    options = Parameter("options", type=JSONType, default='{"a": [1, 2]}')
    words = IncludeFile("words", default=WORDS)
    notes = IncludeFile("notes", default=WORDS, encoding="utf-8")
    blob = IncludeFile("blob", is_text=False, required=False)

    @step
    def start(self) -> None:
        """Store all, and read what was given."""
        for name, value in STORED.items():
            setattr(self, name, value)
        self._hidden = "not listed"
        self.read = (self.count, self.rate, self.title, self.loud, self.options, self.words, self.notes)
        self.read_blob = self.blob
        print("first line of stdout")
        print("Grüße ✓ 日本")
        print("to stderr", file=sys.stderr)
        self.next(self.middle)

    @step
    def middle(self) -> None:
        """Change one artifact, take over the others, print without a last line break and write below Python."""
        self.number_before, self.number = self.number, 7
        self.said = {
            name: getattr(current, name)
            for name in ("flow_name", "run_id", "step_name", "task_id", "pathspec", "retry_count", "origin_run_id")
        }
        self.said |= {"username": current.username, "namespace": current.namespace, "tags": sorted(current.tags)}
        self.running = (current.is_running_flow, current.run.pathspec, current.task.pathspec)
        self.folder_is_there = os.path.isdir(current.tempdir)
        os.write(1, b"raw bytes \xff\n")
        print("no end", end="")
        self.next(self.end)

    @step
    def end(self) -> None:
        """Print nothing."""
        self.text_again = self.text


if __name__ == "__main__":
    LinearFlow()
