"""Trust: nothing of a run that came from somebody else is unpickled before the user says so; all can be listed."""

from __future__ import annotations

import os

import helpers_cli
import pytest
from helpers_archive import FLOW
from helpers_store import save_task, tampering

from sqlitestore import FlowDataStore, Inputs, NotFound, TaskDataStoreSet, Untrusted, salvage
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.archive.trust import plan_trust, trust_runs
from sqlitestore.errors import InvalidPathspec
from sqlitestore.layout import UNTRUSTED
from sqlitestore.maintenance.prune import plan_prune, prune
from sqlitestore.paths.objects import Objects
from sqlitestore.paths.reading import find
from sqlitestore.paths.stores import Store
from sqlitestore.tables import tables_of

TASK = ("1", "a", "1")


class Trap:
    """Unpickling it leaves a folder behind."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.fixture
def trap(tmp_path):
    """Where a folder appears if anything is unpickled."""
    return tmp_path / "unpickled"


@pytest.fixture
def archive(tmp_path, trap):
    """An archive of two runs whose artifacts are traps."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "theirs.db") as flow:
        for run in ("1", "2"):
            save_task(flow, run, x=Trap(trap), y=Trap(trap), number=1)
        export(flow, tmp_path / "archive.db")
    return tmp_path / "archive.db"


@pytest.fixture(params=["archive", "merged", "archive of merged", "renamed"])
def untrusted(tmp_path, archive, request):
    """A file with untrusted runs, however they came there; the first is called "1"."""
    if request.param == "archive":
        return archive
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        merge(flow, [archive])
        if request.param == "archive of merged":
            export(flow, tmp_path / "again.db")
            return tmp_path / "again.db"
        if request.param == "renamed":
            with FlowDataStore(FLOW, ds_root=tmp_path / "third.db") as other:
                save_task(other, "1", x=2)
                [(_, name)] = merge(other, [tmp_path / "runs.db"], rename=True).renamed
                prune(other, plan_prune(other, [f"{FLOW}/1"]), empty_trash=True)
                assert name.startswith(f"{FLOW}/1-")
    return tmp_path / "runs.db"


LOADS = {
    "[]": lambda flow, task: task["x"],
    "get": lambda flow, task: task.get("x"),
    "load_artifacts": lambda flow, task: dict(task.load_artifacts(["x", "y"])),
    "to_dict": lambda flow, task: task.to_dict(),
    "to_dict of some": lambda flow, task: task.to_dict(include=["x"], max_value_size=1000),
    "is_none": lambda flow, task: task.is_none("x"),
    "format": lambda flow, task: task.format(),
    "str": lambda flow, task: str(task),
    "of many": lambda flow, task: next(iter(flow.get_latest_task_datastores("1")))["x"],
    "by pathspec": lambda flow, task: flow.get_task_datastores(pathspecs=["1/a/1"])[0]["x"],
    "an attempt": lambda flow, task: flow.get_task_datastore(*TASK, attempt=0)["x"],
    "data set": lambda flow, task: next(iter(TaskDataStoreSet(flow, "1", ["a"])))["x"],
    "ds_metadata": lambda flow, task: flow.get_task_datastore(*TASK, data_metadata=task.ds_metadata)["x"],
    "ds_metadata and attempt": lambda flow, task: flow.get_task_datastore(
        *TASK, attempt=0, data_metadata=task.ds_metadata
    )["x"],
    "spin": lambda flow, task: flow.get_task_datastore(*TASK, orig_flow_datastore=flow, spin_artifacts={})["x"],
    "inputs": lambda flow, task: _Step(task).x,
    "pathspec_index": lambda flow, task: task["number"],
    "clone": lambda flow, task: _writer(flow).clone(task),
    "passdown": lambda flow, task: _writer(flow).passdown_partial(task, ["x"]),
    "persist": lambda flow, task: _writer(flow).persist(_FlowOf(task)),
    "clone of a spun task": lambda flow, task: _writer(flow).clone(
        flow.get_task_datastore(*TASK, orig_flow_datastore=flow, spin_artifacts={})
    ),
    "persist of a spun task": lambda flow, task: _writer(flow).persist(
        _FlowOf(flow.get_task_datastore(*TASK, orig_flow_datastore=flow, spin_artifacts={}))
    ),
}


def _writer(flow):
    task = flow.get_task_datastore("mine", "a", "1", attempt=0, mode="w")
    task.init_task()
    return task


