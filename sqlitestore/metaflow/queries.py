"""Metaflow's query language of two words: an object of a type, and what of another type is below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlitestore.metaflow.roots import store_of
from sqlitestore.model import TaskAddress
from sqlitestore.paths.objects import Objects, Thing, objects_of

LEVELS = ("root", "flow", "run", "step", "task", "artifact")

SELF = "self"
"""Metaflow's word for the object itself, instead of what is below it."""


def answer(root: str | None, kind: str, wanted: str, names: Sequence[str], attempt: int | None) -> list[Thing]:
    """Return the objects of the kind ``wanted`` below the one that ``names`` name; with SELF that one, if it is there.

    ``root`` is the datastore's (None: the configured file); where there is no file, there is nothing.
    """
    _, store = store_of(root)
    if store is None:
        return []
    objects = objects_of(store)
    if wanted != SELF:
        return below(objects, kind, wanted, names, attempt)
    found = itself(objects, kind, names, attempt)
    return [] if found is None else [found]


def itself(objects: Objects, kind: str, names: Sequence[str], attempt: int | None) -> Thing | None:
    """Return the object of a kind that ``names`` name, from the flow down; None if there is none."""
    match kind, list(names):
        case "flow", [flow]:
            return objects.flow(flow)
        case "run", [flow, run]:
            return objects.run(flow, run)
        case "step", [flow, run, step]:
            return next(iter(objects.steps(flow, run, step)), None)
        case "task", [flow, run, step, task]:
            return next(iter(objects.tasks(flow, run, step, task)), None)
        case "artifact", [*task, name]:
            return next(iter(objects.artifacts(TaskAddress(*task), attempt, name)), None)
    return None


def below(objects: Objects, kind: str, wanted: str, names: Sequence[str], attempt: int | None) -> list[Thing]:
    """Return the objects of the kind ``wanted`` below the one of a kind that ``names`` name."""
    names = list(names)[: LEVELS.index(kind)]
    if wanted in {"artifact", "metadata"}:
        if kind != "task":
            return []
        task = TaskAddress(*names)
        return objects.artifacts(task, attempt) if wanted == "artifact" else objects.metadata(task)
    return list(_below(objects, wanted, names))


def _below(objects: Objects, wanted: str, names: list[str]) -> Iterator[Thing]:
    """Go down level by level; tasks come all of a run, or of a step, in one query."""
    match wanted, names:
        case "flow", []:
            yield from objects.flows()
        case "run", [flow]:
            yield from objects.runs(flow)
        case "step", [flow, run]:
            yield from objects.steps(flow, run)
        case "task", [flow, run, *step]:
            yield from objects.tasks(flow, run, *step)
        case _, []:
            for each in objects.flows():
                yield from _below(objects, wanted, [each["flow_id"]])
        case _, [flow]:
            for each in objects.runs(flow):
                yield from _below(objects, wanted, [flow, each["run_number"]])
