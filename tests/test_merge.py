"""Import: runs of other files come whole, under their ids, once; and what is here never changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers_archive import FLOW, LARGE, OTHER, content, everything, make_full, only_run, six_runs
from helpers_store import dump, roots, rows, save_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, InvalidInput, RunExists, StoreMissing, StoreReadOnly
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import payload_of
from sqlitestore.tables import tables_of


def merged(target, *files, **options):
    """Import into the file ``target``."""
    with FlowDataStore(FLOW, ds_root=target) as flow:
        return merge(flow, files, **options)


def exported(source, out, *pathspecs, **options):
    """Export from the file ``source``; return the path of the archive."""
    with FlowDataStore(FLOW, ds_root=source) as flow:
        export(flow, out, pathspecs, **options)
    return out


@pytest.fixture
def source(tmp_path):
    """A full store."""
    return make_full(tmp_path / "runs.db")


def test_importing_twice_changes_nothing(tmp_path, source):
    """Not a row: the second time all is skipped, and reported so."""
    archive = exported(source, tmp_path / "all.db")
    first = merged(tmp_path / "new.db", archive)
    assert sorted(first.added) == sorted([f"{FLOW}/1", f"{FLOW}/rün 2", f"{OTHER}/1"])
    assert (first.skipped, first.renamed, first.tasks) == ((), (), 9)
    before = dump(tmp_path / "new.db")
    again = merged(tmp_path / "new.db", archive)
    assert (again.added, again.renamed, again.tasks, again.artifacts) == ((), (), 0, 0)
    assert sorted(again.skipped) == sorted(first.added)
    assert dump(tmp_path / "new.db") == before
    assert rows(tmp_path / "new.db", "SELECT * FROM held") == []
    check_file(tmp_path / "new.db")


def test_live_files_are_imported_too_and_stay_as_they_are(tmp_path, source):
    """A file in use by somebody who has just written to its log."""
    with FlowDataStore(FLOW, ds_root=source) as flow:
        save_task(flow, "3", late=1)
        assert os.path.getsize(f"{source}-wal") > 0
        before = content(source), content(f"{source}-wal")
        done = merged(tmp_path / "new.db", source)
        assert (content(source), content(f"{source}-wal")) == before
    assert len(done.added) == 4
    assert everything(tmp_path / "new.db") == everything(source)


def test_parts_come_together(tmp_path, source):
    """Each run in an archive of its own, all imported in one call, are the whole."""
    parts = [
        exported(source, tmp_path / f"{number}.db", pathspec)
        for number, pathspec in enumerate([f"{FLOW}/1", f"{FLOW}/rün 2", OTHER])
    ]
    merged(tmp_path / "new.db", *parts)
    said, there = everything(source), everything(tmp_path / "new.db")
    assert only_run(there, FLOW, "1", "rün 2") == only_run(said, FLOW, "1", "rün 2")
    assert there[OTHER] == said[OTHER]


def test_what_is_here_is_shared(tmp_path):
    """Five of six runs that share 12 MB add nothing but their own to the one that is here."""
    source = six_runs(tmp_path / "six.db")
    merged(tmp_path / "new.db", exported(source, tmp_path / "one.db", f"{FLOW}/0"))
    before = os.path.getsize(tmp_path / "new.db")
    merged(tmp_path / "new.db", source)
    assert os.path.getsize(tmp_path / "new.db") - before < 5 * 100_000 * 1.5 + 100_000
    assert everything(tmp_path / "new.db") == everything(source)


# Runs of the same name


CHANGES = {
    "artifact": lambda flow: save_task(flow, "1", "more", "1", x=1),
    "metadata": lambda flow: flow._storage_impl.save_metadata(ADDRESS, 0, {"tags": "1"}, overwrite=True),
    "log": lambda flow: flow._storage_impl.save_log(ADDRESS, 1, "task", "stdout", _text(b"other")),
    "file": lambda flow: flow._storage_impl.save_file(f"mf.cards/{FLOW}/runs/1/x", payload_of(b"x")),
    "task": lambda flow: tables_of(flow).registrations.add_task(FLOW, "1", "new", "5", None, 1),
}


def _text(data):
    from io import BytesIO

    return BytesIO(data)


class _Address:
    def __get__(self, *_):
        from sqlitestore.model import TaskAddress

        return TaskAddress(FLOW, "1", "train", "1")


ADDRESS = _Address().__get__()


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_of_the_name_is_an_error_that_names_it(tmp_path, source, what):
    """Whatever is different, nothing is imported, not even the runs beside it."""
    shutil.copy(source, tmp_path / "theirs.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "theirs.db") as flow:
        CHANGES[what](flow)
        save_task(flow, "0", fresh=True)
    before = dump(source)
    with pytest.raises(RunExists) as caught:
        merged(source, tmp_path / "theirs.db")
    assert f"{FLOW}/1" in str(caught.value)
    assert "--rename" in str(caught.value)
    assert caught.value.kind == "run_exists"
    assert dump(source) == before


@pytest.mark.parametrize("what", CHANGES)
def test_renamed_runs_have_one_name_however_often_they_come(tmp_path, source, what):
    """The other run comes beside ours, whole; the second time it is there already; elsewhere it has the same name."""
    shutil.copy(source, tmp_path / "theirs.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "theirs.db") as flow:
        CHANGES[what](flow)
    said = everything(source)
    done = merged(source, tmp_path / "theirs.db", rename=True)
    [(old, new)] = done.renamed
    assert old == f"{FLOW}/1"
    assert done.added == (new,)
    there = everything(source)
    run = new.partition("/")[2]
    assert only_run(there, FLOW, "1", "rün 2") == only_run(said, FLOW, "1", "rün 2")
    theirs, ours = everything(tmp_path / "theirs.db")[FLOW]["1"], there[FLOW][run]
    assert [each["bytes"] for each in ours["tasks"].values()] == [each["bytes"] for each in theirs["tasks"].values()]
    assert [each["logs"] for each in ours["tasks"].values()] == [each["logs"] for each in theirs["tasks"].values()]
    assert ours["registered"].run.tags == theirs["registered"].run.tags
    assert f"mf.cards/{FLOW}/runs/{run}/steps/end/tasks/3/cards/default-{3:0>40}.html" in there["files"]
    before = dump(source)
    again = merged(source, tmp_path / "theirs.db", rename=True)
    assert (again.added, again.renamed) == ((), ())
    assert dump(source) == before
    check_file(source)


def test_tags_come_along_and_stay_where_the_run_is(tmp_path, source):
    """A new run has its tags; of a run that is here, another set of tags is neither a conflict nor taken over."""
    archive = exported(source, tmp_path / "all.db")
    merged(tmp_path / "new.db", archive)
    with FlowDataStore(FLOW, ds_root=tmp_path / "new.db") as flow:
        registrations = tables_of(flow).registrations
        assert registrations.run(FLOW, "rün 2").tags == {"a", "rün 2"}
        registrations.change_tags(FLOW, "1", lambda *_: {"mine"})
        assert f"{FLOW}/1" in merge(flow, [archive]).skipped
        assert registrations.run(FLOW, "1").tags == {"mine"}


def test_a_part_of_a_run_that_is_here_is_known(tmp_path, source):
    """An archive of one of its tasks brings nothing; the whole run beside a part of it is another content."""
    part = exported(source, tmp_path / "part.db", f"{FLOW}/1/end/3")
    before = dump(source)
    assert merged(source, part).skipped == (f"{FLOW}/1",)
    assert dump(source) == before
    merged(tmp_path / "new.db", part)
    with pytest.raises(RunExists):
        merged(tmp_path / "new.db", exported(source, tmp_path / "all.db", f"{FLOW}/1"))


def test_runs_of_one_name_in_two_files(tmp_path):
    """The same content comes once; other content is an error that names the file, or comes under another name."""
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        with FlowDataStore(FLOW, ds_root=tmp_path / f"{name}.db") as flow:
            save_task(flow, "1", value=value)
    shutil.copy(tmp_path / "a.db", tmp_path / "b.db")
    files = {name: tmp_path / f"{name}.db" for name in "abc"}
    with pytest.raises(RunExists) as caught:
        merged(tmp_path / "new.db", files["a"], files["c"])
    assert str(files["a"]) in str(caught.value)
    assert roots(tmp_path / "new.db")["run"] == []
    done = merged(tmp_path / "new.db", files["a"], files["b"], files["c"], rename=True)
    assert (len(done.added), done.skipped, len(done.renamed)) == (2, (f"{FLOW}/1",), 1)
    with FlowDataStore(FLOW, ds_root=tmp_path / "new.db", trust=True) as flow:
        found = [flow.get_task_datastore(run, "a", "1")["value"] for run in flow._storage_impl.runs(FLOW)]
    assert sorted(found) == [1, 2]


def test_other_bytes_under_a_files_path_are_an_error(tmp_path, source):
    """A file of a flow, or of nobody, that is another here."""
    shutil.copy(source, tmp_path / "theirs.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "theirs.db") as flow:
        flow._storage_impl.save_file("anything", payload_of(b"another"), overwrite=True)
    before = dump(source)
    with pytest.raises(RunExists) as caught:
        merged(source, tmp_path / "theirs.db")
    assert "anything" in str(caught.value)
    assert dump(source) == before


# What cannot be


@pytest.mark.parametrize("how", ["itself", "symlink", "hardlink", "relative"])
def test_the_file_itself_is_refused(tmp_path, source, how, monkeypatch):
    """By whichever name."""
    path = tmp_path / "other.db"
    if how == "symlink":
        path.symlink_to(source)
    elif how == "hardlink":
        os.link(source, path)
    else:
        path = source if how == "itself" else os.path.basename(source)
    monkeypatch.chdir(tmp_path)
    before = dump(source)
    with pytest.raises(InvalidInput):
        merged(source, path)
    assert dump(source) == before


def test_files_that_are_missing_or_a_target_that_is_read_only(tmp_path, source, as_nobody):
    """Nothing is imported from the files beside it; nothing is made."""
    archive = exported(source, tmp_path / "all.db")
    with pytest.raises(StoreMissing):
        merged(tmp_path / "new.db", archive, tmp_path / "nothing.db")
    assert roots(tmp_path / "new.db")["run"] == []
    assert not (tmp_path / "nothing.db").exists()
    os.chmod(source, 0o444)

    def look():
        with pytest.raises(StoreReadOnly):
            merged(source, archive)

    as_nobody(look)


# Random stores

VALUES = st.one_of(st.integers(), st.binary(max_size=40), st.sampled_from([LARGE, LARGE + b"1", b"0" * 70_000]))
TASKS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "drei"]),
        st.sampled_from(["start", "end"]),
        st.sampled_from(["1", "2"]),
        st.integers(0, 2),
        st.dictionaries(st.sampled_from(["a", "b", "ü"]), VALUES, max_size=3),
        st.booleans(),
        st.binary(max_size=30),
    ),
    max_size=8,
    unique_by=lambda task: task[:4],
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(tasks=TASKS, largest=st.none() | st.just(1_000), alone=st.booleans())
def test_random_stores_come_back_equal(tmp_path_factory, tasks, largest, alone):
    """Exported whole or run by run, with large artifacts or first without: merged back, all is as it was."""
    folder = tmp_path_factory.mktemp("random")
    source = folder / "runs.db"
    with FlowDataStore(FLOW, ds_root=source) as flow:
        for run, step, name, attempt, artifacts, done, log in tasks:
            task = flow.get_task_datastore(run, step, name, attempt=attempt, mode="w")
            task.init_task()
            task.save_artifacts(artifacts.items())
            task.save_logs("task", {"stdout": log})
            task.save_metadata({"log": log.hex()})
            if done:
                task.done()
            if log:
                flow.save_data([log])
        runs = flow._storage_impl.runs(FLOW)
        parts = [[f"{FLOW}/{run}"] for run in runs] if alone else [[]]
        archives = []
        for number, pathspecs in enumerate(parts):
            if largest is not None:
                archives.append(folder / f"small {number}.db")
                export(flow, archives[-1], pathspecs, max_artifact_size=largest)
            archives.append(folder / f"{number}.db")
            export(flow, archives[-1], pathspecs)
    merged(folder / "new.db", *archives)
    said, there = everything(source), everything(folder / "new.db")
    assert only_run(there, FLOW, *runs) == only_run(said, FLOW, *runs) if runs else True
    if not alone:
        assert there == said
    for file in (*archives, folder / "new.db"):
        check_file(file)
        assert rows(file, "SELECT * FROM held") == []
    shutil.rmtree(folder)


def test_the_path_of_this_module_is_no_store(tmp_path):
    """A file that is no database."""
    with pytest.raises(OSError):
        merged(tmp_path / "new.db", Path(__file__))
