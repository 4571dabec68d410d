"""The command line at its edges: strangers' files, errors, pipes; and its help, completion and progress."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing

import apsw
import click
import msgpack
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from helpers_cli import CHANGING, COMMANDS, EVERY_CALL, TASK, make_store, on_terminal, run, save

from sqlitestore import FlowDataStore
from sqlitestore.blobs import key_of
from sqlitestore.cli import main, progress, text
from sqlitestore.cli.app import application
from sqlitestore.tasks import digest_of


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make the store that most tests look at."""
    return make_store(str(tmp_path_factory.mktemp("store") / "runs.db"))


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


def forge(path, column, value):
    """Change a column of the only artifact of a store, with digests that fit."""
    with closing(apsw.Connection(path)) as connection:
        connection.execute(f"UPDATE artifact SET {column} = ?", (value,))
        row = connection.execute(
            "SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview FROM artifact x"
            " JOIN blob b ON b.id = x.blob"
        ).fetchone()
        started, done, python = connection.execute("SELECT started, done, python FROM attempt").fetchone()
        artifacts = digest_of(row)
        digest = digest_of("F", "1", "s", "1", 0, started, done, python, artifacts)
        connection.execute("UPDATE attempt SET digest = ?, artifacts_digest = ?", (digest, artifacts))


@pytest.mark.parametrize(
    "packed",
    [
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"repr": {"b": b"x"}, "shape": 5, "columns": [1, {"a": 2}], "dtype": [float("inf")]}),
    ],
)
def test_a_strange_preview_hides_nothing(tmp_path, packed):
    """A preview that is not what a writer makes still leaves the artifact listed, in every form."""
    path = str(tmp_path / "a.db")
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"x": 1})
    forge(path, "preview", packed)
    for call in (["ls", "F/1/s/1"], ["show", "F/1/s/1"], ["show", "F/1/s/1/x"]):
        assert run(path, *call).exit_code == 0
        assert json.loads(run(path, *call, "--json").stdout)["pathspec"] == call[1]


@pytest.mark.parametrize("table_name", ["flow", "run"])
def test_a_name_that_is_no_utf8_is_an_error(tmp_path, table_name):
    """Text that cannot be decoded ends in a message and exit code 1, never in a traceback."""
    path = str(tmp_path / "a.db")
    with FlowDataStore("F", ds_root=path) as flow:
        save(flow, "1", "s", "1", {"x": 1})
    with closing(apsw.Connection(path)) as connection:
        connection.execute(f"UPDATE {table_name} SET name = CAST(x'ff41' AS TEXT)")
    for call in (["ls"], ["ls", "F"], ["du"]):
        result = run(path, *call)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 1


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


@pytest.mark.parametrize("name", ["", *COMMANDS, *CHANGING])
def test_every_command_has_help_with_an_example(name):
    """Help shows at least one whole command to copy, and what each option does."""
    result = CliRunner().invoke(application, [*name.split(), "--help"], prog_name="sqlitestore")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\n +sqlitestore .*{name}", result.stdout)
    command = application.commands[name] if name else application
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_no_command_lacks_a_test():
    """COMMANDS above, which most tests here run through, and CHANGING name every command there is."""
    assert set(application.commands) == {*COMMANDS, *CHANGING}


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
    """Tables, numpy and the work of the commands stay out of ``--help``: a person waits for it."""
    script = (
        "import sys; from sqlitestore.cli import main; main(['--help']); "
        "print([name for name in ('rich', 'numpy', 'pandas', 'sqlitestore.maintenance.usage') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == b"[]"


def test_the_command_line_holds_no_sql():
    """The tables belong to others."""
    folder = os.path.dirname(progress.__file__)
    for name in os.listdir(folder):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|PRAGMA) [a-z*]", file.read()), name
