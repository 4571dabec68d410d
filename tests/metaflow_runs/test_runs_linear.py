"""A run of three steps, as Metaflow's client sees it."""

from __future__ import annotations

from typing import Any

import looks
import pytest
import scenes
from flows.values import BYTES, STORED, WORDS
from runs import FLOWS, SQLITE, TYPE, Once, Scene
from scenes import GIVEN

PREFIXED = 82
"""What Metaflow's log has of a line beside its text [bytes]: version, time, source, id."""


@pytest.fixture(scope="module")
def linear(once: Once) -> Scene:
    """One run."""
    return once("linear", scenes.linear)


@pytest.fixture(scope="module")
def seen(linear: Scene) -> Any:
    """What the client sees of it."""
    return {**linear.facts, **linear.place.client(looks.at_linear, linear.facts["id"])}


@pytest.fixture(scope="module")
def text() -> str:
    """The text that the flow includes."""
    with open(WORDS, encoding="utf-8") as file:
        return file.read()


def test_the_client_uses_the_store_of_the_type(linear: Scene, seen: Any) -> None:
    """What is configured is what the client asks."""
    assert seen["metadata"] == f"{TYPE}@{linear.place.store}"
    assert seen["namespace"] == "user:tester"


def test_flow_and_run_are_found(seen: Any) -> None:
    """The flow is listed, its latest run is the run, which is finished and successful."""
    assert seen["flows"] == ["Flow('LinearFlow')"]
    assert seen["latest"] == [seen["id"], seen["id"]]
    assert seen["run"] == [True, True, "Flow('LinearFlow')", f"LinearFlow/{seen['id']}", "LinearFlow/None", None]
    assert seen["end_task"] == f"LinearFlow/{seen['id']}/end/3"


def test_the_run_id_is_a_time(seen: Any) -> None:
    """Ids are those of Metaflow: the time in microseconds."""
    assert abs(int(seen["id"]) / 1e6 - seen["times"][0]) < 60


def test_times_are_in_order(seen: Any) -> None:
    """The run is made, then a task, which finishes before the last task, with which the run finishes."""
    assert seen["times"] == sorted(seen["times"])
    assert seen["times"][3] == seen["times"][4]


def test_steps_come_latest_first(seen: Any) -> None:
    """A run iterates over its steps from the last to the first, without the one of the parameters."""
    assert seen["steps"] == ["end", "middle", "start"]


def test_tasks_have_ids_in_the_order_they_started(seen: Any) -> None:
    """Tasks are numbered from 1; each succeeded in its attempt 0, with no exception and outside of a foreach."""
    assert seen["tasks"] == {
        name: [f"LinearFlow/{seen['id']}/{name}/{number}", True, True, 0, None, None]
        for number, name in enumerate(("start", "middle", "end"), 1)
    }


def test_tasks_know_their_parents_and_children(seen: Any) -> None:
    """A task's parents are of the step before, its children of the step after."""
    start, middle, end = (seen["tasks"][name][0] for name in ("start", "middle", "end"))
    assert seen["parents"] == {"start": [[], [middle]], "middle": [[start], [end]], "end": [[middle], []]}
    assert seen["steps_around"] == {
        "start": [[], ["middle"]],
        "middle": [["start"], ["end"]],
        "end": [["middle"], []],
    }


def test_containment(seen: Any) -> None:
    """``in`` tells what is there; private artifacts are."""
    assert seen["contains"] == [True, False, True, True, False]


@pytest.mark.parametrize("name", STORED)
def test_artifacts_come_back(seen: Any, name: str) -> None:
    """An artifact has the type and the value that it had in the flow."""
    assert seen["values"][name] == f"{type(STORED[name]).__name__} {STORED[name]!r}"


def test_only_public_artifacts_are_listed(seen: Any, text: str) -> None:
    """A task lists all of its artifacts, parameters and included files among them, but for private ones."""
    assert set(seen["values"]) == {*STORED, *GIVEN, "words", "notes", "blob", "name", "read", "read_blob"}
    assert seen["container"] == sorted(seen["values"])
    assert seen["private"] == {
        "_hidden": "'not listed'",
        "_success": "True",
        "_task_ok": "True",
        "_current_step": "'start'",
    }
    assert seen["values"]["read"] == f"tuple {(*GIVEN.values(), text, text)!r}"


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_come_back(seen: Any, name: str) -> None:
    """A parameter is an artifact of every task, and of the step of the parameters."""
    assert seen["values"][name] == f"{type(GIVEN[name]).__name__} {GIVEN[name]!r}"
    assert seen["of_parameters"] == [7]


def test_included_files_come_back(seen: Any, text: str) -> None:
    """Text (by default or given) and binary files are what they were, in the task and for the client."""
    assert seen["values"]["words"] == seen["values"]["notes"] == f"str {text!r}"
    assert seen["values"]["blob"] == seen["values"]["read_blob"] == f"bytes {BYTES!r}"


