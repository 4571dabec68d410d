"""The metadata provider under a crowd, on moved files, and in the number of its queries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow.exception import MetaflowTaggingError
from metaflow.metadata_provider import DataArtifact, MetaDatum
from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage
from provider_machine import INFO
from test_storage_contract import metaflow_flow, write_task

from sqlitestore import FlowDataStore
from sqlitestore.database import Database
from sqlitestore.paths.stores import open_stores


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the file that provider and datastore share."""
    SQLiteDatastoreStorage.datastore_root = str(tmp_path / "runs.db")
    return tmp_path / "runs.db"


def provider(flow: str = "Flow") -> SQLiteMetadataProvider:
    """Return the provider of a flow."""
    environment = SimpleNamespace(get_environment_info=lambda: INFO)
    return SQLiteMetadataProvider(environment, SimpleNamespace(name=flow), None, None)


CROWD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import metaflow
from test_provider import SQLiteDatastoreStorage, SQLiteMetadataProvider, provider
SQLiteDatastoreStorage.datastore_root = sys.argv[2]
number, run = sys.argv[3], sys.argv[4]
print("ready", flush=True)
sys.stdin.readline()
one = provider()
runs = [one.new_run_id() for _ in range(20)]
tasks = [one.new_task_id(run, "step") for _ in range(20)]
leader = one.register_run_id("elected")
for index in range(5):
    SQLiteMetadataProvider.mutate_user_tags_for_run("Flow", run, tags_to_add=[f"{number}-{index}"])
    SQLiteMetadataProvider.mutate_user_tags_for_run("Flow", run, tags_to_remove=[f"{number}-{index}"])
SQLiteMetadataProvider.mutate_user_tags_for_run("Flow", run, tags_to_add=[number])
print(json.dumps([runs, tasks, leader]))
"""


def test_launches_that_race_get_ids_of_their_own(path: Path) -> None:
    """Eight processes at once: no id comes twice, one is the leader of a named run, and no tag is lost."""
    run = provider().new_run_id()
    for store in open_stores():
        store.database.close()
    command = [sys.executable, "-c", CROWD, os.path.dirname(__file__), str(path)]
    crowd = [
        subprocess.Popen([*command, str(number), run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = []
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in crowd:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        answers.append(json.loads(out))
    runs = [each for found, _, _ in answers for each in found]
    tasks = [each for _, found, _ in answers for each in found]
    assert len(set(runs)) == len(runs) == 160
    assert sorted(map(int, tasks)) == list(range(160))
    assert sum(leader for _, _, leader in answers) == 1
    found = SQLiteMetadataProvider.get_object("run", "self", None, None, "Flow", run)
    system_tags = set(found["system_tags"])
    assert set(found["tags"]) - system_tags == set("01234567")
    assert len(SQLiteMetadataProvider.get_object("flow", "run", None, None, "Flow")) == 162
    assert len(SQLiteMetadataProvider.get_object("step", "task", None, None, "Flow", run, "step")) == 160


def test_a_tag_that_is_refused_changes_nothing(path: Path) -> None:
    """A system tag cannot be removed, and is not added as a user's; the time of the run stays."""
    run = provider().new_run_id(tags=["a"])
    before = SQLiteMetadataProvider.get_object("run", "self", None, None, "Flow", run)
    with pytest.raises(MetaflowTaggingError, match="existing system tag"):
        SQLiteMetadataProvider.mutate_user_tags_for_run(
            "Flow", run, tags_to_add=["b"], tags_to_remove=["a", "runtime:dev"]
        )
    assert SQLiteMetadataProvider.get_object("run", "self", None, None, "Flow", run) == before
    after = SQLiteMetadataProvider.mutate_user_tags_for_run("Flow", run, tags_to_add=["b", "runtime:dev"])
    assert after == {"a", "b"}
    again = SQLiteMetadataProvider.get_object("run", "self", None, None, "Flow", run)
    assert again == before | {"tags": ["a", "b"]}
    with pytest.raises(MetaflowTaggingError, match="Run not found"):
        SQLiteMetadataProvider.mutate_user_tags_for_run("Flow", "9", tags_to_add=["b"])
    assert path.exists()


