"""Cards: drawn by tasks, found by the client and by the flow's own commands."""

from __future__ import annotations

import json
from typing import Any

import looks
import pytest
from flows.card_content import components, text
from runs import Once, Place, Scene


@pytest.fixture(scope="module")
def drawn(once: Once) -> Scene:
    """A run that succeeded, and one that failed at its end, later."""

    def make(place: Place) -> Any:
        done = place.run("cards_flow.py")
        failed = place.run("cards_flow.py", "--failing", "true", code=1)
        return {run.run_id: place.client(looks.at_cards, run.run_id) for run in (done, failed)}

    return once("cards", make)


@pytest.fixture
def run_id(drawn: Scene) -> str:
    """The run that succeeded."""
    return next(iter(drawn.facts))


@pytest.fixture
def seen(drawn: Scene) -> Any:
    """What the client sees of it."""
    return next(iter(drawn.facts.values()))


def test_a_card_has_what_was_appended(seen: Any) -> None:
    """The card of a step shows what the step put into it."""
    [[kind, name, _, said, _]] = seen["start"]
    assert (kind, name) == ("blank", None)
    assert "# Only one: grüße" in said


def test_two_cards_of_a_task(seen: Any) -> None:
    """Cards with ids are kept apart."""
    cards = {name: said for _, name, _, said, _ in seen["two"]}
    assert set(cards) == {"first", "second"}
    assert "this is the first" in cards["first"]
    assert "the second" in cards["second"]
    assert "the second" not in cards["first"]


def test_cards_are_found_by_id_and_pathspec(seen: Any) -> None:
    """The client gives the cards of one id only, and takes a pathspec as well as a task."""
    number, said = seen["second"]
    assert number == 1
    assert "the second" in said
    assert seen["by_path"] == seen["start"]


def test_a_card_of_the_default_type(seen: Any) -> None:
    """It shows the artifacts of the task, which it read from the store."""
    [said] = [said for kind, _, _, said, _ in seen["end"] if kind == "default"]
    assert "1234567" in said
    assert [name for _, name, _, _, _ in seen["end"]] == ["live", "table"]


def test_cards_are_in_one_folder_per_task(seen: Any, run_id: str) -> None:
    """A card's path is made of run, step, task, type, id and hash."""
    for _, name, path, _, number in seen["two"]:
        assert path == f"CardsFlow/runs/{run_id}/steps/two/tasks/2/cards/blank-{name}-{number}.html"


def test_cards_are_registered(seen: Any) -> None:
    """Each card of a task is among its metadata."""
    registered = [json.loads(value) for value in seen["metadata"]]
    assert sorted(each["id"] for each in registered) == ["first", "second"]


def test_a_card_of_a_task_that_failed(drawn: Scene) -> None:
    """What was drawn before a step failed is there, nothing else."""
    failed = list(drawn.facts.values())[1]
    assert failed["run"] == [False, False]
    [[kind, name, _, said, _]] = failed["end"]
    assert (kind, name) == ("blank", "live")
    assert "drawn before the end" in said


def test_list_of_a_step(drawn: Scene, run_id: str, seen: Any) -> None:
    """``card list`` names the cards of a task, as JSON too."""
    listed = json.loads(drawn.place.flow("cards_flow.py", "card", "list", f"{run_id}/two", "--as-json").out)
    expected = {(kind, name, number, path.rpartition("/")[2]) for kind, name, path, _, number in seen["two"]}
    assert listed["pathspec"] == f"CardsFlow/{run_id}/two/2"
    assert {(each["type"], each["id"], each["hash"], each["filename"]) for each in listed["cards"]} == expected


def test_list_of_the_latest_run(drawn: Scene) -> None:
    """Without a pathspec ``card list`` is about all tasks of the latest run."""
    latest = list(drawn.facts)[1]
    listed = json.loads(drawn.place.flow("cards_flow.py", "card", "list", "--as-json").out)
    assert [each["pathspec"] for each in listed] == [
        f"CardsFlow/{latest}/{task}" for task in ("end/3", "two/2", "start/1")
    ]
    assert [len(each["cards"]) for each in listed] == [1, 2, 1]


def test_list_for_people(drawn: Scene, run_id: str, seen: Any) -> None:
    """The list that is not JSON has id, hash and place of each card."""
    said = drawn.place.flow("cards_flow.py", "card", "list", f"{run_id}/two").err
    assert "Found 2 card matching" in said
    for _, name, path, _, number in seen["two"]:
        assert f"Card Id: {name}" in said
        assert f"Card Hash: {number}" in said
        assert f"/mf.cards/{path}" in said


def test_get_prints_a_card(drawn: Scene, run_id: str) -> None:
    """``card get`` prints the HTML of the card with the id."""
    done = drawn.place.flow("cards_flow.py", "card", "get", f"{run_id}/two", "--id", "first")
    assert [each["source"].strip() for each in components(done.out)] == ["this is the first"]


def test_get_by_type_and_hash_into_a_file(drawn: Scene, run_id: str, seen: Any) -> None:
    """A card is also chosen by type or hash, and written to a file of whichever name."""
    [table] = [card for card in seen["end"] if card[1] == "table"]
    for which in (("--type", "default"), ("--hash", table[4])):
        target = drawn.place.outside / f"card{which[0]}.html"
        drawn.place.flow("cards_flow.py", "card", "get", f"{run_id}/end", str(target), *which)
        assert text(target.read_text(encoding="utf-8")) == table[3]


def test_a_card_that_is_not_there(drawn: Scene, run_id: str) -> None:
    """An unknown id is an error that names it."""
    done = drawn.place.flow("cards_flow.py", "card", "get", f"{run_id}/two", "--id", "third", code=1)
    assert "Card with id 'third' not found" in done.err
