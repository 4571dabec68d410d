"""``sqlitestore ls``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import attempt_option, json_option, opened, pathspec_argument


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
        names = place.names
        if attempt is not None and place.level not in {"task", "artifact"}:
            raise click.UsageError("--attempt is for the artifacts of a task: give Flow/run/step/task.")
        answer: dict[str, object] = {"file": storage.datastore_root, "pathspec": place.pathspec}
        match place.level:
            case "store":
                key, columns, rows = "flows", views.FLOWS, views.flow_rows(storage)
            case "flow":
                key, columns, rows = "runs", views.RUNS, views.run_rows(storage, names[0])
            case "run":
                key, columns, rows = "steps", views.STEPS, views.step_rows(storage, names[0], names[1])
            case "step":
                key, columns, rows = "tasks", views.TASKS, views.task_rows(storage, *names)
            case _:
                key, columns = "artifacts", views.ARTIFACTS
                if place.level == "artifact":
                    found, artifact = lookup.artifact_of(storage, place, attempt)
                    rows = [views.artifact_row(names[4], artifact)]
                else:
                    found, _ = lookup.attempt_of(storage, place.task, attempt)
                    rows = views.artifact_rows(storage, found)
                    if found.done is None:
                        output.note(f"Attempt {found.number} of {place.pathspec} is not done: no artifacts yet.")
                answer["attempt"] = found.number
    if as_json:
        output.print_json(answer | {key: rows})
    else:
        output.print_table(columns, rows)
