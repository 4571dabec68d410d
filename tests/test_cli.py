"""The command line: its answers in each form, its errors and exit codes, and that looking never unpickles."""

import errno
import json
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import closing

import apsw
import click
import numpy as np
import pandas as pd
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from sqlitestore import FlowDataStore, SQLiteStorage
from sqlitestore.blobs import key_of
from sqlitestore.cli import main, progress, text
from sqlitestore.cli.app import application
from sqlitestore.tasks import digest_of

TASK = "Train/2/train/7"
COMMANDS = {
    "ls": [["ls"], ["ls", "Train"], ["ls", "Train/2"], ["ls", "Train/2/train"], ["ls", TASK], ["ls", f"{TASK}/auc"]],
    "show": [["show", "Train"], ["show", "Train/2"], ["show", "Train/2/train"], ["show", TASK], ["show", f"{TASK}/df"]],
    "get": [["get", f"{TASK}/auc", "--print"]],
    "logs": [["logs", TASK]],
    "du": [["du"], ["du", "Train"], ["du", "Train/1"]],
    "info": [["info"]],
}
EVERY_CALL = [call for calls in COMMANDS.values() for call in calls]


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def save(flow, run, step, task, artifacts, *, attempt=0, done=True):
    datastore = flow.get_task_datastore(run, step, task, attempt=attempt, mode="w")
    datastore.init_task()
    datastore.save_artifacts(artifacts.items())
    datastore.save_logs("runtime", {"stdout": f"out {run}\n".encode(), "stderr": b"\xff\x1b[31mred\x1b]0;title\x07\n"})
    datastore.save_metadata({"note": {"run": run}})
    if done:
        datastore.done()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make a store with two runs of a flow; a task of the second was tried twice, and one is not done."""
    path = str(tmp_path_factory.mktemp("store") / "runs.db")
    array = np.random.default_rng(0).random(100_000)
    frame = pd.DataFrame({"year": [2013, 2014], "carrier": ["UA", "AA"]})
    with FlowDataStore("Train", ds_root=path) as flow:
        save(flow, "1", "train", "3", {"x": array, "auc": 0.5})
        save(flow, "2", "train", "7", {"auc": 0.1}, done=False)
        save(flow, "2", "train", "7", {"x": array, "auc": 0.93, "df": frame, "words": ["a", "b"]}, attempt=1)
        save(flow, "2", "train", "8", {"_task_ok": False})
        save(flow, "2", "end", "9", {}, done=False)
        flow.save_data([b"kept"])
    return path


def run(store, *arguments, **options):
    """Run the command line in this process."""
    return CliRunner().invoke(application, ["--file", str(store), *arguments], prog_name="sqlitestore", **options)


def as_process(store, *arguments, **options):
    """Run the command line as users do, output piped."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", str(store), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def on_terminal(store, *arguments, columns=120):
    """Run the command line with a terminal for its output; return exit code and what the terminal got."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", str(store), *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        got = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # which Linux says when the other side is closed
                    raise
                break
            if not block:
                break
            got += block
    os.close(ours)
    return process.returncode, got.decode()


def table(output):
    """Return the rows of a tab-separated table by their headings."""
    head, *lines = [line.split("\t") for line in output.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


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
    assert (answer["file"], answer["format"], answer["kind"]) == (store, 1, "live")
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


HOSTILE = "\x1b]0;owned\x07[bold red]\u202eevil\r\nline\t\x9b31m"


@pytest.fixture
def hostile(tmp_path):
    """Make a store whose names were changed by hand to what no writer accepts, with digests that fit."""
    path = str(tmp_path / "evil.db")
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"x": HOSTILE, "y": 1})
    with closing(apsw.Connection(path)) as connection:
        connection.execute("UPDATE flow SET name = ?", (HOSTILE,))
        rows = connection.execute(
            "SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview FROM artifact x"
            " JOIN blob b ON b.id = x.blob ORDER BY x.name"
        ).fetchall()
        started, done, python = connection.execute("SELECT started, done, python FROM attempt").fetchone()
        artifacts = digest_of(*rows)
        address = (HOSTILE, "1", "s", "1")
        digest = digest_of(*address, 0, started, done, python, artifacts)
        connection.execute("UPDATE attempt SET digest = ?, artifacts_digest = ?", (digest, artifacts))
        for source, stream, part, key in connection.execute(
            "SELECT source, stream, part, hex(key) FROM log JOIN blob ON blob.id = blob"
        ).fetchall():
            digest = digest_of(*address, 0, source, stream, part, key_of(key))
            connection.execute("UPDATE log SET digest = ? WHERE stream = ?", (digest, stream))
    return path


@pytest.mark.parametrize("call", [["ls"], ["du"], ["ls", "Nothing"]], ids=" ".join)
def test_names_from_a_stranger_reach_no_terminal_as_controls(hostile, call):
    """Escapes, carriage returns, markup and turned text are shown as text, in tables, plain text and errors."""
    results = [on_terminal(hostile, *call, columns=200)[1], run(hostile, *call).output]
    results[0] = re.sub(r"\x1b\[[0-9;]*m", "", results[0])
    for output in results:
        assert "\\x1b]0;owned\\x07[bold red]\\u202eevil\\r\\nline\\t\\x9b31m" in output
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", output)


def test_texts_for_terminals_are_harmless():
    """Cleaning leaves every script alone, and writes out what could move a cursor or turn text."""
    assert text.clean("Zürich 東京 עברית 🚀 a b") == "Zürich 東京 עברית 🚀 a b"
    assert text.clean("a\x1b[2J\n\ud800") == "a\\x1b[2J\\n\\ud800"
    assert text.clean_lines("a\r\nb\rc\x1b[1;31md\x1b[0m\te\x08") == "a\nb\ncd\te\\x08"


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_234_567, "1.23 MB"), (45_600_000_000, "45.6 GB")],
)
def test_sizes_for_people_have_three_digits(size, shown):
    """Powers of 1000, with the unit."""
    assert text.human_size(size) == shown


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, -1e300, float("nan")])
def test_times_that_no_calendar_has_are_left_out(seconds):
    """A stranger's file may hold any number as a time."""
    assert text.iso_time(seconds) is None
    assert text.local_time(seconds) == "?"


