"""Files of old formats, whose migration is killed at every statement and at every write: old or new, nothing between.

A crash is a moment in one of the files of ``old_files``: before or after a statement, or in the middle of a write to
the file, its log or its journal. The moments come in an order by the seed; the long run has them all in each of its
two processes.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

from crashing_process import crash
from old_files import NEWEST, STATES, OldFile, copy, make

from sqlitestore import FlowDataStore

UNIT = "crashes"
LONG = 2 * 1700
SLICES = 2  # each of which comes to every moment
IN_MEMORY = True


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Kill so many migrations; return how the files were found."""
    figures: Counter[str] = Counter()
    files = {}
    moments = []
    for number in range(1, NEWEST):
        for state in STATES:
            path = os.path.join(folder, f"{number} {state}.db")
            make(path, number, state)
            files[path] = OldFile(path, number, state, folder)
            moments += [(path, event) for event in range(1, _events(path, folder) + 1)]
    figures["moments that there are"] = len(moments)
    random.Random(seed).shuffle(moments)
    for path, event in (moments * (amount // len(moments) + 1))[:amount]:
        try:
            found = _crash_and_check(files[path], path, event, folder)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {os.path.basename(path)}, killed at event {event}: {error}") from error
        figures["crashes"] += 1
        figures[f"found as format {found}, was {files[path].number}"] += 1
        figures[f"crashes of a file {files[path].state}"] += 1
    return dict(figures)


def _open(path: str) -> None:
    FlowDataStore("GoldenFlow", ds_root=path).close()


def _events(path: str, folder: str) -> int:
    work = os.path.join(folder, "work.db")
    copy(path, work)
    count = crash(lambda: _open(work), 0)
    _remove(work)
    return count


def _crash_and_check(file: OldFile, path: str, event: int, folder: str) -> int:
    """Kill one migration; return the format that the file has afterwards."""
    work = os.path.join(folder, "work.db")
    copy(path, work)
    try:
        assert crash(lambda: _open(work), event) == 0, "it was not killed"
        found = file.check_after_a_crash(work)
        file.check_opened(work)
    finally:
        _remove(work)
    return found


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(path + suffix).unlink(missing_ok=True)
