"""``push``: runs of a file become runs of a datastore of Metaflow's own.

Of each run the blobs that are missing there go first, then logs, then for each attempt what it made and that it is
done, in this order; then what a metadata provider keeps, a task's own document last. So nobody there ever sees a task
that is done without its artifacts, whenever the work is cut off, and the next time it goes on with what is missing. The
step ``end`` comes last: where that is seen, the run is complete, and after a while is not looked through again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from sqlitestore import layout
from sqlitestore.archive.records import Names, RunRecords, read_run
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import BlobNotFound, Damaged, NotFound, RunExists, Untrusted
from sqlitestore.layout import LogPlace, MarkerPlace, MetadataPlace
from sqlitestore.model import TaskAddress
from sqlitestore.path_storage.paths import Item, Paths, batches
from sqlitestore.paths.objects import Objects
from sqlitestore.paths.reading import TYPE, Found, find
from sqlitestore.progress import SILENT, Progress
from sqlitestore.remote.documents import Documents, of_run, of_task, read_json, self_path
from sqlitestore.remote.included import DATATOOLS, Included
from sqlitestore.remote.looking import Listing, Run, look, selected
from sqlitestore.remote.metaflow_storages import as_storage
from sqlitestore.remote.places import Place
from sqlitestore.remote.providers import Provider
from sqlitestore.remote.pull import END, RUNS_TOGETHER, SETTLED, TASKS_TOGETHER, same_but_included
from sqlitestore.remote.pushed_blobs import PushedBlobs, has_metadata, item_of
from sqlitestore.remote.report import Report
from sqlitestore.tables import Tables, tables_of
from sqlitestore.task_records import OF_THE_TASK

FILES_TOGETHER = 200


def push(
    store: Any,
    destination: Any,
    pathspecs: Iterable[str] = (),
    *,
    metadata: Any = None,
    progress: Progress = SILENT,
    dry_run: bool = False,
    settled: float = SETTLED,
) -> Report:
    """Bring runs (``Flow`` or ``Flow/run``; none: all) of the open ``store`` to ``destination``, under their own names.

    ``destination`` is a folder, ``s3://...`` and the like (see ``metaflow_storages``), or a storage of Metaflow's kind.
    What a metadata provider keeps goes there too, and to ``metadata``, another such place, if it is given.
    ``settled`` is how long after the end of a run it is not looked through again [s].

    A run that is at both ends with other content is left as it is, and stands in the report's ``problems``, as does one
    that came from somebody else and is not trusted, and one whose blobs are missing. Raises NotFound for a pathspec of
    nothing, and StoreUnavailable.
    """
    there, *others = (
        Paths(as_storage(place, create=True, dry_run=dry_run)) for place in (destination, metadata) if place is not None
    )
    providers = [Provider(each) for each in (there, *others)]
    work = _Push(tables_of(store), there, providers, progress, dry_run=dry_run)
    progress.start("Pushing", None, "bytes")
    try:
        runs = work.without_complete(work.selected(pathspecs), settled)
        for some in [runs[start : start + RUNS_TOGETHER] for start in range(0, len(runs), RUNS_TOGETHER)]:
            work.push(some)
    finally:
        progress.finish()
        work.finish()
    return work.report


class _Push:
    """The work, and what is counted on the way."""

    def __init__(
        self, tables: Tables, there: Paths, providers: Sequence[Provider], progress: Progress, *, dry_run: bool
    ) -> None:
        self.report = Report(there.root, dry_run)
        self._tables = tables
        self._there = there
        self._providers = providers
        self._progress = progress
        self._dry_run = dry_run
        self._here = Place(TYPE, tables.database.path)
        self._place = Place(there.type, there.root)
        self._blobs = PushedBlobs(tables, there, self._count, dry_run=dry_run)

    def finish(self) -> None:
        """Count the blobs."""
        self.report.blobs, self.report.blobs_there = self._blobs.sent, self._blobs.were_there

    def selected(self, pathspecs: Iterable[str]) -> list[Run]:
        """Return the runs that pathspecs name, all if there are none. Raises NotFound."""
        chosen = selected(pathspecs)
        known = {flow: self._tables.tasks.runs(flow) for flow in self._tables.tasks.flows()}
        runs: dict[Run, None] = {}
        for flow, *run in chosen or [(flow,) for flow in known]:
            if flow not in known or (run and run[0] not in known[flow]):
                raise NotFound(f"There is no {'/'.join([flow, *run])} in {self._tables.database.path}.")
            runs |= dict.fromkeys((flow, each) for each in run or known[flow])
        return list(runs)

    # Runs that are complete

    def without_complete(self, runs: Sequence[Run], settled: float) -> list[Run]:
        """Return the runs that are not complete there; the tags of the others are brought up to date."""
        ends = {run: found for run in runs if (found := self._end(run, time.time() - settled)) is not None}
        datas = self._there.read(path for path, _ in ends.values())
        tasks = {run: TaskAddress(*path.split("/")[:4]) for run, (path, _) in ends.items()}
        seen = set(tasks.values()).intersection(*(each.seen(list(tasks.values())) for each in self._providers))
        incomplete: list[Run] = []
        complete: list[Run] = []
        for run in runs:
            path, artifacts = ends.get(run, ("", dict[str, str]()))
            if path in datas and tasks[run] in seen and same_but_included(datas[path], artifacts):
                complete.append(run)
            else:
                incomplete.append(run)
        self.report.runs_there += len(complete)
        self._tags(complete)
        return incomplete

    def _end(self, run: Run, before: float) -> tuple[str, dict[str, str]] | None:
        """Return where the last attempt of a run's end has its data, and its artifacts' keys, if done before [s]."""
        attempts = [each for each in self._tables.tasks.find_run(*run, [END]) if each.started is not None]
        if not attempts or attempts[-1].done is None or attempts[-1].done > before:
            return None
        [artifacts] = self._tables.tasks.artifacts([attempts[-1]])
        path = layout.path_of(MarkerPlace(attempts[-1].task, attempts[-1].number, layout.DATA))
        return path, {name: artifact.key for name, artifact in artifacts.items()}

    def _tags(self, runs: Sequence[Run]) -> None:
        """Give runs that are there the tags that they lack."""
        for provider in self._providers:
            found = provider.paths.read(self_path(*run) for run in runs)
            changed: Documents = {}
            for run in runs:
                ours = self._tables.registrations.run(*run)
                path = self_path(*run)
                if ours is None or path not in found:
                    continue
                theirs = read_json(path, found[path])
                tags = set(theirs.get("tags") or ())
                if not ours.tags <= tags:
                    changed[path] = theirs | {"tags": sorted(tags | ours.tags)}
            if changed and not self._dry_run:
                self.report.files += provider.write(changed, overwrite=True)

    # Some runs

    def push(self, runs: Sequence[Run]) -> None:
        """Bring runs; one that has a problem is left, and the others go."""
        listings = look(self._there, runs)
        for run, listing in listings.items():
            self.report.runs += 1
            try:
                self._push_run(run, listing)
            except (Damaged, BlobNotFound, RunExists, Untrusted) as error:
                self.report.problems.append(f"{'/'.join(run)}: {error}")

    def _push_run(self, run: Run, listing: Listing) -> None:
        if self._tables.trust.origin(*run) is not None:
            raise Untrusted(
                f"it came from somebody else, and whoever loads it from {self._there.root} would run what it holds. If "
                f"you trust it: `sqlitestore --file {self._tables.database.path} trust {'/'.join(run)}`."
            )
        records = read_run(self._tables, Names(*run))
        paths = _paths(records)
        documents = self._data_documents(paths)
        included = Included(
            lambda keys: dict(self._tables.blobs.load(keys)), lambda tail: _url(self._place, f"{DATATOOLS}/{tail}")
        )
        keys = included.translate(documents.values())
        moved = {
            path: layout.moved_data_document(document, self._place.type, keys, included.sizes)[0]
            for path, document in documents.items()
        }
        self._check(moved, listing)
        objects = Objects(self._tables)
        if not self._dry_run:
            self._push_files(records, included)
            crash_point("push-run-files-sent")
            for provider in self._providers:
                self.report.files += provider.write(of_run(objects, *run))
                crash_point("push-run-registered")
            self._tags([run])
        self._blobs.send_kept(run[0], records.data)
        tasks = sorted(
            {TaskAddress(*run, *names) for names in records.tasks} | set(paths), key=lambda task: task.step_name == END
        )
        for start in range(0, len(tasks), TASKS_TOGETHER):
            some = tasks[start : start + TASKS_TOGETHER]
            self._push_tasks(
                some, {task: paths.get(task, []) for task in some}, listing, moved, included, keys, records
            )

    def _data_documents(self, paths: Mapping[TaskAddress, Sequence[str]]) -> dict[str, bytes]:
        wanted = [path for of_task in paths.values() for path in of_task if path.endswith(f".{layout.DATA}")]
        return {path: _bytes(found) for path, found in self._found(wanted)}

    def _found(self, paths: Sequence[str]) -> Iterable[tuple[str, Found]]:
        for path, found in zip(paths, find(self._tables, "", paths), strict=True):
            if found is not None:
                yield path, found

    def _check(self, documents: Mapping[str, bytes], listing: Listing) -> None:
        """Raise RunExists if an attempt that is done there has other artifacts."""
        asked = [path for path in documents if listing.has(path) and listing.has(_done(path))]
        for path, theirs in self._there.read(asked).items():
            if _keys(theirs) != _keys(documents[path]):
                raise RunExists(
                    f"it is in {self._there.root} too, with other content ({path} differs). It was left as it is; push "
                    "to another place."
                )

    # Tasks

    def _push_tasks(
        self,
        tasks: Sequence[TaskAddress],
        paths: Mapping[TaskAddress, Sequence[str]],
        listing: Listing,
        documents: Mapping[str, bytes],
        included: Included,
        keys: Mapping[str, str],
        records: RunRecords,
    ) -> None:
        objects = Objects(self._tables)
        missing = {task: [path for path in paths[task] if not listing.has(path)] for task in tasks}
        new = [path for of_task in missing.values() for path in of_task]
        datas = [
            path for of_task in paths.values() for path in of_task if path in documents and not listing.has(_done(path))
        ]
        with_something = [task for task in tasks if missing[task]]
        self.report.tasks += len(with_something)
        self.report.tasks_there += len(tasks) - len(with_something)
        wanted = dict.fromkeys(key for path in datas for key in layout.keys_in_data_document(documents[path]))
        self._blobs.send(tasks[0].flow_name, wanted, included.blobs)
        if self._dry_run:
            return
        last = {*datas, *map(_done, datas)}
        grown = [path for task in tasks for path in paths[task] if self._has_grown(path, listing)]
        self._save_paths([path for path in new if path not in last] + grown)
        crash_point("push-logs-sent")
        self._save({path: BytesIO(documents[path]) for path in datas})
        crash_point("push-data-sent")
        self._save({_done(path): BytesIO(layout.DONE_DOCUMENT) for path in datas})
        crash_point("push-done-sent")
        numbers = {task: {_number(path) for path in paths[task] if path in documents} for task in tasks}
        for step, name, artifact in records.registered.artifacts:
            numbers.get(TaskAddress(*tasks[0][:2], step, name), set()).add(artifact.attempt)
        places = (self._here, self._place)
        parts = {task: of_task(objects, task, numbers[task], places, keys) for task in tasks}
        for provider in self._providers:
            self.report.files += provider.write_tasks(parts)
            crash_point("push-tasks-registered")

    def _has_grown(self, path: str, listing: Listing) -> bool:
        """Return whether a log that is there has another size here."""
        place = layout.place_of(path)
        if not isinstance(place, LogPlace) or not listing.has(path):
            return False
        here = self._tables.logs.sizes(place.task, place.attempt).get((place.source, place.stream))
        return here != self._there.size(path)

    # Files

    def _push_files(self, records: RunRecords, included: Included) -> None:
        """Send a run's cards, and the files that its artifacts name."""
        paths = {each.path: each.path for each in records.files if each.path.startswith(f"{layout.CARDS}/")}
        paths |= {f"{layout.INCLUDED}/{tail}": f"{DATATOOLS}/{tail}" for tail in included.files}
        with_metadata = {
            paths[each.path] for each in records.files if each.path in paths and has_metadata(each.metadata)
        }
        there = self._there.have(paths.values()) | self._there.have_whole(with_metadata)
        self._save_paths([path for path in paths if not there[paths[path]]], paths)

    def _save_paths(self, paths: Sequence[str], places: Mapping[str, str] | None = None) -> None:
        for some in batches(paths, FILES_TOGETHER):
            items = ((path, found) for path, found in self._found(some))
            self._there.save(
                (item_of((places or {}).get(path, path), found, self._count) for path, found in items), len(some)
            )
            self.report.files += len(some)

    def _save(self, files: Mapping[str, BytesIO]) -> None:
        self._there.save((Item(path, file) for path, file in files.items()), len(files))
        self.report.files += len(files)

    def _count(self, amount: int) -> None:
        self.report.bytes += amount
        self._progress.advance(amount)