class _FlowOf:
    """An instance of a flow's class that goes on from a task."""

    _EPHEMERAL = frozenset({"_datastore"})

    def __init__(self, datastore):
        self._datastore = datastore
        self.own = 1


class _Step:
    """A flow's step as a join sees it."""

    def __init__(self, task):
        self._current_step = "a"
        self._task = task

    def __getattr__(self, name):
        return self._task[name]

    @property
    def joined(self):
        return Inputs([self])


@pytest.mark.parametrize("how", LOADS)
def test_whatever_loads_is_refused_with_the_way_out(untrusted, trap, how):
    """Untrusted names the run, where it came from, and both remedies; nothing was run."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        task = flow.get_task_datastore(*TASK)
        with pytest.raises(Untrusted) as caught:
            LOADS[how](flow, task)
    assert caught.value.kind == "untrusted"
    for part in (f"{FLOW}/1", "trust=True", f"sqlitestore --file {untrusted} trust {FLOW}/1", ".db (store "):
        assert part in str(caught.value)
    assert not trap.exists()


def test_a_join_refuses_too(untrusted, trap):
    """``inputs.a.x`` and ``inputs[0].x``."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        inputs = _Step(flow.get_task_datastore(*TASK)).joined
        for load in (lambda: inputs.a.x, lambda: inputs[0].x, lambda: [each.x for each in inputs]):
            with pytest.raises(Untrusted):
                load()
    assert not trap.exists()


def test_whatever_lists_works(untrusted, trap):
    """Names, sizes, keys, previews, logs, metadata; the serialized bytes; and all commands but `get --print`."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        task = flow.get_task_datastore(*TASK)
        assert list(task) == ["x", "y", "number"]
        assert all(size > 0 for _, size in task.get_artifact_sizes(task))
        assert task.ds_metadata["info"]["number"]["preview"] == {"repr": "1"}
        assert len(dict(flow.load_data(task.keys_for_artifacts(["x"])))) == 1
        assert task.load_logs(["task"], "stdout") == [("task", b"")]
        assert ("x" in task, "z" in task) == (True, False)
    path = f"{FLOW}/1/a/1"
    calls = [
        ["ls"],
        ["ls", FLOW],
        ["ls", path],
        ["show", path],
        ["show", f"{path}/x"],
        ["logs", path],
        ["du"],
        ["info"],
    ]
    calls += [["get", f"{path}/x"], ["tag", FLOW], ["diff", f"{FLOW}/1", f"{FLOW}/2"], ["trust", "--dry-run"]]
    for call in calls:
        assert helpers_cli.run(untrusted, *call).exit_code == 0, call
    outcome = helpers_cli.run(untrusted, "get", f"{path}/x", "--print")
    assert outcome.exit_code == 1
    assert "trust" in outcome.output
    assert not trap.exists()


@pytest.mark.parametrize("how", ["argument", "trust_runs", "table", "command"])
def test_trust_opens_a_run_at_once(untrusted, how, trap):
    """Also for datastores that are open, and readers that refused before; only the run that was meant."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        reader = flow.get_task_datastore(*TASK)
        with pytest.raises(Untrusted):
            reader["number"]
        if how == "argument":
            with FlowDataStore(FLOW, ds_root=untrusted, trust=True) as trusting:
                assert trusting.get_task_datastore(*TASK)["number"] == 1
                assert trusting.get_task_datastore("2", "a", "1")["number"] == 1
            with pytest.raises(Untrusted):
                reader["number"]
            return
        if how == "trust_runs":
            assert [each.pathspec for each in trust_runs(flow, [f"{FLOW}/1"])] == [f"{FLOW}/1"]
        elif how == "table":
            assert tables_of(flow).trust.trust(FLOW, "1")
        else:
            assert helpers_cli.run(untrusted, "trust", f"{FLOW}/1").exit_code == 0
        assert reader["number"] == 1
        assert flow.get_task_datastore(*TASK, data_metadata=reader.ds_metadata)["number"] == 1
        with pytest.raises(Untrusted):
            flow.get_task_datastore("2", "a", "1")["number"]
        assert [each.pathspec for each in plan_trust(flow)] == [
            each.pathspec for each in plan_trust(flow) if not each.pathspec.endswith("/1")
        ]
        assert trust_runs(flow, [f"{FLOW}/1"]) == []
    assert not trap.exists()


