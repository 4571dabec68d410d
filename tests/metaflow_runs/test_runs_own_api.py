"""The same file through sqlitestore's own API and commands: what Metaflow wrote, and what Metaflow reads."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import scenes
from flows.values import STORED
from runs import Once, Place, Scene, sqlite_only
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, TaskNotFound

pytestmark = sqlite_only


@pytest.fixture(scope="module")
def linear(once: Once) -> Scene:
    """A run of LinearFlow."""
    return once("linear", scenes.linear)


@pytest.fixture(scope="module")
def retried(once: Once) -> Scene:
    """A run with three attempts of a task."""
    return once("retried", scenes.retried)


def command(scene: Scene, *arguments: str, code: int = 0) -> str:
    """Call ``sqlitestore`` on the file of a scene; return what it prints."""
    return scene.place.command(
        sys.executable, "-m", "sqlitestore.cli", "--file", str(scene.place.file), *arguments, code=code
    ).out


def test_artifacts_by_name(linear: Scene) -> None:
    """The task datastores of a step have the artifacts of a run that Metaflow made, its parameters among them."""
    with FlowDataStore("LinearFlow", ds_root=str(linear.place.file)) as flow:
        [task] = flow.get_latest_task_datastores(run_id=linear.facts["id"], steps=["start"])
        assert task.pathspec == f"{linear.facts['id']}/start/1"
        for name, value in {**STORED, **scenes.GIVEN}.items():
            assert (type(task[name]), repr(task[name])) == (type(value), repr(value)), name
        assert task["_task_ok"] is True


def test_tasks_of_a_run(linear: Scene) -> None:
    """All tasks of the run are found, that of the parameters too."""
    with FlowDataStore("LinearFlow", ds_root=str(linear.place.file)) as flow:
        steps = [task.pathspec.split("/")[1] for task in flow.get_latest_task_datastores(run_id=linear.facts["id"])]
    assert sorted(steps) == ["_parameters", "end", "middle", "start"]


def test_logs_of_a_task(linear: Scene) -> None:
    """The logs that Metaflow wrote are there, as it wrote them."""
    with FlowDataStore("LinearFlow", ds_root=str(linear.place.file)) as flow:
        task = flow.get_task_datastore(linear.facts["id"], "start", "1")
        logs = dict(task.load_logs(["task", "runtime"], "stdout"))
        metadata = task.load_metadata(["task_begin", "task_end", "runtime"])
    assert logs["runtime"].count(b"[MFLOG|") == 2
    assert logs["runtime"].endswith("Grüße ✓ 日本\n".encode())
    assert metadata["runtime"] == {"return_code": 0, "killed": False, "success": True}


def test_attempts_of_a_task(retried: Scene) -> None:
    """Each attempt has its own artifacts; one that is not there has none, and a task that is not there is not found."""
    with FlowDataStore("RetryFlow", ds_root=str(retried.place.file)) as flow:
        run_id = retried.facts["done"]
        tried = [flow.get_task_datastore(run_id, "start", "1", attempt=number)["tried"] for number in range(3)]
        assert tried == [0, 1, 2]
        assert flow.get_task_datastore(run_id, "start", "1")["tried"] == 2
        assert "tried" not in flow.get_task_datastore(run_id, "start", "1", attempt=3)
        with pytest.raises(TaskNotFound):
            flow.get_task_datastore(run_id, "start", "2")


def test_ls(linear: Scene) -> None:
    """``ls`` lists flows, runs, steps, tasks and artifacts of Metaflow's runs."""
    run = f"LinearFlow/{linear.facts['id']}"
    [flow] = json.loads(command(linear, "ls", "--json"))["flows"]
    assert (flow["flow"], flow["runs"], flow["done"]) == ("LinearFlow", 1, 4)
    steps = json.loads(command(linear, "ls", run, "--json"))["steps"]
    assert [(step["step"], step["done"], step["failed"]) for step in steps] == [
        (name, 1, 0) for name in ("_parameters", "start", "middle", "end")
    ]
    listed = command(linear, "ls", f"{run}/start/1")
    assert all(name in listed for name in (*STORED, *scenes.GIVEN))


def test_show(linear: Scene) -> None:
    """``show`` has previews of a task's artifacts, its metadata and its logs."""
    shown = json.loads(command(linear, "show", f"LinearFlow/{linear.facts['id']}/start/1", "--json"))
    artifacts = {each["name"]: each for each in shown["artifact_list"]}
    assert (artifacts["number"]["type"], artifacts["number"]["size"]) == ("<class 'int'>", 27)
    assert artifacts["array"]["type"] == "<class 'numpy.ndarray'>"
    assert artifacts["array"]["preview"]["shape"] == [3, 4]
    assert {(each["source"], each["stream"]) for each in shown["logs"]} == {
        ("runtime", "stdout"),
        ("runtime", "stderr"),
    }
    told = command(linear, "show", f"LinearFlow/{linear.facts['id']}")
    assert "user:tester" in told
    assert "first" in told


