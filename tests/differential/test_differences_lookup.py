"""Where looking tasks up differs from Metaflow's local datastore on purpose: what Metaflow does, and what we do."""

from __future__ import annotations

from typing import Any

import pytest
from differential_pair import Pair, agree, where, write

from sqlitestore import InvalidInput, InvalidPathspec, InvalidType


def test_tasks_of_a_run_come_first_started_first(flows: Pair) -> None:
    """Metaflow leaves the order to chance. A retry does not move a task."""
    for pathspec in ("1/b/2", "1/a/9", "1/b/10", "1/c/1"):
        write(flows.ours, pathspec, {})
    write(flows.ours, "1/b/2", {}, attempt=1)
    expected = ["1/b/2", "1/a/9", "1/b/10", "1/c/1"]
    assert [ds.pathspec for ds in flows.ours.get_task_datastores("1")] == expected
    assert [ds.pathspec for ds in flows.ours.get_latest_task_datastores("1")] == expected
    prior = flows.ours.get_task_datastores("1", include_prior=True)
    assert [where(ds) for ds in prior][:3] == [("1/b/2", 0), ("1/b/2", 1), ("1/a/9", 0)]


def test_logs_that_come_early_do_not_make_a_task_first(flows: Pair) -> None:
    """The order is that of starting, also where the runtime saved a log before the task began."""
    flows.ours.get_task_datastore("1", "s", "late", attempt=0, mode="w").save_logs("runtime", {"stdout": b"queued"})
    for task in ("first", "late", "last"):
        write(flows.ours, f"1/s/{task}", {})
    assert [ds.task_id for ds in flows.ours.get_task_datastores("1")] == ["first", "late", "last"]


def test_steps_come_in_the_order_asked(flows: Pair) -> None:
    """Within a step first started first; in Metaflow by chance."""
    for pathspec in ("1/a/1", "1/b/2", "1/a/3", "1/c/4"):
        write(flows.ours, pathspec, {})
    found = flows.ours.get_task_datastores("1", steps=["c", "none", "a"])
    assert [ds.pathspec for ds in found] == ["1/c/4", "1/a/1", "1/a/3"]


def test_tasks_of_several_runs_come_in_the_order_asked(flows: Pair) -> None:
    """Metaflow sorts by step and task alone, so runs of the same flow get mixed up."""
    pathspecs = [f"{run}/s/{task}" for run, task in ((2, 1), (1, 2), (3, 1), (1, 1), (2, 2))]
    for pathspec in sorted(pathspecs):
        write(flows.ours, pathspec, {})
    assert [ds.pathspec for ds in flows.ours.get_task_datastores(pathspecs=pathspecs)] == pathspecs


def test_a_pathspec_may_name_the_attempt(flows: Pair) -> None:
    """Metaflow documents the fourth part, but looks in a folder that never exists; ours finds what ``attempt`` does."""
    for flow in flows:
        for attempt in range(3):
            write(flow, "1/s/1", {"n": attempt}, attempt=attempt, done=attempt != 1)
        write(flow, "1/s/2", {"n": 0})
    assert flows.theirs.get_task_datastores(pathspecs=["1/s/1/0"]) == []
    for attempt in range(4):
        for allow in (False, True):
            for slash in ("", "/"):
                [ours] = [flows.ours.get_task_datastores(pathspecs=[f"1/s/1/{attempt}{slash}"], allow_not_done=allow)]
                theirs = flows.theirs.get_task_datastores(pathspecs=["1/s/1"], attempt=attempt, allow_not_done=allow)
                assert [where(ds) for ds in ours] == [where(ds) for ds in theirs]
    mixed = flows.ours.get_task_datastores(pathspecs=["1/s/2", "1/s/1/0", "1/s/1/2"], include_prior=True)
    assert [where(ds) for ds in mixed] == [("1/s/2", 0), ("1/s/1", 0), ("1/s/1", 2)]


def test_attempts_may_leave_numbers_out(flows: Pair) -> None:
    """Metaflow's reader stops at the first number that is missing; its look-up of many does not. Ours never."""
    for flow in flows:
        write(flow, "1/s/1", {"n": 0})
        write(flow, "1/s/1", {"n": 2}, attempt=2)
    agree(lambda flow: [where(ds) for ds in flow.get_task_datastores("1")], flows)
    assert flows.theirs.get_task_datastore("1", "s", "1").attempt == 0
    assert flows.ours.get_task_datastore("1", "s", "1").attempt == 2
    assert list(flows.theirs.get_task_datastore("1", "s", "1", attempt=2)) == []
    assert flows.ours.get_task_datastore("1", "s", "1", attempt=2)["n"] == 2


def test_any_number_of_attempts_is_seen(flows: Pair) -> None:
    """Metaflow looks at six; asked for the seventh, it answers with the latest of the six."""
    for flow in flows:
        for attempt in (0, 6, 100):
            write(flow, "1/s/1", {"n": attempt}, attempt=attempt)
    assert [where(ds) for ds in flows.theirs.get_task_datastores("1", attempt=6)] == [("1/s/1", 0)]
    for attempt in (6, 100):
        [reader] = flows.ours.get_task_datastores("1", attempt=attempt)
        assert (reader.attempt, reader["n"]) == (attempt, attempt)
    assert flows.ours.get_task_datastore("1", "s", "1").attempt == 100
    assert flows.ours.get_task_datastores("1", attempt=7) == []
    for wrong in (-1, 0.5, "0", True):
        with pytest.raises(InvalidInput):
            flows.ours.get_task_datastores("1", attempt=wrong)


@pytest.mark.parametrize(
    "pathspec",
    [
        "",
        "1",
        "1/s",
        "1/s/",
        "1//1",
        "/s/1",
        "1/s/1/x",
        "1/s/1/-1",
        "1/s/1/0/0",
        "1/s/1/\u0661",
        "../s/1",
        "1/s/\0",
        5,
        None,
    ],
)
def test_what_is_no_pathspec_is_an_error(flows: Pair, pathspec: Any) -> None:
    """Metaflow fails with an IndexError or finds nothing; ours names the pathspec, whatever else is asked for."""
    write(flows.ours, "1/s/1", {})
    expected = InvalidPathspec if isinstance(pathspec, str) else InvalidType
    with pytest.raises(expected):
        flows.ours.get_task_datastores(pathspecs=["1/s/1", pathspec])


def test_a_text_in_the_place_of_a_list_is_an_error(flows: Pair) -> None:
    """Metaflow takes its letters one by one."""
    reader = write(flows.ours, "1/s/1", {"x": 1}) and flows.ours.get_task_datastore("1", "s", "1")
    for ask in (
        lambda: flows.ours.get_task_datastores("1", steps="s"),
        lambda: flows.ours.get_task_datastores(pathspecs="1/s/1"),
        lambda: list(reader.load_artifacts("x")),
        lambda: list(flows.ours.load_data("0" * 32)),
        lambda: flows.ours.save_data(b"bytes"),
    ):
        with pytest.raises(InvalidType):
            ask()


def test_nothing_asked_for_is_nothing_found(flows: Pair) -> None:
    """No pathspecs and no run: Metaflow fails; an empty list finds nothing, and neither at all is an error."""
    with pytest.raises(AttributeError):
        flows.theirs.get_task_datastores(pathspecs=[])
    assert flows.ours.get_task_datastores(pathspecs=[]) == []
    with pytest.raises(InvalidInput):
        flows.ours.get_task_datastores()
