"""Everything that is still whole out of a damaged file, into a new one. The damaged file is only read.

Nothing is trusted but what proves itself: content by its key, rows by their digests over their names. Where SQL would
lose all that hangs below a damaged page, the pages themselves are read (``carving``). What was deleted does not come
back. Ids of rows are kept. Holds of writers and lists of garbage are not taken over: nobody writes into the new file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import apsw

from sqlitestore import schema
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import NotAStore, StoreMissing
from sqlitestore.maintenance.carving import Carver
from sqlitestore.maintenance.page_file import PageFile
from sqlitestore.maintenance.salvage_attempts import AttemptSalvage
from sqlitestore.maintenance.salvage_content import ContentSalvage
from sqlitestore.maintenance.salvage_names import RunNames
from sqlitestore.maintenance.salvage_records import RecordSalvage
from sqlitestore.maintenance.salvage_staging import Staging
from sqlitestore.maintenance.verification import Checked, Findings, Problem
from sqlitestore.new_file import new_file
from sqlitestore.pragmas import PAGE_SIZE, choose_page_size, distrust_the_file, let_the_file_shrink
from sqlitestore.progress import SILENT, Progress
from sqlitestore.sqlite_errors import translated

UPDATE_STORE = "UPDATE store SET uuid = ?, created = ?"
SET_SEQUENCE = "INSERT INTO sqlite_sequence(name, seq) VALUES ('chunk', ?)"
COUNT_FLOWS_OF_ONE_KIND = """SELECT COUNT(1) FROM (
 SELECT c0, c1 FROM flow WHERE rank < 2 GROUP BY c0, c1 HAVING COUNT(DISTINCT rank) = 1)"""
"""Flows that only the table has, or only its index (see ``carving.ATTACHED``)."""
COUNT_OUT_OF_ORDER = """SELECT COUNT(1) FROM (
 SELECT c0, LAG(c0) OVER (PARTITION BY page ORDER BY cell) AS before FROM untrusted) WHERE c0 <= before"""
COUNT_NAMES_AS_ORIGINS = "SELECT COUNT(1) FROM untrusted AS u JOIN flow AS f ON f.c0 = u.c0 AND f.c1 = u.c1"
DELETE_SEQUENCE = "DELETE FROM sqlite_sequence"
LARGEST_CHUNK = "SELECT COALESCE(MAX(id), 0) FROM chunk"
DELETE_UNNEEDED_BLOB = """DELETE FROM blob WHERE key = ?1 AND id NOT IN (SELECT blob FROM artifact
 UNION SELECT blob FROM log UNION SELECT blob FROM data UNION SELECT blob FROM file
 UNION SELECT blob FROM trashed_file)"""
COUNT_BLOBS = "SELECT COUNT(1), COALESCE(SUM(size), 0), (SELECT COUNT(1) FROM chunk) FROM blob"
DELETE_LISTS = "DELETE FROM blob_chunk WHERE blob NOT IN (SELECT id FROM blob)"
DELETE_LOOSE_CHUNKS = "DELETE FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)"


class SalvageReport(NamedTuple):
    """The outcome of ``salvage``: what is in the new file, and what is not whole.

    ``problems`` are the first of ``found`` (see ``verification``); ``size`` is that of the new file [bytes];
    ``seconds`` is how long it took [s].
    """

    path: str
    out: str
    saved: Checked
    problems: list[Problem]
    found: int
    size: int
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether nothing was lost."""
        return not self.found


def salvage(path: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: Progress = SILENT) -> SalvageReport:
    """Write what is whole of the file at ``path`` to a new store at ``out``.

    Raises StoreMissing if there is no file, FileExists if there is one at ``out``, NotAStore if nothing of a store is
    found in it; no file is left then, as when it is interrupted.
    """
    start = time.monotonic()
    path, out = os.fspath(path), os.fspath(out)
    if not os.path.isfile(path):
        raise StoreMissing(f"There is no file {path}; give the path of a damaged store.")
    findings = Findings(path)
    with (
        _errors_as_ours(out),
        new_file(out) as temporary,
        PageFile(os.path.realpath(path)) as pages,
        closing(Staging()) as staging,
    ):
        carver = Carver(pages, findings, progress)
        if pages.cut:
            findings.add("store", "the end of the file is missing")
        found = int.from_bytes(pages.header[60:64], signed=True)  # user_version
        if found > schema.NEWEST_FORMAT:  # or damage made it so: then all that there is will be saved
            findings.add(
                "store",
                f"it has format {found}; this sqlitestore knows formats {schema.OLDEST_FORMAT} to "
                f"{schema.NEWEST_FORMAT}, and saves nothing of what later ones added",
            )
        staging.fill(carver.rows())
        crash_point("salvage-staged")
        _Salvage(temporary, staging, carver, pages, findings, progress).run()
    return SalvageReport(
        path=path,
        out=out,
        saved=findings.checked,
        problems=findings.problems,
        found=findings.found,
        size=os.path.getsize(out),
        seconds=time.monotonic() - start,
    )


