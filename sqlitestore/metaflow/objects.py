"""What Metaflow's client asks for: flows, runs, steps, tasks, artifacts and metadata as its dictionaries.

They come from what a provider registered, and from the tasks themselves: a run that was written by our own API, or
with another provider, is there too, with what its tasks say of it (and without tags, for which namespaces look).

Roots are those of now: a file that was moved says where it is, not where it was (see ``provider`` for the way in).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlitestore.layout import encoding_for_metaflow
from sqlitestore.metaflow.reading import TYPE
from sqlitestore.metaflow.stores import Store
from sqlitestore.model import Attempt, TaskAddress
from sqlitestore.registrations import RegisteredMetadatum, RegisteredRun, RegisteredTask

HERE = "."
"""Stands for the root of this file in what is registered."""

Thing = dict[str, Any]


class Objects:
    """The dictionaries of one file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[tuple[str, str], RegisteredRun | None] = {}

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
        registered = {run.name: run for run in self._store.registrations.runs(flow)}
        self._runs |= {(flow, name): run for name, run in registered.items()}
        found = [registered.get(name) or self._unregistered_run(flow, name) for name in self._store.tasks.runs(flow)]
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
        started = _started(self._store.tasks.find_run(flow, name, None))
        return RegisteredRun(name, None, started, frozenset(), frozenset(), 0) if started is not None else None

    # Steps and tasks

    def steps(self, flow: str, run: str, step: str | None = None) -> list[Thing]:
        """Return the steps of a run, or that one."""
        steps = {each.step: each for each in self._store.registrations.steps(flow, run, step)}
        missing = {name for name, _ in self._store.tasks.names(flow, run, step)} - set(steps)
        for name in missing:
            started = _started(self._store.tasks.find_run(flow, run, [name]))
            if started is not None:
                steps[name] = RegisteredTask(name, "", None, started)
        return self._described(flow, run, steps.values())

    def tasks(self, flow: str, run: str, step: str | None = None, task: str | None = None) -> list[Thing]:
        """Return the tasks of a run, of a step of it, or that one."""
        tasks = {(each.step, each.task): each for each in self._store.registrations.tasks(flow, run, step, task)}
        names = [(step, task)] if step is not None and task is not None else self._store.tasks.names(flow, run, step)
        missing = [TaskAddress(flow, run, *name) for name in names if name not in tasks]
        attempts: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self._store.tasks.find_tasks(missing) if missing else ():
            attempts.setdefault((attempt.task.step_name, attempt.task.task_id), []).append(attempt)
        for name, found in attempts.items():
            started = _started(found)
            if started is not None:
                tasks[name] = RegisteredTask(*name, None, started)
        return self._described(flow, run, tasks.values())

    def _described(self, flow: str, run: str, things: Iterable[RegisteredTask]) -> list[Thing]:
        of_run = self.run_of(flow, run)
        if of_run is None:
            return []
        tags, system_tags = sorted(of_run.tags), sorted(of_run.system_tags)
        return [
            {
                "flow_id": flow,
                "run_number": run,
                "step_name": each.step,
                **({"task_id": each.task} if each.task else {}),
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
                "tags": list(tags),
                "system_tags": list(system_tags),
            }
            for each in sorted(things, key=_age)
        ]

    # Artifacts and metadata

    def artifacts(self, task: TaskAddress, attempt: int | None) -> list[Thing]:
        """Return the artifacts of an attempt of a task; None means the latest that is done."""
        number = self._latest_done(task) if attempt is None else attempt
        if number is None:
            return []
        registered = self._store.registrations.artifacts(*task, number)
        things = {
            each.name: self._artifact(
                task, number, each.name, each.content_type, each.sha, each.ds_type, each.location, each.ts_epoch
            )
            for each in registered
        }
        for each in self._store.tasks.find_tasks([task]):
            if each.number == number and each.done is not None:
                for name, artifact in self._store.tasks.artifacts([each])[0].items():
                    if name not in things:
                        encoding = encoding_for_metaflow(artifact.encoding)
                        things[name] = self._artifact(
                            task, number, name, encoding, artifact.key, TYPE, f":root:{HERE}", int(each.done * 1000)
                        )
        of_run = self.run_of(task.flow_name, task.run_id)
        tags, system_tags = (sorted(of_run.tags), sorted(of_run.system_tags)) if of_run else ([], [])
        return [thing | {"tags": list(tags), "system_tags": list(system_tags)} for thing in things.values()]

    def _artifact(
        self, task: TaskAddress, number: int, name: str, encoding: str, sha: str, kind: str, location: str, epoch: int
    ) -> Thing:
        return {
            "flow_id": task.flow_name,
            "run_number": task.run_id,
            "step_name": task.step_name,
            "task_id": task.task_id,
            "attempt_id": number,
            "name": name,
            "content_type": encoding,
            "type": "metaflow.artifact",
            "sha": sha,
            "ds_type": kind,
            "location": f":root:{self._store.path}" if location == f":root:{HERE}" else location,
            "user_name": None,
            "ts_epoch": epoch,
        }

    def _latest_done(self, task: TaskAddress) -> int | None:
        """Return the attempt that the provider was told last is done; if it was told nothing, what the task says."""
        done = [each for each in self._store.registrations.metadata(*task) if each.field_name == "attempt-done"]
        if done:
            return int(done[-1].value)
        started = [each for each in self._store.tasks.find_tasks([task]) if each.started is not None]
        return started[-1].number if started and started[-1].done is not None else None

    def metadata(self, task: TaskAddress) -> list[Thing]:
        """Return all metadata of a task; of one that no provider was told of, what its attempts say."""
        found = self._store.registrations.metadata(*task)
        return [
            {
                "flow_id": task.flow_name,
                "run_number": task.run_id,
                "step_name": task.step_name,
                "task_id": task.task_id,
                "field_name": each.field_name,
                "type": each.type,
                "value": absolute(each.field_name, each.value, self._store.path),
                "tags": list(each.tags),
                "user_name": each.user_name,
                "ts_epoch": each.ts_epoch,
            }
            for each in found or self._unregistered_metadata(task)
        ]

    def _unregistered_metadata(self, task: TaskAddress) -> Iterator[RegisteredMetadatum]:
        for attempt in self._store.tasks.find_tasks([task]):
            if attempt.started is None:
                continue
            fields = {"attempt": str(attempt.number), "ds-type": TYPE, "ds-root": HERE}
            times = dict.fromkeys(fields, attempt.started)
            if attempt.done is not None:
                fields["attempt-done"] = str(attempt.number)
                times["attempt-done"] = attempt.done
            for field, value in fields.items():
                tags = [f"attempt_id:{attempt.number}"]
                epoch = int(times[field] * 1000)
                yield RegisteredMetadatum(task.step_name, task.task_id, field, value, field, tags, None, epoch)


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


def _age(thing: RegisteredTask) -> tuple[int, int, str]:
    return thing.ts_epoch, int(thing.task) if thing.task.isdecimal() else 0, thing.task


# Roots in metadata: "ds-root" is one, and the location of a code package begins with one.


def relative(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum as it is registered: the root of this file becomes HERE."""
    if field == "ds-root":
        return HERE if value == root else value
    if field == "code-package" and isinstance(value, str):
        package = _mapping(value)
        location = package.get("location")
        if package.get("ds_type") == TYPE and isinstance(location, str) and location.startswith(f"{root}/"):
            return json.dumps(package | {"location": HERE + location[len(root) :]})
    return value


def absolute(field: str, value: Any, root: str) -> Any:
    """Return the value of a metadatum with the root of the file as it is now."""
    if field == "ds-root":
        return root if value == HERE else value
    if field == "code-package" and isinstance(value, str):
        package = _mapping(value)
        location = package.get("location")
        if package.get("ds_type") == TYPE and isinstance(location, str) and location.startswith(f"{HERE}/"):
            return json.dumps(package | {"location": root + location[len(HERE) :]})
    return value


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
