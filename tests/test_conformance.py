"""The conformance suite over every storage that we ship, and the published API over another storage."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from sqlite_oracle import check_file

from sqlitestore import AttemptDone, DataStoreStorage, FlowDataStore, SQLiteStorage
from sqlitestore.testing import MemoryStorage, StorageConformance


class TestSQLiteStorage(StorageConformance):
    """A file as everybody has it."""

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the file in the folder."""
        return SQLiteStorage(folder / "runs.db")

    def check_at_rest(self, folder: Path) -> None:
        """Ask SQL of our own, which shares no code with the storage, whether the invariants hold."""
        check_file(folder / "runs.db")


class TestSQLiteStorageWithRollbackJournal(TestSQLiteStorage):
    """A file where SQLite's write-ahead log does not work."""

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the file without a write-ahead log."""
        return SQLiteStorage(folder / "runs.db", journal_mode="delete")


class TestSQLiteStorageFullySynchronous(TestSQLiteStorage):
    """A file whose commits survive a power cut."""

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Open the file with full synchronization."""
        return SQLiteStorage(folder / "runs.db", synchronous="full")


class TestMemoryStorage(StorageConformance):
    """Plain dicts."""

    def open_storage(self, folder: Path) -> DataStoreStorage:
        """Return a handle on the dicts that are named like the folder."""
        return MemoryStorage(folder)


def test_published_api_works_over_another_storage(tmp_path):
    """FlowDataStore over a storage of somebody else's saves, finds, loads and refuses as over ours."""
    with FlowDataStore("Flow", storage_impl=MemoryStorage, ds_root=str(tmp_path / "nothing")) as flow:
        assert (flow.TYPE, flow.datastore_root) == ("memory", str(tmp_path / "nothing"))
        task = flow.get_task_datastore("1", "train", "7", attempt=0, mode="w")
        task.init_task()
        task.save_artifacts([("model", [1.5] * 3), ("auc", 0.93)])
        task.save_metadata({"who": {"me": 2**70}})
        task.save_logs("runtime", {"stdout": "hello"})
        assert flow.get_latest_task_datastores(run_id="1") == []
        task.done()
        [found] = flow.get_latest_task_datastores(run_id="1", steps=["train"])
        assert found.to_dict() == {"model": [1.5] * 3, "auc": 0.93}
        assert found.load_metadata(["who"]) == {"who": {"me": 2**70}}
        assert found.load_logs(["runtime"], "stdout") == [("runtime", b"hello")]
        [(uri, key)] = flow.save_data([b"data"])
        assert uri == f"{tmp_path}/nothing/Flow/data/{key[:2]}/{key}"
        assert dict(flow.load_data([key])) == {key: b"data"}
    assert list(tmp_path.iterdir()) == []


def test_tasks_move_between_storages(tmp_path):
    """A task's blobs are transferred from one kind of storage to another, and artifacts can be taken over by key."""
    with (
        FlowDataStore("Flow", storage_impl=MemoryStorage) as theirs,
        FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as ours,
    ):
        origin = theirs.get_task_datastore("1", "train", "7", attempt=0, mode="w")
        origin.init_task()
        origin.save_artifacts([("large", b"x" * 300_000), ("small", 1)])
        origin.done()
        copy = ours.get_task_datastore("1", "train", "7", attempt=0, mode="w")
        copy.init_task()
        copy.transfer_artifacts(origin)
        copy.clone(origin)
        copy.done()
        found = ours.get_task_datastore("1", "train", "7")
        assert found.to_dict() == {"large": b"x" * 300_000, "small": 1}
    check_file(tmp_path / "runs.db")


def test_error_kept_from_an_ended_thread_keeps_nothing_open(tmp_path):
    """Closing leaves one file also when somebody still holds an error that a thread, ended since, has met."""
    kept = []
    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        task = flow.get_task_datastore("1", "train", "7", attempt=0, mode="w")
        task.done()

        def start():
            try:
                flow.get_task_datastore("1", "train", "7", attempt=0, mode="w").init_task()
            except AttemptDone as error:
                kept.append(error)

        thread = Thread(target=start)
        thread.start()
        thread.join()
    assert len(kept) == 1
    check_file(tmp_path / "runs.db")
