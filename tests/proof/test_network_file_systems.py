"""The write-ahead log is not used where it does not work: by a mount table of the test's, with real files."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import golden_content
import pytest
import sqlite_oracle
from crashing_process import crash
from helpers_processes import fork, wait_for
from helpers_store import FLOW, beside, incompressible, make_store, save_task
from old_files import NEWEST, OldFile, copy, make

from sqlitestore import (
    FlowDataStore,
    NotAStore,
    SQLiteStorage,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
    database_file,
    mounts,
    pragmas,
)
from sqlitestore.mounts import is_network_file_system
from sqlitestore.pragmas import has_log

REMOTE = [
    "nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "glusterfs", "gpfs", "wekafs", "beegfs",
    "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner", "drvfs", "autofs", "fuse", "fuse.sshfs", "fuse.nfs",
    "fuse.smbnetfs", "fuse.gvfsd-fuse", "fuse.onedriver", "fuse.google-drive-ocamlfuse", "fuse.s3fs",
    "fuse.juicefs", "fuse.ceph-fuse", "fuse.seaweedfs", "fuse.mfs", "fuse.lizardfs", "fuse.rclone", "fuse.grpcfuse",
    "fuse.osxfs", "fuse.of-next-year",
]  # fmt: skip
LOCAL = [
    "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "tmpfs", "overlay", "exfat", "vfat", "ntfs3", "fuseblk",
    "fuse.ntfs-3g", "fuse.gocryptfs", "fuse.encfs", "erofs",
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the mount table: types by folder, over a local root."""

    def write(types: dict[str | bytes, str]) -> None:
        lines = [b"/dev/sda / ext4 rw 0 0", b"broken line"]
        for folder, kind in types.items():
            point = os.fsencode(folder).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\n", b"\\012")
            lines.append(b"from " + point + b" " + kind.encode() + b" rw 0 0")
        (tmp_path / "mounts").write_bytes(b"\n".join(lines))
        monkeypatch.setattr(mounts, "MOUNTS", str(tmp_path / "mounts"))

    return write


@pytest.mark.parametrize("kind", [*REMOTE, *LOCAL])
def test_a_store_has_the_journal_that_works_on_its_file_system(tmp_path: Path, table: Any, kind: str) -> None:
    """The rollback journal on what is not local, or nobody knows; else the log. With it nothing else is made."""
    folder = tmp_path / "folder"
    folder.mkdir()
    table({str(folder): kind})
    check_journal(str(folder / "runs.db"), remote=kind in REMOTE)


def check_journal(path: str, *, remote: bool) -> None:
    """Raise AssertionError unless a store at ``path`` is used with the right journal, and no other."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, x=1)
        names = {"runs.db"} if remote else {"runs.db", "runs.db-shm", "runs.db-wal"}
        assert set(beside(path)) == names
        with flow._storage_impl.database.write() as connection:  # type: ignore[attr-defined]
            connection.execute("INSERT INTO flow(name) VALUES ('more')")
            assert set(beside(path)) == (names | {"runs.db-journal"} if remote else names)
        assert connection.pragma("journal_mode") == ("delete" if remote else "wal")
        assert (connection.pragma("synchronous") >= 2) == remote  # FULL at least, or NORMAL
    assert Path(path).read_bytes()[18:20] == (b"\1\1" if remote else b"\2\2")


def test_a_log_on_a_network_file_system_is_noticed(tmp_path: Path, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded fault: a decision that never says no fails the check."""
    table({str(tmp_path): "nfs4"})
    monkeypatch.setattr(database_file, "is_network_file_system", lambda path: False)
    with pytest.raises(AssertionError):
        check_journal(str(tmp_path / "runs.db"), remote=True)


# Which mount a file is on


