"""64 processes on one file: nobody gets an error, nobody waits for ever, nobody reads what was not written."""

from __future__ import annotations

from crowd import Crowd, gather

UNIT = "seconds"
LONG = 300
PROCESSES = 1
"""The crowd is one: it is not to be split."""

ROLES = {
    "writer": 14, "passer": 4, "reader": 14, "keeper": 4, "plugged": 6, "tagger": 3, "opener": 3, "threaded": 3,
    "forker": 3, "pruner": 2, "compactor": 1, "verifier": 2, "exporter": 2, "importer": 3,
}  # fmt: skip


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Let 64 processes work on one file for ``amount`` seconds."""
    return gather(Crowd(ROLES, amount, seed), folder)
