"""The documents of Metaflow's local metadata provider, and what our tables register: in both directions.

::

    TrainFlow/_meta/_self.json                             a flow
    TrainFlow/12/_meta/_self.json                          a run, with its tags
    TrainFlow/12/train/_meta/_self.json                    a step
    TrainFlow/12/train/40/_meta/_self.json                 a task
    TrainFlow/12/train/40/_meta/sysmeta_ds-root_17...json  a metadatum and its time [ms since 1970]
    TrainFlow/12/train/40/_meta/0_artifact_model.json      an artifact of attempt 0

``providers`` says where they are kept in an object store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlitestore import layout
from sqlitestore.errors import Damaged, DataException
from sqlitestore.model import TaskAddress, check_attempt
from sqlitestore.paths.objects import Objects
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum, RegisteredRun, RegisteredTask
from sqlitestore.remote.places import ROOT, Place, moved

SELF = "_self"
ATTEMPT_DONE = "attempt-done"

Documents = dict[str, dict[str, Any]]
"""What stands at paths, before it becomes JSON."""


def self_path(*names: str) -> str:
    """Return where the document of a flow, run, step or task is."""
    return layout.metadata_path(names, SELF)


def of_run(objects: Objects, flow: str, run: str) -> Documents:
    """Return the documents of a flow, its run and the run's steps."""
    found: Documents = {}
    if (of_flow := objects.flow(flow)) is not None:
        found[self_path(flow)] = of_flow
    if (of_the_run := objects.run(flow, run)) is not None:
        found[self_path(flow, run)] = of_the_run
    for step in objects.steps(flow, run):
        found[self_path(flow, run, step["step_name"])] = step
    return found


def of_task(
    objects: Objects, task: TaskAddress, numbers: Iterable[int], places: tuple[Place, Place], keys: Mapping[str, str]
) -> list[Documents]:
    """Return the documents of a task, in three parts to be written in order, when its data goes from place to place.

    ``keys`` are new ones of artifacts by the old. The first part says which artifacts there are, the second that
    attempts are done; the last makes the task seen.
    """
    here, there = places
    first: Documents = {}
    for number in sorted(numbers):
        for thing in objects.artifacts(task, number):
            if thing["location"] == here.location():
                thing |= {
                    "ds_type": there.type,
                    "location": there.location(),
                    "sha": keys.get(thing["sha"], thing["sha"]),
                }
            thing |= {"type": "metaflow.artifact", "attempt_id": number}
            first[layout.metadata_path(task, f"{number}_artifact_{thing['name']}")] = thing
    second: Documents = {}
    found = objects.metadata(task)
    is_here = not any(each["field_name"] == "ds-root" and each["value"] != here.root for each in found)
    for thing in found:
        field = thing["field_name"]
        if is_here:
            thing["value"] = moved(field, thing["value"], task.flow_name, here, there)
        part = second if field == ATTEMPT_DONE else first
        time = thing["ts_epoch"]
        while (path := _metadatum_path(task, field, time)) in part:
            time += 1  # Metaflow would keep one of two; the document has the true time
        part[path] = thing
    third = {self_path(*task): each for each in objects.tasks(*task)}
    return [first, second, third]


def _metadatum_path(task: TaskAddress, field: str, time: int) -> str:
    return layout.metadata_path(task, f"sysmeta_{field.replace('/', '%2F')}_{time}")


# The other way


def read_json(path: str, document: bytes) -> dict[str, Any]:
    """Return what a document says. Raises Damaged."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path} is damaged: it is no JSON object.")
    return found


@contextmanager
def understood(path: str) -> Iterator[None]:
    """Raise Damaged that names the path where a document in it has other values than Metaflow writes."""
    try:
        yield
    except DataException as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def run_in(name: str, found: Mapping[str, Any]) -> RegisteredRun:
    """Return the run that a document is about."""
    tags, system_tags = (frozenset(map(_text, found.get(each) or ())) for each in ("tags", "system_tags"))
    return RegisteredRun(name, _user(found), _time(found), tags, system_tags, 0)


def task_in(step: str, task: str, found: Mapping[str, Any]) -> RegisteredTask:
    """Return the task, or (``task`` "") the step, that a document is about."""
    return RegisteredTask(step, task, _user(found), _time(found))


def metadata_in(
    task: TaskAddress, found: Iterable[dict[str, Any]], here: Place | None, there: Place
) -> list[RegisteredMetadatum]:
    """Return the metadata that documents are about, oldest first; ``here`` is where the task's data was, if any."""
    made = [
        RegisteredMetadatum(
            task.step_name,
            task.task_id,
            _text(each["field_name"]),
            each.get("value")
            if here is None
            else moved(str(each["field_name"]), each.get("value"), task.flow_name, here, there),
            _text(each.get("type", "")),
            tuple(sorted(map(_text, each.get("tags") or ()))),
            _user(each),
            _time(each),
        )
        for each in found
    ]
    return sorted(made, key=lambda each: each.ts_epoch)


def artifacts_in(
    found: Iterable[dict[str, Any]], here: Place | None, there: Place, keys: Mapping[str, str]
) -> Iterator[RegisteredArtifact]:
    """Yield the artifacts that documents are about; ``keys`` are new ones by the old."""
    for each in found:
        location, kind = _text(each.get("location")), _text(each.get("ds_type"))
        if here is not None and kind == here.type and location.startswith(ROOT):
            location, kind = there.location(), there.type
        sha = _text(each.get("sha"))
        yield RegisteredArtifact(
            check_attempt(int(each.get("attempt_id", 0))),
            _text(each["name"]),
            _text(each.get("content_type")),
            keys.get(sha, sha),
            kind,
            location,
            _user(each),
            _time(each),
        )


def _time(found: Mapping[str, Any]) -> int:
    time = found.get("ts_epoch")
    number = int(time) if isinstance(time, int | float) else 0
    if number.bit_length() > 63:  # noqa: PLR2004
        raise ValueError(f"there is no time {number:.3g}")
    return number


def _user(found: Mapping[str, Any]) -> str | None:
    user = found.get("user_name")
    return None if user is None else _text(user)


def _text(value: object) -> str:
    """Return a value as text that a row can hold: JSON may have lone halves of characters."""
    text = str(value)
    text.encode()
    return text
