"""Export: a file with what was asked for and nothing else, which says all that the source said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers_archive import FLOW, LARGE, OTHER, content, everything, make_full, only_run, six_runs
from helpers_processes import run as in_process
from helpers_store import READ_ONLY, WRITABLE, beside, dump, incompressible, rows, save_task
from sqlite_oracle import check_file

from sqlitestore import FileExists, FlowDataStore, InvalidInput, InvalidPathspec, NotFound, SQLiteStorage
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import payload_of
from sqlitestore.errors import Damaged, DiskFull, StoreMissing
from sqlitestore.schema import NEWEST_FORMAT

GOLDEN = Path(__file__).parent / "golden"


def exported(source, out, *pathspecs, **options):
    """Export from the file ``source``."""
    with FlowDataStore(FLOW, ds_root=source) as flow:
        return export(flow, out, pathspecs, **options)


def test_everything_comes_back_equal_by_every_call(tmp_path):
    """An archive of all says what the source says; so does a store that it is imported into."""
    source = make_full(tmp_path / "runs.db")
    done = exported(source, tmp_path / "all.db")
    assert (done.runs, done.left_out, done.size) == (3, (), os.path.getsize(tmp_path / "all.db"))
    said = everything(source)
    assert everything(tmp_path / "all.db") == said
    with FlowDataStore(FLOW, ds_root=tmp_path / "new.db") as flow:
        merge(flow, [tmp_path / "all.db"])
    assert everything(tmp_path / "new.db") == said
    for name in ("runs.db", "all.db", "new.db"):
        check_file(tmp_path / name)
        assert rows(tmp_path / name, "SELECT * FROM held") == []


@pytest.mark.parametrize("pathspecs", [[f"{FLOW}/1"], [f"{FLOW}/rün 2"], [f"{FLOW}/1", f"{FLOW}/rün 2"]])
def test_runs_are_exported_whole_and_alone(tmp_path, pathspecs):
    """What is said of the runs is the same; nothing else is there: no other run, no data, no files of others."""
    source = make_full(tmp_path / "runs.db")
    exported(source, tmp_path / "some.db", *pathspecs)
    runs = [each.split("/")[1] for each in pathspecs]
    there = everything(tmp_path / "some.db")
    assert only_run(there, FLOW, *runs) == only_run(everything(source), FLOW, *runs)
    assert list(there) == [FLOW, "files"]
    assert sorted(data for _, data in there[FLOW]["data"]) == [f"code of {run}".encode() for run in runs]
    assert all(any(f"/runs/{run}/" in path for run in runs) for path in there["files"])
    assert len(there["files"]) == 2 * len(runs)


def test_a_flow_is_exported_with_what_it_keeps(tmp_path):
    """Of a flow, all runs, data and files; of no other flow anything."""
    source = make_full(tmp_path / "runs.db")
    exported(source, tmp_path / "flow.db", FLOW)
    said, there = everything(source), everything(tmp_path / "flow.db")
    assert there[FLOW] == said[FLOW]
    assert OTHER not in there
    assert set(said["files"]) - set(there["files"]) == {"anything"}


def test_a_task_is_exported_with_what_belongs_to_it(tmp_path):
    """Of a task: its attempts, logs, metadata, card and tags; not those of its neighbours."""
    source = make_full(tmp_path / "runs.db")
    exported(source, tmp_path / "task.db", f"{FLOW}/1/end/3")
    [(name, run), (_, files)] = everything(tmp_path / "task.db").items()
    of_source = everything(source)[FLOW]["1"]
    assert name == FLOW
    assert run["1"]["latest"] == [("1/end/3", 0)]
    assert run["1"]["tasks"] == {key: value for key, value in of_source["tasks"].items() if key[0].task_id == "3"}
    assert run["1"]["registered"].run == of_source["registered"].run
    assert [path.split("/")[5] for path in files] == ["end"]
    exported(source, tmp_path / "step.db", f"{FLOW}/1/train", f"{FLOW}/1/end/3")
    assert only_run(everything(tmp_path / "step.db"), FLOW, "1")["1"]["tasks"] == of_source["tasks"]


def test_one_run_of_six_takes_the_shared_data_once_and_nothing_else(tmp_path):
    """12 MB that six runs share come once; what is the others' own does not."""
    source = six_runs(tmp_path / "runs.db")
    done = exported(source, tmp_path / "one.db", f"{FLOW}/3")
    assert 12_000_000 < done.size < 12_100_000 * 1.04
    assert (done.blobs, done.artifacts) == (2, 2)
    assert rows(tmp_path / "one.db", "SELECT count(*) FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)") == [
        (0,)
    ]
    noise = [incompressible(100_000, run + 10) for run in range(6)]
    data = content(tmp_path / "one.db")
    assert [each[5_000:5_500] in data for each in noise] == [False] * 3 + [True] + [False] * 2
    exported(source, tmp_path / "six.db")
    assert os.path.getsize(tmp_path / "six.db") < done.size + 800_000


