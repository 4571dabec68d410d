"""Moving the log into the file while a large blob is saved, in another thread.

Whoever saves does not wait for it then, the disk is at work meanwhile, and whoever closes the store finds less to move.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from sqlitestore import pragmas
from sqlitestore.background import begin_writing
from sqlitestore.database import Database
from sqlitestore.errors import DataException

if TYPE_CHECKING:
    from concurrent.futures import Future


class LogMover:
    """Moves the log of a file, if it has one, for one writer of much, who says what was added."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unmoved = 0
        self._move: Future[None] | None = None

    def added(self, size: int) -> None:
        """Take note of ``size`` [bytes] on their way into the log; begin to move it where a commit would."""
        self._unmoved += size
        if self._unmoved >= pragmas.CHECKPOINT_BYTES:
            self._begin()

    def last(self) -> None:
        """Take note that only commits of the caller follow, who would wait for them to move a long log."""
        if self._move is not None:
            self._begin()

    def _begin(self) -> None:
        if (self._move is None or self._move.done()) and self._database.reads_beside_writers:
            self._unmoved = 0
            self._move = begin_writing(partial(_move, self._database))


def _move(database: Database) -> None:
    with suppress(DataException):  # as SQLite itself after a commit: it stays, and the next to move it will say why
        database.beside(pragmas.move_the_log)
