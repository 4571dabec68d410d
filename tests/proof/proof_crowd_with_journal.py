"""A smaller crowd on a file with a rollback journal, as on a network volume: readers and writers take turns."""

from __future__ import annotations

from crowd import Crowd, gather

UNIT = "seconds"
LONG = 60
PROCESSES = 1
"""The crowd is one: it is not to be split."""

ROLES = {
    "writer": 4, "passer": 1, "reader": 4, "keeper": 1, "tagger": 1, "opener": 1, "threaded": 1, "forker": 1,
    "pruner": 1, "compactor": 1, "verifier": 1, "exporter": 1, "importer": 1,
}  # fmt: skip
"""Not "plugged": the plug-in takes the journal that fits the place, which here is the log."""


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Let 19 processes work on one file for ``amount`` seconds."""
    return gather(Crowd(ROLES, amount, seed, journal="delete"), folder)
