"""``sqlitestore ls``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sqlitestore.cli.common import attempt_option, json_option, opened, pathspec_argument

if TYPE_CHECKING:
    from sqlitestore.cli.lookup import Place
    from sqlitestore.cli.views import Columns, Row
    from sqlitestore.storage import SQLiteStorage


@click.command()
@pathspec_argument(required=False)
@attempt_option
@json_option
def ls(pathspec: str | None, attempt: int | None, as_json: bool) -> None:
    """List what is below PATHSPEC: flows, runs, steps, tasks or artifacts.

    Nothing is unpickled: artifacts are shown by the preview that was made when they were saved. A task's state is that
    of its latest attempt; one that crashed without a word looks like one that is running.

    \b
    Examples:
      sqlitestore ls
      sqlitestore ls TrainFlow/12
      sqlitestore ls TrainFlow/12/train/40 --attempt 0
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output, views

    with opened() as storage:
        place = lookup.find(storage, pathspec)
        if attempt is not None and place.level not in {"task", "artifact"}:
            raise click.UsageError("--attempt is for the artifacts of a task: give Flow/run/step/task.")
        answer: dict[str, object] = {"file": storage.datastore_root, "pathspec": place.pathspec}
        if place.level in {"task", "artifact"}:
            key, columns = "artifacts", views.ARTIFACTS
            answer["attempt"], rows = _artifacts(storage, place, attempt)
        else:
            key, columns, rows = _children(storage, place)
    if as_json:
        output.print_json(answer | {key: rows})
    else:
        output.print_table(columns, rows)


def _children(storage: SQLiteStorage, place: Place) -> tuple[str, Columns, list[Row]]:
    """Return what is below a place above the tasks: its name, columns and rows."""
    from sqlitestore.cli import views

    match place.names:
        case ():
            return "flows", views.FLOWS, views.flow_rows(storage)
        case (flow,):
            return "runs", views.RUNS, views.run_rows(storage, flow)
        case (flow, run):
            return "steps", views.STEPS, views.step_rows(storage, flow, run)
        case (flow, run, step, *_):
            return "tasks", views.TASKS, views.task_rows(storage, flow, run, step)
    raise AssertionError(place)


def _artifacts(storage: SQLiteStorage, place: Place, number: int | None) -> tuple[int, list[Row]]:
    """Return the attempt looked at and the rows of its artifacts, or of the one that the place names."""
    from sqlitestore.cli import lookup, output, views

    if place.level == "artifact":
        attempt, artifact = lookup.artifact_of(storage, place, number)
        return attempt.number, [views.artifact_row(place.names[4], artifact)]
    attempt, _ = lookup.attempt_of(storage, place.task, number)
    if attempt.done is None:
        output.note(f"Attempt {attempt.number} of {place.pathspec} is not done: no artifacts yet.")
    return attempt.number, views.artifact_rows(storage, attempt)
