"""Runs of other files into this one: ids kept, nothing twice, nothing believed.

Every blob is decoded, hashed and, where this file has one of its key, compared byte by byte. A run comes in one
transaction, after its blobs. Whatever comes is untrusted until the user says otherwise (see ``trust``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.archive.export import select
from sqlitestore.archive.records import (
    Names,
    RunRecords,
    check_path,
    check_records,
    first_difference,
    read_run,
    write_run,
)
from sqlitestore.blobs import sha1_of
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException, InvalidInput, RunExists, StoreReadOnly
from sqlitestore.files import FileRecord
from sqlitestore.maintenance.row_types import odd_rows_are_damage
from sqlitestore.maintenance.usage import content_size
from sqlitestore.progress import SILENT, Progress
from sqlitestore.stubs import fill_stubs
from sqlitestore.tables import Tables, tables_of


class Merged(NamedTuple):
    """What came of it: the pathspecs of runs that are new, that were here already, and that got another name.

    ``renamed`` are pairs of old and new pathspec, which are new too. ``blobs`` and ``size`` [bytes] are the content
    that was looked at; what of it was here already takes no room.
    """

    added: tuple[str, ...]
    skipped: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    tasks: int
    artifacts: int
    blobs: int
    size: int


class _Planned(NamedTuple):
    """A run to be looked at again when its turn comes: where it is, and under which name it shall come."""

    source: Tables
    names: Names
    run_id: str


def merge(
    store: Any,
    files: Iterable[str | os.PathLike[str]],
    *,
    rename: bool = False,
    trust: bool = False,
    progress: Progress = SILENT,
) -> Merged:
    """Bring the runs of archives, or of live files, into an open store.

    A run that is here with the same content (or more: the file had a part of it) is skipped; its tags stay as they are
    here. If another run has its name, RunExists names it, and nothing is imported; with ``rename`` it comes under its
    name and a digest of its content, the same one whenever it is imported again. ``trust`` lets the new runs be
    unpickled at once.

    Raises Damaged, NotAStore, NewerFormat and the like for a file that cannot be read, and InvalidInput for the store
    itself. Runs come one by one: what is done when something fails stays, and the call can be repeated.
    """
    target = tables_of(store)
    if not target.database.writable:
        raise StoreReadOnly(f"{target.database.path} can only be read here, so nothing can be imported into it.")
    with _opened(target, list(files)) as sources:
        count = sum(len(source.tasks.runs(flow)) for source in sources for flow in source.tasks.flows())
        progress.start("Comparing", count, "runs")
        try:
            plan, known = _plan(target, sources, rename=rename, progress=progress)
        finally:
            progress.finish()
        crash_point("merge-planned")
        work = _Merge(target, progress, trust=trust)
        total = sum(content_size(planned.source.database, [planned.names[:2]]) for planned in plan)
        progress.start("Importing", total, "bytes")
        try:
            for source in sources:
                work.flows(source)
                crash_point("merge-flows-brought")
            for planned in plan:
                work.run(planned)
                crash_point("merge-run-brought")
            for planned in known:
                work.complete(planned)
        finally:
            progress.finish()
    return work.report(planned.names.pathspec for planned in known)


@contextmanager
def _opened(target: Tables, files: Sequence[str | os.PathLike[str]]) -> Iterator[list[Tables]]:
    """Open the files for reading only, all before anything is written."""
    opened: list[Tables] = []
    try:
        for file in files:
            path = os.path.abspath(os.fspath(file))
            if os.path.exists(path) and os.path.samefile(path, target.database.path):
                raise InvalidInput(f"{path} is the file that it would be imported into; give another.")
            opened.append(Tables(Database(path, create=False, read_only=True)))
        with odd_rows_are_damage(*(tables.database for tables in opened)):
            yield opened
    finally:
        for tables in opened:
            tables.database.close()


def _plan(
    target: Tables, sources: Iterable[Tables], *, rename: bool, progress: Progress
) -> tuple[list[_Planned], list[_Planned]]:
    """Return the runs that are to be imported, and those that are here already."""
    plan: dict[tuple[str, str], _Planned] = {}
    known: list[_Planned] = []
    for source in sources:
        for [names] in select(source, ()).runs:
            records = read_run(source, names)
            check_records(records, source.database.path)
            run = _name_for(target, plan, records, rename=rename)
            if run is None:
                known.append(_Planned(source, names, names.run_id))
            else:
                plan[names.flow_name, run] = _Planned(source, names, run)
            progress.advance(1)
    return list(plan.values()), known


def _name_for(
    target: Tables, plan: dict[tuple[str, str], _Planned], records: RunRecords, *, rename: bool
) -> str | None:
    """Return the name under which a run comes; None if it is here, or comes from another file. Raises RunExists."""
    for run in [records.run_id, *([_other_name(records)] if rename else [])]:
        planned = plan.get((records.flow_name, run))
        if planned is not None:
            other = read_run(planned.source, planned.names)
            where = planned.source.database.path
        elif run in target.tasks.runs(records.flow_name):
            other = read_run(target, Names(records.flow_name, run))
            where = target.database.path
        else:
            return run
        difference = first_difference(other.renamed(run).comparable(), records.renamed(run).comparable())
        if not difference:
            return None
    grown = not first_difference(records.comparable(), other.comparable())
    raise RunExists(
        f"Run {records.pathspec} is in {where} with other content: {difference}. Nothing was imported. "
        + (f"What is there is an earlier state of it: `sqlitestore prune {records.pathspec}`, then import. " * grown)
        + "--rename (rename=True) imports it under another name."
    )


def _other_name(records: RunRecords) -> str:
    """Return a name that says which run of that name it is, the same for the same content."""
    content = sorted(map(repr, records.comparable().items()))
    return f"{records.run_id[:200]}-{hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"


class _Merge:
    """The work on one target, and what is counted on the way."""

    def __init__(self, target: Tables, progress: Progress, *, trust: bool) -> None:
        self._target = target
        self._progress = progress
        self._trust = trust
        self._added: list[str] = []
        self._renamed: list[tuple[str, str]] = []
        self._tasks = self._artifacts = self._size = 0
        self._copied: set[str] = set()

    def report(self, skipped: Iterable[str]) -> Merged:
        """Return what was done."""
        return Merged(
            added=tuple(self._added),
            skipped=tuple(skipped),
            renamed=tuple(self._renamed),
            tasks=self._tasks,
            artifacts=self._artifacts,
            blobs=len(self._copied),
            size=self._size,
        )

    def flows(self, source: Tables) -> None:
        """Bring what belongs to flows beside their runs: what ``save_data`` keeps, and files that are not here."""
        of_runs = tuple(
            f"{folder}/"
            for flow in source.tasks.flows()
            for run in source.tasks.runs(flow)
            for folder in layout.folders_of_run(flow, run)
        )
        files = [
            each for each in source.files.find_records(source.files.below("")) if not each.path.startswith(of_runs)
        ]
        for each in files:
            check_path(each.path, source.database.path)
            _refuse_foreign(each.path, source)
        self._check_files(source, files)
        kept = {flow: source.data.kept(flow) for flow in source.tasks.flows()}
        with self._copied_from(
            source, [*(each.key for each in files), *(key for keys in kept.values() for key in keys)]
        ):
            for flow, keys in kept.items():
                self._target.data.keep(flow, keys)
                crash_point("merge-data-kept")
            with self._target.database.write() as connection:
                self._target.files.insert(connection, files)

    def _check_files(self, source: Tables, files: Sequence[FileRecord]) -> None:
        """Raise RunExists for a path at which this file has something else, Damaged for a file under a wrong hash.

        Metaflow takes an included file that is there under the hash of its content for what it would put there.
        """
        for each in files:
            if each.path.startswith(f"{layout.INCLUDED}/"):
                with source.blobs.open(each.key) as file:
                    if sha1_of(file) != each.path.rpartition("/")[2]:
                        raise Damaged(f"The included file {each.path!r} in {source.database.path} has another hash.")
        ours = {each.path: each for each in self._target.files.find_records(each.path for each in files)}
        for each in files:
            if ours.get(each.path, each) != each:
                raise RunExists(
                    f"The file {each.path!r} in {source.database.path} is another than that in "
                    f"{self._target.database.path}; it was not imported."
                )

    def run(self, planned: _Planned) -> None:
        """Bring a run: its blobs, then its records."""
        source = planned.source
        records = read_run(source, planned.names).renamed(planned.run_id)
        keys = list(records.artifact_blobs())
        there = source.blobs.has(keys)  # an archive names artifacts that it does not hold
        self._check_files(source, records.files)
        found = [key for key, has in zip(keys, there, strict=True) if has]
        with self._copied_from(source, [*found, *records.other_blobs()]):
            crash_point("merge-blobs-copied")
            self._check_sizes(records)
            write_run(self._target, records, None if self._trust else _origin(source, planned))
        self._added.append(records.pathspec)
        if planned.run_id != planned.names.run_id:
            self._renamed.append((planned.names.pathspec, records.pathspec))
        self._tasks += len(records.tasks)
        self._artifacts += sum(len(each.artifacts) for each in records.attempts)

    def complete(self, planned: _Planned) -> None:
        """Bring the blobs of a run that is here, but had been left out of the file that it came from."""
        keys = list(read_run(planned.source, planned.names).artifact_blobs())
        here = self._target.blobs.has(keys)
        there = planned.source.blobs.has(keys)
        missing = [key for key, ours, theirs in zip(keys, here, there, strict=True) if theirs and not ours]
        if missing:
            with self._copied_from(planned.source, missing), self._target.database.write() as connection:
                fill_stubs(connection)
                crash_point("merge-stubs-filled")
            crash_point("merge-run-completed")
            self._target.blobs.release(missing)

    def _check_sizes(self, records: RunRecords) -> None:
        """Raise Damaged if records claim other sizes than their blobs have."""
        claimed = [*records.artifact_blobs().items(), *((each.key, each.size) for each in records.logs)]
        claimed += [(each.key, each.size) for each in records.files]
        sizes = self._target.blobs.sizes({key for key, _ in claimed})
        for key, size in claimed:
            if sizes.get(key, size) != size:
                raise Damaged(
                    f"Run {records.pathspec} claims {size:,} bytes for blob {key}, which has {sizes[key]:,}; it was "
                    "not imported."
                )

    @contextmanager
    def _copied_from(self, source: Tables, keys: Iterable[str]) -> Iterator[None]:
        """Copy blobs, for the block to reference; if it fails, nothing holds them any more."""

        def advance(size: int) -> None:
            self._size += size
            self._progress.advance(size)

        keys = list(dict.fromkeys(keys))
        self._target.blobs.copy(source.blobs, keys, advance)
        self._copied.update(keys)
        try:
            yield
        except BaseException:
            with suppress(DataException):  # the error on its way is the one to see
                self._target.blobs.release(keys)
            raise


def _refuse_foreign(path: str, source: Tables) -> None:
    """Raise Damaged for a file that would say something of a run that is not in its file, or stand for a blob."""
    if layout.is_of_a_run(path):
        raise Damaged(
            f"{source.database.path} was doctored: its file {path!r} belongs to a run that it does not have, or is in "
            "the place of a blob."
        )


def _origin(source: Tables, planned: _Planned) -> str:
    """Return where a run came from, for the message that it is not trusted."""
    return source.trust.origin(*planned.names[:2]) or os.path.basename(source.database.path)
