"""Artifacts that an export leaves out: named, listed, missing when loaded, filled when a fuller archive comes."""

from __future__ import annotations

import helpers_archive
import pytest
from helpers_archive import FLOW, LARGE, content, everything, make_full
from helpers_store import rows, save_task
from sqlite_oracle import check_file

from sqlitestore import BlobLeftOut, FlowDataStore
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import payload_of


def exported(source, out, *pathspecs, **options):
    """Export from the file ``source``."""
    with FlowDataStore(FLOW, ds_root=source) as flow:
        return export(flow, out, pathspecs, **options)


def test_artifacts_left_out_are_named_listed_and_missing(tmp_path):
    """Everything that lists says what the source says; loading says what is missing, and where it is."""
    source = make_full(tmp_path / "runs.db")
    done = exported(source, tmp_path / "small.db", f"{FLOW}/1", max_artifact_size=10_000)
    assert sorted(done.left_out) == [f"{FLOW}/1/train/1/again", f"{FLOW}/1/train/1/large"]
    assert LARGE[5_000:5_100] not in content(tmp_path / "small.db")
    assert 300_000 < done.left_out_size < 301_000
    check_file(tmp_path / "small.db")
    with (
        FlowDataStore(FLOW, ds_root=source) as flow,
        FlowDataStore(FLOW, ds_root=tmp_path / "small.db", trust=True) as small,
    ):
        ours, theirs = (each.get_task_datastore("1", "train", "1") for each in (flow, small))
        assert (theirs.ds_metadata, list(theirs)) == (ours.ds_metadata, list(ours))
        assert list(theirs.get_artifact_sizes(["large"])) == list(ours.get_artifact_sizes(["large"]))
        assert theirs["name"] == "1"
        for load in (lambda: theirs["large"], lambda: dict(theirs.load_artifacts(["large"])), theirs.to_dict):
            with pytest.raises(BlobLeftOut) as caught:
                load()
            assert "large" in str(caught.value) or "again" in str(caught.value)
            assert "1/train/1" in str(caught.value)
            assert "left out" in str(caught.value)
        assert helpers_archive.by_command(small, FLOW, "ls", f"{FLOW}/1/train/1") == helpers_archive.by_command(
            flow, FLOW, "ls", f"{FLOW}/1/train/1"
        )


def test_an_artifact_that_something_else_needs_is_whole(tmp_path):
    """The same bytes kept by save_data are in the archive of a flow anyway, so the artifact is too."""
    source = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=source) as flow:
        save_task(flow, "1", x=LARGE, y=LARGE[::-1])
        with flow._storage_impl.open_blob(
            FLOW, flow.get_task_datastore("1", "a", "1").keys_for_artifacts(["x"])[0]
        ) as file:
            pickled = file.read()
        flow.save_data([pickled])
        done = export(flow, tmp_path / "out.db", [FLOW], max_artifact_size=1_000)
    check_file(tmp_path / "out.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "out.db", trust=True) as flow:
        task = flow.get_task_datastore("1", "a", "1")
        assert task["x"] == LARGE
        with pytest.raises(BlobLeftOut):
            task["y"]
    assert done.left_out == (f"{FLOW}/1/a/1/y",)


def test_an_artifact_whose_bytes_a_card_has_too_is_not_left_out(tmp_path):
    """The card is of the run, so its bytes come anyway: the artifact is whole, and not reported as left out."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        save_task(flow, "1", x=LARGE)
        [key] = flow.get_task_datastore("1", "a", "1").keys_for_artifacts(["x"])
        [(_, pickled)] = flow.load_data([key])
        flow._storage_impl.save_file(f"mf.cards/{FLOW}/runs/1/card.html", payload_of(pickled))
        done = export(flow, tmp_path / "out.db", [f"{FLOW}/1"], max_artifact_size=1_000)
    assert (done.left_out, done.left_out_size) == ((), 0)
    with FlowDataStore(FLOW, ds_root=tmp_path / "out.db", trust=True) as flow:
        assert flow.get_task_datastore("1", "a", "1")["x"] == LARGE
    assert rows(tmp_path / "out.db", "SELECT * FROM stub") == []


def test_stubs_are_filled_by_a_fuller_archive(tmp_path):
    """Importing the small archive, then the full one, gives what importing the full one gives."""
    source = make_full(tmp_path / "runs.db")
    exported(source, tmp_path / "small.db", max_artifact_size=10_000)
    exported(source, tmp_path / "full.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "new.db") as flow:
        first = merge(flow, [tmp_path / "small.db"], trust=True)
        assert len(first.added) == 3
        again = merge(flow, [tmp_path / "full.db"], trust=True)
        assert (again.added, len(again.skipped)) == ((), 3)
    assert everything(tmp_path / "new.db") == everything(source)
    assert rows(tmp_path / "new.db", "SELECT * FROM stub") == rows(tmp_path / "new.db", "SELECT * FROM held") == []
    check_file(tmp_path / "new.db")


def test_stubs_of_stubs_stay_stubs_and_are_never_in_the_way(tmp_path):
    """An archive of an archive; and the same content written anew beside a stub."""
    source = make_full(tmp_path / "runs.db")
    exported(source, tmp_path / "small.db", f"{FLOW}/1", max_artifact_size=10_000)
    exported(tmp_path / "small.db", tmp_path / "again.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "new.db") as flow:
        merge(flow, [tmp_path / "again.db"], trust=True)
        with pytest.raises(BlobLeftOut):
            flow.get_task_datastore("1", "train", "1")["large"]
        save_task(flow, "mine", "a", "1", large=LARGE)
        assert flow.get_task_datastore("mine", "a", "1")["large"] == LARGE
        assert flow.get_task_datastore("1", "train", "1")["large"] == LARGE  # its content has come, after all
    check_file(tmp_path / "new.db")
