"""Crowds on one file, for seconds; and each bug that is put into the package is seen by a crowd."""

from __future__ import annotations

import os
from pathlib import Path

import proof_crowd
import proof_crowd_with_journal
import pytest
from crowd import LONGEST_WAIT, Crowd, gather
from helpers_store import FLOW, incompressible, save_task, tampering

from sqlitestore import BlobNotFound, Damaged, FlowDataStore, plan_prune, prune

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

HAPPENED = (
    "tasks written", "tasks read", "failed attempts", "runs looked up", "snapshots compared", "logs read",
    "data saved", "tags changed", "opened and closed", "threads", "forks", "compacted", "verified", "verified quickly",
    "live runs exported", "archives imported", "that waited for 10 ms",
)  # fmt: skip


def check_figures(figures: dict[str, int | float], processes: int) -> None:
    """Fail unless all did something, and nobody waited for long."""
    assert figures["processes"] == processes
    assert figures["fewest rounds of a process"] >= 1
    assert not [what for what in HAPPENED if not figures.get(what)], figures
    waits = [seconds for what, seconds in figures.items() if what.startswith("longest wait to write")]
    assert 0 < max(waits) < LONGEST_WAIT


def test_sixty_four_processes_on_one_file(tmp_path: Path) -> None:
    """All roles at once: no error, no starvation, no torn read, and all that was acknowledged is there."""
    figures = proof_crowd.prove(2, 1, str(tmp_path))
    check_figures(figures, 64)
    assert figures["plug-in runs registered"] >= 6


def test_a_crowd_with_a_rollback_journal(tmp_path: Path) -> None:
    """Readers and writers take turns, and nobody gives the file a log."""
    figures = proof_crowd_with_journal.prove(2, 1, str(tmp_path))
    check_figures(figures, 19)
    assert figures["peak of the log [MiB]"] == 0


SEEN: dict[str, tuple[dict[str, int], str]] = {
    "no_waiting": ({"writer": 4, "reader": 1}, "StoreBusy"),
    "pretended_writing": ({"writer": 6, "reader": 2}, "TaskNotFound|is not there|not so|not its last"),
    "late_locking": ({"writer": 5, "reader": 1}, "StoreBusy"),
    "no_snapshot": ({"writer": 4, "reader": 3}, "changed from"),
    "one_look_up_for_each_task": ({"writer": 5, "reader": 4}, "of writer. only"),
    "connections_in_forked_children": ({"forker": 1}, "forker0"),
    "no_holds": ({"writer": 6, "compactor": 2}, "BlobNotFound"),
    "wrong_bytes": ({"writer": 2, "reader": 3}, "artifact (noise|shared|large) of live-.*/writer0-"),
}


@pytest.mark.parametrize("bug", SEEN)
def test_a_crowd_sees(bug: str, tmp_path: Path) -> None:
    """A bug that is put into the package makes the crowd fail, with an error that shows it."""
    roles, error = SEEN[bug]
    with pytest.raises(AssertionError, match=rf"seed 3: \d+ things went wrong[\s\S]*({error})"):
        gather(Crowd(roles, 20, 3, bug=bug), str(tmp_path))


def test_a_crowd_of_those_roles_is_content_without_a_bug(tmp_path: Path) -> None:
    """It is the bug that they see."""
    roles = {"writer": 4, "reader": 3, "compactor": 1, "forker": 1}
    assert {role for seen, _ in SEEN.values() for role in seen} == set(roles)
    assert gather(Crowd(roles, 1, 3), str(tmp_path))["tasks written"] > 0


def test_a_run_that_is_purged_while_it_is_read_is_not_taken_for_damage(tmp_path: Path) -> None:
    """Whoever reads a large artifact of it is told that it is gone; a chunk that is really missing is damage."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=path) as flow, FlowDataStore(FLOW, ds_root=path) as other:
        for run in ("1", "2"):
            save_task(flow, run, large=incompressible(3_000_000, int(run)))
        keys = [flow.get_task_datastore(run, "a", "1").ds_metadata["objects"]["large"] for run in ("1", "2")]
        file = flow._storage_impl.open_blob(FLOW, keys[0])
        assert file.read(10)
        prune(other, plan_prune(other, [f"{FLOW}/1"]), empty_trash=True)
        with pytest.raises(BlobNotFound, match=keys[0]):
            file.read()
        with tampering(path) as connection:
            connection.execute("DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk)")
        with pytest.raises(Damaged, match="is missing"), flow.ca_store.open_blob(keys[1]) as file:
            file.read()
