"""``sqlitestore show``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sqlitestore.cli.common import attempt_option, json_option, opened, pathspec_argument

if TYPE_CHECKING:
    from sqlitestore.cli.lookup import Place
    from sqlitestore.storage import SQLiteStorage

LATEST_RUNS = 10
"""Runs that the summary of a flow lists."""


@click.command()
@pathspec_argument(required=True)
@attempt_option
@json_option
def show(pathspec: str, attempt: int | None, as_json: bool) -> None:
    """Show what PATHSPEC names in detail.

    Of a task: its attempts, metadata, artifacts and logs. Of an artifact: key, size, type, encoding and the whole
    preview. Of a flow, run or step: a summary. Nothing is unpickled.

    \b
    Examples:
      sqlitestore show TrainFlow/12
      sqlitestore show TrainFlow/12/train/40
      sqlitestore show TrainFlow/12/train/40/model
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output

    with opened() as storage:
        place = lookup.find(storage, pathspec)
        if attempt is not None and place.level not in {"task", "artifact"}:
            raise click.UsageError("--attempt is for a task or an artifact: give Flow/run/step/task[/artifact].")
        if place.level == "task":
            answer = _task(storage, place, attempt)
        elif place.level == "artifact":
            answer = _artifact(storage, place, attempt)
        else:
            answer = _summary(storage, place)
        answer = {"file": storage.datastore_root, "pathspec": place.pathspec, "level": place.level} | answer
    if as_json:
        output.print_json(answer)
    else:
        {"task": _print_task, "artifact": _print_artifact}.get(place.level, _print_summary)(answer)


def _summary(storage: SQLiteStorage, place: Place) -> dict[str, Any]:
    from sqlitestore.cli import views
    from sqlitestore.maintenance.listing import run_summaries

    flow, *rest = place.names
    runs = run_summaries(storage.database, flow).get(flow, [])
    if place.level == "flow":
        return views.flow_row(flow, runs) | {
            "latest_runs": [views.run_row(run) for run in runs[: -LATEST_RUNS - 1 : -1]]
        }
    if place.level == "run":
        row = next((views.run_row(run) for run in runs if run.run_id == rest[0]), {})
        steps = views.step_rows(storage, flow, rest[0])
        sizes = {key: sum(step[key] for step in steps) for key in ("artifacts", "size")}
        tags = views.tags_of(storage, flow, rest[0])
        origin = {"untrusted": storage.tables.trust.origin(flow, rest[0])}
        return row | sizes | tags | origin | {"steps": len(steps), "step_list": steps}
    row = next(step for step in views.step_rows(storage, flow, rest[0]) if step["step"] == rest[1])
    tasks = views.task_rows(storage, flow, rest[0], rest[1])
    return row | {"task_list": tasks}


def _print_summary(answer: dict[str, Any]) -> None:
    from sqlitestore.cli import output, views

    parts = {
        "flow": (views.FLOWS, "latest_runs", "Latest runs", views.RUNS),
        "run": (views.RUNS + views.STEPS[-2:] + views.TAGS, "step_list", "Steps", views.STEPS),
        "step": (views.STEPS, "task_list", "Tasks", views.TASKS),
    }
    facts, key, heading, columns = parts[answer["level"]]
    if answer.get("untrusted"):
        facts = (*facts, output.Column("untrusted", "text", "not trusted, from"))
    listed = {name: ", ".join(value) for name, value in answer.items() if name in {"tags", "system_tags"}}
    output.print_facts(facts, answer | listed, answer["pathspec"])
    output.print_heading(heading)
    output.print_table(columns, answer[key])


def _task(storage: SQLiteStorage, place: Place, number: int | None) -> dict[str, Any]:
    from sqlitestore.cli import lookup, views

    attempt, attempts = lookup.attempt_of(storage, place.task, number)
    rows = views.attempt_rows(storage, attempts)
    chosen = next(row for row in rows if row["attempt"] == attempt.number)
    return chosen | {
        "attempts": rows,
        "metadata": views.metadata_rows(storage, attempt),
        "artifact_list": views.artifact_rows(storage, attempt),
        "logs": views.log_rows(storage, attempt),
    }


def _print_task(answer: dict[str, Any]) -> None:
    from sqlitestore.cli import output, views

    output.print_facts(views.ATTEMPTS, answer, answer["pathspec"])
    parts = (
        ("Attempts", views.ATTEMPTS, "attempts"),
        ("Metadata", views.METADATA, "metadata"),
        ("Artifacts", views.ARTIFACTS, "artifact_list"),
        ("Logs", views.LOGS, "logs"),
    )
    for heading, columns, key in parts:
        if answer[key]:
            output.print_heading(heading)
            output.print_table(columns, answer[key])


def _artifact(storage: SQLiteStorage, place: Place, number: int | None) -> dict[str, Any]:
    from sqlitestore.cli import lookup, views

    attempt, artifact = lookup.artifact_of(storage, place, number)
    row = views.artifact_row(place.names[4], artifact)
    return {"attempt": attempt.number, **row, "serializer_info": artifact.serializer_info}


def _print_artifact(answer: dict[str, Any]) -> None:
    from sqlitestore.cli import output
    from sqlitestore.cli.text import plain_value

    facts = ("name", "attempt", "type", "encoding", "key")
    columns = [output.Column(key) for key in facts]
    columns.append(output.Column("size", "size"))
    row = dict(answer)
    if answer["serializer_info"]:
        columns.append(output.Column("serializer_info"))
        row["serializer_info"] = json.dumps(plain_value(answer["serializer_info"]))
    preview = answer["preview"]
    columns += [output.Column(f"preview_{key}", title=f"preview: {key}") for key in preview]
    for key, value in preview.items():
        row[f"preview_{key}"] = value if isinstance(value, str) else json.dumps(plain_value(value), ensure_ascii=False)
    output.print_facts(columns, row, answer["pathspec"])
