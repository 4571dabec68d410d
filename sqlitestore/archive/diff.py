"""What is different between two runs, two tasks or two files, as far as names, keys and previews tell.

Nothing is unpickled: artifacts are equal if their bytes have the same key. Of logs the text is compared, line by line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlitestore import layout
from sqlitestore.archive.export import select
from sqlitestore.archive.records import Names, RunRecords, read_run
from sqlitestore.archive.things import Kind, Look, Side, TaskName, TaskRecords, Thing, Things, by_task, lines_of
from sqlitestore.blobs import Blobs
from sqlitestore.errors import InvalidInput, InvalidPathspec
from sqlitestore.maintenance.row_types import odd_rows_are_damage
from sqlitestore.model import parse_full_pathspec
from sqlitestore.progress import SILENT, Progress
from sqlitestore.tables import Tables, tables_of

Change: TypeAlias = Literal["added", "removed", "changed"]

LOG_BLOCK = 2**20
"""[bytes] Of a log that are read at a time."""

LONGEST_LINE = 200
"""[bytes] Of a log's line that a difference shows."""


class Difference(NamedTuple):
    """A thing that only ``b`` has ("added"), that only ``a`` has ("removed"), or that is another ("changed").

    ``pathspec`` is ``Flow[/run[/step/task]]``, as it is in ``a`` unless only ``b`` has it. ``attempt`` is None for what
    belongs to no attempt, and where a task is compared with one of another run: then the latest attempts are. ``name``
    is that of the artifact, metadatum, log ("source stream"), tag, file (its path) or blob. ``detail`` says of a run
    how many differences there are of each kind, and of a log in which line is the first.
    """

    kind: Kind
    pathspec: str
    attempt: int | None
    name: str
    change: Change
    a: Side | None
    b: Side | None
    detail: str = ""


class Diff(NamedTuple):
    """The differences between ``a`` and ``b``, which are pathspecs, or paths of files; none if they are equal."""

    a: str
    b: str
    differences: tuple[Difference, ...]


class _Part(NamedTuple):
    """One side: a part of a file."""

    tables: Tables
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """The pathspec, or for a whole file its path."""
        return "/".join(self.names) or self.tables.database.path


def diff(
    store: Any,
    a: str | None = None,
    b: str | None = None,
    *,
    other: Any = None,
    details: bool = False,
    progress: Progress = SILENT,
) -> Diff:
    """Compare two runs, steps or tasks, of an open store or of it and ``other``; without pathspecs, two whole stores.

    ``a`` names something in ``store``, ``b`` in ``other`` if that is given; one of them left out is what the other is.
    The same run in two stores is compared in everything. Two different runs are not told apart by what is never the
    same in two runs: times, their ids, what their cards show, earlier attempts. Their tasks are matched by step and
    name, or by their order if a step has as many tasks of other names.

    Of two stores, or of the same flow in both, each run is one difference, with ``details`` all that differs in it.

    Raises NotFound for what is not there, InvalidPathspec for a pair that cannot be compared, Damaged.
    """
    first = tables_of(store)
    second = first if other is None else tables_of(other)
    names = [() if pathspec is None else parse_full_pathspec(pathspec) for pathspec in (a or b, b or a)]
    left, right = _Part(first, names[0]), _Part(second, names[1])
    _check_comparable(left, right)
    with odd_rows_are_damage(first.database, second.database), ExitStack() as snapshots:
        for database in {id(each.database): each.database for each in (first, second)}.values():
            if database.reads_beside_writers:
                snapshots.enter_context(database.read())
        if len(names[0]) <= 1:
            found = _of_stores(left, right, details=details, progress=progress)
        else:
            found = _of_runs(left, right)
        return Diff(left.title, right.title, tuple(found))


def _check_comparable(left: _Part, right: _Part) -> None:
    level = len(left.names)
    if level != len(right.names) or level > len(Names._fields):
        raise InvalidPathspec(
            f"{left.title} and {right.title} cannot be compared; give two runs, two steps or two tasks, or two files."
        )
    if level <= 1 and (left.tables is right.tables or left.names != right.names):
        raise InvalidInput("Whole files, or one flow in two files, are compared; give two files, or two runs of one.")


