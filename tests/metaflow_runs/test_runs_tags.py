"""Tags and namespaces: given when a run starts, changed by the client and by ``flow.py tag``, and filtered by."""

from __future__ import annotations

from typing import Any

import pytest
from runs import Once, Place, Scene, sqlite_only


def look(first: str, second: str, others: str) -> dict[str, Any]:
    """Return how runs are found by tags and namespaces; nothing is changed."""
    from metaflow import Flow, Metaflow, Run, Step, default_namespace, get_namespace, namespace
    from metaflow.exception import MetaflowNamespaceMismatch

    def refused(pathspec: str) -> bool:
        try:
            Run(pathspec)
        except MetaflowNamespaceMismatch:
            return True
        return False

    def runs(*tags: str) -> list[str]:
        return [run.id for run in Flow("ShortFlow").runs(*tags)]

    seen: dict[str, Any] = {
        "mine": runs(),
        "iterated": [run.id for run in Flow("ShortFlow")],
        "by_tag": [runs("one"), runs("both"), runs("both", "zwei ü"), runs("never"), runs("user:tester", "one")],
        "latest": Flow("ShortFlow").latest_run.id,
        "others_refused": refused(f"ShortFlow/{others}"),
        "contains": [first in Flow("ShortFlow"), others in Flow("ShortFlow"), "9" in Flow("ShortFlow")],
        "tags": sorted(Run(f"ShortFlow/{second}").user_tags),
        "steps_by_tag": [step.id for step in Run(f"ShortFlow/{first}").steps("one")],
        "tasks_by_tag": [len(list(Step(f"ShortFlow/{first}/start").tasks(tag))) for tag in ("one", "zwei ü")],
    }
    namespace(None)
    seen["all"] = runs()
    seen["latest_of_all"] = Flow("ShortFlow").latest_run.id
    namespace("user:other")
    seen["of_other"] = [get_namespace(), runs(), [flow.id for flow in Metaflow()]]
    namespace("zwei ü")
    seen["of_tag"] = [runs(), refused(f"ShortFlow/{first}"), refused(f"ShortFlow/{second}")]
    namespace("nobody's")
    seen["of_nobody"] = [[flow.id for flow in Metaflow()]]
    seen["default"] = default_namespace()
    return seen


