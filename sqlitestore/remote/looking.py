"""What there is of runs in a datastore of Metaflow's, in few calls for many runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlitestore import layout
from sqlitestore.errors import InvalidInput, InvalidPathspec, NotFound
from sqlitestore.model import TaskAddress, check_name, parse_full_pathspec
from sqlitestore.path_storage.paths import Paths
from sqlitestore.remote.included import DATATOOLS

Run = tuple[str, str]
"""The names of a flow and a run of it."""


@dataclass
class Listing:
    """The paths of a run: its steps, and by task what stands there and (in a folder) a metadata provider's."""

    steps: list[str] = field(default_factory=list)
    files: dict[TaskAddress, set[str]] = field(default_factory=dict)
    metadata: dict[TaskAddress, set[str]] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)

    def has(self, path: str) -> bool:
        """Return whether there is something at a path of a task."""
        parts = path.split("/")
        task = TaskAddress(*parts[:4]) if len(parts) > len(TaskAddress._fields) else None
        return task is not None and path in self.files.get(task, ())


def look(paths: Paths, runs: Sequence[Run]) -> dict[Run, Listing]:
    """Return what there is of the runs: three lists of folders for all of them together."""
    found = {run: Listing() for run in runs}
    steps = _folders(paths, ("/".join(run) for run in runs))
    for step in steps:
        flow, run, name = step.split("/")
        found[flow, run].steps.append(name)
    for path in _folders(paths, steps):
        with suppress(InvalidInput):  # a name that no task of ours can have
            names = zip(("flow", "run", "step", "task"), path.split("/"), strict=True)
            task = TaskAddress(*(check_name(kind, name) for kind, name in names))
            found[task[:2]].files[task] = set()
            found[task[:2]].metadata[task] = set()
    tasks = [task for listing in found.values() for task in listing.files]
    folders = [task.pathspec for task in tasks]
    if paths.type == "local":  # elsewhere they are not listed: see ``providers``
        folders += [f"{task.pathspec}/{layout.METADATA_FOLDER}" for task in tasks]
    for entry in paths.below(folders):
        if entry.is_file:
            parts = entry.path.split("/")
            listing = found[parts[0], parts[1]]
            of = listing.metadata if parts[4] == layout.METADATA_FOLDER else listing.files
            of[TaskAddress(*parts[:4])].add(entry.path)
    return found


def _folders(paths: Paths, above: Iterable[str]) -> list[str]:
    return sorted(
        entry.path
        for entry in paths.below(above)
        if not entry.is_file and entry.path.rpartition("/")[2] != layout.METADATA_FOLDER
    )


def tree(paths: Paths, folders: Iterable[str]) -> list[str]:
    """Return the paths of all files below folders, in a call for each level."""
    found: list[str] = []
    above = list(folders)
    while above:
        entries = paths.below(above)
        found += [entry.path for entry in entries if entry.is_file]
        above = [entry.path for entry in entries if not entry.is_file]
    return sorted(found)


def selected(pathspecs: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names of flows, or of flows and runs. Raises InvalidPathspec for a part of a run."""
    chosen = [parse_full_pathspec(pathspec) for pathspec in pathspecs]
    for names in chosen:
        if len(names) > len(("flow", "run")):
            raise InvalidPathspec(f"{'/'.join(names)} is a part of a run; runs travel as a whole: Flow or Flow/run.")
    return chosen


def runs_there(paths: Paths, pathspecs: Iterable[str]) -> list[Run]:
    """Return the runs that pathspecs name, all if there are none, in the order of their names. Raises NotFound."""
    chosen = selected(pathspecs)
    flows = [names[0] for names in chosen if len(names) == 1]
    if not chosen:
        flows = [name for name in _folders(paths, [""]) if name != DATATOOLS and not name.startswith("mf.")]
    found = [
        (flow, run)
        for flow, run in (path.split("/") for path in _folders(paths, flows))
        if run != layout.DATA_FOLDER and _is_name(run)
    ]
    for flow in [names[0] for names in chosen if len(names) == 1]:
        if not any(run[0] == flow for run in found):
            raise NotFound(f"There are no runs of a flow {flow} in {paths.root}.")
    for flow, run in (names for names in chosen if len(names) > 1):
        if not paths.below([f"{flow}/{run}"]):
            raise NotFound(f"There is no run {flow}/{run} in {paths.root}.")
        found.append((flow, run))
    return sorted(set(found), key=lambda run: (run[0], int(run[1]) if run[1].isdecimal() else 0, run[1]))


def _is_name(run: str) -> bool:
    try:
        check_name("run", run)
    except InvalidInput:
        return False
    return True
