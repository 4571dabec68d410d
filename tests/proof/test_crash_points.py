"""Each named place between two steps of a write: a process is killed there, and nothing is lost, torn or left over."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from crash_scenarios import GROUPS, SCENARIOS, all_points, in_the_sources, kill_at_each, points_of
from helpers_processes import run

from sqlitestore import crash_points


def test_names_are_literal_and_unique() -> None:
    """Each place has a name of its own, in lower-case words with hyphens, which stands there to be read."""
    calls = in_the_sources()
    assert len(calls) > 100
    for where, name in calls:
        assert isinstance(name, str), f"{where} has no literal name"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name), f"{where}: {name}"
    assert not [name for name, count in Counter(name for _, name in calls).items() if count > 1]


def test_no_place_is_forgotten() -> None:
    """Every place in the sources has a scenario that is killed there, and no scenario names one that is not."""
    assert {point for scenario in SCENARIOS for point in scenario.passes} == all_points()


def test_nothing_happens_without_a_test() -> None:
    """Nobody has set a hook, and passing a place without one does nothing; with one, it is called by the name."""
    assert crash_points._hook is None
    crash_points.crash_point("before-commit")
    passed: list[str] = []
    crash_points.set_hook(passed.append)
    try:
        crash_points.crash_point("before-commit")
    finally:
        crash_points.set_hook(None)
    crash_points.crash_point("after-commit")
    assert passed == ["before-commit"]


@pytest.mark.parametrize("group", GROUPS)
def test_killed_at_each_place(group: str, tmp_path: Path) -> None:
    """What was acknowledged is there, what was not begun is not, and the same work done again ends as ever."""
    killed = run(kill_at_each, group, str(tmp_path))
    assert sorted(killed) == sorted(scenario.name for scenario in GROUPS[group])
    assert min(killed.values()) > 0


def test_the_groups_have_all_places() -> None:
    """Between them, each place is one at which somebody is killed."""
    assert {point for group in GROUPS.values() for each in group for point in points_of(each)} >= all_points()
