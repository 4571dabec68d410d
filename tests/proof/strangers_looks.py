"""Every command and call that looks at a file, as functions of its path, the places and a folder for what they make."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from click.testing import CliRunner
from hostile_base import FLOW, TASK, Places

from sqlitestore import (
    DataException,
    FlowDataStore,
    diff,
    export,
    merge,
    plan_prune,
    push,
    salvage,
    tags_of,
    trust_runs,
    verify,
)
from sqlitestore.cli import output
from sqlitestore.cli.app import application
from sqlitestore.cli.completion import complete_pathspec


class Answer(NamedTuple):
    """What a look gave: ``failed`` if it was an error of ours; the text that a person gets to see; an error's text."""

    failed: bool
    shown: str
    error: str


class Look(NamedTuple):
    """A command or call. ``opens`` tells that it must fail where the file is refused; ``changes`` that it may write."""

    run: Callable[[str, Places, str], Answer]
    opens: bool = True
    changes: bool = False


class Wrong(Exception):
    """What a look must not do."""


def _command(*words: str, terminal: bool = False, content: bool = False) -> Callable[[str, Places, str], Answer]:
    """Return the look that runs a command; {mine} and {out} stand for paths. ``content``: stdout is bytes as stored."""

    def look(path: str, places: Places, out: str) -> Answer:
        mine = os.path.join(out, "mine.db")
        shutil.copy(places.mine, mine)
        arguments = [word.format(mine=mine, out=out, file=path) for word in words]
        file = mine if words[0] == "import" else path
        was = output.on_terminal
        output.on_terminal = lambda: terminal
        try:
            result = CliRunner().invoke(application, ["--file", file, *arguments], prog_name="sqlitestore")
        finally:
            output.on_terminal = was
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise Wrong(f"a traceback: {result.exception!r:.300}") from result.exception
        if result.exit_code not in {0, 1, 2}:
            raise Wrong(f"the exit code {result.exit_code}")
        if result.exit_code == 2 and not result.stderr.startswith("Usage"):
            raise Wrong("exit code 2 without the usage")
        return Answer(result.exit_code != 0, result.stderr if content else result.output, result.stderr)

    return look


def _call(function: Callable[[str, Places, str], Any]) -> Callable[[str, Places, str], Answer]:
    def look(path: str, places: Places, out: str) -> Answer:
        try:
            function(path, places, out)
        except DataException as error:
            return Answer(failed=True, shown="", error=str(error))
        return Answer(failed=False, shown="", error="")

    return look


def _in_store(function: Callable[[FlowDataStore], Any]) -> Callable[[str, Places, str], Answer]:
    def call(path: str, _: Places, __: str) -> None:
        if not os.path.lexists(path):
            raise Wrong("the file is gone")
        with FlowDataStore(FLOW, ds_root=path) as flow:
            function(flow)

    return _call(call)


def _each_task(function: Callable[[Any], Any]) -> Callable[[str, Places, str], Answer]:
    def call(flow: FlowDataStore) -> None:
        for task in flow.get_latest_task_datastores("1", allow_not_done=True):
            function(task)

    return _in_store(call)


def _never_loads(task: Any) -> None:
    """Try to load each artifact: what is trusted by the file itself is only looked at after an import."""
    for name in list(task):
        try:
            task[name]
        except DataException:
            continue
        raise Wrong(f"the artifact {name!r} was unpickled")


def _import_and_load(path: str, places: Places, out: str) -> None:
    mine = os.path.join(out, "mine.db")
    shutil.copy(places.mine, mine)
    with FlowDataStore(FLOW, ds_root=mine) as flow:
        try:
            merge(flow, [path], rename=True)
        finally:
            for run in flow._storage_impl.runs(FLOW):
                if run != "mine":
                    for task in flow.get_latest_task_datastores(run):
                        _never_loads(task)


def _all_data(flow: FlowDataStore) -> None:
    from sqlitestore.tables import tables_of

    for (key,) in tables_of(flow).database.query("SELECT lower(hex(key)) FROM blob LIMIT 50"):
        try:
            list(flow.load_data([key]))
        except DataException:
            continue


def _complete(path: str, _: Places, __: str) -> None:
    import click

    context = click.Context(application, info_name="sqlitestore")
    context.params["file"] = path
    for begun in ("", f"{FLOW}/", f"{FLOW}/1/", f"{FLOW}/1/train/", f"{TASK}/"):
        for item in complete_pathspec(context, None, begun):
            if not str(item.value).isprintable():
                raise Wrong(f"the proposal {item.value!r}")


def _diff_with_mine(path: str, places: Places, out: str) -> None:
    mine = os.path.join(out, "mine.db")
    shutil.copy(places.mine, mine)
    with FlowDataStore(FLOW, ds_root=mine) as flow, FlowDataStore(FLOW, ds_root=path) as theirs:
        diff(flow, other=theirs, details=True)


def _storage_walk(path: str, _: Places, __: str) -> None:
    """Read everything through the plug-in's paths, as Metaflow does."""
    from sqlitestore.paths.reading import children, find
    from sqlitestore.paths.stores import Store

    store = Store(path, create=False)
    try:
        waiting, seen = [""], 0
        while waiting and seen < 300:
            folder = waiting.pop()
            for name, is_file in children(store, "", folder).items():
                seen += 1
                inside = f"{folder}/{name}".lstrip("/")
                if not is_file:
                    waiting.append(inside)
                    continue
                for found in find(store, "", [inside]):
                    if found is not None:
                        b"".join(found.blocks())
    finally:
        store.database.close()


