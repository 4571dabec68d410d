"""``pull``: runs of a datastore of Metaflow's own become runs of a file.

Of each run the blobs that the file lacks come first, then logs; then, in one transaction for some tasks, their
artifacts, that they are done, and what is registered of them. So a task is there whole or not at all, whenever the work
is cut off, and the next time it goes on with what is missing. The step ``end`` comes last: where that is done, the run
is complete, and after a while is not looked through again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, BinaryIO

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import BlobNotFound, Damaged, InvalidInput, RunExists
from sqlitestore.layout import BlobPlace, MarkerPlace
from sqlitestore.model import TaskAddress
from sqlitestore.path_storage.packing import checked, is_raw, payload_from
from sqlitestore.path_storage.paths import Paths, batches
from sqlitestore.paths.reading import TYPE
from sqlitestore.progress import SILENT, Progress
from sqlitestore.remote.documents import self_path, understood
from sqlitestore.remote.included import Included
from sqlitestore.remote.looking import Listing, Run, look, runs_there, tree
from sqlitestore.remote.metaflow_storages import as_storage
from sqlitestore.remote.providers import Provider
from sqlitestore.remote.pulled_files import PulledWriter, pull_files, pull_included
from sqlitestore.remote.pulled_records import Registering
from sqlitestore.remote.report import Report
from sqlitestore.tables import Tables, tables_of

END = "end"
SETTLED = 3600.0
"""How long after its end a run may still get logs [s]; it is looked through until then."""

TASKS_TOGETHER = 50
RUNS_TOGETHER = 20
BLOBS_TOGETHER = 64

Attempts = dict[tuple[TaskAddress, int], dict[str, bytes]]
"""The documents of attempts by their names."""


def pull(
    store: Any,
    source: Any,
    pathspecs: Iterable[str] = (),
    *,
    metadata: Any = None,
    progress: Progress = SILENT,
    dry_run: bool = False,
    settled: float = SETTLED,
) -> Report:
    """Bring runs (``Flow`` or ``Flow/run``; none: all) from ``source`` into the open ``store``, under their own names.

    ``source`` is a place or storage as ``push`` takes, and so is ``metadata``: where a local
    metadata provider keeps what belongs to the runs, if not beside the data. The runs are trusted, as Metaflow itself
    trusts its datastore. ``settled`` is how long after the end of a run it is not looked through again [s].

    A run that is at both ends with other content is left as it is, and stands in the report's ``problems``, as does one
    whose blobs are missing or damaged. Raises NotFound for a pathspec of nothing, and StoreUnavailable.
    """
    paths = Paths(as_storage(source))
    provider = Provider(paths if metadata is None else Paths(as_storage(metadata)))
    work = _Pull(tables_of(store), paths, provider, progress, dry_run=dry_run)
    progress.start("Pulling", None, "bytes")
    try:
        runs = runs_there(work.source, pathspecs)
        runs = work.without_complete(runs, settled)
        for some in [runs[start : start + RUNS_TOGETHER] for start in range(0, len(runs), RUNS_TOGETHER)]:
            work.pull(some)
    finally:
        progress.finish()
    return work.report


class _Pull:
    """The work, and what is counted on the way."""

    def __init__(self, tables: Tables, source: Paths, provider: Provider, progress: Progress, *, dry_run: bool) -> None:
        self.source = source
        self.report = Report(source.root, dry_run)
        self._tables = tables
        self._provider = provider
        self._progress = progress
        self._dry_run = dry_run
        self._cards: dict[str, set[str]] = {}
        """The runs of each flow that have cards."""

    # Runs that are complete

    def without_complete(self, runs: Sequence[Run], settled: float) -> list[Run]:
        """Return the runs that are not complete here; the tags of the others are brought up to date."""
        ends = {run: found for run in runs if (found := self._end(run, time.time() - settled))}
        datas = {run: layout.path_of(MarkerPlace(*end, layout.DATA)) for run, (end, _) in ends.items()}
        read = self.source.read(datas.values())
        selves = self._provider.paths.read(self_path(*run) for run in ends)
        incomplete: list[Run] = []
        for run in runs:
            if run not in ends or datas[run] not in read:
                incomplete.append(run)
                continue
            if not same_but_included(read[datas[run]], ends[run][1]):
                incomplete.append(run)  # a conflict, which is looked at as one
                continue
            self.report.runs_there += 1
            document = selves.get(self_path(*run))
            if document is not None and not self._dry_run:
                Registering(self._tables, self.source.type).tags(run, document)
        return incomplete

    def _end(self, run: Run, before: float) -> tuple[tuple[TaskAddress, int], dict[str, str]] | None:
        """Return the last attempt of a run's end and the keys of its artifacts, if it was done before that time [s]."""
        attempts = [each for each in self._tables.tasks.find_run(*run, [END]) if each.started is not None]
        if not attempts or attempts[-1].done is None or attempts[-1].done > before:
            return None
        if self._tables.registrations.run(*run) is None:
            return None
        [artifacts] = self._tables.tasks.artifacts([attempts[-1]])
        return (attempts[-1].task, attempts[-1].number), {name: each.key for name, each in artifacts.items()}

    # Some runs

    def pull(self, runs: Sequence[Run]) -> None:
        """Bring runs; one that has a problem is left, and the others come."""
        listings = look(self.source, runs)
        if self._provider.paths is not self.source:
            for run, listing in look(self._provider.paths, runs).items():
                listings[run].metadata = listing.metadata
                listings[run].steps = sorted({*listings[run].steps, *listing.steps})
        self._find_cards(listings)
        for run, listing in listings.items():
            self.report.runs += 1
            try:
                self._pull_run(run, listing)
            except (Damaged, BlobNotFound, RunExists, InvalidInput) as error:
                self.report.problems.append(f"{'/'.join(run)}: {error}")

    def _find_cards(self, listings: Mapping[Run, Listing]) -> None:
        """Find the cards of runs: all together, since each level of their folders is a call."""
        for flow in {flow for flow, _ in listings} - set(self._cards):
            below = self.source.below([f"{layout.CARDS}/{flow}/runs"])
            self._cards[flow] = {entry.path.rpartition("/")[2] for entry in below}
        folders = {
            f"{layout.CARDS}/{flow}/runs/{run}": (flow, run) for flow, run in listings if run in self._cards[flow]
        }
        for path in tree(self.source, folders) if folders else ():
            listings[folders["/".join(path.split("/")[:4])]].cards.append(path)

    def _pull_run(self, run: Run, listing: Listing) -> None:
        attempts = self._documents(listing)
        included = Included(
            lambda keys: self._small_blobs(run[0], keys), lambda tail: f"{TYPE}://{layout.INCLUDED}/{tail}"
        )
        keys = included.translate(each[layout.DATA] for each in attempts.values() if layout.DONE in each)
        done_at: dict[tuple[TaskAddress, int], float] = {}
        for place, documents in attempts.items():
            if layout.DONE in documents:
                documents[layout.DATA], ours = layout.moved_data_document(
                    documents[layout.DATA], TYPE, keys, included.sizes
                )
                if "done" in ours:
                    with understood(layout.path_of(MarkerPlace(*place, layout.DATA))):
                        done_at[place] = float(ours["done"])
            if layout.ATTEMPT in documents:
                documents[layout.ATTEMPT], _ = layout.without_ours(documents[layout.ATTEMPT])
        new = self._new(run, attempts)
        tasks = sorted(
            {*listing.files, *listing.metadata}, key=lambda task: (task.step_name == END, _started(task, attempts))
        )
        registering = Registering(self._tables, self.source.type)
        if not self._dry_run:
            registering.run(run, self._provider.paths.read([self_path(*run)]).get(self_path(*run)))
            steps = {self_path(*run, step): step for step in listing.steps}
            registering.steps(run, {steps[path]: found for path, found in self._provider.paths.read(steps).items()})
            crash_point("pull-run-registered")
            self._pull_run_files(listing, included)
            crash_point("pull-run-files-brought")
        for start in range(0, len(tasks), TASKS_TOGETHER):
            some = tasks[start : start + TASKS_TOGETHER]
            self._pull_tasks(run, listing, some, {place: new[place] for place in new if place[0] in set(some)}, done_at,
                             registering, keys, included)  # fmt: skip

    def _documents(self, listing: Listing) -> Attempts:
        """Return the documents of a run's attempts; data.json only of those that are done."""
        places: dict[str, MarkerPlace] = {}
        for files in listing.files.values():
            for path in files:
                place = layout.place_of(path)
                if isinstance(place, MarkerPlace):
                    places[path] = place
        done = {(place.task, place.attempt) for place in places.values() if place.name == layout.DONE}
        wanted = [
            path
            for path, place in places.items()
            if place.name == layout.ATTEMPT or (place.name == layout.DATA and place[:2] in done)
        ]
        found: Attempts = {place: {layout.DONE: layout.DONE_DOCUMENT} for place in done}
        for path, document in self.source.read(wanted).items():
            found.setdefault(places[path][:2], {})[places[path].name] = document
        for documents in found.values():
            if layout.DATA not in documents:
                documents.pop(layout.DONE, None)
        return found

    def _new(self, run: Run, attempts: Attempts) -> Attempts:
        """Return the attempts that are not here as they are there. Raises RunExists if one is done here differently."""
        here = {(each.task, each.number): each for each in self._tables.tasks.find_run(*run, None)}
        done = [each for each in here.values() if each.done is not None]
        keys = {
            (each.task, each.number): {name: artifact.key for name, artifact in artifacts.items()}
            for each, artifacts in zip(done, self._tables.tasks.artifacts(done), strict=True)
        }
        new: Attempts = {}
        for place, documents in attempts.items():
            if place in keys:
                theirs = {
                    name: key
                    for name, (key, _) in layout.objects_in_data_document(documents.get(layout.DATA, b"")).items()
                }
                if layout.DONE in documents and theirs != keys[place]:
                    raise RunExists(
                        f"it is in the file too, with other content (artifacts of {place[0].pathspec}, attempt "
                        f"{place[1]}, differ). It was left as it is; pull it into another file."
                    )
            elif place not in here or here[place].started is None or layout.DONE in documents:
                new[place] = documents
        return new

    # Tasks

    def _pull_tasks(
        self,
        run: Run,
        listing: Listing,
        tasks: Sequence[TaskAddress],
        new: Attempts,
        done_at: dict[tuple[TaskAddress, int], float],
        registering: Registering,
        keys: Mapping[str, str],
        included: Included,
    ) -> None:
        with_something = {place[0] for place in new}
        self.report.tasks += len(with_something)
        self.report.tasks_there += len(tasks) - len(with_something)
        registering.read(self._provider.read(tasks, listing), {task for task in tasks if listing.files.get(task)}, keys)
        wanted = dict.fromkeys(
            key for each in new.values() for key in layout.keys_in_data_document(each.get(layout.DATA, b""))
        )
        packages = registering.code_packages()
        self._pull_blobs(run[0], [*wanted, *packages], packages, included)
        if self._dry_run:
            return
        crash_point("pull-blobs-brought")
        amount, files = pull_files(self._tables, self.source, listing, tasks, with_something)
        self._count(amount, files)
        done_at.update({place: at for place, at in registering.done_at().items() if place not in done_at})
        writer = PulledWriter(self._tables, "", overwrite=True, done_at=done_at)
        crash_point("pull-logs-brought")
        with self._tables.database.write():
            writer.save(
                (layout.path_of(MarkerPlace(*place, name)), BytesIO(document))
                for place, each in new.items()
                for name, document in each.items()
            )
            crash_point("pull-attempts-written")
            registering.write()
            crash_point("pull-tasks-registered")

    def _pull_blobs(self, flow: str, keys: Iterable[str], packages: Iterable[str], included: Included) -> None:
        asked = list(dict.fromkeys(keys))
        there = self._tables.blobs.has(asked) if self._dry_run else self._tables.blobs.hold(asked) if asked else []
        missing = [key for key, is_there in zip(asked, there, strict=True) if not is_there]
        self.report.blobs_there += len(asked) - len(missing)
        self.report.blobs += len(missing)
        if self._dry_run:
            return
        made = [key for key in missing if key in included.blobs]
        self._tables.blobs.put((_payload(included.blobs[key]) for key in made), made)
        raw: set[str] = set()
        for some in batches([key for key in missing if key not in included.blobs], BLOBS_TOGETHER):
            raw |= self._fetch(flow, some, set(packages))
        crash_point("pull-blobs-put")
        if raw:
            self._tables.data.keep(flow, sorted(raw))

    def _fetch(self, flow: str, keys: Sequence[str], packages: set[str]) -> set[str]:
        """Bring blobs; return the keys of those that are kept as they are. A code package may be gone."""
        places = {key: layout.path_of(BlobPlace(flow, key)) for key in keys}
        with self.source.opened(list(places.values())) as found:
            lost = [key for key in keys if places[key] not in found]
            if set(lost) - packages:
                raise BlobNotFound(
                    f"the blob {lost[0]} of one of its artifacts is not in {self.source.root}; its other tasks may be "
                    "here. Bring the blob back, or pull other runs."
                )
            there = [key for key in keys if key not in lost]
            raw = {key for key in there if is_raw(found[places[key]].metadata)}
            keep = self._tables.data.root(flow)
            stored = self._tables.blobs.put(
                (
                    payload_from(lambda key=key: checked(found[places[key]], key, self.source.root))  # type: ignore[misc]
                    for key in there
                ),
                there,
                # At once: a blob that is there is not brought again, so nothing would keep it after a crash.
                root=lambda connection, key: keep(connection, key) if key.hex() in raw else None,
            )
            self._count(sum(each.size for each in stored), 0)
            self.report.blobs -= len(lost)
            return raw

    def _small_blobs(self, flow: str, keys: Sequence[str]) -> dict[str, bytes]:
        places = {layout.path_of(BlobPlace(flow, key)): key for key in keys}
        found: dict[str, bytes] = {}
        with self.source.opened(list(places)) as files:
            for path, opened in files.items():
                with checked(opened, places[path], self.source.root) as file:
                    found[places[path]] = file.read()
        return found

    # Files

    def _pull_run_files(self, listing: Listing, included: Included) -> None:
        """Bring a run's cards, and the files that its artifacts name."""
        paths = listing.cards
        here = self._tables.files.find_all(paths)
        missing = [path for path in paths if path not in here]
        for some in batches(missing, BLOBS_TOGETHER):
            with self.source.opened(some) as found:
                PulledWriter(self._tables, "", overwrite=True).save(_in_turn(found))
        self._count(0, len(missing))
        self._count(*pull_included(self._tables, self.source, included.files))

    def _count(self, amount: int, files: int) -> None:
        self.report.bytes += amount
        self.report.files += files
        self._progress.advance(amount)


def _in_turn(found: Mapping[str, Any]) -> Iterator[tuple[str, BinaryIO]]:
    """Yield path and file of each; the writer has read one when it asks for the next."""
    for path, opened in found.items():
        with open(opened.file, "rb") as file:
            yield path, file


def same_but_included(document: bytes, ours: Mapping[str, str]) -> bool:
    """Return whether a ``data.json`` has our artifacts; those that name included files are others at each place."""
    theirs = layout.objects_in_data_document(document)
    return set(theirs) == set(ours) and all(
        ours[name] == key or kind == layout.INCLUDED_FILE for name, (key, kind) in theirs.items()
    )


def _started(task: TaskAddress, attempts: Attempts) -> float:
    """Return when a task started [s since 1970], late if that is not known."""
    for number in range(6):
        document = attempts.get((task, number), {}).get(layout.ATTEMPT)
        if document is not None:
            try:
                return float(json.loads(document)["time"])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                break
    return float("inf")


def _payload(data: bytes) -> Any:
    return lambda file: file.write(data)