def test_previews_of_strangers_become_json():
    """Bytes, odd keys and infinities in a preview do not break the JSON."""
    value = {1: b"x", "n": float("nan"), "l": [(1, 2.5)]}
    assert json.loads(json.dumps(text.plain_value(value), allow_nan=False)) == {
        "1": "b'x'",
        "n": "nan",
        "l": [[1, 2.5]],
    }


# Errors, exit codes, pipes


@pytest.mark.parametrize(
    ("pathspec", "named"),
    [
        ("Trian", "Train"),
        ("Train/7", "2, 1"),
        ("Train/2/strat", "train, end"),
        ("Train/2/train/1", "7, 8"),
        ("Train/2/nostep/1", "train, end"),
        (f"{TASK}/acu", "auc"),
    ],
)
def test_an_unknown_pathspec_names_what_exists(store, pathspec, named):
    """The error is one line on stderr, exit code 1, with the names that would have worked."""
    for command in ("ls", "show"):
        result = run(store, command, pathspec)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert named in result.stderr


def test_an_unknown_attempt_names_those_that_exist(store):
    """So do get, logs and show."""
    for call in (["show", TASK], ["logs", TASK], ["get", f"{TASK}/x", "--print"]):
        result = run(store, *call, "--attempt", "5")
        assert result.exit_code == 1
        assert "0, 1" in result.stderr


@pytest.mark.parametrize(
    "call", [["get", "Train"], ["logs", "Train/2"], ["du", TASK], ["ls", "a//b"], ["ls", "a/b/c/d/e/f"], ["show", ""]]
)
def test_a_pathspec_of_the_wrong_form_is_an_error(store, call):
    """The message shows the form that is expected."""
    result = run(store, *call)
    assert result.exit_code == 1
    assert "Error: " in result.stderr


@pytest.mark.parametrize("call", [["show"], ["nonsense"], ["ls", "--attempt", "1"], ["ls", "Train", "--attempt", "1"]])
def test_wrong_usage_is_exit_code_2(store, call):
    """As click has it."""
    assert run(store, *call).exit_code == 2


@pytest.mark.parametrize("call", EVERY_CALL, ids=" ".join)
def test_a_missing_file_is_an_error_and_stays_missing(tmp_path, call):
    """Looking never makes a file."""
    result = run(tmp_path / "none.db", *call)
    assert result.exit_code == 1
    assert "none.db" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_missing_default_file_says_how_to_name_one(tmp_path, monkeypatch):
    """Without --file the error speaks of it."""
    monkeypatch.delenv("METAFLOW_DATASTORE_SYSROOT_SQLITE", raising=False)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(application, ["ls"])
    assert result.exit_code == 1
    assert "--file" in result.stderr


def test_the_default_file_is_found(store, tmp_path, monkeypatch):
    """The environment names it."""
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_SQLITE", store)
    monkeypatch.chdir(tmp_path)
    assert "Train" in CliRunner().invoke(application, ["ls"]).stdout