def test_a_trusted_run_is_trusted_by_all_who_open_the_file_but_not_in_an_archive_of_it(tmp_path, untrusted):
    """Trust is in the file; whoever gets an archive decides anew."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        trust_runs(flow)
        assert plan_trust(flow) == []
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        assert flow.get_task_datastore(*TASK)["number"] == 1
        export(flow, tmp_path / "out.db", [f"{FLOW}/1"])
    with FlowDataStore(FLOW, ds_root=tmp_path / "out.db") as flow, pytest.raises(Untrusted):
        flow.get_task_datastore(*TASK)["number"]


def test_a_new_task_in_an_untrusted_run_is_untrusted(untrusted):
    """Trust belongs to runs: nobody can tell later who wrote what of one."""
    with FlowDataStore(FLOW, ds_root=untrusted) as flow:
        save_task(flow, "1", "later", "1", x=1)
        with pytest.raises(Untrusted):
            flow.get_task_datastore("1", "later", "1")["x"]
        save_task(flow, "mine", x=1)
        assert flow.get_task_datastore("mine", "a", "1")["x"] == 1


def test_what_takes_the_place_of_a_trusted_run_is_not_trusted(tmp_path, archive, trap):
    """A trusted run is pruned, and an untrusted one comes under its name: readers that are open refuse."""
    with FlowDataStore(FLOW, ds_root=tmp_path / "runs.db") as flow:
        save_task(flow, "1", x=1, y=2, number=3)
        reader = flow.get_task_datastore(*TASK)
        metadata = reader.ds_metadata
        assert reader["x"] == 1
        prune(flow, plan_prune(flow, [f"{FLOW}/1"]), empty_trash=True)
        merge(flow, [archive])
        for load in (
            lambda: flow.get_task_datastore(*TASK)["x"],
            lambda: flow.get_task_datastore(*TASK, data_metadata=metadata)["number"],
            lambda: flow.get_latest_task_datastores("1")[0]["x"],
        ):
            with pytest.raises(Untrusted):
                load()
        with pytest.raises((Untrusted, NotFound)):
            reader["y"]
    assert not trap.exists()


@pytest.mark.parametrize(("pathspec", "error"), [("Nope", NotFound), (f"{FLOW}/7", NotFound), (f"{FLOW}/1/a", None)])
def test_trusting_what_is_not_there(archive, pathspec, error):
    """An error that names it; nothing is trusted then."""
    with FlowDataStore(FLOW, ds_root=archive) as flow:
        with pytest.raises(error or InvalidPathspec):
            trust_runs(flow, [f"{FLOW}/1", pathspec])
        assert len(plan_trust(flow)) == 2


def test_what_metaflow_is_told(untrusted):
    """Its client and datastore get encodings that nothing unpickles, and the usual ones once the run is trusted."""
    store = Store(str(untrusted), create=False)
    try:
        from sqlitestore.model import TaskAddress

        def told():
            things = Objects(store).artifacts(TaskAddress(FLOW, *TASK), None)
            [document] = find(store, "", [f"{FLOW}/1/a/1/0.data.json"])
            text = b"".join(document.blocks()).decode()
            return {thing["content_type"] for thing in things}, text.count(UNTRUSTED), text.count('"pickle-v4"')

        assert told() == ({f"{UNTRUSTED}{FLOW}/1: pickle-v4"}, 3, 0)
        store.trust.trust(FLOW, "1")
        assert told() == ({"pickle-v4"}, 0, 3)
    finally:
        store.database.close()


@pytest.mark.parametrize("origin", [None, "", b"x", 7])
def test_a_run_whose_origin_is_forged_is_still_untrusted(tmp_path, origin):
    """A row in the table is enough, whatever it says: loading, exporting, salvaging and Metaflow's view of the file."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "theirs.db") as flow:
        save_task(flow, "1", x=1)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        merge(flow, [tmp_path / "theirs.db"])
    with tampering(path) as connection:
        connection.execute("UPDATE untrusted SET origin = ?", (origin,))
    salvage(path, tmp_path / "salvaged.db")
    for place in (path, tmp_path / "salvaged.db"):
        with FlowDataStore(FLOW, ds_root=place) as flow:
            [task] = flow.get_latest_task_datastores("1")
            with pytest.raises(Untrusted):
                task["x"]
            [document] = find(tables_of(flow), "", [f"{FLOW}/1/a/1/0.data.json"])
            assert UNTRUSTED.encode() in b"".join(document.blocks())
