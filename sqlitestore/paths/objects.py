"""What Metaflow's client asks for: flows, runs, steps, tasks, artifacts and metadata as its dictionaries.

They come from what a provider registered, and from the tasks themselves: a run that was written by our own API, or
with another provider, is there too, with what its tasks say of it (and without tags, for which namespaces look).

Roots are those of now: a file that was moved says where it is, not where it was (see ``provider`` for the way in).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from sqlitestore.errors import BlobNotFound
from sqlitestore.layout import encoding_for_metaflow
from sqlitestore.model import Attempt, TaskAddress, check_key
from sqlitestore.paths.here import absolute
from sqlitestore.paths.stores import Store
from sqlitestore.paths.task_lookup import IN_THIS_FILE, TaskLookup
from sqlitestore.registrations import RegisteredRun, RegisteredTask, unregistered_run
from sqlitestore.tables import Tables

Thing = dict[str, Any]


class Objects:
    """The dictionaries of one file, as it is for as long as nobody changes it (see ``objects_of``)."""

    def __init__(self, store: Tables) -> None:
        self._store = store
        self._runs: dict[tuple[str, str], RegisteredRun | None] = {}
        self._sorted_tags: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        self._untrusted: dict[str, bool] = {}
        """By the pathspec of a run."""
        self._lookup = TaskLookup(store)

    # Flows and runs

    def flows(self) -> list[Thing]:
        """Return the flows that have runs."""
        flows = (self.flow(name) for name in self._store.tasks.flows())
        return [flow for flow in flows if flow is not None]

    def flow(self, name: str) -> Thing | None:
        """Return a flow, as old as its oldest run; None if it has no runs."""
        runs = self.runs(name)
        return {"flow_id": name, "ts_epoch": min(run["ts_epoch"] for run in runs)} if runs else None

    def runs(self, flow: str) -> list[Thing]:
        """Return the runs of a flow."""
        with self._store.database.read():
            registered = {run.name: run for run in self._store.registrations.runs(flow)}
            self._runs |= {(flow, name): run for name, run in registered.items()}
            names = self._store.tasks.runs(flow)
            found = [registered.get(name) or self._unregistered_run(flow, name) for name in names]
        return [_run(flow, run) for run in found if run is not None]

    def run(self, flow: str, name: str) -> Thing | None:
        """Return a run, None if there is none of the name."""
        run = self.run_of(flow, name)
        return None if run is None else _run(flow, run)

    def run_of(self, flow: str, name: str) -> RegisteredRun | None:
        """Return a run as it is registered, or as it would be; None if there is none of the name."""
        if (flow, name) not in self._runs:
            self._runs[flow, name] = self._store.registrations.run(flow, name) or self._unregistered_run(flow, name)
        return self._runs[flow, name]

    def _unregistered_run(self, flow: str, name: str) -> RegisteredRun | None:
        return unregistered_run(name, self._store.tasks.find_run(flow, name, None))

    # Steps and tasks

    def steps(self, flow: str, run: str, step: str | None = None) -> list[Thing]:
        """Return the steps of a run, or that one."""
        with self._store.database.read():
            steps = {each.step: each for each in self._store.registrations.steps(flow, run, step)}
            missing = {name for name, _ in self._store.registrations.unregistered_tasks(flow, run, step)} - set(steps)
            for name in missing:
                started = _started(self._store.tasks.find_run(flow, run, [name]))
                if started is not None:
                    steps[name] = RegisteredTask(name, "", None, started)
            described = self._described(flow, run, steps.values())
        for each in described:
            del each["task_id"]
        return described

    def tasks(self, flow: str, run: str, step: str | None = None, task: str | None = None) -> list[Thing]:
        """Return the tasks of a run, of a step of it, or that one."""
        with self._store.database.read():
            described = self._described(flow, run, self._tasks(flow, run, step, task))
        if step is not None and task is None:
            self._lookup.note_listed((flow, run, step), (each["task_id"] for each in described))
        return described

    def _tasks(self, flow: str, run: str, step: str | None, task: str | None) -> list[RegisteredTask]:
        """Return the tasks that are registered, then others that the file has.

        No tuples or dictionaries beside them, here and where they are sorted: Python's garbage collector counts what is
        alive, and when that has grown by a quarter it looks at all of it, for 50 ms with 10,000 tasks.
        """
        registered = self._store.registrations.tasks(flow, run, step, task)
        if task is None:
            names = self._store.registrations.unregistered_tasks(flow, run, step)
        else:
            names = [] if registered else [(step or "", task)]
        return [*registered, *self._unregistered_tasks([TaskAddress(flow, run, *name) for name in names])]

    def _unregistered_tasks(self, tasks: Sequence[TaskAddress]) -> list[RegisteredTask]:
        attempts: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self._store.tasks.find_tasks(tasks) if tasks else ():
            attempts.setdefault((attempt.task.step_name, attempt.task.task_id), []).append(attempt)
        started = {name: _started(found) for name, found in attempts.items()}
        return [RegisteredTask(*name, None, epoch) for name, epoch in started.items() if epoch is not None]

    def _described(self, flow: str, run: str, things: Iterable[RegisteredTask]) -> list[Thing]:
        """Return the dictionaries of tasks, or of steps (whose task is ""), the oldest first."""
        if self.run_of(flow, run) is None:
            return []
        tags, system_tags = self._tags(flow, run)
        described: list[Thing] = [
            {
                "flow_id": flow,
                "run_number": run,
                "step_name": each.step,
                "task_id": each.task,
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
                "tags": tags,
                "system_tags": system_tags,
            }
            for each in things
        ]
        for key in (itemgetter("task_id"), _number, itemgetter("ts_epoch")):
            described.sort(key=key)  # what was sorted before stays so where this is equal
        return described

    # Artifacts and metadata

    def artifacts(self, task: TaskAddress, attempt: int | None, name: str | None = None) -> list[Thing]:
        """Return the artifacts (or that one) of an attempt of a task; None means the latest that is done."""
        number, found = self._lookup.artifacts(task, attempt, name)
        tags, system_tags = self._tags(task.flow_name, task.run_id)
        untrusted = "/".join(task[:2]) if self._is_untrusted(task) else None
        things = []
        for each in found:
            here = each.location == IN_THIS_FILE
            encoding = each.content_type
            things.append({
                "flow_id": task.flow_name,
                "run_number": task.run_id,
                "step_name": task.step_name,
                "task_id": task.task_id,
                "attempt_id": number,
                "type": "metaflow.artifact",
                "tags": tags,
                "system_tags": system_tags,
                "name": each.name,
                "content_type": encoding if untrusted is None else encoding_for_metaflow(str(encoding), untrusted),
                "sha": each.sha,
                "ds_type": each.ds_type,
                "location": f":root:{self._store.database.path}" if here else each.location,
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
            })  # fmt: skip
        return things

    def _tags(self, flow: str, run: str) -> tuple[list[str], list[str]]:
        """Return the tags of a run, and those that the system gave it, sorted: new lists, for all things of an answer.

        With lists for each of 10,000 tasks Python's garbage collector has a sixth more to look at.
        """
        if (flow, run) not in self._sorted_tags:
            of_run = self.run_of(flow, run)
            self._sorted_tags[flow, run] = (sorted(of_run.tags), sorted(of_run.system_tags)) if of_run else ([], [])
        tags, system_tags = self._sorted_tags[flow, run]
        return list(tags), list(system_tags)

    def blob_at_hand(self, key: str) -> bytes | None:
        """Return the blob of an artifact, if it was fetched with those of the tasks beside; None to load it alone."""
        return self._lookup.blob_at_hand(key)

    def _is_untrusted(self, task: TaskAddress) -> bool:
        run = "/".join(task[:2])
        if run not in self._untrusted:
            self._untrusted[run] = self._store.trust.origin(*task[:2]) is not None
        return self._untrusted[run]

    def metadata(self, task: TaskAddress) -> list[Thing]:
        """Return all metadata of a task; of one that no provider was told of, what its attempts say."""
        common = {"flow_id": task.flow_name, "run_number": task.run_id, "step_name": task.step_name}
        return [
            {
                **common,
                "task_id": task.task_id,
                "field_name": each.field_name,
                "type": each.type,
                "value": absolute(each.field_name, each.value, self._store.database.path),
                "tags": list(each.tags),
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
            }
            for each in self._lookup.metadata(task)
        ]


def blob_at_hand(store: Store | None, key: str) -> bytes | None:
    """Return the blob of an artifact that was asked for like those of the tasks beside it (see ``BlobsTogether``).

    None if it is not at hand: ``load_blob`` loads it alone.
    """
    known: tuple[object, Objects] | None = None if store is None else getattr(store.of_thread, "objects", None)
    return None if known is None else known[1].blob_at_hand(key)


def load_blob(store: Store, key: str) -> bytes | None:
    """Return a blob, None if it is not there."""
    try:
        with store.blobs.open(check_key(key)) as file:
            return file.read()
    except BlobNotFound:
        return None


def objects_of(store: Store) -> Objects:
    """Return what answers questions: the same as the last time, while nobody has changed the file."""
    version = store.database.version()
    known: tuple[object, Objects] | None = getattr(store.of_thread, "objects", None)
    if known is None or known[0] != version:
        known = store.of_thread.objects = version, Objects(store)
    return known[1]


def _run(flow: str, run: RegisteredRun) -> Thing:
    return {
        "run_number": run.name,
        "flow_id": flow,
        "user_name": run.user_name,
        "tags": sorted(run.tags),
        "system_tags": sorted(run.system_tags),
        "ts_epoch": run.ts_epoch,
    }


def _started(attempts: Iterable[Attempt]) -> int | None:
    """Return when the first of the attempts started [ms since 1970], None if none did."""
    started = min((each.started for each in attempts if each.started is not None), default=None)
    return None if started is None else int(started * 1000)


def _number(thing: Thing) -> int:
    """Return what the tasks of a run are counted by, 0 for one with another name."""
    task = str(thing["task_id"])
    return int(task) if task.isdecimal() else 0
