"""What Metaflow's client says about runs, as functions for ``Place.client``.

They are shared by tests of the answers, and by tests that a file which was moved gives the same ones.
"""

from __future__ import annotations

from typing import Any


def at_linear(run_id: str) -> dict[str, Any]:
    """Return what the client says about a run of LinearFlow."""
    from metaflow import DataArtifact, Flow, Metaflow, Run, Step, Task, get_metadata, get_namespace

    flow = Flow("LinearFlow")
    run = Run(f"LinearFlow/{run_id}")
    steps = {step.id: step for step in run}
    tasks = {name: step.task for name, step in steps.items()}
    start = tasks["start"]
    coded = next(step.task for step in run if step.task.code)  # packed in a thread: the first tasks may come too early
    with run.code.extract() as folder, open(f"{folder}/linear_flow.py", encoding="utf-8") as file:
        code = file.read()
    return {
        "metadata": get_metadata(),
        "namespace": get_namespace(),
        "flows": [str(each) for each in Metaflow()],
        "latest": [flow.latest_run.id, flow.latest_successful_run.id],
        "run": [run.successful, run.finished, str(run.parent), run.pathspec, run.origin_pathspec, run.trigger],
        "times": [
            each.timestamp()
            for each in (run.created_at, start.created_at, start.finished_at, run.end_task.finished_at, run.finished_at)
        ],
        "end_task": run.end_task.pathspec,
        "steps": [step.id for step in run],
        "tasks": {
            name: [task.pathspec, task.successful, task.finished, task.current_attempt, task.exception, task.index]
            for name, task in tasks.items()
        },
        "parents": {
            name: [list(task.parent_task_pathspecs), list(task.child_task_pathspecs)] for name, task in tasks.items()
        },
        "steps_around": {
            name: [[each.id for each in step.parent_steps], [each.id for each in step.child_steps]]
            for name, step in steps.items()
        },
        "contains": ["start" in run, "nothing" in run, "number" in start, "_hidden" in start, "nowhere" in start],
        "values": {artifact.id: f"{type(artifact.data).__name__} {artifact.data!r}" for artifact in start},
        "container": sorted(start.artifacts._fields),
        "private": {name: repr(start[name].data) for name in ("_hidden", "_success", "_task_ok", "_current_step")},
        "sizes": {artifact.id: artifact.size for artifact in start},
        "shas": {artifact.id: artifact.sha for artifact in start},
        "middle": {
            name: getattr(tasks["middle"].data, name) for name in ("number_before", "number", "said", "running")
        },
        "folder": tasks["middle"].data.folder_is_there,
        "shared": tasks["end"]["text"].sha == start["text"].sha == tasks["end"]["text_again"].sha,
        "run_data": [run.data.number, run.data.text_again],
        "by_pathspec": [
            Step(f"LinearFlow/{run_id}/start").task.id,
            Task(start.pathspec).data.number,
            DataArtifact(f"{start.pathspec}/text").data,
            flow[run_id]["start"][start.id]["text"].pathspec,
        ],
        "of_parameters": [Step(f"LinearFlow/{run_id}/_parameters").task.data.count],
        "task_metadata": [[each.name, each.value, each.type, each.created_at > 0] for each in start.metadata],
        "metadata_dict": start.metadata_dict,
        "environment": coded.environment_info,
        "runtime": start.runtime_name,
        "tags": [sorted(each.user_tags) for each in (run, steps["start"], start, start["text"])],
        "system_tags": sorted(run.system_tags),
        "stdout": [start.stdout, start.stdout_size],
        "stderr": [start.stderr, start.stderr_size],
        "silent": [tasks["end"].stdout, tasks["end"].stdout_size, tasks["end"].stderr, tasks["end"].stderr_size],
        "lines": [line.decode("latin-1") for _, line in tasks["middle"].loglines("stdout", as_unicode=False)],
        "line_times": [when.timestamp() for when, _ in start.loglines("stdout")],
        "code": [run.code.script_name, run.code.info["script"], run.code.flowspec.decode(), code],
        "task_code": coded.code.flowspec.decode() == code,
        "packed": sorted(name for name in run.code.tarball.getnames() if not name.startswith(".")),
    }


def at_attempts(flow: str, run_id: str) -> dict[str, Any]:
    """Return what the client says about the tasks of a run, in all of their attempts."""
    from metaflow import Flow, Run, Task

    run = Run(f"{flow}/{run_id}")

    def exception(found: Any) -> Any:
        if found is None:
            return None
        return [type(found).__name__, str(found.exception), found.type, "Traceback" in (found.stacktrace or "")]

    def value(data: Any) -> Any:
        return exception(data) if hasattr(data, "stacktrace") else data

    def facts(task: Task) -> dict[str, Any]:
        names = [each.id for each in task if each.id not in {"name", "inputs"}]
        return {
            "state": [task.successful, task.finished, task.current_attempt],
            "exception": exception(task.exception),
            "artifacts": {name: value(task[name].data) for name in names},
            "sizes": {name: task[name].size for name in names},
            "stdout": task.stdout,
            "stderr": [line for line in task.stderr.splitlines() if "bad luck" in line or "Error:" in line],
            "metadata": sorted([each.name, each.value] for each in task.metadata if each.name.startswith("attempt")),
            "has_time": task.finished_at is not None,
        }

    tasks = {step.id: step.task for step in run}
    return {
        "run": [run.successful, run.finished, run.finished_at is not None, run.end_task and run.end_task.pathspec],
        "latest": [Flow(flow).latest_run.id, getattr(Flow(flow).latest_successful_run, "id", None)],
        "latest_attempt": {name: facts(task) for name, task in tasks.items()},
        "attempts": {
            name: [facts(Task(task.pathspec, attempt=number)) for number in range(task.current_attempt + 1)]
            for name, task in tasks.items()
        },
    }


def at_cards(run_id: str) -> dict[str, Any]:
    """Return the cards of each step of a run of CardsFlow, waiting for those of the last, which may fail."""
    import time

    from card_content import text
    from metaflow import Run
    from metaflow.cards import get_cards
    from metaflow.plugins.cards.exception import CardNotPresentException

    def cards(task: Any, **which: str) -> list[Any]:
        found = get_cards(task, **which)
        return sorted(
            ([each.type, each.id, each.path, text(each.get()), each.hash] for each in found), key=lambda card: card[2]
        )

    run = Run(f"CardsFlow/{run_id}")
    deadline = time.monotonic() + 60
    while True:  # the card that is drawn while the step runs is written by a process that nobody waits for if it fails
        try:
            at_end = cards(run["end"].task)
            break
        except CardNotPresentException:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    by_id = get_cards(run["two"].task, id="second")
    return {
        "run": [run.successful, run.finished],
        "start": cards(run["start"].task),
        "two": cards(run["two"].task),
        "end": at_end,
        "second": [len(by_id), text(by_id[0].get())],
        "by_path": cards(f"CardsFlow/{run_id}/start/{run['start'].task.id}"),
        "metadata": [each.value for each in run["two"].task.metadata if each.type == "card-info"],
    }
