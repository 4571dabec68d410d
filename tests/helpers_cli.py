"""What the tests of the command line share: a store to look at, and three ways to run the commands."""

import errno
import os
import pty
import subprocess
import sys

import numpy as np
import pandas as pd
from click.testing import CliRunner

from sqlitestore import FlowDataStore
from sqlitestore.cli.app import application

TASK = "Train/2/train/7"
COMMANDS = {
    "ls": [["ls"], ["ls", "Train"], ["ls", "Train/2"], ["ls", "Train/2/train"], ["ls", TASK], ["ls", f"{TASK}/auc"]],
    "show": [["show", "Train"], ["show", "Train/2"], ["show", "Train/2/train"], ["show", TASK], ["show", f"{TASK}/df"]],
    "get": [["get", f"{TASK}/auc", "--print"]],
    "logs": [["logs", TASK]],
    "du": [["du"], ["du", "Train"], ["du", "Train/1"]],
    "info": [["info"]],
    "diff": [["diff", "Train/1", "Train/2"]],
    "verify": [["verify"], ["verify", "--quick"]],
}
CHANGING = ("export", "import", "trust", "tag", "prune", "restore", "compact", "salvage", "push", "pull")
"""Commands that change the file, or make one; their tests are elsewhere."""

EVERY_CALL = [call for calls in COMMANDS.values() for call in calls]


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def save(flow, run, step, task, artifacts, *, attempt=0, done=True):
    datastore = flow.get_task_datastore(run, step, task, attempt=attempt, mode="w")
    datastore.init_task()
    datastore.save_artifacts(artifacts.items())
    datastore.save_logs("runtime", {"stdout": f"out {run}\n".encode(), "stderr": b"\xff\x1b[31mred\x1b]0;title\x07\n"})
    datastore.save_metadata({"note": {"run": run}})
    if done:
        datastore.done()


def make_store(path):
    """Make a store with two runs of a flow; a task of the second was tried twice, and one is not done."""
    array = np.random.default_rng(0).random(100_000)
    frame = pd.DataFrame({"year": [2013, 2014], "carrier": ["UA", "AA"]})
    with FlowDataStore("Train", ds_root=path) as flow:
        save(flow, "1", "train", "3", {"x": array, "auc": 0.5})
        save(flow, "2", "train", "7", {"auc": 0.1}, done=False)
        save(flow, "2", "train", "7", {"x": array, "auc": 0.93, "df": frame, "words": ["a", "b"]}, attempt=1)
        save(flow, "2", "train", "8", {"_task_ok": False})
        save(flow, "2", "end", "9", {}, done=False)
        flow.save_data([b"kept"])
    return path


def run(store, *arguments, **options):
    """Run the command line in this process."""
    return CliRunner().invoke(application, ["--file", str(store), *arguments], prog_name="sqlitestore", **options)


def as_process(store, *arguments, **options):
    """Run the command line as users do, output piped."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", str(store), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def on_terminal(store, *arguments, columns=120):
    """Run the command line with a terminal for its output; return exit code and what the terminal got."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", str(store), *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        got = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # which Linux says when the other side is closed
                    raise
                break
            if not block:
                break
            got += block
    os.close(ours)
    return process.returncode, got.decode()


def table(output):
    """Return the rows of a tab-separated table by their headings."""
    head, *lines = [line.split("\t") for line in output.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]
