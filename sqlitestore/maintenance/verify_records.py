"""Every other row: flows, runs, metadata, registrations, named files, data, and what the trash and trust need.

What nothing but its own table says, and what has no digest, can be lost or changed without a trace by a change that
leaves all pages well-formed: a row of ``data``, ``held``, ``garbage`` and ``untrusted``, the times in ``trash`` and
``store``, and the last rows of a task in the tables without rowid and index (metadata, registrations). FORMAT.md, "What
damage can do unnoticed", says when that can be: after a write that the disk lost, or bits flipped in a row that has no
digest. A page that is lost, zeroed, cut off or in another's place breaks the order of keys, the count of pages or the
free space of a page, and ``integrity_check`` tells; ``tests/proof/proof_damage.py`` counts what goes unnoticed.
"""

from __future__ import annotations

from typing import Any

from sqlitestore import schema
from sqlitestore.database import Database
from sqlitestore.holds import ON_ITS_WAY
from sqlitestore.maintenance.records import RECORD_TABLES, RecordTable, is_digest, is_json
from sqlitestore.maintenance.scanning import Source, scan
from sqlitestore.maintenance.verification import Findings, pathspec_of
from sqlitestore.maintenance.verify_attempts import (
    KEY_SIZES,
    NAMES,
    NAMES_WITHOUT_TRASH,
    REAL_NAME,
    check_legal,
    has_trash,
)

OF_RUN = "LEFT JOIN run AS r ON r.id = x.run LEFT JOIN flow AS f ON f.id = r.flow"
BLOB = "LEFT JOIN blob AS b ON b.id = x.blob"
FLOWS = Source("flow", ("id",), ("x.name",))
FILES = Source("file", ("path",), ("b.key", "x.size", "x.metadata", "x.digest", "b.size"), BLOB)
TRASHED_FILES = Source(
    "trashed_file",
    ("run", "path"),
    ("b.key", "x.size", "x.metadata", "x.digest", "b.size", "f.name", "t.name"),
    f"{BLOB} {OF_RUN} LEFT JOIN trash AS t ON t.run = x.run",
)
DATA = Source("data", ("blob", "flow"), ("b.key", "f.name"), f"{BLOB} LEFT JOIN flow AS f ON f.id = x.flow")
TRASH = Source("trash", ("run",), ("f.name", "r.name", "x.name", "x.trashed", "x.purging"), OF_RUN)
UNTRUSTED = Source("untrusted", ("run",), ("f.name", "r.name", "x.origin"), OF_RUN)
HELD = Source("held", ("key", "writer"), ("x.count", "x.since"))
GARBAGE = Source("garbage", ("chunk",), ())


