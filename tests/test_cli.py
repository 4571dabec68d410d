"""The command line: its answers in each form, and that looking never unpickles."""

import json
import os
import pickle
import re
import time
from contextlib import closing

import apsw
import numpy as np
import pytest
from helpers_cli import EVERY_CALL, TASK, Trap, as_process, make_store, on_terminal, run, save, table

from sqlitestore import FlowDataStore
from sqlitestore.cli import text
from sqlitestore.schema import NEWEST_FORMAT


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make the store that most tests look at."""
    return make_store(str(tmp_path_factory.mktemp("store") / "runs.db"))


# Listing


def test_ls_lists_flows_with_counts(store):
    """Without a pathspec, ls gives each flow with its runs and tasks by state."""
    [row] = table(run(store, "ls").stdout)
    counts = {key: row[key] for key in ("flow", "runs", "tasks", "done", "running", "failed")}
    assert counts == {"flow": "Train", "runs": "2", "tasks": "4", "done": "2", "running": "1", "failed": "1"}


def test_ls_lists_runs_steps_and_tasks(store):
    """Each level of a pathspec lists the next, in the order of appearance."""
    assert [row["run"] for row in table(run(store, "ls", "Train").stdout)] == ["1", "2"]
    assert [row["step"] for row in table(run(store, "ls", "Train/2").stdout)] == ["train", "end"]
    tasks = table(run(store, "ls", "Train/2/train").stdout)
    assert [(row["task"], row["state"], row["attempt"]) for row in tasks] == [("7", "done", "1"), ("8", "failed", "0")]


def test_ls_shows_artifacts_by_type_size_and_preview(store):
    """The artifacts of a task come with what was described when they were saved."""
    rows = {row["name"]: row for row in table(run(store, "ls", TASK).stdout)}
    assert list(rows) == ["auc", "df", "words", "x"]
    assert (rows["auc"]["type"], rows["auc"]["preview"]) == ("float", "0.93")
    assert rows["df"]["preview"].startswith("(2, 2) year: int64, carrier:")
    assert rows["x"]["preview"].startswith("float64 (100000) [0.636")
    assert int(rows["x"]["size"]) > 800_000


def test_an_attempt_that_is_not_done_lists_no_artifacts(store):
    """Its table is empty, and stderr says why."""
    result = run(store, "ls", TASK, "--attempt", "0")
    assert table(result.stdout) == []
    assert "not done" in result.stderr


def test_show_tells_all_of_a_task(store):
    """Attempts with their states, metadata, artifacts and logs are in one answer."""
    answer = json.loads(run(store, "show", TASK, "--json").stdout)
    assert [(row["attempt"], row["state"]) for row in answer["attempts"]] == [(0, "failed"), (1, "done")]
    assert {"name": "note", "of": "attempt", "value": '{"run": "2"}'} in answer["metadata"]
    assert {row["name"] for row in answer["artifact_list"]} == {"x", "auc", "df", "words"}
    assert {row["stream"]: row["size"] for row in answer["logs"]}["stdout"] == len("out 2\n")


def test_show_tells_all_of_an_artifact(store):
    """Key, size, type, encoding and the whole preview."""
    answer = json.loads(run(store, "show", f"{TASK}/df", "--json").stdout)
    assert re.fullmatch("[0-9a-f]{32}", answer["key"])
    assert answer["encoding"] == "pickle-v5"
    assert answer["preview"]["shape"] == [2, 2]
    assert [name for name, _ in answer["preview"]["columns"]] == ["year", "carrier"]


def test_du_tells_own_from_shared(store):
    """The array that both runs have is shared in both."""
    answer = json.loads(run(store, "du", "--json").stdout)
    runs = {user["run"]: user for user in answer["users"] if user["kind"] == "run"}
    assert runs["1"]["shared"] >= 800_000 > runs["1"]["own"]
    assert answer["totals"]["saved_by_dedup"] >= 800_000
    assert answer["totals"]["file_size"] == os.path.getsize(store)
    only = json.loads(run(store, "du", "Train/1", "--json").stdout)
    assert only["users"] == [runs["1"]]
    assert only["totals"] == answer["totals"]


def test_info_tells_what_the_file_is(store):
    """Path, format, kind and counts."""
    answer = json.loads(run(store, "info", "--json").stdout)
    assert (answer["file"], answer["format"], answer["kind"]) == (store, NEWEST_FORMAT, "live")
    assert (answer["counts"]["runs"], answer["counts"]["tasks"], answer["counts"]["attempts"]) == (2, 4, 5)
    assert answer["created_iso"].endswith("+00:00")


# Getting


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_get_gives_the_serialized_bytes_to_a_pipe(store, unbuffered):
    """What arrives is a whole pickle that any Python reads, also where Python does not buffer its output."""
    result = as_process(store, "get", f"{TASK}/x", env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (result.returncode, result.stderr) == (0, b"")
    assert np.array_equal(pickle.loads(result.stdout), np.random.default_rng(0).random(100_000))


def test_get_writes_a_file_and_replaces_none(store, tmp_path):
    """-o makes a file, refuses one that is there unless --force, and leaves nothing else in the folder."""
    target = tmp_path / "x.pickle"
    result = run(store, "get", f"{TASK}/words", "-o", str(target), "--json")
    assert json.loads(result.stdout)["output"] == str(target)
    assert pickle.loads(target.read_bytes()) == ["a", "b"]
    target.write_bytes(b"mine")
    refused = run(store, "get", f"{TASK}/words", "-o", str(target))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert target.read_bytes() == b"mine"
    assert run(store, "get", f"{TASK}/words", "-o", str(target), "--force").exit_code == 0
    assert pickle.loads(target.read_bytes()) == ["a", "b"]
    assert os.listdir(tmp_path) == ["x.pickle"]


def test_get_never_replaces_the_store(store):
    """Not even with --force, nor under another name of it."""
    before = as_process(store, "info", "--json").stdout
    link = store + ".link"
    os.symlink(store, link)
    for target in (store, link):
        assert run(store, "get", f"{TASK}/x", "-o", target, "--force").exit_code == 1
    os.unlink(link)
    assert as_process(store, "info", "--json").stdout == before


def test_get_of_a_damaged_artifact_leaves_no_file(tmp_path):
    """The bytes are checked before the file gets its name."""
    path, out = str(tmp_path / "a.db"), tmp_path / "out"
    out.mkdir()
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"x": np.random.default_rng(1).random(100_000)})
    with closing(apsw.Connection(path)) as connection:
        connection.execute("UPDATE chunk SET bytes = zeroblob(length(bytes)) WHERE id = (SELECT MAX(id) FROM chunk)")
    result = run(path, "get", "F/1/s/1/x", "-o", str(out / "x"))
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert os.listdir(out) == []


def test_get_prints_a_value_on_demand(store):
    """--print gives text, with --json also the value where JSON has it."""
    assert run(store, "get", f"{TASK}/words", "--print").stdout == "['a', 'b']\n"
    assert "carrier" in run(store, "get", f"{TASK}/df", "--print").stdout
    assert json.loads(run(store, "get", f"{TASK}/words", "--print", "--json").stdout)["value"] == ["a", "b"]
    assert json.loads(run(store, "get", f"{TASK}/df", "--print", "--json").stdout)["value"] is None


def test_get_of_what_cannot_be_unpickled_is_a_message(tmp_path):
    """A class that is not here, or a pickle that raises, ends in an error and not in a traceback."""
    path = str(tmp_path / "a.db")
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"trap": Trap(tmp_path)})  # the folder exists: unpickling raises
    result = as_process(path, "get", "F/1/s/1/trap", "--print")
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: Artifact 'trap' of F/1/s/1 cannot be unpickled here: FileExistsError")


@pytest.mark.parametrize(
    "options", [["--json"], ["--print", "-o", "file"], ["--attempt", "-1"], ["--attempt", "x"], ["--nonsense"]]
)
def test_get_refuses_options_that_make_no_sense(store, options):
    """Wrong usage is exit code 2."""
    assert run(store, "get", f"{TASK}/x", *options).exit_code == 2


def test_looking_never_unpickles(tmp_path):
    """Every command but get --print leaves an artifact's pickle alone; get --print alone runs it."""
    path, marker = str(tmp_path / "a.db"), tmp_path / "unpickled"
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"trap": Trap(marker), "words": [Trap(marker)]})
    calls = [
        [command, *pathspec, *form]
        for command, pathspecs in {
            "ls": [[], ["F"], ["F/1"], ["F/1/s"], ["F/1/s/1"], ["F/1/s/1/trap"]],
            "show": [["F"], ["F/1"], ["F/1/s"], ["F/1/s/1"], ["F/1/s/1/trap"]],
            "logs": [["F/1/s/1"]],
            "du": [[], ["F/1"]],
            "info": [[]],
        }.items()
        for pathspec in pathspecs
        for form in ([], ["--json"])
    ]
    for call in [*calls, ["get", "F/1/s/1/trap"], ["get", "F/1/s/1/trap", "-o", str(tmp_path / "out")]]:
        assert run(path, *call).exit_code == 0, call
        assert not marker.exists(), call
    assert run(path, "get", "F/1/s/1/trap", "--print").exit_code == 0
    assert marker.exists()


