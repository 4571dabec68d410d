"""push and pull between a file and a folder of Metaflow's, cut off everywhere, again, with conflicts and damage."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from helpers_servers import AzureServer
from helpers_store import rows
from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
from metaflow.plugins.datastores.local_storage import LocalStorage
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, NotFound, SQLiteStorage, StoreUnavailable
from sqlitestore.archive.records import Names, read_run
from sqlitestore.errors import InvalidPathspec
from sqlitestore.registrations import RegisteredMetadatum
from sqlitestore.remote.included import with_urls
from sqlitestore.remote.pull import pull
from sqlitestore.remote.push import push

TIME = 1_700_000_000_000
RECORDS = "sqlitestore.remote.pulled_records"


class Recording(LocalStorage):
    """Counts calls, notes what is saved and loaded, and breaks after so many files."""

    def __init__(self, root: str, breaks_after: int | None = None) -> None:
        super().__init__(root)
        self.saved: list[str] = []
        self.calls = 0
        self.loads = 0
        self._breaks_after = breaks_after

    def _next(self) -> None:
        if self._breaks_after is not None and len(self.saved) + self.loads >= self._breaks_after:
            raise OSError("the cable")

    def save_bytes(self, path_and_bytes_iter, overwrite=False, len_hint=0):
        self.calls += 1
        for path, item in path_and_bytes_iter:
            self._next()
            super().save_bytes([(path, item)], overwrite)
            self.saved.append(path)

    def load_bytes(self, paths):
        self.calls += 1
        self._next()
        self.loads += 1
        return super().load_bytes(paths)

    def list_content(self, paths):
        self.calls += 1
        return super().list_content(paths)


def write_run(path: Path, run: str = "1", *, width: int = 2, value: Any = "value", end: bool = True) -> None:
    """Write a run as a flow would, with what a metadata provider registers, tags, a log, and an attempt that failed."""
    with FlowDataStore("Flow", ds_root=path) as flow:
        tables = flow._storage_impl.tables
        tables.registrations.add_run("Flow", run, "ada", TIME, {"mine"}, {"user:ada"})
        tasks = [
            ("start", "1"),
            *(("train", str(number + 2)) for number in range(width)),
            *([("end", "9")] if end else []),
        ]
        for step, task_id in tasks:
            tables.registrations.add_task("Flow", run, step, task_id, "ada", TIME)
            attempts = (0, 1) if step == "start" else (0,)
            for attempt in attempts:
                task = flow.get_task_datastore(run, step, task_id, attempt=attempt, mode="w")
                task.init_task()
                task.save_logs("task", {"stdout": f"{step} {attempt}\n"})
                task.save_metadata({"note": {"attempt": attempt}})
                if attempt == attempts[-1]:
                    task.save_artifacts(
                        [("shared", "shared" * 20_000), ("own", [step, task_id, value[:99]]), ("large", value)]
                    )
                    task.done()
                rows = {"attempt": str(attempt), "ds-type": "sqlite", "ds-root": ".", "attempt-done": str(attempt)}
                tables.registrations.add_metadata(
                    "Flow",
                    run,
                    [
                        RegisteredMetadatum(
                            step, task_id, field, value, field, (f"attempt_id:{attempt}",), "ada", TIME + 7
                        )
                        for field, value in rows.items()
                        if field != "attempt-done" or attempt == attempts[-1]
                    ],
                )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a run."""
    write_run(tmp_path / "runs.db")
    return tmp_path / "runs.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of Metaflow's."""
    made = tmp_path / "project" / ".metaflow"
    made.mkdir(parents=True)
    return made


def push_file(file: Path, storage: Any, *pathspecs: str, **options: Any) -> Any:
    store = SQLiteStorage(file, create=False)
    try:
        return push(store, storage, pathspecs, **options)
    finally:
        store.close()


def pull_file(file: Path, storage: Any, *pathspecs: str, **options: Any) -> Any:
    store = SQLiteStorage(file)
    try:
        return pull(store, storage, pathspecs, **options)
    finally:
        store.close()


