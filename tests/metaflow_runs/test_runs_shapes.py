"""Runs of other shapes as the client sees them: foreach, branches, loops, and tasks that start tasks."""

from __future__ import annotations

from typing import Any

import pytest
from runs import Once, Place, Scene


def look(flow: str, run_id: str) -> dict[str, Any]:
    """Return what the client says about the tasks of a run; a task is named by step and index or number."""
    from metaflow import Run
    from metaflow.exception import MetaflowNotFound

    def ids(steps: Any) -> Any:
        try:
            return sorted(step.id for step in steps)
        except MetaflowNotFound:  # raised for the way that a switch did not go
            return None

    run = Run(f"{flow}/{run_id}")
    tasks = {task.pathspec: task for step in run for task in step}
    return {
        "run": [run.successful, run.finished],
        "steps": [step.id for step in run],
        "tasks": {step.id: [task.id for task in step] for step in run},
        "first": {step.id: step.task.id for step in run},
        "in_order": all(
            earlier.created_at <= later.created_at
            for step in run
            for later, earlier in zip(list(step), list(step)[1:], strict=False)
        ),
        "index": {path: task.index for path, task in tasks.items()},
        "parents": {path: sorted(task.parent_task_pathspecs) for path, task in tasks.items()},
        "children": {path: sorted(task.child_task_pathspecs) for path, task in tasks.items()},
        "parents_as_tasks": sorted(each.pathspec for each in run.end_task.parent_tasks),
        "stack": {path: task.metadata_dict.get("foreach-stack") for path, task in tasks.items()},
        "path": {path: task.metadata_dict.get("foreach-execution-path") for path, task in tasks.items()},
        "artifacts": {
            path: {artifact.id: artifact.data for artifact in task if artifact.id != "name"}
            for path, task in tasks.items()
        },
        "stdout": {path: task.stdout for path, task in tasks.items()},
        "control": {
            step.id: [step.control_task and step.control_task.id, [each.id for each in step.control_tasks()]]
            for step in run
        },
        "steps_around": {step.id: [ids(step.parent_steps), ids(step.child_steps)] for step in run},
    }


class Seen:
    """What the client sees of a run."""

    def __init__(self, flow: str, scene: Scene) -> None:
        self.run = f"{flow}/{scene.facts['id']}"
        self.said = scene.facts

    def paths(self, step: str) -> list[str]:
        """Return the tasks of a step, in the order of its foreach, else the earliest first."""
        tasks = sorted(self.said["tasks"][step], key=lambda task: (len(task), task))
        return sorted((f"{self.run}/{step}/{task}" for task in tasks), key=lambda path: self.said["path"][path] or "")

    def __call__(self, what: str, step: str) -> list[Any]:
        """Return what is known of a step's tasks, in the order of ``paths``."""
        return [self.said[what][path] for path in self.paths(step)]


@pytest.fixture(scope="module")
def seen_of(once: Once) -> Any:
    """Return what the client sees of a run of a flow, which is made if it is not there yet."""

    def get(flow: str, name: str, *arguments: str) -> Seen:
        def make(place: Place) -> Any:
            run = place.run(f"{name}_flow.py", *arguments)
            return {"id": run.run_id, **place.client(look, flow, run.run_id)}

        return Seen(flow, once("-".join((name, *arguments)), make))

    return get


@pytest.fixture
def letters(seen_of: Any) -> Seen:
    """A foreach over three letters."""
    return seen_of("ForeachFlow", "foreach")


@pytest.fixture
def nested(seen_of: Any) -> Seen:
    """A foreach in a foreach."""
    return seen_of("NestedFlow", "nested")


@pytest.fixture
def branches(seen_of: Any) -> Seen:
    """Two branches."""
    return seen_of("BranchFlow", "branch")


@pytest.fixture
def switches(seen_of: Any) -> Seen:
    """A loop, and one of two ways."""
    return seen_of("SwitchFlow", "switch", "--way", "right")


@pytest.fixture
def parallel(seen_of: Any) -> Seen:
    """Two nodes of a parallel step."""
    return seen_of("ParallelFlow", "parallel")


def test_foreach_makes_a_task_for_each(letters: Seen) -> None:
    """Each task has its item, index and log; the join gets them in the order of the split."""
    assert letters.said["run"] == [True, True]
    assert letters("index", "work") == [0, 1, 2]
    assert [each["letter"] for each in letters("artifacts", "work")] == ["a", "b", "c"]
    assert letters("stdout", "work") == ["work on a\n", "work on b\n", "work on c\n"]
    assert letters("index", "join") == letters("index", "start") == [None]
    [joined] = letters("artifacts", "join")
    assert joined["done"] == [[0, "a", "for all"], [1, "b", "for all"], [2, "c", "for all"]]


def test_tasks_of_a_step_come_latest_first(letters: Seen) -> None:
    """A step iterates over its tasks from the last made to the first, and ``Step.task`` is the last."""
    assert letters.said["in_order"]
    assert sorted(letters.said["tasks"]["work"]) == ["2", "3", "4"]
    assert letters.said["first"]["work"] == letters.said["tasks"]["work"][0]
    assert letters.said["steps"] == ["end", "join", "work", "start"]