@pytest.mark.parametrize("content", [b"This is no database, but it is long enough to be taken for one." * 20, b""])
def test_what_is_no_store_is_refused_and_left_alone(tmp_path, content):
    """A text file, or an empty one, gets an error and no byte of it changes."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    result = run(path, "ls")
    assert result.exit_code == 1
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_looking_leaves_one_file(store):
    """Nothing stays beside the store."""
    assert run(store, "ls").exit_code == 0
    assert os.listdir(os.path.dirname(store)) == ["runs.db"]


def test_a_reader_that_goes_away_ends_it_silently(store):
    """As with ``| head``: no message, and the exit code of a closed pipe."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", store, "get", f"{TASK}/x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_short_answer_to_a_closed_pipe_is_silent_too(store):
    """What is still buffered at the end makes no noise either."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", store, "ls"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def test_an_interrupt_is_exit_code_130(store):
    """Ctrl-C in the middle of a transfer ends it without a traceback."""
    command = [sys.executable, "-m", "sqlitestore.cli", "--file", store, "get", f"{TASK}/x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)  # 800 kB do not fit into the pipe, so it waits for us
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_main_returns_exit_codes(store, capsys):
    """The entry point gives the shell 0, 1 and 2, and messages go to stderr."""
    assert main(["--file", store, "ls"]) == 0
    assert main(["--file", store, "ls", "Nothing"]) == 1
    assert main(["--file", store, "nonsense"]) == 2
    assert main(["--version"]) == 0
    assert re.search(r"^sqlitestore .+, SQLite 3\.", capsys.readouterr().out, re.MULTILINE)


# Help, completion, progress, weight


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_has_help_with_an_example(name):
    """Help shows at least one whole command to copy, and what each option does."""
    result = CliRunner().invoke(application, [*name.split(), "--help"], prog_name="sqlitestore")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\n +sqlitestore .*{name}", result.stdout)
    command = application.commands[name] if name else application
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_no_command_lacks_a_test():
    """COMMANDS above, which most tests here run through, names every command there is."""
    assert set(application.commands) == set(COMMANDS)


def complete(store, *words):
    """Return what the shell is proposed for the last word."""
    completion = ShellComplete(application, {}, "sqlitestore", "_SQLITESTORE_COMPLETE")
    return [item.value for item in completion.get_completions(["--file", str(store), *words[:-1]], words[-1])]


def test_pathspecs_are_completed_from_the_file(store):
    """Each level proposes its names, latest runs first; one proposal alone brings the next level with it."""
    assert complete(store, "ls", "Tr") == ["Train", "Train/2", "Train/1"]
    assert complete(store, "ls", "Train/2/") == ["Train/2/train", "Train/2/end"]
    assert complete(store, "ls", "Train/2/train/") == ["Train/2/train/7", "Train/2/train/8"]
    assert complete(store, "get", f"{TASK}/a") == [f"{TASK}/auc"]
    assert complete(store, "du", "No") == []


def test_completion_never_fails(tmp_path, store):
    """No file, no store, too many parts or nothing below: no proposals, no error, no new file."""
    assert complete(tmp_path / "none.db", "ls", "") == []
    (tmp_path / "text").write_text("no database" * 100)
    assert complete(tmp_path / "text", "ls", "") == []
    assert complete(store, "ls", "a/b/c/d/e/f/g") == []
    assert complete(store, "ls", "No/1/x") == []
    assert os.listdir(tmp_path) == ["text"]


def test_the_shell_gets_a_completion_script():
    """The variable that click documents prints the script for bash."""
    command = [sys.executable, "-c", "import sys; from sqlitestore.cli import main; sys.exit(main())"]
    environment = {**os.environ, "_SQLITESTORE_COMPLETE": "zsh_source"}
    result = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60)
    assert result.returncode == 0
    assert b"_SQLITESTORE_COMPLETE=zsh_complete" in result.stdout


def test_progress_shows_a_bar_on_a_terminal_only(monkeypatch, capsys):
    """In a pipe there is none, however long the work."""
    bar = progress.TerminalProgress(patience=0)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        bar.start("Counting", 10, "blobs")
        bar.advance(4)
        bar.finish()
        assert ("Counting" in capsys.readouterr().err) == terminal


def test_short_work_shows_no_bar(monkeypatch, capsys):
    """Nothing flickers for what is done at once."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress.TerminalProgress(patience=1000)
    bar.start("Counting", 10, "blobs")
    bar.advance(10)
    bar.finish()
    assert capsys.readouterr().err == ""


def test_help_loads_no_more_than_it_needs():
    """rich, zstd's rest and numpy stay out of ``--help``: the shell's user waits for it."""
    script = (
        "import sys; from sqlitestore.cli import main; main(['--help']); "
        "print([name for name in ('rich', 'numpy', 'pandas', 'sqlitestore.maintenance.usage') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == b"[]"


def test_an_old_store_is_read_through_the_contract_only(store):
    """No module of the command line holds SQL: the tables belong to others."""
    folder = os.path.dirname(progress.__file__)
    for name in os.listdir(folder):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|PRAGMA) [a-z*]", file.read()), name
    with closing(SQLiteStorage(store, create=False)) as storage:
        assert storage.flows() == ["Train"]