# Two stores


def _of_stores(left: _Part, right: _Part, *, details: bool, progress: Progress) -> Iterator[Difference]:
    for part in (left, right):
        select(part.tables, part.names[:1])  # raises NotFound
    tables = (left.tables, right.tables)
    flows = left.names or tuple(dict.fromkeys(flow for each in tables for flow in each.tasks.flows()))
    loose = [_loose_files(each, left.names) for each in tables]
    yield from _changes("/".join(left.names), *loose)
    progress.start("Comparing", None, "runs")
    try:
        for flow in flows:
            kept: list[Things] = [
                {("data", None, key): Thing(None, partial(Side, key)) for key in sorted(each.data.kept(flow))}
                for each in tables
            ]
            yield from _changes(flow, *kept)
            runs = [each.tasks.runs(flow) for each in tables]
            there = [set(each) for each in runs]
            for run in dict.fromkeys([*runs[0], *runs[1]]):
                yield from _of_run(tables, Names(flow, run), [run in each for each in there], details=details)
                progress.advance(1)
    finally:
        progress.finish()


def _of_run(
    tables: tuple[Tables, Tables], names: Names, there: Sequence[bool], *, details: bool
) -> Iterator[Difference]:
    """Yield what is different in a run of two stores, or that it is only in one."""
    if not all(there):
        a, b = (_whole_run(each, names) if has else None for each, has in zip(tables, there, strict=True))
        yield Difference("run", names.pathspec, None, "", "removed" if there[0] else "added", a, b)
        return
    found = _of_runs(*(_Part(each, names[:2]) for each in tables))
    if details:
        yield from found
    elif counts := Counter(each.kind for each in found):
        told = ", ".join(f"{kind} {count}" for kind, count in counts.items())
        a, b = (_whole_run(each, names) for each in tables)
        yield Difference("run", names.pathspec, None, "", "changed", a, b, told)


def _whole_run(tables: Tables, names: Names) -> Side:
    count = len(tables.tasks.names(*names[:2]))
    return Side(preview={"repr": "1 task" if count == 1 else f"{count} tasks"})


def _loose_files(tables: Tables, flow: tuple[str, ...]) -> Things:
    """Return the files that belong to no run."""
    paths = [
        path for folder in (layout.folders_of_flow(*flow) if flow else [""]) for path in tables.files.below(folder)
    ]
    of_runs = tuple(
        f"{folder}/"
        for name in tables.tasks.flows()
        for run in tables.tasks.runs(name)
        for folder in layout.folders_of_run(name, run)
    )
    return {
        ("file", None, each.path): Thing((each.key, each.metadata), partial(Side, each.key, each.size))
        for each in tables.files.find_records(path for path in paths if not path.startswith(of_runs))
    }


# Two runs, or parts of them


class _Run(NamedTuple):
    """A run, or a part of one, as it is looked at."""

    pathspec: str
    records: RunRecords
    look: Look
    blobs: Blobs


def _of_runs(left: _Part, right: _Part) -> Iterator[Difference]:
    same = left.names[:2] == right.names[:2] and left.tables is not right.tables
    runs = []
    for part in (left, right):
        [[wanted]] = select(part.tables, ["/".join(part.names)]).runs
        records = read_run(part.tables, wanted)
        runs.append(_Run(records.pathspec, records, Look(records, same=same), part.tables.blobs))
    a, b = runs
    if len(left.names) == 2:  # noqa: PLR2004 - whole runs
        yield from _changes(a.pathspec, a.look.of_run(), b.look.of_run())
    tasks = by_task(a.records), by_task(b.records)
    if same:
        pairs: Iterable[tuple[Any, Any]] = ((name, name) for name in dict.fromkeys([*tasks[0], *tasks[1]]))
    else:
        pairs = _pairs(list(tasks[0]), list(tasks[1]), dict(zip(left.names[2:3], right.names[2:3], strict=True)))
    for ours, theirs in pairs:
        yield from _of_tasks(runs, (ours, theirs), (tasks[0].get(ours), tasks[1].get(theirs)))