def test_links_and_relative_paths_lead_to_the_file_system_that_the_file_is_on(
    tmp_path: Path, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is counts, by whatever name; also of one that is not there yet."""
    far, near = tmp_path / "far", tmp_path / "near"
    for folder in (far, near):
        folder.mkdir()
    table({str(far): "nfs4"})
    (far / "runs.db").touch()
    (near / "file").symlink_to(far / "runs.db")
    (near / "folder").symlink_to(far)
    (far / "back").symlink_to(near)
    (near / "dangling").symlink_to(far / "new.db")
    monkeypatch.chdir(far)
    for path in (near / "file", near / "folder" / "new.db", near / "dangling", near / ".." / "far" / "x.db"):
        assert is_network_file_system(str(path)), path
    assert is_network_file_system("new.db")
    assert is_network_file_system("./back/../runs.db") is False  # beside the folder that the link leads to
    assert is_network_file_system("back/new.db") is False
    assert is_network_file_system(str(near / "new.db")) is False


@pytest.mark.parametrize("name", [b"with blank", b"line\nbreak", b"back\\slash", "größe".encode(), b"not \xff utf-8"])
def test_mount_points_of_any_name_are_found(tmp_path: Path, table: Any, name: bytes) -> None:
    """The table writes blanks and the like in octal digits, and everything else as it is."""
    point = os.fsencode(tmp_path) + b"/" + name
    table({point: "cifs"})
    assert is_network_file_system(os.fsdecode(point + b"/runs.db"))
    assert is_network_file_system(os.fsdecode(point + b"s/runs.db")) is False


def test_the_innermost_and_the_latest_mount_counts(table: Any) -> None:
    """Nested mounts, and one upon another; what was removed from the table is no more."""
    table({"/mnt": "autofs", "/mnt/a": "nfs", "/mnt/a/disk": "ext4", "/mnt/a/disk/far": "fuse.sshfs"})
    found = [is_network_file_system(f"/mnt{path}/runs.db") for path in ("", "/a", "/a/disk", "/a/disk/far", "/ab")]
    assert found == [True, True, False, True, True]
    table({"/mnt/a": "nfs"})
    assert is_network_file_system("/mnt/a/runs.db")
    table({})
    assert is_network_file_system("/mnt/a/runs.db") is False


def test_a_file_that_is_a_mount_point_itself_has_no_log(tmp_path: Path, table: Any) -> None:
    """Its log would lie in this folder, and that of whoever has the file by its other name elsewhere."""
    path = tmp_path / "runs.db"
    table({str(path): "ext4"})
    check_journal(str(path), remote=True)


# Systems without such a table


def test_macos_is_asked_by_statfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNT_LOCAL in its 17th word says that the folder is local; an error says nothing."""
    asked = []

    def statfs(folder: bytes, answer: Any) -> int:
        asked.append(folder)
        answer._obj[16] = 0x1000 if folder == b"/local" else 0x10
        return -1 if folder == b"/gone" else 0

    monkeypatch.setattr(mounts, "MOUNTS", "/nonexistent")
    monkeypatch.setattr(mounts.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(statfs=statfs))
    found = [is_network_file_system(f"/{folder}/runs.db") for folder in ("local", "Volumes", "gone")]
    assert found == [False, True, False]
    assert asked == [b"/local", b"/Volumes", b"/gone"]


def test_windows_is_asked_for_the_kind_of_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""A mapped drive is remote, as are paths \\server\share."""
    import ntpath

    kernel32 = SimpleNamespace(GetDriveTypeW=lambda drive: {"C:\\": 3, "Z:\\": 4}[drive])
    monkeypatch.setattr(mounts, "MOUNTS", "/nonexistent")
    monkeypatch.setattr(mounts.sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    monkeypatch.setattr(mounts, "os", SimpleNamespace(path=SimpleNamespace(
        realpath=ntpath.normpath, dirname=ntpath.dirname, splitdrive=ntpath.splitdrive)))  # fmt: skip
    paths = ("C:\\data\\runs.db", "Z:\\data\\runs.db", "\\\\server\\share\\runs.db")
    assert [is_network_file_system(path) for path in paths] == [False, True, True]


# Files that come from a local disk


@pytest.fixture
def moved(tmp_path: Path, table: Any) -> str:
    """Return the path of a file in WAL mode, with a log that a crash left, that was moved to a network file system."""
    folder = tmp_path / "far"
    folder.mkdir()
    path = str(folder / "runs.db")
    make(path, NEWEST, "with a log left")
    os.unlink(path + "-shm")
    table({str(folder): "nfs4"})
    return path


def _flows(path: str) -> list[str]:
    with FlowDataStore("GoldenFlow", ds_root=path) as flow:
        return flow._storage_impl.flows()  # type: ignore[attr-defined, no-any-return]


def _shares_memory(path: str) -> bool:
    """Open the file; return whether SQLite made its own of what lies in the place of the shared memory."""
    shared = Path(path + "-shm")
    shared.write_bytes(b"of nobody")
    assert "in the log" in _flows(path)
    is_touched = not shared.exists() or shared.read_bytes() != b"of nobody"
    shared.unlink(missing_ok=True)
    return is_touched


def test_a_moved_file_leaves_its_log_without_shared_memory(moved: str) -> None:
    """What was committed to the log is in the file, which has a rollback journal then."""
    assert not _shares_memory(moved)
    assert Path(moved).read_bytes()[18:20] == b"\1\1"
    golden_content.check(moved)
    sqlite_oracle.check_file(moved)


def test_a_moved_file_that_is_opened_as_ever_is_noticed(moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded fault: without having the file alone, SQLite shares memory."""
    monkeypatch.setattr(database_file, "use_alone", lambda connection: None)
    assert _shares_memory(moved)


def test_a_crash_while_the_log_is_left_loses_nothing(tmp_path: Path, moved: str) -> None:
    """Killed at any statement or write, the file has all that was committed, in one mode or the other."""
    old = OldFile(moved, NEWEST, "with a log left", str(tmp_path))
    work = str(tmp_path / "far" / "work.db")
    copy(moved, work)
    events = crash(lambda: _flows(work), 0)
    modes = []
    for event in range(1, events + 1, 3):
        os.unlink(work)
        copy(moved, work)
        assert crash(lambda: _flows(work), event) == 0
        modes.append(Path(work).read_bytes()[18:20])
        old.check_after_a_crash(work)
        assert "in the log" in _flows(work)
    assert {b"\1\1", b"\2\2"} == set(modes)
    golden_content.check(work)


def test_processes_that_open_a_moved_file_at_once_share_it(moved: str) -> None:
    """One takes the file out of WAL mode, the others wait; none is refused, however often it is tried."""

    def work(path: str, number: int) -> None:
        with FlowDataStore("GoldenFlow", ds_root=path) as flow:
            save_task(flow, "new", task=str(number), number=number)

    for turn in range(6):
        path = moved.replace("runs.db", f"{turn}.db")
        copy(moved, path)
        wait_for(*(fork(work, path, number) for number in range(10)))
        with FlowDataStore("GoldenFlow", ds_root=path) as flow:
            assert len(flow.get_latest_task_datastores("new")) == 10
        sqlite_oracle.check_file(path)


def test_a_log_that_somebody_has_open_is_not_left(moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and who has it open goes on; then the file opens."""
    monkeypatch.setattr(pragmas, "LEAVING_TIMEOUT", 0.2)
    other = apsw.Connection(moved)
    other.execute("INSERT INTO flow(name) VALUES ('of the other')")
    with pytest.raises(StoreBusy, match=r"write-ahead log.*somebody else has it open"):
        _flows(moved)
    other.execute("INSERT INTO flow(name) VALUES ('still')")
    assert other.pragma("journal_mode") == "wal"
    other.close()
    assert {"in the log", "of the other", "still"} <= set(_flows(moved))


def test_another_programs_file_keeps_its_log(tmp_path: Path, table: Any) -> None:
    """What is not ours is refused as it is."""
    path = tmp_path / "other.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").fetchall()
    connection.close()
    table({str(tmp_path): "cifs"})
    before = path.read_bytes()
    with pytest.raises(NotAStore):
        FlowDataStore(FLOW, ds_root=path)
    assert path.read_bytes() == before


def test_the_caller_decides_against_the_table(tmp_path: Path, table: Any) -> None:
    """``journal_mode`` overrides it either way."""
    for kind, mode in (("nfs4", "wal"), ("ext4", "delete")):
        table({str(tmp_path): kind})
        storage = SQLiteStorage(str(tmp_path / "runs.db"), journal_mode=mode)  # type: ignore[arg-type]
        assert storage.database.query("PRAGMA journal_mode") == [(mode,)]
        storage.close()


def test_a_log_cannot_be_read_where_nothing_can_be_written(moved: str, as_nobody: Any) -> None:
    """On a network file system that is refused, for the log may be another machine's; without one the file is read."""
    alone = os.path.join(os.path.dirname(moved), "alone.db")
    shutil.copy(Path(__file__).parent.parent / "golden" / f"format-{NEWEST}.db", alone)
    for name in (moved, moved + "-wal", alone):
        os.chmod(name, 0o444)

    def read() -> None:
        golden_content.check(alone)
        with pytest.raises(StoreUnavailable, match="log beside it"):
            _flows(moved)

    as_nobody(read)
    assert sorted(os.listdir(os.path.dirname(moved))) == ["alone.db", "runs.db", "runs.db-wal"]


def test_looking_at_the_header_drops_no_locks(moved: str) -> None:
    """A process that closes any descriptor of a file loses its locks on it; SQLite's own way of looking does not."""
    holder = apsw.Connection(moved)
    holder.pragma("journal_mode", "delete")
    holder.execute("BEGIN EXCLUSIVE")
    assert has_log(moved) is False

    # Not a forked child: it would inherit what SQLite thinks that this process has locked.
    code = "import apsw, sys; apsw.Connection(sys.argv[1]).execute('BEGIN IMMEDIATE')"
    outcome = subprocess.run([sys.executable, "-c", code, moved], capture_output=True, text=True, check=False)
    assert "BusyError" in outcome.stderr
    holder.close()


# A journal that a crash left, read by who cannot undo it


def _check_cut_off(path: str) -> None:
    with pytest.raises(StoreReadOnly):
        _flows(path)


def _ignore_the_journal(file: database_file.DatabaseFile) -> bool:
    return os.path.exists(file._real_path + "-wal")


@pytest.mark.parametrize("fault", [False, True])
def test_a_transaction_that_was_cut_off_is_not_read(
    tmp_path: Path, as_nobody: Any, monkeypatch: pytest.MonkeyPatch, fault: bool
) -> None:
    """Half of it is in the file: an error says that the file must be opened where it can be written.

    The seeded fault, a reader that does not look for a journal, is caught.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    path = str(folder / "runs.db")
    make(path, NEWEST, "with a journal left")
    for entry in folder.iterdir():
        entry.chmod(0o444)
    with monkeypatch.context() as seeded:
        if fault:
            seeded.setattr(database_file.DatabaseFile, "_is_in_use", _ignore_the_journal)
            with pytest.raises(AssertionError, match="DID NOT RAISE"):
                as_nobody(lambda: _check_cut_off(path))
        else:
            as_nobody(lambda: _check_cut_off(path))
    for entry in folder.iterdir():
        entry.chmod(0o644)
    golden_content.check(path)


def test_who_reads_only_sees_a_commit_of_the_journal_whole(tmp_path: Path, as_nobody: Any) -> None:
    """While a writer with a rollback journal is in the middle of its transaction, the state before is read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = make_store(folder / "runs.db")
    writer = apsw.Connection(path)
    assert writer.pragma("journal_mode", "delete") == "delete"
    writer.execute("BEGIN IMMEDIATE; INSERT INTO flow(name) VALUES ('more'); UPDATE chunk SET codec = 0")
    assert beside(path) == ["runs.db", "runs.db-journal"]
    for entry in folder.iterdir():
        entry.chmod(0o444)

    def read() -> None:
        writer_of_parent = writer  # its descriptors must stay open: closing them would be the parent's business
        with FlowDataStore(FLOW, ds_root=path) as flow:
            assert flow._storage_impl.flows() == [FLOW]
            assert flow.get_task_datastore("1", "b", "1")["large"] == incompressible(700_000)
        assert writer_of_parent is not None

    as_nobody(read)
    writer.execute("ROLLBACK")
    writer.close()