def test_the_archive_has_a_rollback_journal_and_opens_on_read_only_media(tmp_path, as_nobody):
    """It is one file, of the kind archive; nothing has to be written beside it."""
    source = make_full(tmp_path / "runs.db")
    folder = tmp_path / "media"
    folder.mkdir()
    exported(source, folder / "all.db")
    said = everything(source)
    assert content(folder / "all.db")[18:20] == b"\x01\x01"  # SQLite's file format: no write-ahead log
    assert rows(folder / "all.db", "SELECT kind FROM store") == [("archive",)]
    (folder / "all.db").chmod(0o444)
    folder.chmod(READ_ONLY)
    before = content(folder / "all.db")

    def look():
        assert everything(folder / "all.db") == said

    as_nobody(look)
    folder.chmod(WRITABLE)
    assert content(folder / "all.db") == before
    assert beside(folder / "all.db") == ["all.db"]


def test_nothing_is_overwritten(tmp_path):
    """A file, a folder or a link to nowhere of that name stays; also the store itself."""
    source = make_full(tmp_path / "runs.db")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = dump(source)
    for name in ("file", "folder", "link", "runs.db"):
        with pytest.raises(FileExists) as caught:
            exported(source, tmp_path / name)
        assert caught.value.kind == "file_exists"
        assert str(tmp_path / name) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert dump(source) == before
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link", "runs.db"]


