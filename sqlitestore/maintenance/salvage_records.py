"""The other rows out of a damaged file: metadata, registrations, named files, data, the trash and trust."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apsw

from sqlitestore.maintenance.carving import UNCERTAIN
from sqlitestore.maintenance.records import RECORD_TABLES, RecordTable, is_digest, is_json, is_legal
from sqlitestore.maintenance.salvage_content import ContentSalvage
from sqlitestore.maintenance.salvage_names import RunName, RunNames
from sqlitestore.maintenance.salvage_staging import Staging
from sqlitestore.maintenance.verification import Findings, pathspec_of
from sqlitestore.tasks import digest_of

INSERT = "INSERT OR IGNORE INTO {} VALUES ({})"
INSERT_FLOW = "INSERT INTO flow(name) VALUES (?) ON CONFLICT DO NOTHING"
INSERT_FLOW_WITH_ID = "INSERT OR IGNORE INTO flow(id, name) VALUES (?, ?)"
SELECT_FLOW = "SELECT id FROM flow WHERE name = ?"
INSERT_RUN = "INSERT INTO run(id, flow, name) VALUES (?, ?, ?)"
INSERT_TRASH = "INSERT INTO trash(run, name, trashed, purging) VALUES (?, ?, ?, ?)"
INSERT_UNTRUSTED = "INSERT OR IGNORE INTO untrusted(run, origin) VALUES (?, ?)"
DISTRUST_ALL = "INSERT OR IGNORE INTO untrusted(run, origin) SELECT id, ? FROM run"
INSERT_DATA = "INSERT OR IGNORE INTO data(blob, flow) VALUES (?, ?)"
SELECT_UNREGISTERED = """SELECT run, MIN(ts_epoch) FROM (SELECT run, ts_epoch FROM registered_step
 UNION ALL SELECT run, ts_epoch FROM registered_task) WHERE run NOT IN (SELECT run FROM registered_run) GROUP BY run"""
SELECT_TASK_IDS = """SELECT COALESCE(MAX(CAST(task AS INTEGER)), -1) + 1 FROM registered_task
 WHERE run = ? AND task NOT GLOB '*[^0-9]*' AND length(task) < 10"""


class RecordSalvage:
    """Moves what is not content and not of attempts. ``records`` first: they prove names of runs too."""

    def __init__(
        self, staging: Staging, out: apsw.Connection, names: RunNames, content: ContentSalvage, findings: Findings
    ) -> None:
        self._staging = staging
        self._out = out
        self._names = names
        self._content = content
        self._findings = findings

    def records(self) -> None:
        """Move the rows that belong to runs and carry their own digests."""
        with self._out:
            for table in RECORD_TABLES:
                for run in self._staging.firsts(table.name):
                    self._save_records(table, run)
            self._register_again()

    def runs(self) -> None:
        """Move flows and runs whose names are proven, those in the trash among them."""
        with self._out:
            for flow in self._staging.firsts("flow"):
                for name in self._names.flow_names(flow):
                    if flow > 0 and self._names.is_flow_known(name):
                        self._out.execute(INSERT_FLOW_WITH_ID, (flow, name))
            for run, proven in self._names.proven.items():
                hidden = proven.run if proven.trashed is None else f"trash/{run}"
                self._out.execute(INSERT_RUN, (run, self._flow(proven.flow), hidden))
                self._findings.count("runs")
                if proven.trashed is not None:
                    when = proven.trashed if 0 <= proven.trashed < float("inf") else 0.0
                    self._out.execute(INSERT_TRASH, (run, proven.run, when, int(bool(proven.purging))))
            self._findings.count("flows", self._out.execute("SELECT COUNT(1) FROM flow").get)

    def _flow(self, name: str) -> int:
        self._out.execute(INSERT_FLOW, (name,))
        return int(self._out.execute(SELECT_FLOW, (name,)).get)

    def _save_records(self, table: RecordTable, run: Any) -> None:
        """Save a run's rows of a table; of those with one key the surest that is proven."""
        by_key: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        for rank, _, *values, digest in self._staging.find(table.name, run):
            by_key.setdefault(tuple(values[: table.keys]), []).append((rank, values, digest))
        positions: dict[tuple[Any, ...], int] = {}
        for key in sorted(by_key, key=repr if table.name != "registered_metadata" else _by_position):
            rows = by_key[key]
            sure = [row for row in rows if row[0] < UNCERTAIN] or rows
            for _, values, digest in sure:
                name = self._names.verified(run, digest, *values)
                legal = table.name != "task_metadata" or is_legal(values[3])
                if name is None or table.json_error(values) or not legal:
                    continue
                self._insert(table, run, name, values, digest, positions)
                break
            else:
                if rows is sure and rows[0][0] >= UNCERTAIN:
                    continue
                flow, called = self._names.place(run)
                names, label = table.place(flow, called, sure[0][1])
                message = f"it is lost or damaged (table {table.name})"
                self._findings.add(table.kind, message, pathspec=pathspec_of(names), name=label)

    def _insert(
        self,
        table: RecordTable,
        run: int,
        name: RunName,
        values: list[Any],
        digest: bytes,
        positions: dict[tuple[Any, ...], int],
    ) -> None:
        if table.name == "registered_metadata":  # numbered without gaps, though one may be lost
            position = positions.get(tuple(values[:2]), 0)
            positions[tuple(values[:2])] = position + 1
            if values[2] != position:
                values = [*values[:2], position, *values[3:]]
                digest = digest_of(name.flow, name.run, *values)
        marks = ", ".join("?" * (len(values) + 2))
        self._out.execute(INSERT.format(table.name, marks), (run, *values, digest))
        self._findings.count("metadata" if table.kind == "metadata" else "registrations")

    def _register_again(self) -> None:
        """Give runs whose registration is lost another, without tags and user, for steps and tasks to refer to."""
        rows: list[Any] = self._out.execute(SELECT_UNREGISTERED).fetchall()
        for run, ts_epoch in rows:
            name = self._names.proven[run]
            values = (None, ts_epoch, "[]", "[]", self._out.execute(SELECT_TASK_IDS, (run,)).get)
            digest = digest_of(name.flow, name.run, *values)
            self._out.execute(INSERT.format("registered_run", "?, ?, ?, ?, ?, ?, ?"), (run, *values, digest))
            message = "its registration is lost, with its tags and user; another was made"
            self._findings.add("registration", message, pathspec=pathspec_of(name[:2]))

    def files(self) -> None:
        """Move named files, those of the trash too."""
        with self._out:
            for path in self._staging_paths():
                rows = self._staging.find("file", path)
                self._save_file("file", path, "", [(row[0], (), row[1:]) for row in rows])
            for run in self._staging.firsts("trashed_file"):
                name = self._names.proven.get(run)
                by_path: dict[Any, list[Any]] = {}
                for rank, _, *row in self._staging.find("trashed_file", run):
                    by_path.setdefault(row[0], []).append((rank, (run,), row))
                for path, rows in by_path.items():
                    where = pathspec_of(self._names.place(run))
                    kept = name is not None and name.trashed is not None
                    self._save_file("trashed_file", path, where, rows if kept else [(0, (), ())])

    def _staging_paths(self) -> Iterable[Any]:
        return [path for (path,) in self._staging.query("SELECT DISTINCT c0 FROM file")]

    def _save_file(self, table: str, path: Any, pathspec: str, rows: list[Any]) -> None:
        message = "its row is lost or damaged"
        for _, before, row in rows:
            if not row:
                continue
            _, blob, size, metadata, digest = row
            for key in self._content.keys_of(blob):
                proven = is_digest(digest, path, key, size, metadata)
                if not proven or not (metadata is None or is_json(metadata)):
                    continue
                saved = self._content.saved(key)
                if saved is None:
                    message = f"its bytes are lost (blob {key.hex()})"
                    continue
                marks = ", ".join("?" * (len(before) + 5))
                self._out.execute(INSERT.format(table, marks), (*before, path, saved[0], size, metadata, digest))
                self._findings.count("files")
                return
        if not rows or rows[0][0] < UNCERTAIN:
            self._findings.add("file", message, pathspec=pathspec, name=path)

    def data(self) -> None:
        """Move what ``save_data`` keeps."""
        with self._out:
            for rank, blob, flow in self._staging.all("data"):
                names = [name for name in self._staging_flow(flow) if self._names.is_flow_known(name)]
                found = [saved for saved in map(self._content.saved, self._content.keys_of(blob)) if saved]
                if names and found:
                    self._out.execute(INSERT_DATA, (found[0][0], self._flow(names[0])))
                    self._findings.count("data", self._out.changes())
                elif rank < UNCERTAIN:
                    keys = [key.hex() for key in self._content.keys_of(blob)] or [f"id {blob}"]
                    where = pathspec_of(self._staging_flow(flow)[:1] or [None])
                    self._findings.add("data", "its bytes are lost", pathspec=where, name=keys[0])

    def _staging_flow(self, flow: Any) -> list[str]:
        return self._names.flow_names(flow)

    def trust(self, origin: str, *, all_untrusted: bool) -> None:
        """Keep the runs untrusted that were; all of them, under ``origin``, if that is not known for sure."""
        with self._out:
            for run in self._staging.firsts("untrusted"):
                for _, _, said in self._staging.find("untrusted", run):
                    if run in self._names.proven:
                        self._out.execute(INSERT_UNTRUSTED, (run, said if isinstance(said, str) else origin))
                    else:
                        all_untrusted = all_untrusted or not self._names.candidates(run)
            if all_untrusted:
                self._out.execute(DISTRUST_ALL, (origin,))
                message = "which runs were not trusted is not known, so none is; see `sqlitestore trust`"
                self._findings.add("untrusted", message)


def _by_position(key: tuple[Any, ...]) -> tuple[str, str, int]:
    return str(key[0]), str(key[1]), key[2]
