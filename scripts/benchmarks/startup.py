"""How long `import sqlitestore` and `sqlitestore --help` take, and what they import of others."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.workloads import Call, Costs

REPEATS = 5
IMPORT = ["-c", "from sqlitestore import FlowDataStore"]
HELP = [str(Path(sys.executable).parent / "sqlitestore"), "--help"]


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def start(call: Call) -> Costs:
    """Return how long a Python that imports the package takes beyond a bare one, and the command's whole time."""
    del call
    imports, helps = [], []
    for _ in range(REPEATS):
        bare = _seconds([sys.executable, "-c", "pass"])
        imports.append(_seconds([sys.executable, *IMPORT]) - bare)
        helps.append(_seconds([sys.executable, *HELP]))
    return {"amount": 1, "import": statistics.median(imports), "help": statistics.median(helps)}


def imported() -> dict[str, list[str]]:
    """Return the packages of others that each imports, by command."""
    commands = {"import sqlitestore": IMPORT, "sqlitestore --help": HELP}
    bare = _modules(["-c", "pass"])
    return {what: sorted(_modules(command) - bare) for what, command in commands.items()}


def _modules(command: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s*(\w+)", done.stderr, re.MULTILINE)
    others = {name for name in names if name not in sys.stdlib_module_names and name != "sqlitestore"}
    return {name for name in others if find_spec(name)}  # what was asked for in vain is listed, too
