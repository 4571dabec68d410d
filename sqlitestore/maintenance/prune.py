"""Which runs go, what comes back by it, and moving them into the trash (the shape is restic's: plan, then execute).

What it costs follows what goes: of a run that stays only its name, tags and time are looked at, and content only where
the runs that go refer to it. ``max_size`` alone has to know what the whole file is made of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import InvalidInput, InvalidPathspec, NotFound, Refused
from sqlitestore.maintenance.purge import Purged, purge
from sqlitestore.maintenance.reclaim import AT_ONCE, collect_garbage, drop, unneeded
from sqlitestore.maintenance.usage import Sizes
from sqlitestore.model import parse_full_pathspec
from sqlitestore.progress import SILENT, Progress, reporting
from sqlitestore.stored_json import loaded_texts
from sqlitestore.tables import Tables, tables_of

SIGN_OF_LIFE = 86400.0
"""A task that started and is not done counts as running for so long after the last that was heard of its run [s]."""

BETWEEN_TASKS = 600.0
"""A run of Metaflow that has not come to its step "end" counts as running for so long after its last task [s]."""

TRASH_AGE = 30 * 86400.0
"""How long a run stays in the trash, unless it is said otherwise [s]."""

# Any attempt's start tells a run's time, and the index finds one without looking at the others.
_RUNS = """SELECT r.id, f.name, r.name, COALESCE(g.ts_epoch / 1000.0,
  (SELECT a.started FROM attempt AS a WHERE a.run = r.id AND a.started IS NOT NULL LIMIT 1), 0) AS time,
  COALESCE(g.tags, '[]'), COALESCE(g.system_tags, '[]')
 FROM flow AS f JOIN run AS r ON r.flow = f.id LEFT JOIN registered_run AS g ON g.run = r.id
 WHERE"""
SELECT_RUNS = f"{_RUNS} r.name NOT GLOB '*/*' AND (?1 IS NULL OR f.name = ?1)"
SELECT_RUN = f"{_RUNS} f.name = ?1 AND r.name = ?2"
SELECT_ATTEMPTS = "SELECT step, task, number, started, done FROM attempt WHERE run = ?"
SELECT_BLOBS = """SELECT x.blob FROM attempt AS a JOIN artifact AS x ON x.attempt = a.id WHERE a.run = ?1
 UNION SELECT l.blob FROM attempt AS a JOIN log AS l ON l.attempt = a.id WHERE a.run = ?1"""
SELECT_FILES = "SELECT path, blob FROM file WHERE path >= ?1 || '/' AND path < ?1 || '0'"
SELECT_TRASHED_BLOBS = f"{SELECT_BLOBS} UNION SELECT blob FROM trashed_file WHERE run = ?1"
SELECT_BLOB_IDS = "SELECT b.id FROM json_each(?) AS asked JOIN blob AS b ON b.key = unhex(asked.value)"
SELECT_DATA = """SELECT d.blob, lower(hex(b.key)) FROM flow AS f JOIN data AS d ON d.flow = f.id
 JOIN blob AS b ON b.id = d.blob WHERE f.name = ?"""
SELECT_FLOWS_WITH_DATA = "SELECT name FROM flow WHERE id IN (SELECT flow FROM data)"
SELECT_CODE_PACKAGES = """SELECT m.value FROM flow AS f JOIN run AS r ON r.flow = f.id
 JOIN registered_metadata AS m ON m.run = r.id
 WHERE f.name = ?1 AND m.field_name = 'code-package' AND r.name NOT IN (SELECT value FROM json_each(?2))"""
SELECT_NAMES = "SELECT f.name, r.name FROM run AS r JOIN flow AS f ON f.id = r.flow WHERE r.id = ?"


class Candidate(NamedTuple):
    """A run that the rules look at: the id of its row, its names, about when it began [s since 1970], and all its tags.

    ``of_metaflow`` is whether it has system tags, which Metaflow gives every run, and nobody else gives.
    """

    row: int
    flow_name: str
    run_id: str
    time: float
    tags: frozenset[str]
    of_metaflow: bool

    @property
    def pathspec(self) -> str:
        """``Flow/run``."""
        return f"{self.flow_name}/{self.run_id}"


class PrunedRun(NamedTuple):
    """A run that would go: its tasks, about when it began [s since 1970], its tags, what only it needs [bytes]."""

    pathspec: str
    tasks: int
    time: float
    tags: tuple[str, ...]
    own: int


class PrunePlan(NamedTuple):
    """What would go. ``size`` is the stored content that comes back when the trash is emptied [bytes].

    ``running`` are runs that the rules chose and that stay, since something seems to be working on them. ``data`` are
    the keys of what ``save_data`` keeps that would go, by flow. ``expired`` is what has been in the trash for long.
    """

    runs: tuple[PrunedRun, ...] = ()
    running: tuple[str, ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    expired: tuple[str, ...] = ()
    size: int = 0


def plan_prune(
    store: Any,
    pathspecs: Iterable[str] = (),
    *,
    keep_last: int | None = None,
    older_than: float | None = None,
    keep_tags: Iterable[str] = (),
    max_size: int | None = None,
    data: bool = False,
    force: bool = False,
    trash_age: float = TRASH_AGE,
    progress: Progress = SILENT,
) -> PrunePlan:
    """Return what ``prune`` would do; nothing is changed.

    ``pathspecs`` (``Flow`` or ``Flow/run``; none: every flow) say which runs the rules are for. A run goes if all
    rules that are given allow it: it is not among its flow's ``keep_last`` latest, nothing happened in it for
    ``older_than`` [s], it has none of ``keep_tags``; and of these, with ``max_size`` [bytes], only as many, the oldest
    first, as it takes for the file to become as small. Without any rule, the runs that ``pathspecs`` name go.

    A run that something seems to be working on (a task is not done, and there was a sign of life within a day) stays;
    named itself, it raises Refused; ``force`` takes it all the same. ``data`` lets go of what ``save_data`` keeps for
    the flows, too, except the code packages of runs that stay; alone, it takes no run.
    """
    tables = tables_of(store)
    given = list(pathspecs)
    _check_rules(keep_last, older_than, max_size)
    chooses = bool(given) or any(rule is not None for rule in (keep_last, older_than, max_size))
    if not chooses and not data:
        raise InvalidInput("Say what shall go: pathspecs, or rules such as keep_last or older_than.")
    with tables.database.read() as connection:
        scope = _scope(tables, connection, given)
        chosen = _choose(scope, keep_last, frozenset(keep_tags)) if chooses else []
        activity = {each: _activity(connection, each) for each in reporting(chosen, "Looking at", progress)}
        if older_than is not None:
            chosen = [each for each in chosen if activity[each].last <= time.time() - older_than]
        running = [] if force else [each for each in chosen if activity[each].running]
        _refuse_named(running, given)
        chosen = [each for each in chosen if force or not activity[each].running]
        if max_size is not None:
            chosen = _until_small(tables, chosen, max_size, progress)
        expired = [each for each in tables.trash.runs() if each.purging or each.trashed <= time.time() - trash_age]
        dropped = _data(connection, scope, given, chosen) if data else []
        runs = [_planned(connection, each, activity[each]) for each in reporting(chosen, "Planning", progress)]
        gone = [each.row for each in chosen] + [each.row for each in expired]
        size = _freed(connection, gone, [each.blob for each in dropped])
    return PrunePlan(
        runs=tuple(runs),
        running=tuple(each.pathspec for each in running),
        data=tuple((each.flow_name, each.key) for each in dropped),
        expired=tuple(each.pathspec for each in expired),
        size=size,
    )


def prune(
    store: Any, plan: PrunePlan, *, empty_trash: bool = False, trash_age: float = TRASH_AGE, progress: Progress = SILENT
) -> Purged:
    """Do what the plan says: its runs go into the trash, and what was there for ``trash_age`` [s] goes for good.

    ``empty_trash`` purges all of the trash at once. Return what was purged. A run that is gone since is no error.
    """
    tables = tables_of(store)
    for run in reporting(plan.runs, "Pruning", progress):
        tables.trash.put(*run.pathspec.split("/"))
        crash_point("prune-run-trashed")
    for start in range(0, len(plan.data), AT_ONCE):
        some = plan.data[start : start + AT_ONCE]
        with tables.database.write() as connection:
            for flow in dict.fromkeys(flow for flow, _ in some):
                tables.data.drop(flow, [key for of, key in some if of == flow])
            crash_point("prune-data-dropped")
            blobs: list[Any] = connection.execute(SELECT_BLOB_IDS, (json.dumps([key for _, key in some]),)).fetchall()
            drop(connection, [blob for (blob,) in blobs])
        crash_point("prune-data-gone")
    collect_garbage(tables.database, progress)
    return purge(tables.database, older_than=0.0 if empty_trash else trash_age, progress=progress)


def restore(store: Any, pathspecs: Iterable[str]) -> list[str]:
    """Bring runs (``Flow/run``) back from the trash, whole; all or, if one cannot come back, none. Return which.

    Raises NotFound for a run that is not in the trash, RunExists if another run has taken its name.
    """
    tables = tables_of(store)
    names = [parse_full_pathspec(pathspec) for pathspec in pathspecs]
    for given in names:
        if len(given) != 2:  # noqa: PLR2004
            raise InvalidPathspec(f"{'/'.join(given)!r} does not name a run; give it as Flow/run.")
    with tables.database.write():
        for flow, run in names:
            tables.trash.restore(flow, run)
            crash_point("restore-run-back")
    return ["/".join(given) for given in names]


class _Activity(NamedTuple):
    """How many tasks a run has, when something was heard of it last [s since 1970], and whether it seems to run."""

    tasks: int
    last: float
    running: bool


def _planned(connection: apsw.Connection, run: Candidate, activity: _Activity) -> PrunedRun:
    own = _freed(connection, [run.row])
    return PrunedRun(run.pathspec, activity.tasks, run.time, tuple(sorted(run.tags)), own)


class _Data(NamedTuple):
    """A blob that ``save_data`` keeps for a flow."""

    blob: int
    flow_name: str
    key: str


def _check_rules(keep_last: int | None, older_than: float | None, max_size: int | None) -> None:
    for name, value in (("keep_last", keep_last), ("older_than", older_than), ("max_size", max_size)):
        if value is not None and value < 0:
            raise InvalidInput(f"{name} is not negative; {value} was given.")


def _scope(tables: Tables, connection: apsw.Connection, given: Sequence[str]) -> list[Candidate]:
    """Return the runs that the pathspecs name, the oldest of each flow first. Raises NotFound."""
    found: dict[int, Candidate] = {}
    for pathspec in given or [""]:
        names = parse_full_pathspec(pathspec) if given else ()
        if len(names) > 2:  # noqa: PLR2004 - a flow and a run
            raise InvalidPathspec(f"{pathspec!r} names a part of a run; flows and runs are pruned.")
        flow = names[0] if names else None
        statement = SELECT_RUN if names[1:] else SELECT_RUNS
        rows: list[Any] = connection.execute(statement, names or (None,)).fetchall()
        runs = [
            Candidate(
                row=row,
                flow_name=flow_name,
                run_id=run,
                time=at,
                tags=loaded_texts(tags, f"The tags of {flow_name}/{run}")
                | loaded_texts(system_tags, f"The tags of {flow_name}/{run}"),
                of_metaflow=system_tags != "[]",
            )
            for row, flow_name, run, at, tags, system_tags in rows
        ]
        if flow is not None and not runs and flow not in tables.tasks.flows():
            raise NotFound(f"No flow {flow!r} in {tables.database.path}.")
        if names[1:] and not runs:
            raise NotFound(f"No run {pathspec!r} in {tables.database.path}; nothing was pruned.")
        found |= {each.row: each for each in runs}
    return sorted(found.values(), key=lambda each: (each.flow_name, each.time, each.row))


def _choose(scope: Sequence[Candidate], keep_last: int | None, keep_tags: frozenset[str]) -> list[Candidate]:
    """Return the runs that may go by their place in the flow and their tags."""
    chosen: list[Candidate] = []
    for flow in dict.fromkeys(each.flow_name for each in scope):
        runs = [each for each in scope if each.flow_name == flow]
        chosen += runs[: max(0, len(runs) - (keep_last or 0))]
    return [each for each in chosen if not each.tags & keep_tags]


def _activity(connection: apsw.Connection, run: Candidate) -> _Activity:
    attempts: list[Any] = connection.execute(SELECT_ATTEMPTS, (run.row,)).fetchall()
    last = max((time_ for *_, started, done in attempts for time_ in (started, done) if time_ is not None), default=0.0)
    last = max(last, run.time)
    latest: dict[tuple[str, str], tuple[int, bool]] = {}
    for step, task, number, started, done in attempts:
        if started is not None and number >= latest.get((step, task), (-1, False))[0]:
            latest[step, task] = number, done is None
    unfinished = any(is_running for _, is_running in latest.values())
    ended = any(step == "end" and not is_running for (step, _), (_, is_running) in latest.items())
    age = time.time() - last
    running = (unfinished and age < SIGN_OF_LIFE) or (run.of_metaflow and not ended and age < BETWEEN_TASKS)
    return _Activity(len({(step, task) for step, task, *_ in attempts}), last, running)


def _until_small(tables: Tables, chosen: Sequence[Candidate], max_size: int, progress: Progress) -> list[Candidate]:
    """Return the oldest of the runs, as many as must go for the file to have ``max_size`` bytes."""
    sizes = Sizes(tables.database, progress)
    for trashed in tables.trash.runs():
        sizes.remove(trashed.row)
    going: list[Candidate] = []
    for each in sorted(chosen, key=lambda run: (run.time, run.row)):
        if sizes.left <= max_size:
            break
        sizes.remove(each.row)
        going.append(each)
    return going


def _freed(connection: apsw.Connection, runs: Sequence[int], data: Sequence[int] = ()) -> int:
    """Return the stored bytes that only these runs and these blobs of ``save_data`` need."""
    blobs = dict.fromkeys(data)
    paths: list[str] = []
    for run in runs:
        found: list[Any] = connection.execute(SELECT_TRASHED_BLOBS, (run,)).fetchall()
        blobs |= dict.fromkeys(blob for (blob,) in found)
        names: list[Any] = connection.execute(SELECT_NAMES, (run,)).fetchall()
        for flow, name in names:
            for folder in layout.folders_of_run(flow, name):
                files: list[Any] = connection.execute(SELECT_FILES, (folder,)).fetchall()
                paths += [path for path, _ in files]
                blobs |= dict.fromkeys(blob for _, blob in files)
    return unneeded(connection, blobs, runs, paths, data).size


def _sha_of(value: str) -> str:
    """Return the key in the registered value of a ``code-package``, "" if there is none to be read."""
    try:
        return str(layout.code_package(json.loads(value)).get("sha", ""))
    except (ValueError, RecursionError):
        return ""


def _refuse_named(running: Sequence[Candidate], given: Sequence[str]) -> None:
    """Raise Refused if a run that something seems to be working on is named itself."""
    named = {"/".join(parse_full_pathspec(pathspec)) for pathspec in given}
    for each in running:
        if each.pathspec in named:
            raise Refused(
                f"Run {each.pathspec} has not come to its end, and was heard of a short while ago. If nothing works on "
                "it any more, prune it with --force (force=True)."
            )


def _data(
    connection: apsw.Connection, scope: Sequence[Candidate], given: Sequence[str], going: Sequence[Candidate]
) -> list[_Data]:
    """Return what ``save_data`` keeps for the flows meant, but for the code packages of runs that stay."""
    flows = {parse_full_pathspec(pathspec)[0] for pathspec in given}
    if not given:
        rows: list[Any] = connection.execute(SELECT_FLOWS_WITH_DATA).fetchall()
        flows = {flow for (flow,) in rows} | {each.flow_name for each in scope}
    dropped: list[_Data] = []
    for flow in sorted(flows):
        gone = json.dumps([each.run_id for each in going if each.flow_name == flow])
        values: list[Any] = connection.execute(SELECT_CODE_PACKAGES, (flow, gone)).fetchall()
        needed = {_sha_of(value) for (value,) in values}
        kept: list[Any] = connection.execute(SELECT_DATA, (flow,)).fetchall()
        dropped += [_Data(blob, flow, key) for blob, key in kept if key not in needed]
    return dropped
