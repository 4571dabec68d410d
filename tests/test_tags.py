"""Tags of runs: Metaflow's rules, from Python and from the command line."""

from __future__ import annotations

import json
import threading

import helpers_cli
import pytest
from helpers_archive import FLOW, OTHER, make_full
from helpers_store import dump, save_task

from sqlitestore import FlowDataStore, InvalidInput, InvalidPathspec, InvalidType, NotFound
from sqlitestore.archive.tags import change_tags, tags_of
from sqlitestore.paths.objects import Objects
from sqlitestore.paths.stores import Store
from sqlitestore.tables import tables_of

RUN = f"{FLOW}/1"


@pytest.fixture
def path(tmp_path):
    """A full store."""
    return make_full(tmp_path / "runs.db")


@pytest.fixture
def flow(path):
    """Its flow."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        yield flow


def test_tags_are_listed_added_and_removed(flow):
    """Removed before others are added; what is not there is removed without complaint."""
    assert tags_of(flow, RUN) == ((RUN, ("1", "a"), ("user:ada",)),)
    assert change_tags(flow, RUN, add=["b", "ü"], remove=["a", "never there"]).tags == ("1", "b", "ü")
    assert change_tags(flow, RUN, add=["b"], remove=["b"]).tags == ("1", "b", "ü")
    assert [each.pathspec for each in tags_of(flow, FLOW)] == [RUN, f"{FLOW}/rün 2"]
    assert tags_of(flow, FLOW)[0].tags == ("1", "b", "ü")
    assert tags_of(flow, FLOW)[1].tags == ("a", "rün 2")
    assert tables_of(flow).registrations.run(FLOW, "1").ts_epoch == 1_700_000_000_000


def test_system_tags_stay(flow):
    """Removing one is refused, with all that was asked; adding one is nothing."""
    with pytest.raises(InvalidInput) as caught:
        change_tags(flow, RUN, add=["new"], remove=["user:ada"])
    assert "user:ada" in str(caught.value)
    assert change_tags(flow, RUN, add=["user:ada"]) == (RUN, ("1", "a"), ("user:ada",))


@pytest.mark.parametrize(
    ("tags", "error"),
    [([""], InvalidInput), (["x" * 501], InvalidInput), (["\ud800"], InvalidInput), ([1], InvalidType),
     ([f"t{number}" for number in range(60)], InvalidInput), ("text", InvalidType)],
)  # fmt: skip
def test_bad_tags_change_nothing(flow, path, tags, error):
    """Empty, too long, no text, too many."""
    before = dump(path)
    with pytest.raises(error):
        change_tags(flow, RUN, add=tags)
    assert dump(path) == before


def test_a_run_with_too_many_tags_may_lose_some(flow):
    """As in Metaflow: it only may not get more."""
    tables_of(flow).registrations.change_tags(FLOW, "1", lambda *_: {f"t{number}" for number in range(60)})
    assert len(change_tags(flow, RUN, remove=["t0"]).tags) == 59
    assert len(change_tags(flow, RUN, remove=["t1"], add=["new"]).tags) == 59
    with pytest.raises(InvalidInput):
        change_tags(flow, RUN, add=["more"])


def test_a_run_without_registration_gets_one(flow, path):
    """As old as its first start; Metaflow's view has it with its tags; listing registers nothing."""
    save_task(flow, "ours", x=1)
    assert tags_of(flow, f"{FLOW}/ours") == ((f"{FLOW}/ours", (), ()),)
    assert tables_of(flow).registrations.run(FLOW, "ours") is None
    assert change_tags(flow, f"{FLOW}/ours", add=["best"]).tags == ("best",)
    started = flow._storage_impl.find_run(FLOW, "ours", None)[0].started
    assert tables_of(flow).registrations.run(FLOW, "ours").ts_epoch == int(started * 1000)
    store = Store(path, create=False)
    try:
        [thing] = [each for each in Objects(store).runs(FLOW) if each["run_number"] == "ours"]
        assert (thing["tags"], thing["user_name"]) == (["best"], None)
    finally:
        store.database.close()


def test_a_refused_change_registers_nothing(flow):
    """All is one transaction."""
    save_task(flow, "ours", x=1)
    with pytest.raises(InvalidInput):
        change_tags(flow, f"{FLOW}/ours", add=[""])
    assert tables_of(flow).registrations.run(FLOW, "ours") is None


@pytest.mark.parametrize(
    ("pathspec", "error"),
    [("Nope", NotFound), (f"{FLOW}/7", NotFound), (f"{RUN}/train", InvalidPathspec), ("a//b", InvalidPathspec)],
)
def test_what_is_not_there(flow, pathspec, error):
    """An error that names it, for both."""
    with pytest.raises(error):
        tags_of(flow, pathspec)
    with pytest.raises((error, InvalidPathspec)):
        change_tags(flow, pathspec, add=["x"])


def test_a_flow_has_no_tags_of_its_own(flow):
    """Changing those of a flow is refused."""
    with pytest.raises(InvalidPathspec):
        change_tags(flow, FLOW, add=["x"])


def test_many_at_once_lose_nothing(path):
    """Each adds its own tag, from a thread and store of its own."""

    def add(number):
        with FlowDataStore(FLOW, ds_root=path) as flow:
            change_tags(flow, RUN, add=[f"t{number}"])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with FlowDataStore(FLOW, ds_root=path) as flow:
        assert {f"t{number}" for number in range(12)} <= set(tags_of(flow, RUN)[0].tags)


def test_the_command(path):
    """A table, a line each in a pipe; JSON; several changes in one call; errors that change nothing."""
    assert helpers_cli.table(helpers_cli.run(path, "tag", RUN).stdout) == [
        {"run": RUN, "tags": "1, a", "system_tags": "user:ada"}
    ]
    outcome = helpers_cli.run(path, "tag", RUN, "--add", "b", "--add", "c", "--remove", "a", "--json")
    assert json.loads(outcome.stdout)["runs"] == [
        {"pathspec": RUN, "tags": ["1", "b", "c"], "system_tags": ["user:ada"]}
    ]
    assert len(helpers_cli.table(helpers_cli.run(path, "tag", FLOW).stdout)) == 2
    assert helpers_cli.run(path, "tag", f"{OTHER}/1", "--add", "\x1b[31mred").exit_code == 0
    assert "\x1b" not in helpers_cli.run(path, "tag", f"{OTHER}/1").stdout
    for bad in (["tag", RUN, "--remove", "user:ada"], ["tag", FLOW, "--add", "x"], ["tag", "Nope"]):
        outcome = helpers_cli.run(path, *bad)
        assert outcome.exit_code == 1, bad
        assert outcome.stderr.startswith("Error: ")
