"""Where the file is, who may open it, and that at rest there is one file and nothing beside it."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers_bad_input
import pytest
from helpers_processes import result_of, run, start
from helpers_store import (
    FLOW,
    READ_ONLY,
    WRITABLE,
    assert_sound,
    beside,
    dump,
    incompressible,
    make_store,
    rows,
    save_task,
)

from sqlitestore import FlowDataStore, SQLiteStorage, StoreMissing, StoreReadOnly
from sqlitestore.location import VARIABLE, resolve_root

# Where the file is


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own, two levels deep, without a variable that names a store."""
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "project" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_without_a_root_the_store_is_here(here: Path) -> None:
    """As Metaflow makes its ``.metaflow`` folder in the working folder."""
    with FlowDataStore(FLOW) as flow:
        assert flow.datastore_root == str(here / "metaflow.db")
    assert os.listdir(here) == ["metaflow.db"]


def test_the_nearest_store_upward_is_found(here: Path) -> None:
    """A folder of that name is passed over; a nearer file wins."""
    far, near = here.parent.parent / "metaflow.db", here.parent / "metaflow.db"
    near.mkdir()
    make_store(far)
    assert resolve_root(None) == str(far)
    near.rmdir()
    make_store(near)
    assert resolve_root(None) == str(near)
    assert SQLiteStorage.get_datastore_root_from_config(print) == str(near)


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_variable_names_a_file_or_a_folder(here: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool) -> None:
    """It comes before whatever lies upward, and after ``ds_root``."""
    make_store(here / "metaflow.db")
    named = here.parent if is_folder else here.parent / "runs.sqlite"
    monkeypatch.setenv(VARIABLE, str(named))
    expected = str(named / "metaflow.db") if is_folder else str(named)
    with FlowDataStore(FLOW) as flow:
        assert flow.datastore_root == expected
    assert run(helpers_bad_input.where_default_is) == expected
    with FlowDataStore(FLOW, ds_root=here / "other.db") as flow:
        assert flow.datastore_root == str(here / "other.db")


def test_an_empty_variable_names_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``export VARIABLE=`` is how a shell takes it back."""
    monkeypatch.setenv(VARIABLE, "")
    assert resolve_root(None) == str(here / "metaflow.db")


def test_a_root_that_is_absent_is_told_or_refused(here: Path) -> None:
    """A tool that only looks must not make a file."""
    said: list[object] = []
    assert SQLiteStorage.get_datastore_root_from_config(said.append, create_on_absent=False) is None
    assert SQLiteStorage.get_datastore_root_from_config(said.append) == str(here / "metaflow.db")
    assert len(said) == 1
    with pytest.raises(StoreMissing):
        SQLiteStorage(here / "metaflow.db", create=False)
    assert os.listdir(here) == []


def test_a_folder_as_root_means_the_file_in_it(tmp_path: Path) -> None:
    """So a folder of Metaflow's can be given."""
    with FlowDataStore(FLOW, ds_root=tmp_path) as flow:
        assert flow.datastore_root == str(tmp_path / "metaflow.db")


@pytest.mark.parametrize(
    "name",
    [
        "two words.db",
        "ünï-日本.db",
        "50%20off.db",
        "what?.db",
        "a#b.db",
        "a&mode=memory",
        "file:x",
        ":memory:",
        "-x",
        "'\"",
        "~",
    ],
)
def test_a_path_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    """To write and, where that is not allowed, to read: no character means anything to SQLite's URIs."""
    path = tmp_path / name / name
    path.parent.mkdir()
    make_store(path)
    assert os.listdir(path.parent) == [name]
    os.chmod(path, 0o444)
    path.parent.chmod(READ_ONLY)
    try:
        assert run(helpers_bad_input.read, str(path), unprivileged=True) == [
            [["text"], ["text"], ["large"]],
            "store_read_only",
        ]
    finally:
        path.parent.chmod(WRITABLE)
    assert os.listdir(path.parent) == [name]