def test_parents_and_children_in_a_foreach(letters: Seen) -> None:
    """The split is the parent of all tasks, which are the parents of the join."""
    [start], work, [join], [end] = (letters.paths(step) for step in ("start", "work", "join", "end"))
    assert letters("parents", "work") == [[start]] * 3
    assert letters("children", "start") == [sorted(work)]
    assert letters("parents", "join") == [sorted(work)]
    assert letters("children", "work") == [[join]] * 3
    assert letters("children", "join") == [[end]]
    assert letters.said["parents_as_tasks"] == [join]


def test_metadata_of_a_foreach(letters: Seen) -> None:
    """The stack is a list among the metadata, beside the path by which the client finds parents."""
    assert letters("stack", "work") == [["items=a"], ["items=b"], ["items=c"]]
    assert letters("path", "work") == ["work:0", "work:1", "work:2"]
    assert letters("stack", "end") == [None]


def test_join_does_not_inherit(letters: Seen) -> None:
    """What the join did not take over, the end does not have."""
    [end] = letters("artifacts", "end")
    assert set(end) == {"letters", "done"}


def test_nested_foreach(nested: Seen) -> None:
    """Every leaf has its place in both loops, and the joins collect in order."""
    assert [each["name_of_leaf"] for each in nested("artifacts", "leaf")] == ["1x", "2x", "2y"]
    assert nested("index", "leaf") == [0, 0, 1]
    assert nested("artifacts", "leaf")[2]["stack"] == [[1, 2, 2], [1, 2, "2y"]]
    assert nested("stack", "leaf")[2] == ["outer=2", "inner=2y"]
    assert [each["leaves"] for each in nested("artifacts", "join_inner")] in (
        [["1x"], ["2x", "2y"]],
        [["2x", "2y"], ["1x"]],
    )
    assert nested("artifacts", "join_outer")[0]["leaves"] == [["1x"], ["2x", "2y"]]


def test_parents_and_children_in_a_nested_foreach(nested: Seen) -> None:
    """Inner tasks belong to their outer one, and to no other."""
    one, two = nested.paths("middle")
    assert nested("parents", "leaf") == [[one], [two], [two]]
    leaves, joins = nested.paths("leaf"), nested.paths("join_inner")
    assert nested("children", "middle") == [leaves[:1], sorted(leaves[1:])]
    assert nested("parents", "join_inner") == [leaves[:1], sorted(leaves[1:])]
    assert nested("children", "leaf") == [joins[:1], joins[1:], joins[1:]]
    assert nested("parents", "join_outer") == [sorted(joins)]


def test_branches_are_merged(branches: Seen) -> None:
    """The merge has what was common, what one branch had, and what it decided; not what it excluded."""
    expected = {"common": [1, 2, 3], "only_left": "L", "only_right": "R", "disputed": "left or right"}
    assert branches("artifacts", "merge") == branches("artifacts", "end") == [expected]
    assert branches("artifacts", "left")[0]["disputed"] == "left"
    assert branches("artifacts", "right")[0]["scratch"] == 2


def test_parents_and_children_of_branches(branches: Seen) -> None:
    """Both branches have one parent and one child."""
    [start], [left], [right], [merge] = (branches.paths(step) for step in ("start", "left", "right", "merge"))
    assert branches("children", "start") == branches("parents", "merge") == [[left, right]]
    assert branches("parents", "left") == branches("parents", "right") == [[start]]
    assert branches("children", "right") == [[merge]]
    assert branches.said["steps_around"]["merge"] == [["left", "right"], ["end"]]


def test_a_step_that_repeats_itself(switches: Seen) -> None:
    """Each turn of the loop is a task of the step."""
    assert [each["left_to_do"] for each in switches("artifacts", "count")] == [2, 1, 0]
    assert [each["state"] for each in switches("artifacts", "count")] == ["more", "more", "enough"]


def test_only_the_chosen_way_is_gone(switches: Seen) -> None:
    """The step that was not chosen is not there."""
    assert switches.said["steps"] == ["end", "right", "choose", "count", "start"]
    assert switches("artifacts", "end")[0]["went"] == "right"


def test_tasks_that_a_task_started(parallel: Seen) -> None:
    """The control task and the one that it started are both tasks of the step, and the join gets both."""
    control, started = sorted(parallel.said["tasks"]["train"], key=len)
    assert started == f"{control}_node_1"
    step = f"{parallel.run}/train"
    assert parallel.said["artifacts"][f"{step}/{control}"]["node"] == [0, 2]
    assert parallel.said["artifacts"][f"{step}/{started}"]["node"] == [1, 2]
    assert parallel("artifacts", "join")[0]["nodes"] == [[0, 2], [1, 2]]
    assert parallel.said["control"]["train"] == [control, [control]]
    assert parallel.said["control"]["join"] == [None, []]