# Logs


def test_logs_go_through_a_pipe_as_bytes(store):
    """What is no text, and controls, arrive as they were saved."""
    assert as_process(store, "logs", TASK, "--stderr").stdout == b"\xff\x1b[31mred\x1b]0;title\x07\n"
    assert as_process(store, "logs", TASK, "--stdout").stdout == b"out 2\n"
    both = as_process(store, "logs", TASK).stdout
    assert b"out 2\n" in both
    assert b"red" in both
    assert as_process(store, "logs", TASK, "--stdout", "--stderr").stdout == both


def test_logs_of_an_attempt_and_a_source(store):
    """--attempt and --source choose; a source that is not there is an error that names those that are."""
    answer = json.loads(run(store, "logs", TASK, "--attempt", "0", "--source", "runtime", "--json").stdout)
    assert (answer["attempt"], len(answer["logs"])) == (0, 2)
    result = run(store, "logs", TASK, "--source", "kernel")
    assert result.exit_code == 1
    assert "runtime" in result.stderr


@pytest.fixture(scope="module")
def mflog_store(tmp_path_factory):
    """Make a store with logs as Metaflow writes them: stdout from two sources, stderr from one."""
    path = str(tmp_path_factory.mktemp("mflog") / "runs.db")
    with FlowDataStore("F", ds_root=path) as flow:
        task = flow.get_task_datastore("1", "s", "1", attempt=0, mode="w")
        task.init_task()
        for source, stream, lines in MFLOGS:
            task.save_logs(source, {stream: "".join(f"[MFLOG|0|{time}Z|{source}|id]{line}\n" for time, line in lines)})
        task.save_logs("plain", {"other": b"[no prefix]\xff\r\nend"})
        task.done()
    return path


