"""The table ``untrusted``: runs that came from somebody else, whose artifacts are not unpickled until the user says so.

Unpickling runs what the pickle says. Every run in an archive stands here, and every run that was imported. The mark
keeps people from running a stranger's pickle by mistake; it cannot tell who made a file. Whoever doctors a file can
leave the mark out, so what comes from a stranger is imported rather than opened: then the mark is our own.
"""

from __future__ import annotations

import apsw

from sqlitestore.database import Database
from sqlitestore.schema import RUNS_COME_AND_GO
from sqlitestore.tasks import ORIGIN

SELECT_ORIGIN = f"""SELECT {ORIGIN} FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN untrusted AS u ON u.run = r.id
 WHERE f.name = ? AND r.name = ?"""
SELECT_ORIGIN_BEFORE_FORMAT_3 = "SELECT uuid FROM store WHERE kind = 'archive'"
SELECT_UNTRUSTED = f"""SELECT f.name, r.name, {ORIGIN} FROM untrusted AS u JOIN run AS r ON r.id = u.run
 JOIN flow AS f ON f.id = r.flow WHERE r.name NOT GLOB '*/*' ORDER BY f.name, r.id"""
INSERT_UNTRUSTED = "INSERT INTO untrusted(run, origin) VALUES (?, ?) ON CONFLICT DO NOTHING"
DELETE_UNTRUSTED = """DELETE FROM untrusted WHERE run =
 (SELECT r.id FROM flow AS f JOIN run AS r ON r.flow = f.id WHERE f.name = ? AND r.name = ?)"""


class Trust:
    """Who may be unpickled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def origin(self, flow_name: str, run_name: str) -> str | None:
        """Return where an untrusted run came from; None for a trusted one, and for one that is not there."""
        if self._database.format < RUNS_COME_AND_GO:
            rows = self._database.query(SELECT_ORIGIN_BEFORE_FORMAT_3)
        else:
            rows = self._database.query(SELECT_ORIGIN, (flow_name, run_name))
        return str(rows[0][0]) if rows else None

    def untrusted(self) -> list[tuple[str, str, str]]:
        """Return (flow, run, origin) of each untrusted run."""
        if self._database.format < RUNS_COME_AND_GO:
            return []
        return [(flow, run, origin) for flow, run, origin in self._database.query(SELECT_UNTRUSTED)]

    def trust(self, flow_name: str, run_name: str) -> bool:
        """Let a run's artifacts be unpickled from now on; False if they could be already."""
        with self._database.write() as connection:
            connection.execute(DELETE_UNTRUSTED, (flow_name, run_name))
            return bool(connection.changes())


def distrust(connection: apsw.Connection, run: int, origin: str) -> None:
    """Mark a run, by the id of its row, inside the transaction that brings it."""
    connection.execute(INSERT_UNTRUSTED, (run, origin))
