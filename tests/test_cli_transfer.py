"""The commands push and pull: what they print, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_servers import NO_AWS, S3Server, free_port

from sqlitestore import FlowDataStore, StoreReadOnly
from sqlitestore.remote.metaflow_storages import storage_at

BIN = Path(sys.executable).parent


def call(folder: Path, *arguments: str, code: int = 0, **env: str) -> tuple[str, str]:
    """Call the command in a process of its own; return what it wrote."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "AWS_"))}
    done = subprocess.run(
        [str(BIN / "sqlitestore"), "--file", "runs.db", *arguments],
        cwd=folder,
        env={**kept, "HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def write_task(flow: FlowDataStore, number: int) -> None:
    """Write a task."""
    task = flow.get_task_datastore("1", "start", "1", attempt=0, mode="w")
    task.init_task()
    task.save_artifacts([("number", number)])
    task.done()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file."""
    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        write_task(flow, 7)
    return tmp_path


def test_there_and_back(folder: Path) -> None:
    """Both commands say what they did, as text and as JSON, and the file is made by pull."""
    (folder / "project").mkdir()
    out, err = call(folder, "push", "project", "--dry-run")
    assert "1 tasks would be sent" in out
    assert not (folder / "project" / ".metaflow").exists() or not list((folder / "project" / ".metaflow").iterdir())
    out, err = call(folder, "push", "project", "Flow/1")
    assert ("1 tasks sent (0 there before)" in out, err) == (True, "")
    (folder / "runs.db").unlink()
    report = json.loads(call(folder, "pull", "project", "--json")[0])
    assert (report["runs"], report["tasks"], report["blobs"], report["problems"]) == (1, 1, 1, [])
    with FlowDataStore("Flow", ds_root=folder / "runs.db") as flow:
        assert flow.get_task_datastore("1", "start", "1")["number"] == 7


def test_conflict_ends_with_an_error(folder: Path) -> None:
    """A run that is other there is named, and the exit code says that not all is well."""
    (folder / "project").mkdir()
    call(folder, "push", "project")
    (folder / "runs.db").unlink()
    with FlowDataStore("Flow", ds_root=folder / "runs.db") as flow:
        write_task(flow, 8)
    for command in ("push", "pull"):
        _, err = call(folder, command, "project", code=1)
        assert "Flow/1: it is in" in err
        assert "1 of 1 runs have a problem" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("push", "nowhere"), "There is no folder"),
        (("pull", "nowhere"), "There is no folder"),
        (("pull", "."), "is not where Metaflow has run"),
        (("push", "runs.db"), "There is no folder"),
        (("pull", "ftp://host/runs"), "is no place to push to or pull from"),
        (("push", "s3://"), "is no place to push to or pull from"),
        (("push", "s3://bucket/x"), "There are no credentials"),
        (("push", ".", "Flow/2"), "There is no Flow/2"),
        (("push", ".", "Flow/1/start"), "runs travel as a whole"),
    ],
)
def test_wrong_places_are_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    """Whatever is wrong with a place or a pathspec is said in a line, without a traceback."""
    out, err = call(folder, *arguments, code=1)
    assert (out, said in err, err.count("\n")) == ("", True, 1), err


def test_push_makes_no_file(tmp_path: Path) -> None:
    """Who pushes a file that is not there is told so."""
    assert "runs.db" in call(tmp_path, "push", ".", code=1)[1]
    assert list(tmp_path.iterdir()) == []


def test_servers_that_say_no(folder: Path, s3_server: S3Server) -> None:
    """A bucket that is not there, and a server that does not answer, are named within seconds."""
    _, err = call(folder, "push", "s3://no-such-bucket/x", code=1, **s3_server.environment)
    assert "There is no bucket no-such-bucket" in err
    nobody = {**NO_AWS, "METAFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}
    _, err = call(
        folder, "pull", "s3://bucket/x", code=1, METAFLOW_S3_CLIENT_RETRY_CONFIG='{"max_attempts": 1}', **nobody
    )
    assert "cannot be reached" in err


def test_folder_that_cannot_be_written(folder: Path, as_nobody: Callable[[Callable[[], object]], None]) -> None:
    """A read-only folder is said to be one; reading from it is fine."""
    (folder / "project" / ".metaflow").mkdir(parents=True)
    storage_at(str(folder / "project"))  # imports what the other user may not

    def try_it() -> None:
        storage_at(str(folder / "project"))
        for place in ("project", "."):
            with pytest.raises(StoreReadOnly):
                storage_at(str(folder / place), create=True)

    as_nobody(try_it)


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_readmes_commands_for_a_bucket(folder: Path, s3_server: S3Server) -> None:
    """The command lines of the README that name a bucket do what they say."""
    bucket = s3_server.bucket()
    lines = [line for line in README.splitlines() if line.startswith("sqlitestore ") and "s3://team" in line]
    assert [line.split()[3] for line in lines] == ["push", "pull"]
    with FlowDataStore("TrainFlow", ds_root=folder / "runs.db") as flow:
        write_task(flow, 7)
    for line in lines:
        _, *words = line.replace("s3://team", f"s3://{bucket}").split()
        done = subprocess.run(
            [str(BIN / "sqlitestore"), *words],
            cwd=folder,
            env={**os.environ, **s3_server.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
    assert (folder / ".metaflow/TrainFlow/1/start/1/_meta/_self.json").exists()
    with FlowDataStore("TrainFlow", ds_root=folder / "copy.db") as flow:
        assert flow.get_task_datastore("1", "start", "1")["number"] == 7


def test_readmes_example_of_a_storage(tmp_path: Path) -> None:
    """The README's example of Metaflow's storage under our classes prints what it says."""
    [(code, expected)] = re.findall(r"^```py\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr
