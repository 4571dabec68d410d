"""The tables ``trash`` and ``trashed_file``: runs that were pruned, and may come back until they are purged.

A run in the trash keeps all its rows. Only its name in the table ``run`` is one that nobody can ask for ("trash/" and
the row's id; names have no slash), so no look-up by name needs to know of the trash, its own name is free for another
run, and going in or coming back costs the same for a run of any size. Named files are moved aside with it.
"""

import time
from typing import NamedTuple

import apsw

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import NotFound, RunExists
from sqlitestore.schema import RUNS_COME_AND_GO
from sqlitestore.tasks import run_id

SELECT_TRASH = """SELECT t.run, f.name, t.name, t.trashed, t.purging FROM trash AS t JOIN run AS r ON r.id = t.run
 JOIN flow AS f ON f.id = r.flow ORDER BY t.trashed, t.run"""
INSERT_TRASH = "INSERT INTO trash(run, name, trashed, purging) SELECT id, name, ?, 0 FROM run WHERE id = ?"
HIDE_RUN = "UPDATE run SET name = 'trash/' || id WHERE id = ?"
HIDE_FILES = """INSERT INTO trashed_file(run, path, blob, size, metadata, digest)
 SELECT ?1, path, blob, size, metadata, digest FROM file WHERE path >= ?2 || '/' AND path < ?2 || '0'"""
DELETE_FILES = "DELETE FROM file WHERE path >= ?1 || '/' AND path < ?1 || '0'"
SHOW_RUN = "UPDATE run SET name = ? WHERE id = ?"
SHOW_FILES = """INSERT INTO file(path, blob, size, metadata, digest)
 SELECT path, blob, size, metadata, digest FROM trashed_file WHERE run = ?1"""
DELETE_TRASHED_FILES = "DELETE FROM trashed_file WHERE run = ?"
DELETE_TRASH = "DELETE FROM trash WHERE run = ?"


class TrashedRun(NamedTuple):
    """A run in the trash: its row's id, its names, when it went there [s since 1970], and whether it is being purged.

    One whose purge began is no longer whole, and cannot come back.
    """

    row: int
    flow_name: str
    run_id: str
    trashed: float
    purging: bool

    @property
    def pathspec(self) -> str:
        """``Flow/run``, as it was."""
        return f"{self.flow_name}/{self.run_id}"


class Trash:
    """Puts runs into the trash and takes them out again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self) -> list[TrashedRun]:
        """Return what is in the trash, in the order in which it went there."""
        if self._database.format < RUNS_COME_AND_GO:
            return []
        rows = self._database.query(SELECT_TRASH)
        return [TrashedRun(row, flow, run, trashed, bool(purging)) for row, flow, run, trashed, purging in rows]

    def put(self, flow_name: str, run_name: str) -> bool:
        """Put a run into the trash; False if there is none of the name."""
        with self._database.write() as connection:
            run = run_id(connection, flow_name, run_name)
            if not run:
                return False
            connection.execute(INSERT_TRASH, (time.time(), run))
            crash_point("trash-noted")
            for folder in layout.folders_of_run(flow_name, run_name):
                connection.execute(HIDE_FILES, (run, folder))
                crash_point("trash-files-copied")
                connection.execute(DELETE_FILES, (folder,))
            crash_point("trash-files-hidden")
            connection.execute(HIDE_RUN, (run,))
            crash_point("trash-run-hidden")
        return True

    def restore(self, flow_name: str, run_name: str) -> None:
        """Take the run of that name that was pruned last out of the trash, whole.

        Raises NotFound if it is not there any more, RunExists if its name was taken meanwhile.
        """
        pathspec = f"{flow_name}/{run_name}"
        with self._database.write() as connection:
            found = [each for each in self.runs() if each.pathspec == pathspec]
            if not found or found[-1].purging:
                names = ", ".join(dict.fromkeys(each.pathspec for each in self.runs() if not each.purging))
                gone = "it is being purged" if found else f"there is {names[:300] or 'nothing'}"
                raise NotFound(f"Run {pathspec} is not in the trash of {self._database.path}: {gone}.")
            if run_id(connection, flow_name, run_name):
                raise RunExists(
                    f"Run {pathspec} cannot be restored: {self._database.path} has another run of that name. Prune "
                    "that one first, or export it and import it with --rename."
                )
            row = found[-1].row
            connection.execute(SHOW_RUN, (run_name, row))
            crash_point("restored-run-shown")
            try:
                connection.execute(SHOW_FILES, (row,))
            except apsw.ConstraintError as error:
                raise RunExists(
                    f"Run {pathspec} cannot be restored: files of another run of that name are there."
                ) from error
            crash_point("restored-files-shown")
            connection.execute(DELETE_TRASHED_FILES, (row,))
            crash_point("restored-files-moved")
            connection.execute(DELETE_TRASH, (row,))
