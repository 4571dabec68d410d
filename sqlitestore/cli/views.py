"""Rows for each level of a pathspec, shared by ``ls`` and ``show``, and the columns that tables show of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlitestore.cli.lookup import artifacts_of, latest
from sqlitestore.cli.output import Column
from sqlitestore.cli.text import preview_line, type_name
from sqlitestore.errors import Damaged
from sqlitestore.maintenance.listing import AttemptSize, RunSummary, attempt_sizes, run_summaries
from sqlitestore.model import Artifact, Attempt
from sqlitestore.registrations import Registrations
from sqlitestore.storage import SQLiteStorage

Row = dict[str, Any]
Columns: TypeAlias = tuple[Column, ...]

_STATES = (Column("done", "count"), Column("running", "count"), Column("failed", "count"))
_TIMES = (Column("started", "time"), Column("finished", "time"))
_SIZES = (Column("artifacts", "count"), Column("size", "size"))
FLOWS: Columns = (Column("flow"), Column("runs", "count"), Column("tasks", "count"), *_STATES, *_TIMES)
RUNS: Columns = (Column("run"), Column("steps", "count"), Column("tasks", "count"), *_STATES, *_TIMES)
STEPS: Columns = (Column("step"), Column("tasks", "count"), *_STATES, *_TIMES, *_SIZES)
TASKS: Columns = (Column("task"), Column("state"), Column("attempt", "count"), *_TIMES, *_SIZES)
ATTEMPTS: Columns = (Column("attempt", "count"), Column("state"), *_TIMES, *_SIZES, Column("python"))
ARTIFACTS: Columns = (
    Column("name"),
    Column("type_name", title="type"),
    Column("size", "size"),
    Column("preview_line", "long", "preview"),
)
LOGS: Columns = (Column("source"), Column("stream"), Column("size", "size"))
METADATA: Columns = (Column("name"), Column("of"), Column("value"))

TAGS: Columns = (Column("tags"), Column("system_tags"))

NO_SIZE = AttemptSize(0, 0, failed=False)


def flow_rows(storage: SQLiteStorage) -> list[Row]:
    """Return a row for each flow."""
    return [flow_row(name, runs) for name, runs in run_summaries(storage.database).items()]


def flow_row(name: str, runs: Sequence[RunSummary]) -> Row:
    """Return the row of a flow from its runs; its times are the last ones."""
    counts = {key: sum(getattr(run, key) for run in runs) for key in ("tasks", "done", "running", "failed")}
    started = max((run.started for run in runs if run.started is not None), default=None)
    finished = max((run.finished for run in runs if run.finished is not None), default=None)
    return {"flow": name, "runs": len(runs), **counts, "started": started, "finished": finished}


def run_rows(storage: SQLiteStorage, flow_name: str) -> list[Row]:
    """Return a row for each run of a flow, oldest first."""
    return [run_row(run) for run in run_summaries(storage.database, flow_name).get(flow_name, [])]


def run_row(run: RunSummary) -> Row:
    """Return the row of a run."""
    row = run._asdict()
    row["flow"], row["run"] = row.pop("flow_name"), row.pop("run_id")
    return row


def step_rows(storage: SQLiteStorage, flow_name: str, run_id: str) -> list[Row]:
    """Return a row for each step of a run, in the order in which they started."""
    rows: dict[str, list[Row]] = {}
    for task in task_rows(storage, flow_name, run_id, None):
        rows.setdefault(task["step"], []).append(task)
    return [
        {
            "step": step,
            "tasks": len(tasks),
            **{state: sum(task["state"] == state for task in tasks) for state in ("done", "running", "failed")},
            "started": min((task["started"] for task in tasks if task["started"] is not None), default=None),
            "finished": max((task["finished"] for task in tasks if task["finished"] is not None), default=None),
            "artifacts": sum(task["artifacts"] for task in tasks),
            "size": sum(task["size"] for task in tasks),
        }
        for step, tasks in rows.items()
    ]


def task_rows(storage: SQLiteStorage, flow_name: str, run_id: str, step_name: str | None) -> list[Row]:
    """Return a row for each task of a run (of one step), by its latest attempt, in the order of their start."""
    steps = None if step_name is None else [step_name]
    tasks: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in storage.find_run(flow_name, run_id, steps):
        tasks.setdefault((attempt.task.step_name, attempt.task.task_id), []).append(attempt)
    sizes = attempt_sizes(storage.database, flow_name, run_id, step_name)
    rows = []
    for (step, task), attempts in tasks.items():
        row = attempt_row(latest(attempts), attempts, sizes)
        del row["python"]
        rows.append({"step": step, "task": task, "attempts": len(attempts), **row})
    return rows


def attempt_rows(storage: SQLiteStorage, attempts: Sequence[Attempt]) -> list[Row]:
    """Return a row for each attempt of one task."""
    task = attempts[0].task
    sizes = attempt_sizes(storage.database, task.flow_name, task.run_id, task.step_name)
    return [attempt_row(attempt, attempts, sizes) for attempt in attempts]


def attempt_row(
    attempt: Attempt, attempts: Sequence[Attempt], sizes: Mapping[tuple[str, str, int], AttemptSize]
) -> Row:
    """Return the row of one of a task's ``attempts``.

    Its state is "done", "failed" (ended badly, or a later one was started in its place), "running" (or crashed: that
    looks the same) or "pending" (not started, only logs or metadata arrived).
    """
    size = sizes.get((attempt.task.step_name, attempt.task.task_id, attempt.number), NO_SIZE)
    if attempt.done is not None:
        state = "failed" if size.failed else "done"
    elif attempt.started is None:
        state = "pending"
    else:
        state = "running" if attempt is latest(attempts) else "failed"
    return {
        "attempt": attempt.number,
        "state": state,
        "started": attempt.started,
        "finished": attempt.done,
        "artifacts": size.artifacts,
        "size": size.size,
        "python": (attempt.python or "").split(" ")[0] or None,  # Metaflow's is all of sys.version
    }


def artifact_rows(storage: SQLiteStorage, attempt: Attempt) -> list[Row]:
    """Return a row for each artifact of an attempt, sorted by name; none if it is not done."""
    return [artifact_row(name, artifact) for name, artifact in sorted(artifacts_of(storage, attempt).items())]


def artifact_row(name: str, artifact: Artifact) -> Row:
    """Return the row of an artifact, with its preview in full."""
    preview = _preview_of(artifact)
    return {
        "name": name,
        "type": artifact.type,
        "type_name": type_name(artifact.type),
        "size": artifact.size,
        "encoding": artifact.encoding,
        "key": artifact.key,
        "preview": preview,
        "preview_line": preview_line(preview),
    }


def _preview_of(artifact: Artifact) -> Row:
    """Return the preview, decoded; what a stranger put there in its place must not hide the rest of a listing."""
    try:
        return dict(artifact.preview)
    except Damaged as error:
        return {"repr": f"(no preview: {type(error).__name__})"}


def log_rows(storage: SQLiteStorage, attempt: Attempt) -> list[Row]:
    """Return a row for each log of an attempt."""
    sizes = storage.log_sizes(attempt.task, attempt.number)
    return [{"source": source, "stream": stream, "size": size} for (source, stream), size in sizes.items()]


def metadata_rows(storage: SQLiteStorage, attempt: Attempt) -> list[Row]:
    """Return a row for each metadatum of a task and of its attempt; values are JSON texts.

    What a metadata provider registered follows, where it does not belong to another attempt.
    """
    rows = [
        {"name": name, "of": of, "value": value}
        for of, number in (("task", None), ("attempt", attempt.number))
        for name, value in storage.load_metadata(attempt.task, number).items()
    ]
    flow, run, *names = attempt.task
    for each in Registrations(storage.database).metadata(flow, run, [(names[0], names[1])]):
        of_attempts = [tag for tag in each.tags if tag.startswith("attempt_id:")]
        if not of_attempts or f"attempt_id:{attempt.number}" in of_attempts:
            rows.append({"name": each.field_name, "of": "provider", "value": json.dumps(each.value)})
    return rows


def tags_of(storage: SQLiteStorage, flow_name: str, run_id: str) -> Row:
    """Return the tags and system tags of a run, sorted; both empty where no provider registered it."""
    run = Registrations(storage.database).run(flow_name, run_id)
    return {"tags": sorted(run.tags) if run else [], "system_tags": sorted(run.system_tags) if run else []}