class RecordCheck:
    """Checks the tables of records; ``hurt`` are blobs that are known to be, by key."""

    def __init__(self, database: Database, findings: Findings, hurt: dict[bytes, str]) -> None:
        self._database = database
        self._findings = findings
        self._hurt = hurt
        self._tables = schema.SCHEMAS[database.format]
        self._has_trash = has_trash(database)

    def run(self) -> None:
        """Check everything."""
        self._check_flows_and_runs()
        for table in RECORD_TABLES:
            if table.name in self._tables:
                self._check_records(table)
        for path, *values in scan(self._database, FILES, self._findings):
            self._check_file(path, values, "")
        for blob, _, key, flow in scan(self._database, DATA, self._findings):
            self._findings.count("data")
            self._check_data(blob, key, flow)
        if "trash" in self._tables:
            self._check_trash()

    def _check_flows_and_runs(self) -> None:
        for _, name in scan(self._database, FLOWS, self._findings):
            self._findings.count("flows")
            check_legal(self._findings, "flow", "flow", name, {"pathspec": pathspec_of([name])})
        joins = "LEFT JOIN flow AS f ON f.id = x.flow"
        trash = ("t.name", f"{joins} LEFT JOIN trash AS t ON t.run = x.id") if self._has_trash else ("NULL", joins)
        for row, flow, name, real in scan(
            self._database, Source("run", ("id",), ("f.name", "x.name", trash[0]), trash[1]), self._findings
        ):
            self._findings.count("runs")
            place: dict[str, Any] = {"pathspec": pathspec_of([flow, name if real is None else real])}
            if flow is None:
                self._findings.add("run", f"row {row} belongs to no flow that is there", **place)
            if real is None:
                check_legal(self._findings, "run", "run", name, place)
            else:
                check_legal(self._findings, "run", "run", real, place)
                if name != f"trash/{row}":
                    self._findings.add(
                        "trash", "the run is in the trash, and has a name that can be asked for", **place
                    )

    def _check_records(self, table: RecordTable) -> None:
        """Check digests and JSON; metadata that were registered of a task are numbered from 0."""
        real, joins = (REAL_NAME, NAMES) if self._has_trash else ("r.name", NAMES_WITHOUT_TRASH)
        rest = tuple(f"x.{name}" for name in table.columns[table.keys :])
        source = Source(table.name, table.key, (*rest, "x.digest", "f.name", real), joins.format("x"))
        before: tuple[Any, ...] = ()
        position = 0
        for run, *values, digest, flow, name in scan(self._database, source, self._findings):
            self._findings.count("metadata" if table.kind == "metadata" else "registrations")
            names, label = table.place(flow, name, values)
            place: dict[str, Any] = {"pathspec": pathspec_of(names), "name": label}
            if flow is None or name is None:
                self._findings.add(table.kind, f"it is of no run that is there (table {table.name})", **place)
            elif not is_digest(digest, flow, name, *values):
                self._findings.add(table.kind, f"it is not what was written (table {table.name})", **place)
            elif message := table.json_error(values):
                self._findings.add(table.kind, f"{message} (table {table.name})", **place)
            if table.kind == "metadata":
                check_legal(self._findings, "metadata", "metadata", values[3], {"pathspec": place["pathspec"]})
            if table.name == "registered_metadata" and not self._findings.structure_hurt:
                position = position + 1 if (run, *values[:2]) == before else 0
                before = (run, *values[:2])
                if values[2] != position:
                    self._findings.add(table.kind, f"metadatum {position} is missing", pathspec=place["pathspec"])
                    position = values[2] if isinstance(values[2], int) else 0

    def _check_file(self, path: Any, values: list[Any], pathspec: str) -> None:
        key, size, metadata, digest, stored = values
        self._findings.count("files")
        if key is None:
            message = "its bytes are lost: the blob is not there"
        elif not is_digest(digest, path, key, size, metadata):
            message = "its row is not what was written"
        elif key in self._hurt:
            message = f"its bytes are hurt: {self._hurt[key]}"
        elif size != stored:
            message = "it has another size than its blob"
        else:
            message = "" if metadata is None or is_json(metadata) else "its metadata are no JSON"
        if message:
            self._findings.add("file", message, pathspec=pathspec, name=path)

    def _check_data(self, blob: Any, key: Any, flow: Any) -> None:
        name = key.hex() if isinstance(key, bytes) else f"id {blob}"
        if flow is None or key is None:
            what = "the flow" if flow is None else "the blob"
            self._findings.add("data", f"{what} is not there", pathspec=pathspec_of([flow]), name=name)
        elif key in self._hurt:
            self._findings.add(
                "data", f"its bytes are hurt: {self._hurt[key]}", pathspec=pathspec_of([flow]), name=name
            )

    def _check_trash(self) -> None:
        trashed = set()
        for run, flow, hidden, name, when, purging in scan(self._database, TRASH, self._findings):
            trashed.add(run)
            place: dict[str, Any] = {"pathspec": pathspec_of([flow, name])}
            if hidden is None:
                self._findings.add("trash", f"run {run!r:.40}, which was put there, is not there", **place)
            if not _is_time(when) or purging not in {0, 1}:
                self._findings.add("trash", "it does not say when the run went there", **place)
        for run, path, *values, flow, name in scan(self._database, TRASHED_FILES, self._findings):
            self._check_file(path, values, pathspec_of([flow, name]))
            if run not in trashed and name is None:
                self._findings.add("trash", f"a file of run {run!r:.40}, which is not in the trash", name=path)
        for run, flow, name, origin in scan(self._database, UNTRUSTED, self._findings):
            if name is None or not isinstance(origin, str):
                self._findings.add("untrusted", f"run {run!r:.40} is not there", pathspec=pathspec_of([flow]))
        self._check_work_lists()

    def _check_work_lists(self) -> None:
        for key, writer, count, since in scan(self._database, HELD, self._findings):
            legal = isinstance(key, bytes) and (key == ON_ITS_WAY or len(key) in KEY_SIZES)
            if not (legal and isinstance(writer, bytes) and isinstance(count, int) and count > 0 and _is_time(since)):
                self._findings.add("held", "a row makes no sense", name=key.hex() if isinstance(key, bytes) else "")
        for (chunk,) in scan(self._database, GARBAGE, self._findings):
            if not isinstance(chunk, int) or chunk <= 0:
                self._findings.add("garbage", "a row makes no sense", name=chunk)


def _is_time(seconds: Any) -> bool:
    return isinstance(seconds, float) and 0 <= seconds < float("inf")
