"""Nobody is let in: every command looks at every hostile file; nothing runs, all is bounded, errors are clear."""

from __future__ import annotations

import os
import random
from pathlib import Path

import strangers_watch
from helpers_processes import HERE, run
from hostile_base import make_places
from strangers_looks import LOOKS
from strangers_watch import HOSTILE

UNIT = "looks"
LONG = 4_000
"""Of the whole matrix, ``len(HOSTILE) * len(LOOKS)``, which takes hours; another seed is another part of it."""
AT_ONCE = 500
"""Looks of a process."""
SHOWN = 100
"""Findings that an error lists."""


ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join((HERE, os.path.dirname(__file__))),
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of these processes: a thread for each core would reserve the memory that a look may have."""


BELIEVED = [["trusted by itself", "get and print"], ["trusted by itself", "API: load"]]
"""Who opens a file as a store of their own believes what it says of trust (see ``sqlitestore.trust``); who imports it,
exports it or salvages it does not."""


def matrix() -> list[list[str]]:
    """Return all pairs of a hostile file and a look, in an order by chance that is always the same."""
    pairs = [[maker, look] for maker in HOSTILE for look in LOOKS if [maker, look] not in BELIEVED]
    random.Random(0).shuffle(pairs)
    return pairs


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Do ``amount`` looks: those of the matrix from ``seed * amount`` on, so that seeds in a row have parts in a row.

    Return counts. Raises AssertionError, with the seed, that lists the looks which did what they must not.
    """
    pairs = matrix()
    chosen = [pairs[(seed * amount + number) % len(pairs)] for number in range(amount)]
    return look_at(chosen, folder, f"seed {seed} of {amount} looks")


def look_at(pairs: list[list[str]], folder: str, of: str) -> dict[str, int | float]:
    """Do the looks. Raises AssertionError."""
    places = make_places(folder)
    total: dict[str, int | float] = {}
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        try:
            found = run(strangers_watch.look_at, folder, some, list(places), timeout=3600, environment=ENVIRONMENT)
        except AssertionError as error:
            now = Path(folder, "now")
            last = now.read_text(encoding="utf-8") if now.exists() else "the good file"
            raise AssertionError(f"{of}: the process ended at {last}: {error}") from error
        wrong = found.pop("wrong")
        assert not wrong, f"{of}: {len(wrong)} looks went wrong:\n" + "\n".join(wrong[:SHOWN])
        for name, value in found.items():
            total[name] = max(total.get(name, 0), value) if name.startswith("peak") else total.get(name, 0) + value
    return total