def said(file: Path, run: str = "1") -> dict[Any, Any]:
    """Return all that a file holds of a run, but for what Metaflow's layout has no place for."""
    store = SQLiteStorage(file, create=False)
    try:
        things = read_run(store.tables, Names("Flow", run)).comparable()
        tags = store.tables.registrations.run("Flow", run).tags
    finally:
        store.close()
    return {"tags": tags} | {
        name: value._replace(
            done=value.done is not None, python="", artifacts=tuple(row[:4] for row in value.artifacts)
        )
        if name[0] == "attempt"
        else value
        for name, value in things.items()
        if name[0] != "registered artifact"
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {
        os.path.relpath(os.path.join(top, name), folder): Path(top, name).read_bytes()
        for top, _, names in os.walk(folder)
        for name in names
    }


def check_folder(folder: Path) -> int:
    """Fail if an attempt looks done without all that it made; return how many are done."""
    files = contents(folder)
    done = [path for path in files if path.endswith("DONE.lock")]
    for path in done:
        data = json.loads(files[path.replace("DONE.lock", "data.json")])
        for key in data["objects"].values():
            assert f"Flow/data/{key[:2]}/{key}" in files, path
    for path in files:
        if "sysmeta_attempt-done" in path:
            task, number = path.partition("/_meta/")[0], json.loads(files[path])["value"]
            assert f"{task}/{number}.DONE.lock" in files, path
        if path.endswith("_self.json") and path.count("/") == 5:
            assert any(
                "sysmeta_attempt-done" in each for each in files if each.startswith(path[: -len("_self.json")])
            ), path
    return len(done)


def test_runs_go_and_come_back(file: Path, folder: Path, tmp_path: Path) -> None:
    """What was pushed Metaflow's own class reads; pulled into another file, it is what it was."""
    report = push_file(file, LocalStorage(str(folder)))
    assert (report.runs, report.tasks, report.problems) == (1, 4, [])
    theirs = MetaflowFlowDataStore("Flow", storage_impl=LocalStorage, ds_root=str(folder))
    found = {task.pathspec: task for task in theirs.get_task_datastores(run_id="1")}
    assert sorted(found) == ["1/end/9", "1/start/1", "1/train/2", "1/train/3"]
    assert found["1/train/2"]["own"] == ["train", "2", "value"]
    assert found["1/start/1"].attempt == 1
    assert found["1/start/1"].load_logs(["task"], "stdout") == [("task", b"start 1\n")]
    back = pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    assert (back.runs, back.tasks, back.blobs, back.problems) == (1, 4, report.blobs, [])
    assert said(tmp_path / "back.db") == said(file)
    check_file(tmp_path / "back.db")


def test_roots_are_those_of_the_place(file: Path, folder: Path) -> None:
    """Metadata and artifacts say where the data is now: there in the folder, here in the file."""
    push_file(file, LocalStorage(str(folder)))
    documents = {path: json.loads(data) for path, data in contents(folder).items() if "_meta/" in path}
    roots = {each["value"] for path, each in documents.items() if "sysmeta_ds-root" in path}
    types = {each["value"] for path, each in documents.items() if "sysmeta_ds-type" in path}
    locations = {(each["location"], each["ds_type"]) for path, each in documents.items() if "_artifact_" in path}
    assert (roots, types, locations) == ({str(folder)}, {"local"}, {(f":root:{folder}", "local")})
    moved = shutil.move(folder, folder.parent / "elsewhere")
    pull_file(file.with_name("back.db"), LocalStorage(str(moved)))
    store = SQLiteStorage(file.with_name("back.db"))
    metadata = store.tables.registrations.records("Flow", "1").metadata
    assert {each.value for each in metadata if each.field_name == "ds-root"} == {"."}
    assert {each.value for each in metadata if each.field_name == "ds-type"} == {"sqlite"}
    store.close()


def test_push_is_cut_off_anywhere(file: Path, folder: Path) -> None:
    """Wherever a push breaks, no task looks done without what it made, and the next one goes on from there."""
    whole = folder.parent / "whole"
    storage = Recording(str(whole))
    push_file(file, storage)
    total = len(storage.saved)
    assert total > 50
    for cut in range(0, total, 3):
        shutil.rmtree(folder)
        broken = Recording(str(folder), breaks_after=cut + 1)
        with pytest.raises(StoreUnavailable, match="the cable"):
            push_file(file, broken)
        check_folder(folder)
        again = Recording(str(folder))
        assert push_file(file, again).problems == []
        assert dict.fromkeys(contents(folder)) == dict.fromkeys(contents(whole))
        assert check_folder(folder) == 4
        assert not {path for path in again.saved if "/data/" in path} & set(broken.saved)
    assert len(storage.saved) == len(set(storage.saved)), "nothing is sent twice"


def test_pull_is_cut_off_anywhere(file: Path, folder: Path, tmp_path: Path) -> None:
    """Wherever a pull breaks, what is done in the file is whole, and the next one goes on from there."""
    push_file(file, LocalStorage(str(folder)))
    storage = Recording(str(folder))
    pull_file(tmp_path / "whole.db", storage)
    expected = said(tmp_path / "whole.db")
    assert storage.loads > 5
    for cut in range(storage.loads):
        part = tmp_path / "part.db"
        part.unlink(missing_ok=True)
        with pytest.raises(StoreUnavailable, match="the cable"):
            pull_file(part, Recording(str(folder), breaks_after=cut))
        with FlowDataStore("Flow", ds_root=part) as flow:
            for task in flow.get_task_datastores(run_id="1"):
                assert sorted(task.to_dict()) == ["large", "own", "shared"]
            done = flow._storage_impl.tables.registrations.records("Flow", "1").metadata
            finished = {(each.step, each.task) for each in done if each.field_name == "attempt-done"}
            there = {tuple(task.pathspec.split("/")[1:]) for task in flow.get_task_datastores(run_id="1")}
            assert finished <= there
        pull_file(part, LocalStorage(str(folder)))
        assert said(part) == expected


@pytest.mark.parametrize(
    "broken", ["sqlitestore.paths.writing.PathWriter._save_markers", f"{RECORDS}.Registering.write"]
)
def test_tasks_and_their_records_come_together(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """If artifacts or records of a task cannot be written, neither are."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    push_file(file, LocalStorage(str(folder)))
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(ZeroDivisionError):
            pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    for table in ("registered_task", "registered_metadata", "artifact"):
        assert rows(tmp_path / "back.db", f"SELECT count(*) FROM {table}") == [(0,)]
    pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    assert said(tmp_path / "back.db") == said(file)


@pytest.mark.parametrize("settled", [0.0, 3600.0])
def test_again_costs_little(file: Path, folder: Path, tmp_path: Path, settled: float) -> None:
    """What is complete is asked for in a few calls for all runs together, and nothing is sent or fetched again."""
    for run in ("2", "3"):
        write_run(file, run, width=5)
    push_file(file, LocalStorage(str(folder)))
    pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    metadata = rows(tmp_path / "back.db", "SELECT count(*) FROM registered_metadata")
    pushed, pulled = Recording(str(folder)), Recording(str(folder))
    report = push_file(file, pushed, settled=settled)
    assert (report.runs_there, report.tasks, report.blobs, pushed.saved) == (3 if settled == 0 else 0, 0, 0, [])
    report = pull_file(tmp_path / "back.db", pulled, settled=settled)
    assert (report.runs_there, report.tasks, report.blobs, report.files) == (3 if settled == 0 else 0, 0, 0, 0)
    assert rows(tmp_path / "back.db", "SELECT count(*) FROM registered_metadata") == metadata
    if settled == 0:
        assert pushed.calls <= 5
        assert pulled.calls <= 6


def test_new_tasks_of_a_run_follow(tmp_path: Path, folder: Path) -> None:
    """A run that went on since goes and comes with what is new, and only with that."""
    write_run(tmp_path / "runs.db", width=1, end=False)
    push_file(tmp_path / "runs.db", LocalStorage(str(folder)))
    pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        task = flow.get_task_datastore("1", "end", "9", attempt=0, mode="w")
        task.init_task()
        task.save_artifacts([("own", "of the end")])
        task.done()
        flow.get_task_datastore("1", "start", "1", attempt=1, mode="w").save_logs("task", {"stdout": "start 1\nmore\n"})
    report = push_file(tmp_path / "runs.db", LocalStorage(str(folder)))
    assert (report.tasks, report.tasks_there, report.blobs) == (1, 2, 1)
    report = pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    assert (report.tasks, report.tasks_there, report.blobs) == (1, 2, 1)
    with FlowDataStore("Flow", ds_root=tmp_path / "back.db") as flow:
        assert flow.get_task_datastore("1", "end", "9")["own"] == "of the end"
        assert flow.get_task_datastore("1", "start", "1").load_logs(["task"], "stdout") == [
            ("task", b"start 1\nmore\n")
        ]


@pytest.mark.parametrize("settled", [0.0, 3600.0])
def test_other_content_is_left_alone(file: Path, folder: Path, tmp_path: Path, settled: float) -> None:
    """A run of the same name with other content is named, and nothing of it changes; the other runs travel."""
    write_run(tmp_path / "other.db", value="another")
    write_run(tmp_path / "other.db", "2")
    push_file(file, LocalStorage(str(folder)))
    before, here = contents(folder / "Flow" / "1"), said(tmp_path / "other.db")
    report = push_file(tmp_path / "other.db", LocalStorage(str(folder)), settled=settled)
    assert len(report.problems) == 1
    assert report.problems[0].startswith("Flow/1: ")
    assert contents(folder / "Flow" / "1") == before
    assert (folder / "Flow/2/end/9/0.DONE.lock").exists()
    report = pull_file(tmp_path / "other.db", LocalStorage(str(folder)), settled=settled)
    assert [problem.partition(":")[0] for problem in report.problems] == ["Flow/1"]
    assert said(tmp_path / "other.db") == here


def test_tags_of_both_sides_are_kept(file: Path, folder: Path) -> None:
    """Tags travel in both directions, also of runs that are complete; none is taken away."""
    push_file(file, LocalStorage(str(folder)))
    document = folder / "Flow/1/_meta/_self.json"
    theirs = json.loads(document.read_text())
    assert (theirs["tags"], theirs["system_tags"], theirs["user_name"]) == (["mine"], ["user:ada"], "ada")
    document.write_text(json.dumps(theirs | {"tags": ["theirs"]}))
    push_file(file, LocalStorage(str(folder)), settled=0)
    assert json.loads(document.read_text())["tags"] == ["mine", "theirs"]
    pull_file(file, LocalStorage(str(folder)), settled=0)
    assert said(file)["tags"] == {"mine", "theirs"}


@pytest.mark.parametrize("damage", ["missing", "other bytes", "no gzip"])
def test_damaged_blob_at_the_source(file: Path, folder: Path, tmp_path: Path, damage: str) -> None:
    """A blob that is missing or damaged there is named; no task comes without it, and the rest of the runs do."""
    write_run(file, "2", value="of the second")
    push_file(file, LocalStorage(str(folder)))
    data = json.loads((folder / "Flow/1/train/2/0.data.json").read_text())
    key = data["objects"]["own"]
    blob = folder / "Flow" / "data" / key[:2] / key
    if damage == "missing":
        blob.unlink()
    else:
        import gzip

        blob.write_bytes(gzip.compress(b"other") if damage == "other bytes" else b"no gzip")
    report = pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    [problem] = report.problems
    assert problem.startswith("Flow/1: ")
    assert key in problem
    with FlowDataStore("Flow", ds_root=tmp_path / "back.db") as flow:
        assert flow.get_task_datastores(run_id="1", steps=["train"]) == []
        assert len(flow.get_task_datastores(run_id="2")) == 4
    check_file(tmp_path / "back.db")


def test_dry_run_changes_nothing(file: Path, folder: Path, tmp_path: Path) -> None:
    """A dry run counts what would be done."""
    planned = push_file(file, LocalStorage(str(folder)), dry_run=True)
    assert contents(folder) == {}
    done = push_file(file, LocalStorage(str(folder)))
    assert (planned.runs, planned.tasks, planned.blobs) == (done.runs, done.tasks, done.blobs)
    SQLiteStorage(tmp_path / "back.db").close()
    planned = pull_file(tmp_path / "back.db", LocalStorage(str(folder)), dry_run=True)
    assert (planned.runs, planned.tasks, planned.blobs) == (done.runs, done.tasks, done.blobs)
    with FlowDataStore("Flow", ds_root=tmp_path / "back.db") as flow:
        assert flow._storage_impl.flows() == []


def test_pathspecs_choose_runs(file: Path, folder: Path, tmp_path: Path) -> None:
    """Only the runs named travel; what is not there, or no run, is an error before anything is done."""
    write_run(file, "2")
    push_file(file, LocalStorage(str(folder)), "Flow/2")
    assert sorted(each.name for each in (folder / "Flow").iterdir()) == ["2", "_meta", "data"]
    for pathspec in ("No", "Flow/3", "No/1"):
        with pytest.raises(NotFound, match=pathspec):
            push_file(file, LocalStorage(str(folder)), pathspec)
        with pytest.raises(NotFound, match=pathspec):
            pull_file(tmp_path / "back.db", LocalStorage(str(folder)), pathspec)
    with pytest.raises(InvalidPathspec, match="Flow/2/end"):
        push_file(file, LocalStorage(str(folder)), "Flow/2/end")
    assert pull_file(tmp_path / "back.db", LocalStorage(str(folder)), "Flow/2").runs == 1


def test_untrusted_run_is_not_passed_on(file: Path, folder: Path) -> None:
    """A run of somebody else's, which nobody here said to trust, is not laid where others would unpickle it."""
    from sqlitestore.archive.export import export
    from sqlitestore.archive.merge import merge

    archive, mine = file.with_name("archive.db"), file.with_name("mine.db")
    store = SQLiteStorage(file)
    export(store, archive)
    store.close()
    store = SQLiteStorage(mine)
    merge(store, [archive])
    report = push(store, LocalStorage(str(folder)))
    store.close()
    [problem] = report.problems
    assert "trust Flow/1" in problem
    assert contents(folder) == {}


def test_large_blob_is_not_in_memory(folder: Path, tmp_path: Path) -> None:
    """A blob of 64 MiB is pulled in pieces."""
    write_run(tmp_path / "runs.db", width=1, value=os.urandom(64 * 2**20))
    push_file(tmp_path / "runs.db", LocalStorage(str(folder)))
    tracemalloc.start()
    pull_file(tmp_path / "back.db", LocalStorage(str(folder)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 2**20


@pytest.fixture
def descriptors() -> list[bytes]:
    """Pickles of what an included file is, as Metaflow makes them."""
    from metaflow.includefile import IncludedFile

    made = [
        {
            "type": "uploader-v2",
            "sub-type": "uploaded",
            "size": 3,
            "url": f"local:///{'x' * length}/data/Flow/{'a' * 40}",
        }
        for length in (3, 230, 300)
    ]
    return [pickle.dumps(IncludedFile(each), protocol=protocol) for each in made for protocol in (2, 4, 5)]


def test_urls_in_pickles_go_and_come_back(descriptors: list[bytes]) -> None:
    """A URL is exchanged for another, and back again to the same bytes, without unpickling."""
    for data in descriptors:
        url = pickle.loads(data).descriptor["url"]
        there = with_urls(data, lambda text: "s3://bucket/data/Flow/" + "a" * 40 if "://" in text else text)
        assert pickle.loads(there).descriptor["url"] == "s3://bucket/data/Flow/" + "a" * 40
        assert with_urls(there, lambda text, url=url: url if "://" in text else text) == data
    assert with_urls(b"no pickle", str.upper) == b"no pickle"


def test_azure_is_a_place_too(file: Path, tmp_path: Path, azure_server: AzureServer) -> None:
    """Runs go to a container on Azurite and come back, again for little."""
    root = f"{azure_server.container()}/team/metaflow"
    report = push_file(file, azure_server.storage(root))
    assert (report.tasks, report.problems) == (4, [])
    assert push_file(file, azure_server.storage(root)).tasks == 0
    back = pull_file(tmp_path / "back.db", azure_server.storage(root))
    assert (back.tasks, back.blobs, back.problems) == (4, report.blobs, [])
    assert said(tmp_path / "back.db") == said(file)
