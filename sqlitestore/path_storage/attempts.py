"""Attempts as documents in the folder of their task: what stands there, and what it says.

Metaflow's documents say neither when an attempt was done nor which came first; ours say it beside Metaflow's words (see
``layout.with_ours``), which Metaflow does not look at. Of attempts that Metaflow wrote, the time of their start stands
for both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlitestore import layout
from sqlitestore.errors import Damaged
from sqlitestore.layout import LogPlace, MarkerPlace, MetadataPlace, Place
from sqlitestore.model import Artifact, Attempt, TaskAddress
from sqlitestore.path_storage.paths import Paths


class Found(NamedTuple):
    """The reference of an attempt: where it stands in its run [ns since 1970], and its artifacts if it is done."""

    first: float
    artifacts: Mapping[str, Artifact]


def in_tasks(paths: Paths, tasks: Iterable[TaskAddress]) -> dict[TaskAddress, list[Place]]:
    """Return what stands in the tasks' folders."""
    found: dict[TaskAddress, list[Place]] = {task: [] for task in tasks}
    for entry in paths.below(task.pathspec for task in found):
        place = layout.place_of(entry.path) if entry.is_file else None
        if isinstance(place, MarkerPlace | LogPlace | MetadataPlace) and place.task in found:
            found[place.task].append(place)
    return found


def tasks_of_run(paths: Paths, flow_name: str, run_id: str, steps: Iterable[str] | None) -> list[TaskAddress]:
    """Return the tasks of a run, or of these steps of it."""
    if steps is None:
        steps = folders(paths, [f"{flow_name}/{run_id}"])
    found = folders(paths, [f"{flow_name}/{run_id}/{step.rpartition('/')[2]}" for step in steps])
    return [TaskAddress(*path.split("/")) for path in found]


def folders(paths: Paths, above: Iterable[str]) -> list[str]:
    """Return the paths of the folders below others, without those of metadata providers; sorted."""
    return sorted(
        entry.path
        for entry in paths.below(above)
        if not entry.is_file and entry.path.rpartition("/")[2] != layout.METADATA_FOLDER
    )


def attempts(paths: Paths, tasks: Iterable[TaskAddress]) -> list[Attempt]:
    """Return the attempts of the tasks, in the order asked, then by number."""
    places = in_tasks(paths, tasks)
    markers = [each for found in places.values() for each in found if isinstance(each, MarkerPlace)]
    done = {(each.task, each.attempt) for each in markers if each.name == layout.DONE}
    wanted = [
        each for each in markers if each.name == layout.ATTEMPT or (each.name == layout.DATA and each[:2] in done)
    ]
    documents = paths.read(map(layout.path_of, wanted))
    made = []
    for task, found in places.items():
        numbers = {each.attempt for each in found if isinstance(each, MarkerPlace | LogPlace)}
        made += [_attempt(task, number, documents, done=(task, number) in done) for number in sorted(numbers)]
    return made


def _attempt(task: TaskAddress, number: int, documents: Mapping[str, bytes], *, done: bool) -> Attempt:
    started_document = documents.get(layout.path_of(MarkerPlace(task, number, layout.ATTEMPT)))
    data_document = documents.get(layout.path_of(MarkerPlace(task, number, layout.DATA)))
    try:
        started, first = _start(started_document)
        if data_document is None or not done:
            return Attempt(task, number, started, None, None, Found(first, {}))
        data = json.loads(data_document)
        ours = data.get(layout.OURS, {})
        return Attempt(
            task,
            number,
            started,
            float(ours.get("done", started or 0.0)),
            str(data.get("python_version", "")),
            Found(min(first, float(ours.get("first", first))), artifacts_in(data)),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f"A document of attempt {number} of task {task.pathspec} is damaged: {error}.") from error


def _start(document: bytes | None) -> tuple[float | None, float]:
    """Return when an attempt started [s], and where it stands in its run [ns]: last, if nothing says it."""
    if document is None:
        return None, float("inf")
    data = json.loads(document)
    started = float(data["time"])
    return started, float(data.get(layout.OURS, {}).get("first", started * 1e9))


def artifacts_in(data: Mapping[str, Any]) -> dict[str, Artifact]:
    """Return the artifacts that a ``data.json`` names, in the order saved."""
    infos, ours = data.get("info", {}), data.get(layout.OURS, {}).get("artifacts", {})
    return {
        name: Artifact.from_info(key, {**infos.get(name, {}), **ours.get(name, {})})
        for name, key in data["objects"].items()
    }


def data_document(
    number: int, artifacts: Mapping[str, Artifact], datastore: str, python: str, done: float, first: float
) -> bytes:
    """Return the text of a ``data.json`` that Metaflow reads, with what only we understand beside it."""
    ours: dict[str, Any] = {"done": done, "first": first, "artifacts": {}}
    for name, artifact in artifacts.items():
        more: dict[str, Any] = {"encoding": artifact.encoding}
        if artifact.preview:
            more["preview"] = dict(artifact.preview)
        if more != {"encoding": layout.encoding_for_metaflow(artifact.encoding)}:
            ours["artifacts"][name] = more
    document = layout.data_document(number, layout.DataDocument(artifacts, python), datastore)
    return layout.with_ours(document, ours)


def in_order_of_appearance(found: Sequence[Attempt]) -> list[Attempt]:
    """Return attempts in the order in which they first appeared."""
    return sorted(found, key=lambda each: each.reference.first)
