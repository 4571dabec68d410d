"""Export and import that are killed, or meet another of their kind; see proof/test_kills for random moments."""

from __future__ import annotations

import os
import signal

import helpers_archive_processes
import pytest
from helpers_archive import FLOW, everything, make_full
from helpers_processes import result_of, start
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge


@pytest.fixture
def source(tmp_path):
    """A full store."""
    return make_full(tmp_path / "runs.db")


def kill(process):
    """End a process that waits, at once."""
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("after", [1, 200_000])
def test_what_a_killed_export_left_goes_with_the_next(tmp_path, source, after):
    """There is no file of the name, only a hidden one, which the next export of that name removes."""
    out = tmp_path / "out.db"
    with start(helpers_archive_processes.export_and_wait, source, str(out), after) as process:
        kill(process)
    left = [name for name in os.listdir(tmp_path) if "runs.db" not in name]
    assert left
    assert all(name.startswith(".out.db.") and ".partial" in name for name in left)
    with FlowDataStore(FLOW, ds_root=source) as flow:
        export(flow, tmp_path / "other.db")
        assert set(left) <= set(os.listdir(tmp_path))
        export(flow, out)
    assert sorted(os.listdir(tmp_path)) == ["other.db", "out.db", "runs.db"]
    check_file(out)
    assert everything(out) == everything(source)


def test_two_exports_of_one_name_leave_one_whole_file(tmp_path, source):
    """The first to end has the name; the other says so, and leaves nothing. Neither removes what the other writes."""
    out = tmp_path / "out.db"
    with start(helpers_archive_processes.export_and_wait, source, str(out), 1) as process:
        assert process.stdout.readline() == "ready\n"
        with FlowDataStore(FLOW, ds_root=source) as flow:
            export(flow, out)
        assert result_of(process) == "file_exists"
    assert sorted(os.listdir(tmp_path)) == ["out.db", "runs.db"]
    assert everything(out) == everything(source)


@pytest.mark.parametrize("after", [1, 200_000, 600_000])
def test_an_import_that_was_killed_is_repeated(tmp_path, source, after):
    """Runs are whole or not there; the next import brings the rest, and no other difference is left."""
    archive, target = tmp_path / "archive.db", tmp_path / "target.db"
    with FlowDataStore(FLOW, ds_root=source) as flow:
        export(flow, archive)
    said = everything(source)
    with start(helpers_archive_processes.import_and_wait, str(target), str(archive), after) as process:
        kill(process)
    FlowDataStore(FLOW, ds_root=target).close()
    check_file(target)
    for name, flow_said in everything(target).items():
        for run, facts in flow_said.items():
            assert run == "data" or facts == said[name][run]
    with FlowDataStore(FLOW, ds_root=target) as flow:
        merge(flow, [archive])
    check_file(target)
    assert everything(target) == said