def _pairs(
    ours: Sequence[TaskName], theirs: Sequence[TaskName], called: Mapping[str, str]
) -> Iterator[tuple[TaskName | None, TaskName | None]]:
    """Yield the tasks of two runs that belong together, None for the one that is missing.

    ``called`` says which step of theirs is meant by one of ours, where two steps or tasks are compared.
    """
    steps: dict[str, list[list[str]]] = {}
    names = {theirs: ours for ours, theirs in called.items()}
    for step, task in ours:
        steps.setdefault(step, [[], []])[0].append(task)
    for step, task in theirs:
        steps.setdefault(names.get(step, step), [[], []])[1].append(task)
    for step, (left, right) in steps.items():
        other = called.get(step, step)
        if set(left) != set(right) and len(left) == len(right):
            pairs: Iterable[tuple[str, str]] = zip(_in_order(left), _in_order(right), strict=True)
        else:
            pairs = ((task, task) for task in dict.fromkeys([*left, *right]))
        known = set(left), set(right)
        for task, its in pairs:
            yield (step, task) if task in known[0] else None, (other, its) if its in known[1] else None


def _in_order(tasks: Iterable[str]) -> list[str]:
    """Return tasks in the order in which they were made: by number, as Metaflow counts; of others as they came."""
    return sorted(tasks, key=lambda task: int(task) if task.isdecimal() and len(task) < 20 else 0)  # noqa: PLR2004


def _of_tasks(
    runs: Sequence[_Run],
    names: tuple[TaskName | None, TaskName | None],
    tasks: tuple[TaskRecords | None, TaskRecords | None],
) -> Iterator[Difference]:
    sides = [{} if task is None else run.look.of_task(task) for run, task in zip(runs, tasks, strict=True)]
    run, name = next((run, name) for run, name in zip(runs, names, strict=True) if name is not None)
    for found in _changes("/".join((run.pathspec, *name)), *sides):
        if found.kind == "log" and found.change == "changed":
            ours, theirs = (
                _log_lines(run, side[found.kind, found.attempt, found.name])
                for run, side in zip(runs, sides, strict=True)
            )
            yield from _with_line(found, zip_longest(ours, theirs))
        else:
            yield found


def _changes(pathspec: str, ours: Things, theirs: Things) -> Iterator[Difference]:
    for name, thing in ours.items():
        kind, attempt, called = name
        other = theirs.get(name)
        if other is None:
            yield Difference(kind, pathspec, attempt, called, "removed", thing.side(), None)
        elif other.value != thing.value:
            yield Difference(kind, pathspec, attempt, called, "changed", thing.side(), other.side())
    for name, thing in theirs.items():
        if name not in ours:
            yield Difference(name[0], pathspec, name[1], name[2], "added", None, thing.side())


# Logs


def _log_lines(run: _Run, thing: Thing) -> Iterator[bytes]:
    """Yield the lines of a log, as they are compared."""

    def blocks() -> Iterator[bytes]:
        for key, _ in thing.value:
            with run.blobs.open(key) as file:
                while block := file.read(LOG_BLOCK):
                    yield block

    return map(run.look.own_line, lines_of(blocks()))


def _with_line(found: Difference, lines: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[Difference]:
    """Yield the difference with the first line that is another; nothing if the texts are equal."""
    for number, (ours, theirs) in enumerate(lines, start=1):
        if ours != theirs:
            sides = [
                None if side is None else side._replace(preview={} if line is None else {"repr": _shown(line)})
                for side, line in ((found.a, ours), (found.b, theirs))
            ]
            yield found._replace(a=sides[0], b=sides[1], detail=f"line {number}")
            return


def _shown(line: bytes) -> str:
    return line[:LONGEST_LINE].decode(errors="replace").rstrip("\n") + ("..." if len(line) > LONGEST_LINE else "")
