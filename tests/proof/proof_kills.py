"""Kills, of every kind: at named places, at random moments, of crowds of writers, of upkeep, of Metaflow's runs.

After each the files are looked at by an oracle that shares no code with the package; what was acknowledged must be
there, what was not begun must not, nothing may be half there, and the same work done again must end as if nothing had
happened. Figures count what was seen, so that a run in which nothing happened is seen too.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable

import kills_of_runs
import kills_of_upkeep
import kills_of_writers
from crash_scenarios import SCENARIOS, all_points
from crash_trials import Trial

UNIT = "kills"
LONG = 1000
SLICES = 2  # each of which comes to every named place

ONE_RUN_IN = 40
"""A kill of a run of Metaflow takes some ten seconds, so they are few."""

AT_ONCE = 25
"""Kills of writers, or of upkeep, of one file."""


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Kill so many times; return what was seen. Raises AssertionError, which names the seed, at the first violation.

    ``folder`` is empty, and is again afterwards.
    """
    of_runs, of_crowds, moments = amount // ONE_RUN_IN, amount * 3 // 20, amount // 4
    figures: Counter[str] = Counter()
    kinds: tuple[tuple[str, int, Callable[[int, int, str], dict[str, int]]], ...] = (
        ("runs", of_runs, _kill_runs),
        ("writers", of_crowds, _kill_writers),
        ("upkeep", of_crowds, _kill_upkeep),
        ("scenarios", amount - of_runs - 2 * of_crowds, lambda count, of, at: _kill_scenarios(count, moments, of, at)),
    )
    for kind, count, kill in kinds:
        place = os.path.join(folder, kind)
        os.makedirs(place)
        try:
            figures.update(kill(count, seed, place))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, kills of {kind} ({count} of {amount}): {error}") from error
        shutil.rmtree(place)
        figures[f"kills of {kind}"] += count
    figures["kills"] = amount
    peak = figures.pop("places")
    return {**figures, "peak of different places at which it was killed": peak}


def _kill_runs(count: int, seed: int, folder: str) -> dict[str, int]:
    seen: Counter[str] = Counter()
    for number in range(count):
        place = os.path.join(folder, str(number))
        seen.update(kills_of_runs.kill_a_run(place, seed * 1_000_003 + number))
        shutil.rmtree(place)
    assert not count or seen["runs killed"], "no run was running when it was killed"
    return dict(seen)


def _kill_writers(count: int, seed: int, folder: str) -> dict[str, int]:
    seen: Counter[str] = Counter()
    for start in range(0, count, AT_ONCE):
        path = os.path.join(folder, f"{start}.db")
        some = min(AT_ONCE, count - start)
        seen.update(kills_of_writers.kill_again_and_again(path, some, seed * 1_000_003 + start))
        os.unlink(path)
    assert not count or min(seen.values()) > 0, f"something never happened: {dict(seen)}"
    return {f"writers: {name}": number for name, number in seen.items()}


def _kill_upkeep(count: int, seed: int, folder: str) -> dict[str, int]:
    seen: Counter[str] = Counter()
    for start in range(0, count, AT_ONCE):
        some = min(AT_ONCE, count - start)
        seen.update(kills_of_upkeep.kill(os.path.join(folder, str(start)), some, seed * 1_000_003 + start))
    assert count < AT_ONCE or min(seen["pruned"], seen["imported"]) > 0, f"something never happened: {dict(seen)}"
    return {f"upkeep: {name}": number for name, number in seen.items()}


def _kill_scenarios(count: int, moments: int, seed: int, folder: str) -> dict[str, int]:
    """Kill at random moments of scenarios, then at each place once, as far as that goes, then at n-th arrivals."""
    chance = random.Random(seed)
    trials: dict[str, Trial] = {}

    def trial(number: int) -> Trial:
        scenario = SCENARIOS[number]
        if scenario.name not in trials:
            trials[scenario.name] = Trial.made(scenario, os.path.join(folder, str(number)))
        return trials[scenario.name]

    seen: Counter[str] = Counter()
    for _ in range(moments):
        chosen = trial(chance.randrange(len(SCENARIOS)))
        seen["kills in the middle of something"] += chosen.kill_after(chance.random() * chosen.seconds * 1.1)
    places = [(number, point) for number, scenario in enumerate(SCENARIOS) for point in scenario.passes]
    chance.shuffle(places)
    killed: set[str] = set()
    for number in range(count - moments):
        if number < len(places):
            chosen, point = trial(places[number][0]), places[number][1]
            arrival = 1
        else:
            chosen = trial(chance.randrange(len(SCENARIOS)))
            point = chance.choice(sorted(chosen.arrivals))
            arrival = chance.randint(1, chosen.arrivals[point])
        chosen.kill_at(point, arrival)
        killed.add(point)
        seen["kills at places"] += 1
        seen["kills at later arrivals"] += arrival > 1
    assert not moments or seen["kills in the middle of something"], "no kill came in time"
    assert count - moments < len(places) or killed >= all_points(), f"never killed at {all_points() - killed}"
    return {**seen, "places": len(killed)}
