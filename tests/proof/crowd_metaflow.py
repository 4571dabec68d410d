"""What the members of the crowd do that come through the plug-in: Metaflow's own datastore, and its provider."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from crowd_content import check_task
from crowd_member import Member

from sqlitestore import FlowDataStore

FLOW = "PlugFlow"
STEP = "work"
TASKS = 4
"""Of a run."""

INFO = {"runtime": "dev", "python_version_code": "3.11", "metaflow_version": "2", "script": "flow.py"}


def plugged(member: Member) -> None:
    """Write runs as Metaflow does, and read those of others through its classes, its provider, and our own API."""
    import metaflow  # noqa: F401 - first: it loads its plug-ins by itself
    from metaflow.datastore import FlowDataStore as MetaflowFlowDataStore
    from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
    from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

    from sqlitestore.paths.stores import open_stores

    path = member.setting.path
    SQLiteDatastoreStorage.datastore_root = path
    environment = SimpleNamespace(get_environment_info=lambda: INFO)
    provider = SQLiteMetadataProvider(environment, SimpleNamespace(name=FLOW), None, None)
    flow = MetaflowFlowDataStore(FLOW, metadata=provider, storage_impl=SQLiteDatastoreStorage, ds_root=path)
    while member.goes_on():
        with member.timed("plug-in runs registered"):
            run = provider.new_run_id(tags=[member.name])
        member.say("id", run)
        for _ in range(TASKS):
            with member.timed("plug-in tasks registered"):
                task = provider.new_task_id(run, STEP)
            member.write_task(flow, f"{run}/{STEP}/{task}")
        member.say("plugged", run)
        with member.timed("plug-in tags changed"):
            provider.mutate_user_tags_for_run(FLOW, run, tags_to_add=["written"], tags_to_remove=[member.name])
        member.say("tagged", run)
        _read_acknowledged(member, flow, provider)
    for store in open_stores():
        store.database.close()


def _read_acknowledged(member: Member, flow: Any, provider: Any) -> None:
    """Read a run that another finished."""
    heard = member.heard("plugged", "plugged")
    if heard is None:
        return
    run = heard[1]
    with member.timed("plug-in runs read"):
        check_run(run, flow, provider)
    with FlowDataStore(FLOW, ds_root=member.setting.path) as ours:
        task = member.chance.choice(ours.get_latest_task_datastores(run))
        check_task(task, task.pathspec)


def check_run(run: str, flow: Any, provider: Any) -> None:
    """Fail unless a finished run is all there for Metaflow's datastore and for its client's questions."""
    registered = provider.get_object("step", "task", None, None, FLOW, run, STEP)
    ids = sorted(each["task_id"] for each in registered)
    assert len(ids) == TASKS, f"run {run} has the tasks {ids}"
    tasks = flow.get_task_datastores(run, [STEP])
    assert sorted(task.pathspec.rpartition("/")[2] for task in tasks) == ids, f"run {run} has {tasks}, not {ids}"
    for task in tasks:
        check_task(task, task.pathspec)
        names = (FLOW, run, STEP, task.pathspec.rpartition("/")[2])
        artifacts = provider.get_object("task", "artifact", None, None, *names)
        assert sorted(each["name"] for each in artifacts) == sorted(task), f"of {names} {artifacts} is registered"