def _provider(path: str, _: Places, __: str) -> None:
    """Ask what Metaflow's client asks of the metadata provider."""
    from sqlitestore.model import TaskAddress
    from sqlitestore.paths.objects import Objects
    from sqlitestore.paths.stores import Store

    store = Store(path, create=False)
    try:
        objects = Objects(store)
        for flow in objects.flows():
            for run in objects.runs(flow["flow_id"]):
                objects.steps(flow["flow_id"], run["run_number"])
        task = TaskAddress(FLOW, "1", "train", "1")
        objects.tasks(FLOW, "1")
        objects.artifacts(task, None)
        objects.metadata(task)
    finally:
        store.database.close()


def _read_task(task: Any) -> None:
    assert task.ds_metadata is not None
    list(task.items())
    list(task.get_artifact_sizes(list(task)))
    task.load_logs(["task"], "stdout")
    task.load_metadata(["note"])


READS = {
    "ls": ["ls"], "ls flow": ["ls", FLOW], "ls run": ["ls", f"{FLOW}/1"], "ls task": ["ls", TASK],
    "show flow": ["show", FLOW], "show run": ["show", f"{FLOW}/1"], "show task": ["show", TASK],
    "show artifact": ["show", f"{TASK}/trap"], "logs": ["logs", TASK], "du": ["du"], "du run": ["du", f"{FLOW}/1"],
    "info": ["info"], "diff runs": ["diff", f"{FLOW}/1", f"{FLOW}/2"], "verify": ["verify"],
    "verify quick": ["verify", "--quick"], "trust plan": ["trust", "--dry-run"],
    "prune plan": ["prune", "--dry-run", FLOW], "compact plan": ["compact", "--dry-run"], "tag": ["tag", f"{FLOW}/1"],
    "trash": ["restore"],
}  # fmt: skip
LOOKS: dict[str, Look] = {
    **{name: Look(_command(*words)) for name, words in READS.items() if name != "logs"},
    **{f"{name} as JSON": Look(_command(*words, "--json")) for name, words in READS.items()},
    **{f"{name} on a terminal": Look(_command(*words, terminal=True)) for name, words in READS.items()},
    "get": Look(_command("get", f"{TASK}/trap", content=True)),
    "get to a file": Look(_command("get", f"{TASK}/large", "-o", "{out}/large")),
    "get and print": Look(_command("get", f"{TASK}/trap", "--print")),
    "export": Look(_command("export", "-o", "{out}/archive.db")),
    "import": Look(_command("import", "--rename", "{file}")),
    "salvage": Look(_command("salvage", "{file}", "-o", "{out}/salvaged.db"), opens=False),
    "diff files": Look(_command("diff", "{file}", "{mine}", "--details"), opens=False),
    "tag a run": Look(_command("tag", f"{FLOW}/1", "--add", "x"), changes=True),
    "trust": Look(_command("trust"), changes=True),
    "prune": Look(_command("prune", "--yes", f"{FLOW}/1", "--force"), changes=True),
    "purge": Look(_command("prune", "--yes", "--purge"), changes=True),
    "restore": Look(_command("restore", f"{FLOW}/pruned"), changes=True),
    "compact": Look(_command("compact", "--yes"), changes=True),
    "compact fully": Look(_command("compact", "--full", "--yes"), changes=True),
    "push": Look(_command("push", "{out}/bucket"), changes=True),
    "push of what was trusted": Look(_call(lambda path, _, out: _pushed(path, out)), changes=True),
    "completion": Look(_call(_complete), opens=False),
    "API: tasks": Look(_each_task(_read_task)),
    "API: load": Look(_each_task(_never_loads)),
    "API: data": Look(_in_store(_all_data)),
    "API: diff": Look(_in_store(lambda flow: diff(flow, f"{FLOW}/1", f"{FLOW}/2", details=True))),
    "API: diff with another": Look(_call(_diff_with_mine)),
    "API: verify": Look(_call(lambda path, _, __: verify(path)), opens=False),
    "API: salvage": Look(_call(lambda path, _, out: salvage(path, f"{out}/salvaged.db")), opens=False),
    "API: export": Look(_call(lambda p, _, out: _exported(p, out))),
    "API: merge and load": Look(_call(_import_and_load)),
    "API: tags": Look(_in_store(lambda flow: tags_of(flow, FLOW))),
    "API: prune": Look(_in_store(lambda flow: plan_prune(flow, [FLOW]))),
    "plug-in: storage": Look(_call(_storage_walk)),
    "plug-in: provider": Look(_call(_provider)),
}


def _pushed(path: str, out: str) -> None:
    """Trust a run, and push it: that copies what the run holds, and still runs nothing of it."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        trust_runs(flow)
        push(flow, f"{out}/bucket")


def _exported(path: str, out: str) -> None:
    with FlowDataStore(FLOW, ds_root=path) as flow:
        export(flow, f"{out}/archive.db")