def test_a_name_that_is_taken_meanwhile_stays(tmp_path, monkeypatch):
    """Who makes a file of that name while the export is on its way keeps it."""
    source = make_full(tmp_path / "runs.db")

    class Rival:
        def start(self, *_):
            (tmp_path / "out.db").write_text("theirs")

        def advance(self, amount):
            pass

        def finish(self):
            pass

    with pytest.raises(FileExists):
        exported(source, tmp_path / "out.db", progress=Rival())
    assert (tmp_path / "out.db").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["out.db", "runs.db"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_export_leaves_no_file(tmp_path, error):
    """Whatever ends it on the way."""
    source = make_full(tmp_path / "runs.db")

    class Interrupting:
        def start(self, *_):
            pass

        def advance(self, amount):
            raise error

        def finish(self):
            pass

    with pytest.raises(error):
        exported(source, tmp_path / "out.db", progress=Interrupting())
    assert os.listdir(tmp_path) == ["runs.db"]


@pytest.mark.parametrize(
    ("pathspec", "error"),
    [
        ("Nothing", NotFound),
        (f"{FLOW}/7", NotFound),
        (f"{FLOW}/1/nothing", NotFound),
        (f"{FLOW}/1/end/7", NotFound),
        (f"{FLOW}/1/end/3/total", InvalidPathspec),
        (f"{FLOW}/1/end/3/total/x", InvalidPathspec),
        ("a/../b", InvalidPathspec),
        ("", InvalidPathspec),
    ],
)
def test_what_is_not_there_is_an_error_that_names_it(tmp_path, pathspec, error):
    """No file is made, also not for the pathspecs beside it that are there."""
    source = make_full(tmp_path / "runs.db")
    with pytest.raises(error) as caught:
        exported(source, tmp_path / "out.db", f"{FLOW}/1", pathspec)
    assert pathspec.split("/")[-1] in str(caught.value)
    assert os.listdir(tmp_path) == ["runs.db"]


def test_arguments_that_cannot_be(tmp_path):
    """A folder that is not there, a size below nothing."""
    source = make_full(tmp_path / "runs.db")
    with pytest.raises(StoreMissing):
        exported(source, tmp_path / "nowhere" / "out.db")
    with pytest.raises(InvalidInput):
        exported(source, tmp_path / "out.db", max_artifact_size=-1)
    assert os.listdir(tmp_path) == ["runs.db"]


def test_damage_is_not_passed_on(tmp_path):
    """A blob whose bytes are wrong ends the export; no file is left."""
    source = make_full(tmp_path / "runs.db")
    noise = LARGE[100_000:100_032]
    data = bytearray(content(source))
    assert data.count(noise) == 1
    data[data.index(noise)] ^= 1
    Path(source).write_bytes(data)
    with pytest.raises(Damaged):
        exported(source, tmp_path / "out.db", f"{FLOW}/1")
    assert os.listdir(tmp_path) == ["runs.db"]


def pass_on(old, out):
    """Export from a file and import it, in a process of its own."""
    storage = SQLiteStorage(old, create=False)
    export(storage, os.path.join(out, "archive.db"))
    storage.close()
    with FlowDataStore("GoldenFlow", ds_root=os.path.join(out, "new.db")) as flow:
        merge(flow, [old])


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("format-*.db")), ids=lambda path: path.stem)
def test_old_formats_are_exported_and_imported_unchanged(tmp_path, golden):
    """A file of an old format that can only be read is a source of both, and stays as it is, byte for byte."""
    folder = tmp_path / "old"
    folder.mkdir()
    old = folder / "old.db"
    old.write_bytes(content(golden))
    old.chmod(0o444)
    folder.chmod(READ_ONLY)
    out = tmp_path / "out"
    out.mkdir()
    in_process(pass_on, str(old), str(out), unprivileged=True)
    folder.chmod(WRITABLE)
    assert content(old) == content(golden)
    is_newest = golden.stem == f"format-{NEWEST_FORMAT}"  # opening an older one here brings it to today's format
    said = everything(old) if is_newest else None
    for name in ("archive.db", "new.db"):
        check_file(out / name)
        found = everything(out / name)
        assert found["GoldenFlow"]["17"]["latest"] == [("17/train/1", 0), ("17/train/2", 1), ("17/train/3", 0)]
        assert said is None or found == said


def test_an_export_sees_one_snapshot_of_a_store_in_use(tmp_path):
    """While another process writes: of each pair that it saves together, both are there or none."""
    source = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=source) as flow:
        save_task(flow, "0", x=1)
        seen = []

        class Writing:
            """Writes at the worst moment: when the export has begun to read."""

            def start(self, *_):
                in_process(write_more, source)

            def advance(self, amount):
                pass

            def finish(self):
                pass

        export(flow, tmp_path / "out.db", progress=Writing())
        seen = flow._storage_impl.runs(FLOW)
    there = everything(tmp_path / "out.db")
    assert seen == ["0", "1", "2"]
    assert [each for each in there[FLOW] if each != "data"] == ["0"]
    assert there[FLOW]["data"] == []
    assert there["files"] == {}


def write_more(path):
    """Write runs, data and a file, in a process of its own."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for run in ("1", "2"):
            save_task(flow, run, x=run)
        flow.save_data([b"later"])
        flow._storage_impl.save_file(f"{FLOW}/0/later", payload_of(b"later"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that this fills")
def test_a_full_disk_ends_an_export_without_a_trace(tmp_path):
    """DiskFull, no file, and the source is as it was."""
    source = six_runs(tmp_path / "runs.db")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        with pytest.raises(DiskFull):
            exported(source, small / "out.db")
        assert os.listdir(small) == []
        exported(source, tmp_path / "out.db", f"{FLOW}/1")
        with FlowDataStore(FLOW, ds_root=small / "new.db") as flow, pytest.raises(DiskFull):
            merge(flow, [tmp_path / "out.db"])
        with FlowDataStore(FLOW, ds_root=small / "new.db") as flow:
            assert flow._storage_impl.flows() in ([], [FLOW])
            assert flow._storage_impl.runs(FLOW) == []
        check_file(small / "new.db")
    finally:
        subprocess.run(["umount", small], check=True)
    check_file(source)