@contextmanager
def _errors_as_ours(out: str) -> Iterator[None]:
    """Raise DiskFull or StoreUnavailable for what SQLite says of the new file, or of what is gathered for it."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error, out) from error


class _Salvage:
    """Sorts out what was carved, and writes the new file."""

    def __init__(
        self,
        temporary: str,
        staging: Staging,
        carver: Carver,
        pages: PageFile,
        findings: Findings,
        progress: Progress,
    ) -> None:
        self._temporary = temporary
        self._staging = staging
        self._carver = carver
        self._pages = pages
        self._findings = findings
        self._progress = progress

    def run(self) -> None:
        """Do it. Without a journal: the file is thrown away if anything fails."""
        stores = list(self._staging.all("store"))
        if not stores and not any(next(self._staging.firsts(name), None) for name in ("blob", "attempt", "run")):
            raise NotAStore(f"Nothing of a store is left in {self._findings.path}, or it never was one.")
        _, _, uuid, kind, created, _ = stores[0] if stores else (0, 1, "", schema.LIVE, 0.0, "")
        if not stores or kind not in {schema.LIVE, schema.ARCHIVE} or not _is_uuid(uuid) or not created >= 0:
            self._findings.add("store", "its identity is lost; it has a new one")
            uuid, created = str(uuid4()), time.time()
            stores = []
        with closing(apsw.Connection(self._temporary)) as out:
            _prepare(out)
            with out:
                schema.create_tables(out, kind if kind == schema.ARCHIVE else schema.LIVE)
                out.execute(UPDATE_STORE, (uuid, created))
            crash_point("salvage-tables-made")
            self._fill(out, uuid, is_archive=not stores or kind == schema.ARCHIVE)

    def _fill(self, out: apsw.Connection, uuid: str, *, is_archive: bool) -> None:
        """Move everything; ``is_archive`` if it was one, or if nobody knows."""
        names = RunNames(self._staging, self._carver.hurt)
        content = ContentSalvage(self._staging, out, self._carver.payload, self._findings, self._progress)
        content.run()
        crash_point("salvage-content-moved")
        AttemptSalvage(self._staging, out, names, content, self._findings, self._progress).run()
        crash_point("salvage-attempts-moved")
        records = RecordSalvage(self._staging, out, names, content, self._findings)
        records.records()
        names.settle(self._findings)
        records.runs()
        records.files()
        records.data()
        records.trust(uuid, all_untrusted=self._is_trust_lost(is_archive=is_archive))
        crash_point("salvage-records-moved")
        with out:
            out.executemany(DELETE_UNNEEDED_BLOB, ((key,) for key in content.unsure))
            out.execute(DELETE_LISTS)
            out.execute(DELETE_LOOSE_CHUNKS)
            largest: Any = out.execute(LARGEST_CHUNK).get
            out.execute(DELETE_SEQUENCE)
            if sequence := max(largest, self._staging.sequence):
                out.execute(SET_SEQUENCE, (sequence,))
        crash_point("salvage-tidied")
        counts: Any = out.execute(COUNT_BLOBS).fetchone()
        for kind, count in zip(("blobs", "bytes", "chunks"), counts, strict=True):
            self._findings.count(kind, count)
        out.execute("PRAGMA incremental_vacuum").fetchall()

    def _is_trust_lost(self, *, is_archive: bool) -> bool:
        """Whether it is not known for sure which runs are untrusted. Before format 3 all of an archive were."""
        if not self._carver.schema_whole or "untrusted" in self._carver.hurt:
            return True
        # Rows of "flow" and of "untrusted" look alike: if the pages of the two changed places, only the index tells.
        if self._staging.query(COUNT_FLOWS_OF_ONE_KIND) != [(0,)]:
            return True
        if self._staging.query(COUNT_NAMES_AS_ORIGINS) != [(0,)]:  # a copy of the page of flows has taken the place
            return True
        if self._staging.query(COUNT_OUT_OF_ORDER) != [(0,)]:  # an id that changed makes another run trusted
            return True
        roots: dict[str, int] = self._carver.roots
        return is_archive and "untrusted" not in roots


def _prepare(out: apsw.Connection) -> None:
    choose_page_size(out)
    let_the_file_shrink(out)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY"):
        out.execute(f"PRAGMA {pragma}").fetchall()
    distrust_the_file(out)  # late: it takes "off" for no journal mode
    out.execute(f"PRAGMA cache_size=-{4096 * PAGE_SIZE // 1024}")
    out.execute("PRAGMA foreign_keys=OFF")  # runs come last, when their names are proven


def _is_uuid(text: Any) -> bool:
    try:
        return bool(str(UUID(text)) == text)
    except (ValueError, TypeError, AttributeError):
        return False