def test_values_stay_what_they_are_and_are_matched_whole(path: Path) -> None:
    """Lists, numbers and text come back as such, a field may come again, and a pattern has to match all of a text."""
    one = provider()
    run = one.new_run_id()
    first, second = one.new_task_id(run, "start"), one.new_task_id(run, "start")
    values = ["abc", ["a", 1, None], 2**70, {"a": 1.5}, None, "abc"]
    one.register_metadata(run, "start", first, [MetaDatum("f", value, "t", ["x"]) for value in values])
    one.register_metadata(run, "start", second, [MetaDatum("f", "abcd", "t", None), MetaDatum("g", "abc", "t", None)])
    found = SQLiteMetadataProvider.get_object("task", "metadata", None, None, "Flow", run, "start", first)
    assert [each["value"] for each in found if each["field_name"] == "f"] == values
    for pattern, tasks in (
        ("abc", [first]),
        ("ab.?", [first]),
        ("abc.*", [first, second]),
        ("b", []),
        (".*", [first, second]),
    ):
        matched = SQLiteMetadataProvider.filter_tasks_by_metadata("Flow", run, "start", "f", pattern)
        assert matched == [f"Flow/{run}/start/{task}" for task in tasks], pattern
    assert path.exists()


def test_the_first_word_about_an_artifact_counts(path: Path) -> None:
    """Registering it again for the same attempt changes nothing; another attempt has its own."""
    one = provider()
    run = one.new_run_id()
    task = one.new_task_id(run, "start")
    for attempt, sha in ((0, "1"), (0, "2"), (1, "3")):
        data = [DataArtifact("x", "s3", "s3://b", None, "pickle-v4", sha * 40)]
        one.register_data_artifacts(run, "start", task, attempt, data)
    names = ("Flow", run, "start", task)
    for attempt, sha in ((0, "1"), (1, "3")):
        [found] = SQLiteMetadataProvider.get_object("task", "artifact", None, attempt, *names)
        assert found["sha"] == sha * 40
    assert SQLiteMetadataProvider.get_object("task", "artifact", None, 2, *names) == []
    assert SQLiteMetadataProvider.get_object("task", "artifact", None, None, *names) == []
    one.register_metadata(run, "start", task, [MetaDatum("attempt-done", "0", "attempt-done", ["attempt_id:0"])])
    [found] = SQLiteMetadataProvider.get_object("task", "artifact", None, None, *names)
    assert found["sha"] == "1" * 40
    assert path.exists()


def test_the_number_of_queries_does_not_grow_with_the_tasks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing tasks is a handful of queries, and asking each of them for its artifacts a few for a hundred tasks."""
    one = provider()
    run = one.new_run_id()
    flow = metaflow_flow(path)
    for _ in range(150):
        task = one.new_task_id(run, "train")
        write_task(flow, f"{run}/train/{task}", {"x": task})
    asked: list[str] = []
    query = Database.query
    monkeypatch.setattr(Database, "query", lambda self, *given: (asked.append(given[0]), query(self, *given))[1])
    tasks = SQLiteMetadataProvider.get_object("step", "task", None, None, "Flow", run, "train")
    assert (len(tasks), len(asked)) == (150, 3)
    asked.clear()
    for task in tasks:
        names = ("Flow", run, "train", task["task_id"])
        assert SQLiteMetadataProvider.get_object("artifact", "self", None, None, *names, "x")["name"] == "x"
        assert len(SQLiteMetadataProvider.get_object("task", "metadata", None, None, *names)) == 5
    assert len(asked) <= 2 * 5 + 1


def test_answers_follow_the_file(path: Path) -> None:
    """What was remembered is forgotten as soon as anybody changes the file, this process or another."""
    one = provider()
    run = one.new_run_id()
    task = one.new_task_id(run, "train")
    names = ("Flow", run, "train", task)
    assert SQLiteMetadataProvider.get_object("task", "artifact", None, None, *names) == []
    write_task(metaflow_flow(path), f"{run}/train/{task}", {"x": 1})
    [found] = SQLiteMetadataProvider.get_object("task", "artifact", None, None, *names)
    assert (found["name"], found["location"]) == ("x", f":root:{path}")
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
import metaflow
from test_provider import *
SQLiteDatastoreStorage.datastore_root = {str(path)!r}
provider().register_metadata({run!r}, "train", {task!r}, [MetaDatum("late", "x", "t", [])])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    fields = [each["field_name"] for each in SQLiteMetadataProvider.get_object("task", "metadata", None, None, *names)]
    assert fields[-1] == "late"


def test_roots_are_those_of_where_the_file_is_now(path: Path, tmp_path: Path) -> None:
    """ds-root, the location of artifacts and of the code package; another datastore's root stays what it was."""
    one = provider()
    run = one.new_run_id()
    task = one.new_task_id(run, "train")
    package = {"ds_type": "sqlite", "sha": "ab", "location": f"{path}/Flow/data/ab/ab", "metadata": ""}
    data = [
        MetaDatum("ds-root", str(path), "ds-root", []),
        MetaDatum("code-package", json.dumps(package), "code-package", []),
        MetaDatum("other", str(path), "other", []),
    ]
    one.register_metadata(run, "train", task, data)
    there = [DataArtifact("here", "sqlite", str(path), None, "e", "0" * 40)]
    there += [DataArtifact("s3", "s3", "s3://b", None, "e", "1" * 40)]
    one.register_data_artifacts(run, "train", task, 0, there)
    for store in open_stores():
        store.database.close()
    moved = tmp_path / "elsewhere" / "moved.db"
    moved.parent.mkdir()
    path.rename(moved)
    assert SQLiteMetadataProvider.compute_info(str(moved)) == str(moved)
    names = ("Flow", run, "train", task)
    found = {
        each["field_name"]: each["value"]
        for each in SQLiteMetadataProvider.get_object("task", "metadata", None, None, *names)
    }
    assert (found["ds-root"], found["other"]) == (str(moved), str(path))
    assert json.loads(found["code-package"]) == package | {"location": f"{moved}/Flow/data/ab/ab"}
    locations = {
        each["name"]: each["location"]
        for each in SQLiteMetadataProvider.get_object("task", "artifact", None, 0, *names)
    }
    assert locations == {"here": f":root:{moved}", "s3": ":root:s3://b"}
    assert not path.exists()


