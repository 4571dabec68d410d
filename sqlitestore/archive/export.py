"""Runs into a file of their own, to be sent, kept, or opened on media that can only be read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from sqlitestore import layout
from sqlitestore.archive.records import Names, RunRecords, read_run, write_run
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import InvalidInput, InvalidPathspec, NotFound
from sqlitestore.maintenance.info import identity
from sqlitestore.maintenance.row_types import odd_rows_are_damage
from sqlitestore.maintenance.usage import content_size
from sqlitestore.model import parse_full_pathspec
from sqlitestore.new_file import new_file
from sqlitestore.progress import SILENT, Progress
from sqlitestore.schema import ARCHIVE
from sqlitestore.stubs import fill_stubs
from sqlitestore.tables import Tables, tables_of


class Exported(NamedTuple):
    """What an archive holds. ``left_out`` are the pathspecs of artifacts that are only named in it.

    ``size`` is the file's, ``left_out_size`` that of the serialized artifacts left out, each content once [bytes].
    """

    path: str
    runs: int
    tasks: int
    artifacts: int
    blobs: int
    left_out: tuple[str, ...]
    left_out_size: int
    size: int


class Selection(NamedTuple):
    """What pathspecs mean in a file: parts of runs, and flows that are meant as a whole."""

    runs: tuple[tuple[Names, ...], ...]
    flows: tuple[str, ...]


def export(
    store: Any,
    out: str | os.PathLike[str],
    pathspecs: Iterable[str] = (),
    *,
    max_artifact_size: int | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Write flows, runs, steps or tasks of an open store to the new file ``out``, with all that they need.

    ``pathspecs`` have the form ``Flow[/run[/step[/task]]]``; none of them means everything. An artifact of more than
    ``max_artifact_size`` serialized bytes is only named there: it is listed with its preview, and loading it raises
    BlobLeftOut. All is read in one snapshot (in a store with a rollback journal: one for each run, so as not to keep
    its writers waiting). The archive keeps all ids, is not trusted, and has a rollback journal.

    Raises FileExists, NotFound for what is not there, Damaged. ``out`` is complete, or not there.
    """
    source = tables_of(store)
    if max_artifact_size is not None and max_artifact_size < 0:
        raise InvalidInput(f"max_artifact_size is a number of bytes, not {max_artifact_size}.")
    path, given = os.path.abspath(os.fspath(out)), list(pathspecs)
    with new_file(path) as temporary, odd_rows_are_damage(source.database), _snapshot(source.database):
        selection = select(source, given)
        archive = Tables(Database(temporary, kind=ARCHIVE, journal_mode="off", synchronous="off"))
        crash_point("archive-made")
        try:
            total = content_size(source.database, dict.fromkeys(parts[0][:2] for parts in selection.runs))
            with _Export(source, archive, max_artifact_size, progress, total) as work:
                work.flows(selection.flows)
                if not given:
                    work.files("")
                for wanted in selection.runs:
                    work.run(read_run(source, wanted))
                crash_point("archive-runs-written")
                work.finish()
                crash_point("archive-finished")
        finally:
            archive.database.close()
        size = os.path.getsize(temporary)
    return Exported(
        path, work.runs, work.tasks, work.artifacts, len(work.copied), tuple(work.left_out), work.left_out_size, size
    )


