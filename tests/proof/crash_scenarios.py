"""All scenarios, and which of them is killed at which place of the sources."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

from crash_plug_in import PLUG_IN
from crash_points_of_metaflow import FILE_WRITTEN
from crash_trials import Scenario, Trial
from crash_upkeep import UPKEEP
from crash_writers import WRITERS

import sqlitestore

GROUPS = {"writers": WRITERS, "upkeep": UPKEEP, "plug-in": PLUG_IN}
SCENARIOS = (*WRITERS, *UPKEEP, *PLUG_IN)
SOURCES = Path(sqlitestore.__file__).parent


def named(name: str) -> Scenario:
    """Return the scenario of a name."""
    return next(each for each in SCENARIOS if each.name == name)


def points_of(scenario: Scenario) -> list[str]:
    """Return the places that this scenario is the first to be there for; one of the others if there is none."""
    earlier = {point for each in SCENARIOS[: SCENARIOS.index(scenario)] for point in each.passes}
    return [point for point in scenario.passes if point not in earlier] or [scenario.passes[0]]


def in_the_sources() -> list[tuple[str, object]]:
    """Return (file and line, the one argument) of every call of ``crash_point``; None for what is no literal."""
    found: list[tuple[str, object]] = []
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "crash_point":
                literal = [each.value for each in node.args if isinstance(each, ast.Constant)]
                is_one = len(literal) == len(node.args) == 1 and not node.keywords
                found.append((f"{path.relative_to(SOURCES)}:{node.lineno}", literal[0] if is_one else None))
    return found


def all_points() -> set[str]:
    """Return the names of all places, and of the one that we put into Metaflow."""
    return {str(name) for _, name in in_the_sources()} | {FILE_WRITTEN}


def kill_at_each(group: str, folder: str) -> dict[str, int]:
    """Kill the scenarios of a group at the first arrival at each of their places; return how often, by scenario."""
    killed = {}
    for scenario in GROUPS[group]:
        place = os.path.join(folder, str(len(killed)))
        trial = Trial.made(scenario, place)
        points = points_of(scenario)
        for point in points:
            trial.kill_at(point, 1)
        killed[scenario.name] = len(points)
        shutil.rmtree(place)
    return killed