def test_sizes_of_artifacts(seen: Any, text: str) -> None:
    """An artifact's size is that of its pickle; of an included file it is that of the file."""
    assert {name: seen["sizes"][name] for name in ("nothing", "truth", "count", "text", "number")} == {
        "nothing": 4,
        "truth": 4,
        "count": 5,
        "text": 27,
        "number": 27,
    }
    assert seen["sizes"]["words"] == len(text.encode())
    assert seen["sizes"]["blob"] == len(BYTES)


def test_keys_of_artifacts(seen: Any) -> None:
    """Equal artifacts have one key, of 40 digits, in whichever task they are."""
    assert {len(sha) for sha in seen["shas"].values()} == {40}
    assert seen["shas"]["empty"] == seen["shas"]["title"]
    assert seen["shas"]["truth"] == seen["shas"]["loud"]
    assert seen["shared"] is True


def test_a_later_step_sees_and_replaces_artifacts(seen: Any) -> None:
    """What a step replaced is new from there on; the run's data are those of its end."""
    assert seen["middle"]["number_before"] == STORED["number"]
    assert seen["middle"]["number"] == 7
    assert seen["run_data"] == [7, STORED["text"]]


def test_pathspecs_lead_to_the_objects(seen: Any) -> None:
    """Step, task and artifact are found by pathspec and by subscription."""
    path = f"LinearFlow/{seen['id']}/start/1/text"
    assert seen["by_pathspec"] == ["1", STORED["number"], STORED["text"], path]


def test_current_names_the_task(seen: Any) -> None:
    """``current`` tells a task who it is, and finds run and task by the client while they run."""
    path = f"LinearFlow/{seen['id']}/middle/2"
    assert seen["middle"]["said"] == {
        "flow_name": "LinearFlow",
        "run_id": seen["id"],
        "step_name": "middle",
        "task_id": "2",
        "pathspec": path,
        "retry_count": 0,
        "origin_run_id": None,
        "username": "tester",
        "namespace": "user:tester",
        "tags": ["first"],
    }
    assert seen["middle"]["running"] == [True, f"LinearFlow/{seen['id']}", path]
    assert seen["folder"] is True


def test_metadata_of_a_task(linear: Scene, seen: Any) -> None:
    """Metaflow's own metadata are there, with their types and times; what was registered twice is there twice."""
    names = [name for name, _, _, _ in seen["task_metadata"]]
    assert all(has_time for *_, has_time in seen["task_metadata"])
    assert ["attempt_ok", "True", "internal_attempt_status", True] in seen["task_metadata"]
    assert names.count("user") == 2
    assert names.count("attempt-done") == 1
    expected = {"attempt": "0", "attempt-done": "0", "attempt_ok": "True", "ds-type": TYPE, "user": "tester"}
    expected |= {"origin-run-id": "None", "script-name": "linear_flow.py", "runtime": "dev"}
    assert {name: seen["metadata_dict"].get(name) for name in expected} == expected
    root = linear.place.file if SQLITE else linear.place.store / ".metaflow"
    assert seen["metadata_dict"]["ds-root"] == str(root)


def test_runtime_and_environment(seen: Any) -> None:
    """The runtime is this machine."""
    assert seen["runtime"] == "dev"
    assert seen["environment"] == "Local environment"


def test_tags_of_a_run_are_those_of_all_below(seen: Any) -> None:
    """Steps, tasks and artifacts have the run's tags."""
    assert seen["tags"] == [["first"]] * 4
    assert "user:tester" in seen["system_tags"]
    assert "runtime:dev" in seen["system_tags"]


def test_logs_come_back(seen: Any) -> None:
    """Both streams are what was printed; the size counts also what Metaflow's log has beside each line."""
    stdout, stderr = "first line of stdout\nGrüße ✓ 日本\n", "to stderr\n"
    assert seen["stdout"] == [stdout, len(stdout.encode()) + 2 * PREFIXED]
    assert seen["stderr"] == [stderr, len(stderr.encode()) + PREFIXED]
    assert seen["silent"] == ["", 0, "", 0]


def test_raw_lines_of_logs(seen: Any) -> None:
    """Bytes that are no UTF-8, and a line without an end, are in the log; each line has its time, in UTC."""
    assert seen["lines"] == ["raw bytes \xff", "no end"]
    assert seen["line_times"] == sorted(seen["line_times"])


def test_the_code_is_stored(seen: Any) -> None:
    """The code package has the flow and what lies beside it."""
    script, of_info, flowspec, extracted = seen["code"]
    assert script == of_info == "linear_flow.py"
    assert flowspec == extracted == (FLOWS / "linear_flow.py").read_text(encoding="utf-8")
    assert seen["task_code"] is True
    assert {"linear_flow.py", "values.py"} <= set(seen["packed"])