class _Export:
    """The work on one archive, and what is counted on the way."""

    def __init__(self, source: Tables, archive: Tables, largest: int | None, progress: Progress, total: int) -> None:
        self._source = source
        self._archive = archive
        self._largest = largest
        self._progress = progress
        self._total = total
        self._origin = _origin(source)
        self.runs = self.tasks = self.artifacts = self.left_out_size = 0
        self.copied: set[str] = set()
        self.left_out: list[str] = []
        self._left_out_keys: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start("Exporting", self._total, "bytes")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.finish()

    def flows(self, names: Iterable[str]) -> None:
        """Copy what belongs to whole flows beside their runs: what ``save_data`` keeps, and files."""
        for flow in names:
            keys = self._source.data.kept(flow)
            self._copy(keys)
            self._archive.data.keep(flow, keys)
            crash_point("archive-data-kept")
            self.files(*layout.folders_of_flow(flow))

    def files(self, *folders: str) -> None:
        """Copy the files in the folders ("": all) that belong to no run."""
        of_runs = tuple(
            f"{folder}/"
            for flow in self._source.tasks.flows()
            for run in self._source.tasks.runs(flow)
            for folder in layout.folders_of_run(flow, run)
        )
        files = [
            each
            for each in self._source.files.records(folders)
            if not each.path.startswith(of_runs)
            and not layout.is_of_a_run(each.path)  # of a run that is in the trash, or never was
        ]
        self._copy(each.key for each in files)
        with self._archive.database.write() as connection:
            self._archive.files.insert(connection, files)

    def run(self, records: RunRecords) -> None:
        """Copy a run: its blobs, then its records, an artifact left out becoming a stub by itself."""
        sizes = records.artifact_blobs()
        others = records.other_blobs()
        too_large = {key for key, size in sizes.items() if self._largest is not None and size > self._largest}
        there = dict(zip(sizes, self._source.blobs.has(sizes), strict=True))  # stubs of this file stay stubs
        left_out = {key for key in sizes if not there[key] or key in too_large - set(others)} - self.copied
        self._copy([*(key for key in sizes if key not in left_out), *others])
        crash_point("archive-blobs-copied")
        write_run(self._archive, records, self._origin)
        self.runs += 1
        self.tasks += len(records.tasks)
        for attempt in records.attempts:
            self.artifacts += len(attempt.artifacts)
            for name, key, size, *_ in attempt.artifacts:
                if key.hex() in left_out:
                    self.left_out.append(f"{records.pathspec}/{attempt.step}/{attempt.task}/{name}")
                    self.left_out_size += 0 if key.hex() in self._left_out_keys else size
                    self._left_out_keys.add(key.hex())

    def finish(self) -> None:
        """Make artifacts whole that were left out, and whose content came for another reason."""
        with self._archive.database.write() as connection:
            fill_stubs(connection)

    def _copy(self, keys: Iterable[str]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self.copied]
        self._archive.blobs.copy(self._source.blobs, new, self._progress.advance)
        self.copied.update(new)


def _origin(source: Tables) -> str:
    """Return what the archive says of where its runs came from: no path, since it is for others."""
    return f"{os.path.basename(source.database.path)} (store {identity(source.database)})"


@contextmanager
def _snapshot(database: Database) -> Iterator[None]:
    """Read all in one snapshot where that keeps nobody from writing."""
    if not database.reads_beside_writers:
        yield
        return
    with database.read():
        yield


def select(tables: Tables, pathspecs: Iterable[str]) -> Selection:
    """Return what the pathspecs mean, each run once; none of them means everything. Raises NotFound."""
    given = list(pathspecs)
    flows = tables.tasks.flows()
    found: dict[tuple[str, str], list[Names]] = {}
    whole: list[str] = []
    for names in [parse_full_pathspec(pathspec) for pathspec in given] if given else [(flow,) for flow in flows]:
        if len(names) > len(Names._fields):
            raise InvalidPathspec(f"{'/'.join(names)} names an artifact; give its task, or what holds that.")
        runs = tables.tasks.runs(names[0])
        if names[0] not in flows:
            raise NotFound(f"No flow {names[0]!r} in {tables.database.path}; its flows are {_some(flows)}.")
        if len(names) == 1:
            whole.append(names[0])
            for run in runs:
                found.setdefault((names[0], run), []).append(Names(names[0], run))
            continue
        part = Names(*names)
        _check_there(tables, part, runs)
        found.setdefault(part[:2], []).append(part)
    return Selection(tuple(tuple(parts) for parts in found.values()), tuple(dict.fromkeys(whole)))


def _check_there(tables: Tables, part: Names, runs: list[str]) -> None:
    if part.run_id not in runs:
        raise NotFound(
            f"No run {part.run_id!r} of flow {part.flow_name} in {tables.database.path}; the latest are "
            f"{_some(runs[::-1])}."
        )
    if part.step_name is not None:
        tasks = tables.tasks.names(part.flow_name, part.run_id, part.step_name)
        tasks += [each[:2] for each in tables.registrations.tasks(part.flow_name, part.run_id, part.step_name)]
        if not any(part.has(*names) for names in tasks):
            raise NotFound(f"No task {part.pathspec} in {tables.database.path}; `sqlitestore ls` shows what there is.")


def _some(names: list[str]) -> str:
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"  # noqa: PLR2004