def test_a_relative_path_stays_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later connections (another thread's, a forked child's) open the same file after a chdir."""
    with FlowDataStore(FLOW, ds_root="runs.db") as flow:
        monkeypatch.chdir("/")
        save_task(flow, x=1)
        from helpers_processes import in_threads

        in_threads([lambda: save_task(flow, "2", x=2)])
        assert flow.datastore_root == str(here / "runs.db")
    assert os.listdir(here) == ["runs.db"]


def test_two_slashes_at_the_front_are_one(tmp_path: Path) -> None:
    """POSIX lets them mean something else; on Linux they do not, and in a URI they would name a host."""
    path = make_store(tmp_path / "runs.db")
    os.chmod(path, 0o444)
    tmp_path.chmod(READ_ONLY)
    try:
        found, kind = run(helpers_bad_input.read, "/" + path, unprivileged=True)
    finally:
        tmp_path.chmod(WRITABLE)
    assert (len(found), kind) == (3, "store_read_only")


def test_a_link_and_its_file_are_one_store(tmp_path: Path) -> None:
    """Also while one process has pages in the log that another, by the link, must see."""
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "runs.db", tmp_path / "link.db"
    link.symlink_to(path)
    with start(helpers_bad_input.open_and_wait, str(path), 5_000_000) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        with FlowDataStore(FLOW, ds_root=link) as flow:
            assert flow.get_task_datastore("first", "a", "5000000")["noise"] == incompressible(5_000_000)
            save_task(flow, "2", x=2)
        result_of(writer)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        assert flow.get_task_datastore("2", "a", "1")["x"] == 2
    assert (os.listdir(tmp_path / "real"), sorted(os.listdir(tmp_path))) == (["runs.db"], ["link.db", "real"])


# Who may open it


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o644, 0o555), (0o444, 0o555)])
def test_what_can_only_be_read_opens_for_reading(tmp_path: Path, file_mode: int, folder_mode: int) -> None:
    """Everything loads; a write is StoreReadOnly; no byte changes and nothing appears beside the file."""
    path = make_store(tmp_path / "runs.db")
    before = Path(path).read_bytes()
    os.chmod(path, file_mode)
    os.chmod(tmp_path, folder_mode)
    try:
        outcome = run(helpers_bad_input.read, path, unprivileged=True)
    finally:
        tmp_path.chmod(WRITABLE)
    assert outcome == [[["text"], ["text"], ["large"]], "store_read_only"]
    assert Path(path).read_bytes() == before
    assert beside(path) == ["runs.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system read-only")
def test_a_read_only_mount_opens_for_reading(tmp_path: Path) -> None:
    """Like a CD: permissions say yes, the file system says no."""
    make_store(tmp_path / "runs.db")
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        outcome = run(helpers_bad_input.read, str(tmp_path / "runs.db"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert outcome == [[["text"], ["text"], ["large"]], "store_read_only"]


def test_a_reader_without_permission_to_write_follows_a_live_store(tmp_path: Path) -> None:
    """A colleague looks at a run that goes on: what he opened at rest gives what is there now, never a mix of both."""
    path = str(tmp_path / "runs.db")
    _save_noise(path, "0")
    os.chmod(path, 0o444)
    with start(helpers_bad_input.watch_another_write, path, unprivileged=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        os.chmod(path, 0o644)
        for task in "12":
            _save_noise(path, task)
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "ready\n", reader.communicate()[1]
        seen = result_of(reader)
    assert seen == [[1], [2], [3]]


def test_a_reader_without_permission_to_write_is_told_that_the_file_is_gone(tmp_path: Path) -> None:
    """What was opened at rest is looked at again at each read: a file that somebody removed is missing, by its name."""
    path = str(tmp_path / "runs.db")
    _save_noise(path, "0")
    os.chmod(path, 0o444)
    with start(helpers_bad_input.watch_a_file_go, path, unprivileged=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        os.remove(path)
        reader.stdin.write("\n")
        reader.stdin.flush()
        kind, message = result_of(reader)
    assert kind == "store_missing"
    assert path in message
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A thread that comes later is told so; an empty store in the place of the old one would hide the loss."""
    path = tmp_path / "runs.db"
    with FlowDataStore(FLOW, ds_root=path) as flow, ThreadPoolExecutor(1) as thread:
        save_task(flow, text="text")
        os.rename(path, tmp_path / "elsewhere.db")
        found = thread.submit(flow.get_latest_task_datastores, "1")
        with pytest.raises(StoreMissing, match=str(path)):
            found.result()
        assert not path.exists()


def _save_noise(path: str, task: str) -> None:
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, task=task, noise=incompressible(200_000, int(task)))


# At rest


@pytest.mark.parametrize("how", ["exit", "end"])
def test_a_program_that_does_not_close_leaves_one_file(tmp_path: Path, how: str) -> None:
    """Scripts end as they like."""
    run(helpers_bad_input.leave_open, str(tmp_path / "runs.db"), how)
    assert os.listdir(tmp_path) == ["runs.db"]
    assert rows(tmp_path / "runs.db", "SELECT COUNT(*) FROM artifact") == [(1,)]


def test_a_store_that_nobody_holds_any_more_is_closed(tmp_path: Path) -> None:
    """A notebook opens a store in every cell; files and memory must not pile up until it ends."""
    path = tmp_path / "runs.db"
    save_task(FlowDataStore(FLOW, ds_root=path), x=1)
    gc.collect()
    assert os.listdir(tmp_path) == ["runs.db"]
    open_files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert str(path) not in open_files


def test_the_last_of_several_processes_leaves_one_file(tmp_path: Path) -> None:
    """Whoever that is; those before it must not take the log away from the others."""
    path = str(tmp_path / "runs.db")
    make_store(path)
    first, second = (start(helpers_bad_input.open_and_wait, path, size) for size in (1_000, 300_000))
    with first, second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        result_of(first)
        assert len(beside(path)) == 3
        result_of(second)
    assert beside(path) == ["runs.db"]


def test_sixteen_processes_create_one_store(tmp_path: Path) -> None:
    """All at the same moment: one schema, one uuid, and every task of all of them."""
    path = str(tmp_path / "runs.db")
    assert run(helpers_bad_input.create_at_once, path, 16) == list(range(16))
    assert len(dump(path)["store"]) == 1
    assert_sound(path)
    assert beside(path) == ["runs.db"]


def test_a_copied_file_is_the_same_store(tmp_path: Path) -> None:
    """At rest nothing of it is elsewhere."""
    path = make_store(tmp_path / "runs.db")
    (tmp_path / "usb").mkdir()
    copy = shutil.copy(path, tmp_path / "usb")
    assert dump(copy) == dump(path)
    with FlowDataStore(FLOW, ds_root=copy) as flow:
        assert len(flow.get_latest_task_datastores("1")) == 3


def test_writing_to_a_file_that_can_only_be_read_is_refused(tmp_path: Path) -> None:
    """The error says so, is a RuntimeError, and names the file."""
    assert issubclass(StoreReadOnly, RuntimeError)
    path = make_store(tmp_path / "runs.db")
    os.chmod(path, 0o444)
    kind, message = run(helpers_bad_input.try_to_open, path, unprivileged=True)
    assert kind == "store_read_only"
    assert path in message
