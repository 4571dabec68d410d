"""The lines of the table: which cost of which step, how it is written, and the bar that it is to reach."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.growth import SMALL
from benchmarks.peers import JOURNAL, METAFLOW, OURS, PLAIN, UNSYNCED, USERS
from benchmarks.scale import Scale

COLUMNS = (METAFLOW, PLAIN, *USERS, UNSYNCED)
SYNCED_LATER = (METAFLOW, UNSYNCED)
"""With what is written but not yet synced, only those are compared that never sync."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked: a ratio of at least ``ratio`` against ``peer``, or a figure of at most ``figure`` in its unit."""

    ratio: float | None = None
    peer: str = METAFLOW
    figure: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. ``cost`` is what a step returned by this name; rates are ``amount`` by cost, the rest is the cost.

    ``against`` are the stores that it is compared with.
    """

    group: str
    step: str
    cost: str
    label: str
    unit: str
    bar: Bar | None = None
    against: tuple[str, ...] = COLUMNS
    ours: str = OURS


GROWTH = Bar(1 / 1.3, SMALL, text="grows ≤ 1.3")


def _saved(group: str, step: str, what: str, unit: str, bar: float, closed: Bar | None = None) -> list[Row]:
    """Return the two lines of what was saved: until the call returned, and until the store is closed."""
    return [
        Row(group, step, "seconds", f"{what}, call returned", unit, Bar(bar), SYNCED_LATER),
        Row(group, step, "closed", f"{what}, store closed", unit, closed),
    ]


def _limits(group: str, what: str) -> list[Row]:
    """Return the lines that compare with a plain file beyond the one of ``_saved``."""
    label = f"{what}: saved, store closed, rollback journal"
    return [
        Row(group, "save", "closed", label, "MB/s", Bar(0.6, PLAIN), ours=JOURNAL),
        Row(group, "load", "seconds", f"{what}: loaded, against a plain read", "MB/s", Bar(0.5, PLAIN), (PLAIN,)),
    ]


def _object(group: str, what: str, save: float, load: float, closed: Bar | None = None) -> list[Row]:
    """Return the lines of a large artifact."""
    return [
        *_saved(group, "save", f"{what}: saved", "MB/s", save, closed),
        Row(group, "load", "seconds", f"{what}: loaded", "MB/s", Bar(load)),
    ]


def _again(group: str, what: str) -> list[Row]:
    return [
        *_saved(group, "again", f"{what}: the same again (compared)", "MB/s", 4),
        *_saved(group, "changed", f"{what}: one element changed", "MB/s", 30),
        *_saved(group, "appended", f"{what}: 1 % appended", "MB/s", 30),
    ]


def rows(scale: Scale) -> list[Row]:
    """Return all lines, with the sizes in their labels."""
    noise, large, integers, frame = (
        f"{size / 1e6:,.0f} MB of {what}"
        for size, what in (
            (scale.noise, "float64 noise"),
            (scale.large_noise, "float64 noise"),
            (scale.integers, "int64"),
            (scale.frame, "DataFrame"),
        )
    )
    tasks = f"{scale.tasks:,} tasks of 5 small artifacts"
    blobs = f"{scale.blobs:,} blobs of 1 KB"
    many, few = (f"{count * scale.run_tasks:,}" for count in (scale.many_runs, scale.few_runs))
    grown = f"{few} to {many} tasks in the file"
    large_file = f"{scale.large_file / 1e6:,.0f} MB file against {scale.small_file / 1e6:,.0f} MB"
    crowd = f"{scale.processes} processes at once"
    small = Bar(1.0, text="≤ gzip's")
    mebibytes = Bar(figure=64)
    return [
        *_object("noise", noise, 20, 10, Bar(0.3, PLAIN)),
        *_limits("noise", noise),
        *_again("noise", noise),
        *_object("large noise", large, 20, 10, Bar(0.3, PLAIN)),
        *_limits("large noise", large),
        Row("large noise", "save", "peak", f"{large}: peak memory beyond it, saved", "MiB", mebibytes),
        Row("large noise", "load", "peak", f"{large}: peak memory beyond it, loaded", "MiB", mebibytes),
        *_object("integers", integers, 6, 4),
        Row("integers", "save", "disk", f"{integers}: disk", "MB", small),
        *_again("integers", integers),
        *_object("frame", frame, 6, 4),
        Row("frame", "save", "disk", f"{frame}: disk", "MB", small),
        *_saved("tasks", "save", f"{tasks}: written", "/s", 4),
        Row("tasks", "by run", "seconds", f"{tasks}: looked up by run and step", "/s", Bar(10)),
        Row("tasks", "by pathspecs", "seconds", f"{tasks}: looked up by pathspecs", "/s", Bar(6)),
        Row("tasks", "load", "seconds", f"{tasks}: one artifact of each loaded", "/s", Bar(3)),
        Row("tasks", "save", "disk", f"{tasks}: disk", "MB", Bar(8)),
        *_saved("data", "save", f"{blobs}: save_data", "/s", 3),
        Row("data", "load", "seconds", f"{blobs}: load_data", "/s", Bar(3)),
        Row("crowd of arrays", "save", "closed", f"{crowd}: {scale.crowd_bytes / 1e6:,.0f} MB each", "MB/s", Bar(4)),
        Row("crowd of tasks", "save", "closed", f"{crowd}: {scale.crowd_tasks:,} small tasks each", "/s", Bar(4)),
        Row("many tasks", "ask", "write", f"{grown}: one written, closed after {scale.run_tasks:,}", "ms", GROWTH),
        Row("many tasks", "ask", "look up", f"{grown}: one looked up of a run's {scale.run_tasks:,}", "ms", GROWTH),
        Row("many tasks", "ask", "load", f"{grown}: one loaded", "ms", GROWTH),
        Row("many bytes", "ask", "open", f"{large_file}: opened", "ms", GROWTH),
        Row("many bytes", "ask", "list", f"{large_file}: 100 tasks and their artifacts listed", "ms", GROWTH),
        Row("many bytes", "ask", "load", f"{large_file}: one artifact loaded", "ms", GROWTH),
        Row("client", "ask", "list", f"Metaflow's client: {scale.client_tasks:,} tasks listed", "ms", Bar(5)),
        Row("client", "ask", "load", f"Metaflow's client: {scale.client_loaded:,} artifacts loaded", "ms", Bar(5)),
        Row("client", "ask", "artifacts", f"Metaflow's client: artifacts of {scale.client_loaded:,} listed", "ms"),
        Row("client", "ask", "metadata", f"Metaflow's client: metadata of {scale.client_loaded:,}", "ms"),
        Row("client", "ask", "disk", f"Metaflow's client: disk of the {scale.client_tasks:,} tasks", "MB"),
        Row("flights", "run", "seconds", "a whole run of scripts/flights_flow.py", "s", Bar(1, text="not slower")),
        Row("startup", "start", "import", "from sqlitestore import FlowDataStore", "ms", Bar(figure=60)),
        Row("startup", "start", "help", "sqlitestore --help", "ms", Bar(figure=200)),
    ]
