"""Trusting runs that came from somebody else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlitestore.archive.export import select
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import InvalidPathspec
from sqlitestore.tables import Tables, tables_of


class UntrustedRun(NamedTuple):
    """A run whose artifacts are not unpickled, and where it came from."""

    pathspec: str
    origin: str


def plan_trust(store: Any, pathspecs: Iterable[str] = ()) -> list[UntrustedRun]:
    """Return the untrusted runs among those that the pathspecs (``Flow`` or ``Flow/run``; none: all) name.

    Raises NotFound for what is not there.
    """
    return [UntrustedRun(f"{flow}/{run}", origin) for flow, run, origin in _untrusted(tables_of(store), pathspecs)]


def _untrusted(tables: Tables, pathspecs: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return flow, run and origin of each; in a forged file a name may have slashes."""
    chosen = select(tables, pathspecs)
    names = set()
    for part in (part for parts in chosen.runs for part in parts):
        if part.step_name is not None:
            raise InvalidPathspec(f"{part.pathspec} is a part of a run; runs are trusted as a whole.")
        names.add(part[:2])
    return [found for found in tables.trust.untrusted() if found[:2] in names]


def trust_runs(store: Any, pathspecs: Iterable[str] = ()) -> list[UntrustedRun]:
    """Let the artifacts of these runs be unpickled from now on, by everybody who opens the file; return which."""
    tables = tables_of(store)
    runs = _untrusted(tables, pathspecs)
    with tables.database.write():
        for flow, run, _ in runs:
            tables.trust.trust(flow, run)
            crash_point("trust-run-trusted")
    return [UntrustedRun(f"{flow}/{run}", origin) for flow, run, origin in runs]
