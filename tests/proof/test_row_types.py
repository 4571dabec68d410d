"""Rows of other types than their table's: looking at them ends in an answer or in Damaged, and in nothing else."""

from __future__ import annotations

from pathlib import Path

import helpers_cli
import pytest
from helpers_everything import make
from helpers_store import FLOW, tampering

from sqlitestore import Damaged, FlowDataStore, diff, export, merge

DOCTORED = {
    "stub": "UPDATE stub SET key = 7",
    "run": "UPDATE run SET name = CAST(name AS BLOB)",
    "log": "UPDATE log SET blob = 'one'",
    "artifact": "UPDATE artifact SET position = 'first'",
    "task_metadata": "UPDATE task_metadata SET value = 1.5",
}
COMMANDS = (["ls", FLOW], ["show", f"{FLOW}/1/a/0"], ["du"], ["logs", f"{FLOW}/1/a/0"], ["verify"])


@pytest.fixture(params=DOCTORED)
def doctored(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Make a file with such rows in one table."""
    path = make(tmp_path / "runs.db")
    with tampering(path) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(DOCTORED[request.param])
    return path


def test_odd_rows_are_damage_to_whoever_copies_them(doctored: str, tmp_path: Path) -> None:
    """Export, import and diff say Damaged or leave the row out; nothing else is raised, and no file is left."""
    raised = []
    for number, work in enumerate((export, merge, diff)):
        with FlowDataStore(FLOW, ds_root=doctored if work is not merge else tmp_path / "new.db") as flow:
            try:
                if work is export:
                    export(flow, tmp_path / f"{number}.db")
                elif work is merge:
                    merge(flow, [doctored])
                else:
                    diff(flow, f"{FLOW}/1", f"{FLOW}/2")
            except Damaged as error:
                raised.append(str(error))
    assert raised, "nobody noticed"
    assert all("runs.db" in message for message in raised)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_odd_rows_end_no_command_in_a_traceback(doctored: str, command: list[str]) -> None:
    """The exit code is 0 or 1, and a message says what is wrong."""
    done = helpers_cli.run(doctored, *command)
    assert done.exit_code in {0, 1}
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 0 or done.output