@pytest.mark.parametrize("name", ["number", "fraction", "pair", "text"])
def test_get(linear: Scene, name: str) -> None:
    """``get --print`` prints the value."""
    printed = command(linear, "get", f"LinearFlow/{linear.facts['id']}/start/1/{name}", "--print")
    assert printed.strip() == str(STORED[name]).strip()


def test_logs(linear: Scene, retried: Scene) -> None:
    """``logs`` prints the logs without Metaflow's prefixes, also of an attempt."""
    task = f"LinearFlow/{linear.facts['id']}/start/1"
    assert command(linear, "logs", task, "--stdout") == "first line of stdout\nGrüße ✓ 日本\n"
    assert command(linear, "logs", task, "--stderr") == "to stderr\n"
    task = f"RetryFlow/{retried.facts['failed']}/start/1"
    assert command(retried, "logs", task, "--stdout", "--attempt", "1") == "attempt 1\n"


def test_looking_changes_nothing(linear: Scene) -> None:
    """After all of that the file is alone and sound."""
    assert [each.name for each in linear.place.work.iterdir()] == ["metaflow.db"]
    check_file(linear.place.file)


def look() -> dict[str, Any]:
    """Return what Metaflow's client says about the flow of the README's first example, and let it tag the run."""
    from metaflow import Flow, Metaflow, Run, Step, Task, namespace
    from metaflow.exception import MetaflowNamespaceMismatch

    seen: dict[str, Any] = {"mine": [flow.id for flow in Metaflow()]}
    try:
        seen["refused"] = str(Run("TrainFlow/1"))
    except MetaflowNamespaceMismatch as error:
        seen["refused"] = type(error).__name__
    namespace(None)
    run = Flow("TrainFlow").latest_run
    tasks = list(Step("TrainFlow/1/train"))
    seen |= {
        "flows": [flow.id for flow in Metaflow()],
        "run": [run.id, run.successful, run.finished, str(run.end_task), run.created_at.timestamp() > 0],
        "steps": [step.id for step in run],
        "tasks": [task.pathspec for task in tasks],
        "rates": [task.data.rate for task in tasks],
        "weights": [[len(task["weights"].data), task["weights"].data[-1]] for task in tasks],
        "names": [sorted(artifact.id for artifact in task) for task in tasks],
        "stdout": [task.stdout.strip() for task in tasks],
        "attempts": [task.current_attempt for task in tasks],
        "retried": [Task("TrainFlow/1/train/0", attempt=number).data.rate for number in (0, 1)],
        "unknown": [name in run for name in ("train", "start")],
    }
    run.add_tag("by client")
    seen["tags"] = [sorted(run.tags), [each.id for each in Flow("TrainFlow").runs("by client")]]
    return seen


@pytest.fixture(scope="module")
def written(once: Once) -> Scene:
    """The README's first example, whose first task is tried again; seen by Metaflow's client."""

    def make(place: Place) -> Any:
        with FlowDataStore("TrainFlow", ds_root=str(place.file)) as flow:
            for number, attempt, rate in ((0, 0, 0.1), (1, 0, 0.01), (0, 1, 0.5)):
                task = flow.get_task_datastore("1", "train", str(number), attempt=attempt, mode="w")
                task.init_task()
                task.save_artifacts([("rate", rate), ("weights", [rate] * 100_000)])
                task.save_logs("task", {"stdout": f"trained with {rate}\n"})
                task.done()
        return place.client(look)

    return once("written", make)


def test_metaflow_sees_what_it_has_not_written(written: Scene) -> None:
    """A run that was written through sqlitestore is a run of Metaflow's client: nobody's, and never finished."""
    seen = written.facts
    assert seen["mine"] == []
    assert seen["refused"] == "MetaflowNamespaceMismatch"
    assert seen["flows"] == ["TrainFlow"]
    assert seen["run"] == ["1", False, False, "None", True]
    assert seen["steps"] == ["train"]
    assert seen["unknown"] == [True, False]


def test_its_tasks_have_artifacts_and_logs(written: Scene) -> None:
    """Artifacts by name and logs are those of the latest attempt, or of the one that is named."""
    seen = written.facts
    assert sorted(seen["tasks"]) == ["TrainFlow/1/train/0", "TrainFlow/1/train/1"]
    assert sorted(seen["rates"]) == [0.01, 0.5]
    assert sorted(seen["weights"]) == [[100_000, 0.01], [100_000, 0.5]]
    assert seen["names"] == [["rate", "weights"]] * 2
    assert sorted(seen["stdout"]) == ["trained with 0.01", "trained with 0.5"]
    assert sorted(seen["attempts"]) == [0, 1]
    assert seen["retried"] == [0.1, 0.5]


def test_it_can_be_tagged(written: Scene) -> None:
    """The client's tags stay with the run."""
    assert written.facts["tags"] == [["by client"], ["1"]]
    assert [each.name for each in written.place.work.iterdir()] == ["metaflow.db"]
    check_file(written.place.file)
