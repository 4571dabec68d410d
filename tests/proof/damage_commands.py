"""The command line over damaged files: an exit code and a message, never a traceback, and nothing wrong."""

from __future__ import annotations

import os

from damage_files import clear
from helpers_cli import run
from helpers_store import FLOW

from sqlitestore.maintenance.verification import Verification

LOOKING = {
    "ls": ["ls"],
    "ls of a run": ["ls", f"{FLOW}/1/a"],
    "show": ["show", f"{FLOW}/1/a/1"],
    "get": ["get", f"{FLOW}/1/a/1/number", "--print"],
    "logs": ["logs", f"{FLOW}/1/a/0"],
    "diff": ["diff", f"{FLOW}/1/a/0", f"{FLOW}/1/a/1"],
}
"""Commands whose output depends on nothing but what is stored."""

OTHERS = {
    "du": ["du"],
    "info": ["info"],
    "verify": ["verify"],
    "salvage": ["salvage", "-o"],
    "export": ["export", "-o"],
}


def outputs(path: str) -> dict[str, str]:
    """Return what the commands print of a whole file; each must succeed."""
    found = {}
    for name, arguments in LOOKING.items():
        result = run(path, *arguments)
        assert result.exit_code == 0, f"{name}: {result.output}"
        found[name] = result.stdout
    return found


def check_commands(path: str, right: dict[str, str], found: Verification) -> None:
    """Run all commands; a file that verify finds whole gives what it gave before."""
    out = path + ".out"
    for name, arguments in (LOOKING | OTHERS).items():
        clear(out)
        made = arguments[-1] == "-o"
        result = run(path, *arguments, *([out] if made else []))
        raised = result.exception
        assert raised is None or isinstance(raised, SystemExit), f"the command {name} raised {raised!r}"
        assert "Traceback" not in result.output, f"the command {name} shows a traceback"
        assert result.exit_code in {0, 1, 2}, f"the command {name} ended with {result.exit_code}"
        assert result.output.strip(), f"the command {name} ended with {result.exit_code} and says nothing"
        if name == "verify":
            assert (result.exit_code == 0) == found.ok
        elif found.ok and name in right:
            assert result.stdout == right[name], f"the command {name} shows something else, and verify finds nothing"
        if made and result.exit_code not in {0, 1}:
            assert not os.path.exists(out), f"the command {name} failed and left a file"
    clear(out)
