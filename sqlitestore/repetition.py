"""Trees of pages that repeat themselves: a forged file of a megabyte whose tables seem to have billions of rows.

SQLite follows the references from page to page, and does not ask whether it has been at one before. A page that names
the next one 800 times, and that one its next, have 800 * 800 times the rows of the last: to count them never ends, and
to gather them takes all memory. To look at all pages beforehand would make opening slow for everybody. So the trees are
looked at, once for a connection, when it has worked longer than to read a file of that size gives reason to. Whoever
works so long for good reason pays for about one reading of the file, and is not refused.

SQLite cannot be stopped while it counts the rows of a whole table by ``COUNT(*)``, which none of our statements has.
"""

from __future__ import annotations

import os
from contextlib import closing

import apsw

from sqlitestore.errors import Damaged
from sqlitestore.pragmas import distrust_the_file, fault_of_the_trees

STEPS = 20_000
"""Of SQLite's virtual machine, or pages that it checks, between two questions whether to go on: about a millisecond."""

ENOUGH = 2_000_000
"""Steps of a connection that give no reason to look: a row takes 5 to 100 of them, so some ten thousand rows."""

ENOUGH_A_BYTE = 2
"""Steps more for each byte of the file; to plan the prune of 10,000 small tasks took 0.9."""


def watch_for_repetition(connection: apsw.Connection, target: str, path: str) -> None:
    """Have it noticed by what ``connection`` executes: Damaged is raised. ``target`` is the file as it was opened.

    Since Python runs at these moments, Ctrl-C ends a statement that lasts, too.
    """
    connection.set_progress_handler(_Watch(target, path), STEPS)


class _Watch:
    """A progress handler: SQLite asks it whether to stop."""

    def __init__(self, target: str, path: str) -> None:
        self._target = target
        self._path = path
        self._steps = 0
        self._is_sound = False

    def __call__(self) -> bool:
        self._steps += STEPS
        if not self._is_sound and self._steps > ENOUGH:
            files = (self._path, self._path + "-wal")
            size = sum(os.path.getsize(file) for file in files if os.path.exists(file))
            if self._steps > ENOUGH + ENOUGH_A_BYTE * size:
                self._look()
        return False

    def _look(self) -> None:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            with closing(apsw.Connection(self._target, flags)) as connection:
                distrust_the_file(connection)
                found = fault_of_the_trees(connection)
        except apsw.BusyError:
            return  # a writer has it alone for a moment: at the next time
        if found:
            raise Damaged(
                f"{self._path} is damaged or forged: it takes far longer to read than a file of its size gives reason "
                f"to, and its pages are not in order ({found}). Restore it from a backup, or salvage "
                "what is whole."
            )
        self._is_sound = True
