"""Tags of runs, by Metaflow's rules: a run has those that its user gave it, and system tags that nobody changes.

The plug-in's metadata provider changes tags through here too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlitestore.crash_points import crash_point
from sqlitestore.errors import InvalidInput, InvalidPathspec, InvalidType, NotFound
from sqlitestore.model import check_iterable, parse_full_pathspec
from sqlitestore.registrations import RegisteredRun, unregistered_run
from sqlitestore.tables import Tables, tables_of

MAX_TAGS = 50
"""Tags that a run may have; one that has more may lose some. This and the next are Metaflow's limits."""

MAX_TAG_LENGTH = 500
"""Characters of a tag."""


class RunTags(NamedTuple):
    """The tags of a run, sorted; both are empty for one that no metadata provider has registered."""

    pathspec: str
    tags: tuple[str, ...]
    system_tags: tuple[str, ...]


def tags_of(store: Any, pathspec: str) -> tuple[RunTags, ...]:
    """Return the tags of a run (``Flow/run``), or of each run of a flow (``Flow``), oldest first. Raises NotFound."""
    tables = tables_of(store)
    flow, run = _names(pathspec)
    with tables.database.read():
        runs = tables.tasks.runs(flow)
        if run is not None:
            _check_there(tables, flow, run, runs)
            registered = {run: tables.registrations.run(flow, run)}
        elif flow in tables.tasks.flows():
            registered = dict.fromkeys(runs) | {each.name: each for each in tables.registrations.runs(flow)}
        else:
            raise NotFound(f"No flow {flow!r} in {tables.database.path}; `sqlitestore ls` shows what there is.")
    return tuple(_tags(f"{flow}/{name}", found) for name, found in registered.items())


def change_tags(store: Any, pathspec: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> RunTags:
    """Remove tags of a run, then add some, in one transaction; return what it has then.

    A tag that is not there is removed without complaint, and one that is a system tag is not added. A run that no
    provider has registered is registered, so that Metaflow's client finds it with its tags.

    Raises NotFound, and InvalidInput for a system tag to be removed and for tags beyond Metaflow's limits: then nothing
    was changed.
    """
    tables = tables_of(store)
    flow, run = _names(pathspec)
    if run is None:
        raise InvalidPathspec(f"{pathspec!r} names a flow; tags belong to its runs: give Flow/run.")
    to_add, to_remove = _given(add), _given(remove)
    with tables.database.write():
        _check_there(tables, flow, run, tables.tasks.runs(flow))
        if tables.registrations.run(flow, run) is None:
            found = unregistered_run(run, tables.tasks.find_run(flow, run, None))
            epoch = round(time.time() * 1000) if found is None else found.ts_epoch
            tables.registrations.add_run(flow, run, None, epoch, (), ())
            crash_point("tags-run-registered")
        tables.registrations.change_tags(flow, run, lambda tags, system: changed(tags, system, to_add, to_remove))
        return _tags(f"{flow}/{run}", tables.registrations.run(flow, run))


def changed(
    tags: frozenset[str], system_tags: frozenset[str], add: frozenset[str], remove: frozenset[str]
) -> frozenset[str]:
    """Return what tags become. Raises InvalidInput in Metaflow's words."""
    if refused := remove & system_tags:
        raise InvalidInput(f"Cannot remove a tag that is an existing system tag ({sorted(refused)})")
    new = (tags - remove) | (add - system_tags)
    if new == tags:
        return tags
    if len(new) > max(MAX_TAGS, len(tags)):
        raise InvalidInput(f"Cannot increase size of tag set beyond {MAX_TAGS}")
    for tag in new:
        _check_tag(tag)
    return new


def _check_tag(tag: str) -> None:
    if not isinstance(tag, str):
        raise InvalidType(f"A tag is text, not {type(tag).__name__}: {tag!r:.80}")
    if not tag:
        raise InvalidInput("Tags must not be empty string")
    if len(tag) > MAX_TAG_LENGTH:
        raise InvalidInput(f"Tag is too long {len(tag)} > {MAX_TAG_LENGTH}")
    try:
        tag.encode()
    except UnicodeError as error:
        raise InvalidInput("Tags must be UTF-8 encodable") from error


def _given(tags: Iterable[str]) -> frozenset[str]:
    given = list(check_iterable("tags", tags))
    for tag in given:
        _check_tag(tag)
    return frozenset(given)


def _names(pathspec: str) -> tuple[str, str | None]:
    flow, *rest = parse_full_pathspec(pathspec)
    if len(rest) > 1:
        raise InvalidPathspec(f"{pathspec!r} is a part of a run; tags belong to runs: give Flow/run.")
    return flow, rest[0] if rest else None


def _check_there(tables: Tables, flow: str, run: str, runs: list[str]) -> None:
    if run not in runs:
        latest = ", ".join(runs[:-9:-1]) or "none"
        raise NotFound(f"No run {run!r} of flow {flow} in {tables.database.path}; the latest are {latest}.")


def _tags(pathspec: str, run: RegisteredRun | None) -> RunTags:
    tags, system_tags = (run.tags, run.system_tags) if run else (frozenset(), frozenset())
    return RunTags(pathspec, tuple(sorted(tags)), tuple(sorted(system_tags)))