MFLOGS = [
    ("runtime", "stdout", [("2026-11-24T12:00:00.000000", "starting"), ("2026-11-24T12:00:09.500000", "finished")]),
    ("task", "stdout", [("2026-11-24T12:00:01.250000", "at work")]),
    ("runtime", "stderr", [("2026-11-24T12:00:02.000000", "\x1b[31moops")]),
]


def test_logs_of_metaflow_are_readable(mflog_store):
    """Prefixes are taken off, sources merged by time; a stream of plain text stays as it is."""
    assert as_process(mflog_store, "logs", "F/1/s/1", "--stdout").stdout == b"starting\nat work\nfinished\n"
    everything = b"[no prefix]\xff\r\nend\x1b[31moops\nstarting\nat work\nfinished\n"
    assert as_process(mflog_store, "logs", "F/1/s/1").stdout == everything
    assert as_process(mflog_store, "logs", "F/1/s/1", "--source", "task").stdout == b"at work\n"


def test_logs_of_metaflow_have_headings_on_a_terminal(mflog_store):
    """The heading names the sources, and the bytes that are shown."""
    code, got = on_terminal(mflog_store, "logs", "F/1/s/1")
    assert code == 0
    assert "runtime, task stdout (26 bytes)" in got
    assert "plain other (17 bytes)" in got
    assert "\x1b[31m" not in got


