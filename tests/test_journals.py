"""Which journal a file gets, by the file system that it lies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest
from helpers_store import FLOW, beside, incompressible, save_task

from sqlitestore import FlowDataStore, SQLiteStorage, verify
from sqlitestore.mounts import is_network_file_system

MOUNTS = r"""/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local\040disk xfs rw 0 0
//nas/data /mnt/nas cifs rw 0 0
user@host: /mnt/ssh fuse.sshfs rw 0 0
server:/old /mnt/changed nfs rw 0 0
/dev/sdc /mnt/changed ext4 rw 0 0
tmpfs /homework tmpfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/runs.db", False),
        ("/home/me/runs.db", True),
        ("/home/local disk/runs.db", False),
        ("/home/local disks/runs.db", True),
        ("/homework/runs.db", False),
        ("/mnt/nas/a/b/runs.db", True),
        ("/mnt/ssh/runs.db", True),
        ("/mnt/changed/runs.db", False),
        ("\\\\server\\share\\runs.db", True),
    ],
)
def test_network_file_systems_are_told_by_the_mount_table(tmp_path: Path, path: str, expected: bool) -> None:
    """The longest mount point counts, and of equal ones the last."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert is_network_file_system(path, str(table)) is expected
    assert is_network_file_system("/home/me/runs.db", str(tmp_path / "missing")) is False


@pytest.mark.parametrize(
    ("network", "asked", "expected"), [(False, None, "wal"), (True, None, "delete"), (False, "delete", "delete")]
)
def test_the_log_is_used_only_where_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool, asked: Any, expected: str
) -> None:
    """On network file systems, or when asked to, the rollback journal takes its place; all works the same."""
    monkeypatch.setattr("sqlitestore.database_file.is_network_file_system", lambda path: network)
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path, storage_impl=lambda root: SQLiteStorage(root, journal_mode=asked)) as flow:
        save_task(flow, x=1, noise=incompressible(500_000))
        assert (beside(path) == ["runs.db"]) == (expected == "delete")
        connection = apsw.Connection(path)
        assert connection.pragma("journal_mode") == expected
        connection.close()
        assert flow.get_task_datastore("1", "a", "1")["noise"] == incompressible(500_000)
    assert beside(path) == ["runs.db"]


def test_a_store_moves_between_journal_modes(tmp_path: Path) -> None:
    """A file written on a local disk is opened on a network volume, and back."""
    path = str(tmp_path / "runs.db")
    for number, mode in enumerate(("wal", "delete", "wal")):
        with FlowDataStore(
            FLOW, ds_root=path, storage_impl=lambda root, m=mode: SQLiteStorage(root, journal_mode=m)
        ) as flow:
            save_task(flow, task=str(number), x=number)
            assert [task["x"] for task in flow.get_latest_task_datastores("1")] == list(range(number + 1))
        assert beside(path) == ["runs.db"]


def test_who_only_looks_at_a_file_leaves_its_journal(tmp_path: Path) -> None:
    """The command line and verify do not give a log to a file that somebody made without, beside whoever uses it."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(
        FLOW, ds_root=path, storage_impl=lambda root: SQLiteStorage(root, journal_mode="delete")
    ) as flow:
        save_task(flow, x=1)
    SQLiteStorage(path, create=False).close()
    assert verify(path).ok
    with FlowDataStore(FLOW, ds_root=path, storage_impl=lambda root: SQLiteStorage(root, create=False)) as flow:
        save_task(flow, task="2", x=2)
        assert flow._storage_impl.database.query("PRAGMA journal_mode") == [("delete",)]
    connection = apsw.Connection(path)
    assert connection.pragma("journal_mode") == "delete"
    connection.close()