def _paths(records: RunRecords) -> dict[TaskAddress, list[str]]:
    """Return what stands at Metaflow's paths of each task: attempts, logs, metadata, and documents kept as files."""
    found: dict[TaskAddress, dict[str, None]] = {}

    def add(step: str, task: str, path: str) -> None:
        found.setdefault(TaskAddress(records.flow_name, records.run_id, step, task), {})[path] = None

    for attempt in records.attempts:
        task = TaskAddress(records.flow_name, records.run_id, attempt.step, attempt.task)
        names = [layout.ATTEMPT] if attempt.started is not None else []
        names += [layout.DATA, layout.DONE] if attempt.done is not None else []
        for name in names:
            add(attempt.step, attempt.task, layout.path_of(MarkerPlace(task, attempt.number, name)))
    for log in records.logs:
        task = TaskAddress(records.flow_name, records.run_id, log.step, log.task)
        add(log.step, log.task, layout.path_of(LogPlace(task, log.number, log.source, log.stream)))
    for each in records.metadata:
        task = TaskAddress(records.flow_name, records.run_id, each.step, each.task)
        number = None if each.attempt == OF_THE_TASK else each.attempt
        add(each.step, each.task, layout.path_of(MetadataPlace(task, number, each.name)))
    for file in records.files:
        of_step, of_task = layout.task_of_path(file.path)
        if of_step is not None and of_task is not None and file.path.startswith(f"{records.pathspec}/"):
            add(of_step, of_task, file.path)
    return {task: list(paths) for task, paths in found.items()}


def _number(path: str) -> int:
    """Return the number of the attempt that a document belongs to."""
    return int(path.rpartition("/")[2].partition(".")[0])


def _done(path: str) -> str:
    return path.removesuffix(layout.DATA) + layout.DONE


def _keys(document: bytes) -> dict[str, str]:
    return {name: key for name, (key, _) in layout.objects_in_data_document(document).items()}


def _bytes(found: Found) -> bytes:
    return b"".join(found.blocks())


def _url(place: Place, path: str) -> str:
    """Return the URL under which Metaflow's data client of the datastore's kind finds a path."""
    return f"{place.root}/{path}" if "://" in place.root else f"{place.type}://{place.root}/{path}"