def test_logs_raw_are_the_stored_bytes(mflog_store):
    """With --raw nothing is taken off or merged."""
    raw = as_process(mflog_store, "logs", "F/1/s/1", "--stdout", "--raw").stdout.decode()
    assert raw.splitlines() == [
        f"[MFLOG|0|{time}Z|{source}|id]{line}" for source, stream, lines in MFLOGS[:2] for time, line in lines
    ]
    assert run(mflog_store, "logs", "F/1/s/1", "--raw", "--timestamps").exit_code == 2


def test_logs_with_timestamps_have_the_local_time(mflog_store):
    """In front of each line that has one, to the millisecond."""
    call = ("logs", "F/1/s/1", "--timestamps")
    got = as_process(mflog_store, *call, env={**os.environ, "TZ": "IST-5:30"}).stdout
    assert got.splitlines()[-1] == b"2026-11-24 17:30:09.500 finished"
    assert got.startswith(b"[no prefix]\xff\r\nend2026-11-24 17:30:02.000 \x1b[31moops\n")


def test_logs_as_json_have_text_without_prefixes(mflog_store):
    """Each source by itself, with the size that is stored; --raw gives the text as it is stored."""

    def stdouts(*options):
        logs = json.loads(run(mflog_store, "logs", "F/1/s/1", "--stdout", "--json", *options).stdout)["logs"]
        return {log["source"]: (log["text"], log["size"]) for log in logs}

    assert stdouts() == {"runtime": ("starting\nfinished\n", 114), "task": ("at work\n", 53)}
    assert stdouts("--raw")["task"] == ("[MFLOG|0|2026-11-24T12:00:01.250000Z|task|id]at work\n", 53)


# Forms of output


@pytest.mark.parametrize("call", EVERY_CALL, ids=" ".join)
def test_every_command_gives_json(store, call):
    """--json prints one JSON object in ASCII and nothing else."""
    result = run(store, *call, "--json")
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stdout.isascii()
    assert json.loads(result.stdout).keys() == json.loads(run(store, *call, "--json").stdout).keys()


@pytest.mark.parametrize("call", EVERY_CALL, ids=" ".join)
def test_every_command_is_plain_in_a_pipe(store, call):
    """No control characters but tabs and newlines, whatever the terminal of the process is said to be."""
    result = run(store, *call, env={"TERM": "xterm-256color", "COLUMNS": "40"})
    assert result.exit_code == 0
    if call[0] != "logs":  # they are passed through
        assert not re.search(r"[^\t\n -~]", result.stdout)
        assert "\u2026" not in result.stdout


def test_times_come_as_seconds_and_in_iso_8601(store):
    """A time and its text tell the same moment."""
    [flow] = json.loads(run(store, "ls", "--json").stdout)["flows"]
    assert abs(flow["started"] - time.time()) < 3600
    assert text.iso_time(flow["started"]) == flow["started_iso"]


def test_a_terminal_gets_a_table(store):
    """Lines, colours for states, sizes for people."""
    code, got = on_terminal(store, "ls", "Train/2/train")
    assert code == 0
    assert "──" in got
    assert "\x1b[32mdone" in got
    assert re.search(r"80\d kB", got)


def test_a_narrow_terminal_loses_no_names(store):
    """Where a table does not fit, names and times are broken, not dropped."""
    code, got = on_terminal(store, "ls", "Train/2/train", columns=60)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", got)
    assert "failed" in plain
    assert all(heading in plain for heading in ("task", "state", "attempt", "artifacts", "size"))


def test_a_terminal_gets_no_bytes_of_artifacts(store):
    """Get without -o refuses a terminal and says what to do."""
    code, got = on_terminal(store, "get", f"{TASK}/x")
    assert code == 2
    assert "--print" in got
    assert "\x80" not in got


def test_a_terminal_gets_logs_with_controls_shown(store):
    """Colours are dropped, other controls are written out, and headings tell the logs apart."""
    code, got = on_terminal(store, "logs", TASK)
    assert code == 0
    assert "runtime stderr" in got
    assert "red\\x1b]0;title\\x07" in got