def change(run_id: str) -> list[Any]:
    """Change the tags of a run in all ways; return its own ones after each, or the error."""
    from metaflow import Flow, Run
    from metaflow.exception import MetaflowException

    run = Run(f"ShortFlow/{run_id}")
    seen: list[Any] = []

    def note(function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
            seen.append([sorted(run.user_tags), sorted(Run(run.pathspec).user_tags)])
        except MetaflowException as error:
            seen.append(type(error).__name__)

    note(run.add_tag, "new")
    note(run.add_tags, ["x", "y", "new", "runtime:dev"])
    note(run.remove_tag, "x")
    note(run.remove_tags, ["y", "never there"])
    note(run.replace_tag, "new", "newer")
    note(run.replace_tags, ["newer", "both"], ["a", "b"])
    note(run.replace_tags, ["a"], ["a", "b"])
    note(run.remove_tag, "user:tester")
    note(run.replace_tags, ["runtime:dev"], ["c"])
    note(run.add_tag, "")
    note(run.add_tags, [f"tag {number}" for number in range(60)])
    note(run.add_tag, "x" * 501)
    run = Run(f"ShortFlow/{run_id}")
    seen.append([sorted(run["start"].task["taken"].user_tags), "user:tester" in run.tags, run.pathspec])
    seen.append([each.id for each in Flow("ShortFlow")])
    return seen


@pytest.fixture(scope="module")
def tagged(once: Once) -> Scene:
    """Two runs, whose tags are changed: of the first by the client, of the second by commands; one of another user."""

    def make(place: Place) -> Any:
        first = place.run("short_flow.py", "--tag", "one", "--tag", "both").run_id
        second = place.run("short_flow.py", "--tag", "zwei ü", "--tag", "both", "--tag", "both").run_id
        others = place.run("short_flow.py", env={"METAFLOW_USER": "other"}).run_id
        seen = place.client(look, first, second, others)
        return {"ids": [first, second, others], "seen": seen, "changes": place.client(change, first)}

    return once("tagged", make)


@pytest.fixture
def ids(tagged: Scene) -> tuple[str, str, str]:
    """The three runs."""
    first, second, others = tagged.facts["ids"]
    return first, second, others


@pytest.fixture
def seen(tagged: Scene) -> Any:
    """What the client saw before the tags were changed."""
    return tagged.facts["seen"]


def test_a_user_sees_the_own_runs(seen: Any, ids: tuple[str, str, str]) -> None:
    """In a user's namespace are only the user's runs, the latest first; ``Run`` refuses others, ``in`` does not."""
    first, second, _ = ids
    assert seen["mine"] == seen["iterated"] == [second, first]
    assert seen["latest"] == second
    assert seen["others_refused"] is True
    assert seen["contains"] == [True, True, False]


def test_runs_are_found_by_tags(seen: Any, ids: tuple[str, str, str]) -> None:
    """A run has to have all of the tags asked for, its own or the system's."""
    first, second, _ = ids
    assert seen["by_tag"] == [[first], [second, first], [second], [], [first]]
    assert seen["tags"] == ["both", "zwei ü"]
    assert seen["steps_by_tag"] == ["end", "start"]
    assert seen["tasks_by_tag"] == [1, 0]


def test_namespaces(seen: Any, ids: tuple[str, str, str]) -> None:
    """A namespace is any tag; without one everything is seen."""
    first, second, others = ids
    assert seen["all"] == [others, second, first]
    assert seen["latest_of_all"] == others
    assert seen["of_other"] == ["user:other", [others], ["ShortFlow"]]
    assert seen["of_tag"] == [[second], True, False]
    assert seen["of_nobody"] == [[]]
    assert seen["default"] == "user:tester"


def test_tags_are_changed_by_the_client(tagged: Scene) -> None:
    """Each change is seen by the object itself and by others at once; tags of the system are not added again."""
    expected = [
        ["both", "new", "one"],
        ["both", "new", "one", "x", "y"],
        ["both", "new", "one", "y"],
        ["both", "new", "one"],
        ["both", "newer", "one"],
        ["a", "b", "one"],
        ["a", "b", "one"],
    ]
    assert tagged.facts["changes"][:7] == [[tags, tags] for tags in expected]


def test_refused_changes_change_nothing(tagged: Scene, ids: tuple[str, str, str]) -> None:
    """Tags of the system stay, and a tag is neither empty nor too long, nor are there too many."""
    refused = tagged.facts["changes"][7:12]
    assert refused == ["MetaflowTaggingError"] * 5
    assert tagged.facts["changes"][12] == [["a", "b", "one"], True, f"ShortFlow/{ids[0]}"]


@sqlite_only  # Metaflow's local provider makes the run whose tags were changed the latest
def test_changed_tags_do_not_reorder_runs(tagged: Scene, ids: tuple[str, str, str]) -> None:
    """The run whose tags changed last is not the latest for that."""
    assert tagged.facts["changes"][13] == [ids[1], ids[0]]


def listed(place: Place, *arguments: str) -> dict[str, list[str]]:
    """Return what a command about tags prints: of each run the tags that are not the system's."""
    done = place.flow("short_flow.py", "tag", *arguments, top=("--quiet",))
    lines = [line.split(" ; ") for line in (done.out + done.err).splitlines()]
    return {run.partition("/")[2]: own.split(",") if own else [] for run, _, own in lines}


def test_tags_are_changed_by_commands(tagged: Scene, ids: tuple[str, str, str]) -> None:
    """``tag add``, ``remove`` and ``replace`` change tags and show what there is then, as ``tag list`` does."""
    place, run_id = tagged.place, ids[1]
    run = ("--run-id", run_id)
    assert listed(place, "add", *run, "n1", "n2") == {run_id: ["both", "n1", "n2", "zwei ü"]}
    assert listed(place, "remove", *run, "n1", "zwei ü") == {run_id: ["both", "n2"]}
    assert listed(place, "replace", *run, "--remove", "n2", "--add", "n3") == {run_id: ["both", "n3"]}
    assert listed(place, "list", *run, "--hide-system-tags") == {run_id: ["both", "n3"]}


def test_commands_refuse_too(tagged: Scene, ids: tuple[str, str, str]) -> None:
    """A tag of the system is not removed, and a run of somebody else not found."""
    place = tagged.place
    done = place.flow("short_flow.py", "tag", "remove", "--run-id", ids[0], "user:tester", code=1)
    assert "Cannot remove a tag that is an existing system tag" in done.err
    done = place.flow("short_flow.py", "tag", "add", "--run-id", ids[2], "mine", code=1)
    assert "does not belong to namespace" in done.err


def test_list_of_all_runs(tagged: Scene, ids: tuple[str, str, str]) -> None:
    """``tag list --my-runs`` has the runs of the user, ``--all`` those of all."""
    assert set(listed(tagged.place, "list", "--my-runs", "--group-by-run")) == set(ids[:2])
    assert set(listed(tagged.place, "list", "--all", "--group-by-run")) == set(ids)
