"""The flow's own commands over a run that is done: ``dump``, ``logs``, ``show``, ``check``."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
import scenes
from flows.values import STORED, WORDS
from runs import Done, Once, Scene


@pytest.fixture(scope="module")
def linear(once: Once) -> Scene:
    """A run of LinearFlow."""
    return once("linear", scenes.linear)


@pytest.fixture(scope="module")
def retried(once: Once) -> Scene:
    """A run with three attempts of a task, and one that failed."""
    return once("retried", scenes.retried)


def call(scene: Scene, *arguments: str, **options: Any) -> Done:
    """Call a command of LinearFlow, quietly."""
    return scene.place.flow("linear_flow.py", *arguments, top=("--quiet",), **options)


def dumped(text: str) -> dict[str, tuple[int, str, str]]:
    """Return size, type and text of each artifact that ``dump`` has printed."""
    found = re.findall(r"^(\w+) \[size: (\d+) type: <class '([\w.]+)'>\] = (.*)$", text, re.MULTILINE)
    return {name: (int(size), kind, shown) for name, size, kind, shown in found}


def test_dump_prints_the_artifacts_of_a_step(linear: Scene) -> None:
    """``dump run/step`` has size, type and value of all artifacts that are not private."""
    shown = dumped(call(linear, "dump", f"{linear.facts['id']}/start").out)
    assert {*STORED, "count", "words", "blob", "read"} <= set(shown)
    assert not [name for name in shown if name.startswith("_")]
    assert shown["number"] == (27, "int", str(STORED["number"]))
    assert shown["pair"] == (22, "tuple", "(1, 'two')")
    assert shown["count"] == (5, "int", "7")
    assert shown["array"][:2] == (174, "numpy.ndarray")
    assert shown["words"][:2] == (28, "metaflow.includefile.IncludedFile")


def test_dump_of_a_task_with_options(linear: Scene) -> None:
    """``dump run/step/task`` can show private artifacts, some only, and leave out what is too large."""
    arguments = ("--private", "--max-value-size", "20", "--include", "number,fraction,pair,_success")
    shown = dumped(call(linear, "dump", f"{linear.facts['id']}/start/1", *arguments).out)
    assert shown == {
        "_success": (4, "bool", "True"),
        "fraction": (21, "float", "< artifact too large >"),
        "number": (27, "int", "< artifact too large >"),
        "pair": (22, "tuple", "< artifact too large >"),
    }


def test_dump_into_a_file(linear: Scene) -> None:
    """``dump --file`` pickles the artifacts by pathspec and name; included files are their content."""
    target = linear.place.outside / "dumped.pickle"
    run_id = linear.facts["id"]
    call(linear, "dump", f"{run_id}/start", "--file", str(target))
    with target.open("rb") as file:
        [(pathspec, artifacts)] = pickle.load(file).items()
    assert pathspec == f"{run_id}/start/1"
    for name, value in STORED.items():
        assert repr(artifacts[name]) == repr(value)
    with open(WORDS, encoding="utf-8") as file:
        assert artifacts["words"] == file.read()


def test_dump_of_all_tasks_of_the_step(once: Once) -> None:
    """``dump run/step`` names each task before its artifacts."""
    letters = once("foreach-again", lambda place: {"id": place.run("foreach_flow.py", "--letters", "xy").run_id})
    done = letters.place.flow("foreach_flow.py", "dump", f"{letters.facts['id']}/work", "--include", "letter")
    assert sorted(re.findall(r"letter \[.*\] = (\w)", done.out)) == ["x", "y"]
    assert sorted(re.findall(r"Dumping output of run_id=(\d+) step=work task_id=(\d)", done.err)) == [
        (letters.facts["id"], "2"),
        (letters.facts["id"], "3"),
    ]


def test_what_is_not_there(linear: Scene) -> None:
    """Of a step that is not there nothing is dumped; a task that is not there, or logs of none, are errors."""
    run_id = linear.facts["id"]
    assert call(linear, "dump", f"{run_id}/nothing").out == ""
    assert call(linear, "dump", f"{run_id}/start/77", code=1).out == ""
    assert "No Tasks found" in call(linear, "logs", f"{run_id}/nothing", code=1).err


def test_logs_of_a_step(linear: Scene) -> None:
    """``logs run/step`` prints stdout, then stderr."""
    done = call(linear, "logs", f"{linear.facts['id']}/start")
    assert done.out == "first line of stdout\nGrüße ✓ 日本\nto stderr\n"


def test_logs_of_a_task_of_one_stream(linear: Scene) -> None:
    """``logs run/step/task`` prints one stream only, if asked to, also bytes that are not UTF-8, and with times."""
    run_id = linear.facts["id"]
    assert call(linear, "logs", f"{run_id}/start/1", "--stderr").out == "to stderr\n"
    assert call(linear, "logs", f"{run_id}/middle/2", "--stdout").out == "raw bytes �\nno end\n"
    timed = call(linear, "logs", f"{run_id}/start/1", "--stderr", "--timestamps").out
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} to stderr\n", timed)


def test_logs_of_attempts(retried: Scene) -> None:
    """``logs --attempt`` is about that attempt, without it about the latest, also of a task that failed."""
    for run, attempt, expected in (("done", "1", 1), ("done", "", 2), ("failed", "0", 0), ("failed", "", 2)):
        option = ("--attempt", attempt) if attempt else ()
        arguments = ("logs", f"{retried.facts[run]}/start/1", "--stdout", *option)
        done = retried.place.flow("retry_flow.py", *arguments, top=("--quiet",))
        assert done.out == f"attempt {expected}\n"


def test_logs_are_scrubbed(once: Once) -> None:
    """``logs scrub`` replaces the log of the latest attempt, and no other."""
    scrubbed = once("scrubbed", lambda place: place.run("retry_flow.py").run_id)
    place, task = scrubbed.place, f"{scrubbed.facts}/start/1"

    def logs(*arguments: str) -> str:
        return place.flow("retry_flow.py", "logs", *arguments, top=("--quiet",)).out

    logs("scrub", task, "--stdout")
    assert "attempt" not in logs(task, "--stdout")
    assert "REDACTED" in logs(task, "--stdout")
    assert logs(task, "--stdout", "--attempt", "1") == "attempt 1\n"


def test_show_and_check(linear: Scene) -> None:
    """``show`` lists the steps with their texts, ``check`` finds nothing wrong."""
    shown = linear.place.flow("linear_flow.py", "show").out
    assert re.findall(r"^Step (\w+)\n    .*\n    => (\w+)$", shown, re.MULTILINE) == [
        ("start", "middle"),
        ("middle", "end"),
    ]
    assert "The graph looks good!" in linear.place.flow("linear_flow.py", "check").err