def test_runs_of_our_own_api_are_there(path: Path) -> None:
    """Without any registration: run, steps, tasks, the latest done attempts' artifacts, metadata that say where."""
    with FlowDataStore("OwnFlow", ds_root=path) as flow:
        write_task(flow, "r1/start/a", {"x": 1})
        write_task(flow, "r1/start/a", {"x": 2}, attempt=1)
        flow.get_task_datastore("r1", "end", "b", attempt=0, mode="w").init_task()
        flow.save_data([b"no run"])
    ask = SQLiteMetadataProvider.get_object
    assert [each["flow_id"] for each in ask("root", "flow", None, None)] == ["OwnFlow"]
    assert [each["run_number"] for each in ask("flow", "run", None, None, "OwnFlow")] == ["r1"]
    assert [each["step_name"] for each in ask("run", "step", None, None, "OwnFlow", "r1")] == ["start", "end"]
    [task] = ask("step", "task", None, None, "OwnFlow", "r1", "start")
    assert (task["task_id"], task["tags"], task["user_name"]) == ("a", [], None)
    [artifact] = ask("task", "artifact", None, None, "OwnFlow", "r1", "start", "a")
    assert (artifact["name"], artifact["attempt_id"], artifact["content_type"]) == ("x", 1, "pickle-v4")
    [first] = ask("task", "artifact", None, 0, "OwnFlow", "r1", "start", "a")
    assert first["sha"] != artifact["sha"]
    assert ask("task", "artifact", None, None, "OwnFlow", "r1", "end", "b") == []
    metadata = ask("task", "metadata", None, 1, "OwnFlow", "r1", "start", "a")
    assert {each["field_name"]: each["value"] for each in metadata} == {
        "attempt": "1", "attempt-done": "1", "ds-type": "sqlite", "ds-root": str(path),
    }  # fmt: skip
    tagged: Any = SQLiteMetadataProvider.mutate_user_tags_for_run("OwnFlow", "r1", tags_to_add=["kept"])
    assert tagged == {"kept"}
    assert ask("run", "self", {"tags": "kept"}, None, "OwnFlow", "r1")["tags"] == ["kept"]


def test_tasks_that_were_registered_and_others_are_listed_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, the oldest first; of one age by number, then by name. One that never started is not there."""
    one = provider()
    run = one.new_run_id()
    monkeypatch.setattr("metaflow_extensions.sqlitestore.plugins.provider._now", lambda: 1_700_000_000_000)
    for _ in range(11):
        one.new_task_id(run, "train")
    one.register_task_id(run, "train", "zeta")
    one.register_task_id(run, "train", "beta")
    with FlowDataStore("Flow", ds_root=path) as flow:
        for task in ("later", "3"):
            flow.get_task_datastore(run, "train", task, attempt=0, mode="w").init_task()
        flow.get_task_datastore(run, "train", "never", attempt=0, mode="w").save_metadata({"x": 1})
        flow.get_task_datastore(run, "ours", "1", attempt=0, mode="w").init_task()
    tasks = SQLiteMetadataProvider.get_object("step", "task", None, None, "Flow", run, "train")
    assert [each["task_id"] for each in tasks] == ["0", "beta", "zeta", *map(str, range(1, 11)), "later"]
    steps = SQLiteMetadataProvider.get_object("run", "step", None, None, "Flow", run)
    assert [each["step_name"] for each in steps] == ["train", "ours"]
    alone = [SQLiteMetadataProvider.get_object("task", "self", None, None, "Flow", run, "train", name) for name in "3x"]
    assert (alone[0]["task_id"], alone[1]) == ("3", None)
