"""Diff: what differs between two runs, tasks or files is found, and nothing else; nothing is unpickled."""

from __future__ import annotations

import io
import json
import os
import shutil

import helpers_cli
import pytest
from helpers_archive import FLOW, LARGE, OTHER, content, make_full
from helpers_store import READ_ONLY, WRITABLE, save_task

from sqlitestore import Damaged, FlowDataStore, InvalidInput, InvalidPathspec, NotFound
from sqlitestore.archive.diff import diff
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.archive.tags import change_tags
from sqlitestore.archive.things import lines_of
from sqlitestore.blobs import payload_of
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import RegisteredMetadatum
from sqlitestore.tables import tables_of


def told(found):
    """Return kind, pathspec, name and change of each difference."""
    return [(each.kind, each.pathspec, each.name, each.change) for each in found.differences]


@pytest.fixture
def path(tmp_path):
    """A store."""
    return str(tmp_path / "runs.db")


@pytest.fixture
def flow(path):
    """Its flow."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        yield flow


def write(flow, run, task="1", *, log=b"text\n", note=1, attempt=0, **artifacts):
    """Save a task with a log and metadata."""
    writer = flow.get_task_datastore(run, "train", task, attempt=attempt, mode="w")
    writer.init_task()
    writer.save_artifacts(artifacts.items())
    writer.save_logs("task", {"stdout": log})
    writer.save_metadata({"note": note})
    writer.done()


# Two runs


def test_two_runs_that_did_the_same_do_not_differ(flow):
    """Though at other times, under other names, and with those names in what they logged and registered."""
    for run in ("1764000000000001", "1764000000000002"):
        moment = b"2026-01-01T00:00:0" + run[-1].encode()
        log = b"[MFLOG|0|" + moment + b".000000Z|task|" + run.encode() + b"]at Flow/" + run.encode() + b"/x\n"
        write(flow, run, log=log, x=1, large=LARGE)
        registrations = tables_of(flow).registrations
        registrations.add_run(FLOW, run, "ada", int(run), {"a"}, {f"date:2026-01-0{run[-1]}", "user:ada"})
        registrations.add_task(FLOW, run, "train", "1", "ada", int(run))
        values = {"input": f"{run}/start/1", "origin": f"{FLOW}/{run}", "card": '{"card_uuid": "' + run * 2 + '"}'}
        registrations.add_metadata(
            FLOW,
            run,
            [
                RegisteredMetadatum("train", "1", run * 2 if name == "card" else name, value,
                                    "card-info" if name == "card" else name, ("attempt_id:0",), "ada", int(run))
                for name, value in values.items()
            ],
        )  # fmt: skip
        flow._storage_impl.save_file(
            f"mf.cards/{FLOW}/runs/{run}/steps/train/tasks/1/cards/default-{run * 2}.html", payload_of(run.encode())
        )
    found = diff(flow, f"{FLOW}/1764000000000001", f"{FLOW}/1764000000000002")
    assert found == (f"{FLOW}/1764000000000001", f"{FLOW}/1764000000000002", ())


def test_everything_that_differs_is_named_with_key_size_and_preview(flow):
    """Artifacts, metadata, logs, tags, files, tasks: added, removed, changed, as seen from the first."""
    write(flow, "1", same=LARGE, changed=1, removed=[1], log=b"a\nb\nc\n", note=1)
    write(flow, "1", task="gone", x=1)
    write(flow, "2", same=LARGE, changed=2, added="text", log=b"a\nx\nc\n", note=2)
    change_tags(flow, f"{FLOW}/1", add=["old", "both"])
    change_tags(flow, f"{FLOW}/2", add=["new", "both"])
    flow._storage_impl.save_file(f"mf.cards/{FLOW}/runs/2/steps/train/tasks/1/cards/x.html", payload_of(b"card"))
    found = diff(flow, f"{FLOW}/1", f"{FLOW}/2")
    task = f"{FLOW}/1/train/1"
    card = f"mf.cards/{FLOW}/runs/(run)/steps/train/tasks/1/cards/x.html"
    assert sorted(told(found)) == sorted(
        [
            ("tag", f"{FLOW}/1", "old", "removed"),
            ("tag", f"{FLOW}/1", "new", "added"),
            ("artifact", task, "changed", "changed"),
            ("artifact", task, "removed", "removed"),
            ("artifact", task, "added", "added"),
            ("metadata", task, "note", "changed"),
            ("log", task, "task stdout", "changed"),
            ("file", task, card, "added"),
            ("attempt", f"{FLOW}/1/train/gone", "", "removed"),
            ("artifact", f"{FLOW}/1/train/gone", "x", "removed"),
            ("metadata", f"{FLOW}/1/train/gone", "note", "removed"),
            ("log", f"{FLOW}/1/train/gone", "task stdout", "removed"),
        ]
    )
    by_name = {(each.kind, each.name): each for each in found.differences if each.pathspec == task}
    changed, added, log, note = (
        by_name[each]
        for each in [("artifact", "changed"), ("artifact", "added"), ("log", "task stdout"), ("metadata", "note")]
    )
    keys = [flow.get_task_datastore(run, "train", "1").keys_for_artifacts(["changed"])[0] for run in ("1", "2")]
    assert [changed.a.key, changed.b.key] == keys
    assert (changed.a.preview, changed.b.preview) == ({"repr": "1"}, {"repr": "2"})
    assert (changed.a.type, changed.a.size) == ("<class 'int'>", changed.b.size)
    assert (added.a, added.b.preview) == (None, {"repr": "'text'", "length": 4})
    assert (log.detail, log.a.preview, log.b.preview) == ("line 2", {"repr": "b"}, {"repr": "x"})
    assert (log.a.size, log.b.size, log.a.key == log.b.key) == (6, 6, False)
    assert (note.a.preview, note.b.preview) == ({"repr": "1"}, {"repr": "2"})
    back = diff(flow, f"{FLOW}/2", f"{FLOW}/1")
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    assert sorted((kind, turned[change]) for kind, _, _, change in told(back)) == sorted(
        (kind, change) for kind, _, _, change in told(found)
    )


def test_the_latest_attempts_are_compared(flow):
    """What an earlier attempt did is no difference; that there was one is."""
    write(flow, "1", x=1)
    write(flow, "2", x=0, note=7, log=b"failed")
    write(flow, "2", attempt=1, x=1)
    [found] = diff(flow, f"{FLOW}/1", f"{FLOW}/2").differences
    assert (found.kind, found.attempt, found.change) == ("attempt", None, "changed")
    assert found.a.preview["repr"].startswith("1 attempt, done, Python 3")
    assert found.b.preview["repr"].startswith("2 attempts, done, Python 3")


def test_tasks_are_matched_by_name_or_by_order(flow):
    """The same names belong together; as many others do in their order; of more or fewer, those of the same name."""
    for number in (2, 10, 11):
        write(flow, "1", task=str(number), index=number)
        write(flow, "2", task=str(number + 1), index=number)
    assert told(diff(flow, f"{FLOW}/1", f"{FLOW}/2")) == []
    write(flow, "2", task="20", index=20)
    assert ("attempt", f"{FLOW}/2/train/20", "", "added") in told(diff(flow, f"{FLOW}/1", f"{FLOW}/2"))


def test_two_tasks_and_two_steps(flow):
    """Of other names, in one run or in two."""
    write(flow, "1", task="a", x=1, y=2)
    write(flow, "1", task="b", x=1, y=3)
    save_task(flow, "2", "other", "c", x=1, y=2)
    assert told(diff(flow, f"{FLOW}/1/train/a", f"{FLOW}/1/train/b")) == [
        ("artifact", f"{FLOW}/1/train/a", "y", "changed")
    ]
    found = told(diff(flow, f"{FLOW}/1/train/b", f"{FLOW}/2/other/c"))
    assert [each for each in found if each[0] == "artifact"] == [("artifact", f"{FLOW}/1/train/b", "y", "changed")]
    assert told(diff(flow, f"{FLOW}/1/train", f"{FLOW}/1/train")) == []


def test_logs_are_compared_by_what_they_say(flow, path):
    """However they were cut into parts, with lines that no memory holds."""
    for run, cuts in (("1", (5, 3_000_000)), ("2", (3_000_000,))):
        text = b"x" * 2_500_000 + b"\nend"
        writer = flow.get_task_datastore(run, "train", "1", attempt=0, mode="w")
        writer.init_task()
        for cut in cuts:
            writer.save_logs("task", {"stdout": text[:cut]})
        writer.done()
    assert told(diff(flow, f"{FLOW}/1", f"{FLOW}/2")) == []
    flow._storage_impl.save_log(TaskAddress(FLOW, "2", "train", "1"), 0, "task", "stdout", io.BytesIO(text + b"!"))
    [found] = diff(flow, f"{FLOW}/1", f"{FLOW}/2").differences
    assert (found.a.preview, found.b.preview) == ({"repr": "end"}, {"repr": "end!"})


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_do_not_depend_on_blocks(size):
    """The same pieces, however the text comes."""
    text = b"one\n\n" + b"y" * 30 + b"\nlast" + b"z" * 25
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(lines_of(blocks, longest=10)) == list(lines_of([text], longest=10))
    assert b"".join(lines_of(blocks, longest=10)) == text
    assert max(map(len, lines_of(blocks, longest=10))) == 10


# Two files


@pytest.fixture
def files(tmp_path):
    """A full store, and what came out of an export of it and an import."""
    source = make_full(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=source) as flow:
        export(flow, tmp_path / "archive.db")
    with FlowDataStore(FLOW, ds_root=tmp_path / "other.db") as flow:
        merge(flow, [tmp_path / "archive.db"])
    return source, str(tmp_path / "other.db")


def test_an_import_does_not_differ(files):
    """Of the file that the archive was made of: nothing, to the last millisecond."""
    with FlowDataStore(FLOW, ds_root=files[0]) as ours, FlowDataStore(FLOW, ds_root=files[1]) as theirs:
        assert told(diff(ours, other=theirs, details=True)) == []
        assert told(diff(ours, f"{FLOW}/1", other=theirs)) == []
        assert told(diff(ours, FLOW, other=theirs)) == []


def test_the_same_run_in_two_files_is_compared_in_everything(files):
    """Times, users and earlier attempts too, which do not count between two runs."""
    with FlowDataStore(FLOW, ds_root=files[0]) as ours, FlowDataStore(FLOW, ds_root=files[1]) as theirs:
        task = TaskAddress(FLOW, "1", "train", "1")
        theirs._storage_impl.save_log(task, 0, "runtime", "stderr", io.BytesIO(b"killed 2"))
        tables_of(theirs).tasks.restart(task, 1, 5.0)
        [log, attempt] = diff(ours, f"{FLOW}/1", other=theirs).differences[::-1]
        assert (attempt.kind, attempt.attempt, attempt.change) == ("attempt", 1, "changed")
        assert "1970-01-01T00:00:05" in attempt.b.preview["repr"]
        assert (log.kind, log.attempt, log.detail) == ("log", 0, "line 1")


def test_two_files_differ_in_runs_data_and_files(files):
    """In short each run once; in detail all that differs."""
    with FlowDataStore(FLOW, ds_root=files[0]) as ours, FlowDataStore(FLOW, ds_root=files[1], trust=True) as theirs:
        save_task(ours, "only ours", x=1)
        save_task(theirs, "only theirs", x=1)
        change_tags(theirs, f"{FLOW}/1", add=["x", "y"])
        [(_, key)] = theirs.save_data([b"new"])
        theirs._storage_impl.save_file("anything", payload_of(b"other"), overwrite=True)
        found = diff(ours, other=theirs)
        assert told(found) == [
            ("file", "", "anything", "changed"),
            ("data", FLOW, key, "added"),
            ("run", f"{FLOW}/1", "", "changed"),
            ("run", f"{FLOW}/only ours", "", "removed"),
            ("run", f"{FLOW}/only theirs", "", "added"),
        ]
        assert [each.detail for each in found.differences] == ["", "", "tag 2", "", ""]
        assert (found.a, found.b) == files
        details = told(diff(ours, other=theirs, details=True))
        assert ("tag", f"{FLOW}/1", "x", "added") in details
        assert [each for each in told(diff(ours, OTHER, other=theirs))] == []  # noqa: C416
        assert len(told(diff(ours, FLOW, other=theirs))) == 4


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (f"{FLOW}/1", "Nope/1", NotFound),
        (f"{FLOW}/1", f"{FLOW}/7", NotFound),
        (f"{FLOW}/1/train/9", f"{FLOW}/1/train/1", NotFound),
        (f"{FLOW}/1", f"{FLOW}/1/train", InvalidPathspec),
        (f"{FLOW}/1/train/1/x", f"{FLOW}/1/train/1/y", InvalidPathspec),
        (FLOW, OTHER, InvalidInput),
        (None, None, InvalidInput),
    ],
)
def test_what_cannot_be_compared(files, a, b, error):
    """Something that is not there, or of another kind than the other."""
    with FlowDataStore(FLOW, ds_root=files[0]) as flow, pytest.raises(error):
        diff(flow, a, b)


def test_damage_is_an_error(files):
    """A row that was changed."""
    from helpers_store import tampering

    with tampering(files[1]) as connection:
        connection.execute("UPDATE task_metadata SET value = '7'")
    with (
        FlowDataStore(FLOW, ds_root=files[0]) as ours,
        FlowDataStore(FLOW, ds_root=files[1]) as theirs,
        pytest.raises(Damaged),
    ):
        diff(ours, other=theirs)


# The command


def test_the_command_takes_pathspecs_files_and_both(files, tmp_path, monkeypatch):
    """A file that is there is a file; beside a pathspec, it means that pathspec in it."""
    monkeypatch.chdir(tmp_path)
    with FlowDataStore(FLOW, ds_root=files[1]) as flow:
        change_tags(flow, f"{FLOW}/1", add=["x"])
    added = {"change": "added", "kind": "tag", "pathspec": f"{FLOW}/1", "name": "x"}
    for a, b in [
        (f"{FLOW}/1", "other.db"),
        (f"{FLOW}/1", f"other.db:{FLOW}/1"),
        ("runs.db", f"./other.db:{FLOW}/1"),
        (f"runs.db:{FLOW}/1", files[1]),
    ]:
        outcome = helpers_cli.run("runs.db", "diff", a, b)
        assert outcome.exit_code == 0, outcome.output
        [row] = helpers_cli.table(outcome.stdout)
        assert added.items() <= row.items(), (a, b)
    [row] = helpers_cli.table(helpers_cli.run("none.db", "diff", "runs.db", "other.db").stdout)
    assert (row["kind"], row["pathspec"], row["what"]) == ("run", f"{FLOW}/1", "3 tasks: tag 1")
    [row] = helpers_cli.table(helpers_cli.run("none.db", "diff", "--details", "runs.db", "other.db:").stdout)
    assert added.items() <= row.items()
    answer = json.loads(helpers_cli.run("runs.db", "diff", f"{FLOW}/1", f"{FLOW}/rün 2", "--json").stdout)
    kinds = {each["kind"] for each in answer["differences"]}
    assert {"artifact", "tag", "data"} <= kinds
    assert all(each["a"] or each["b"] for each in answer["differences"])
    assert not (tmp_path / "none.db").exists()


def test_exit_codes(files):
    """0 whatever it finds, 1 if it cannot be done; with --exit-code 1 if there is a difference."""
    for arguments, code in [
        ([f"{FLOW}/1", f"{FLOW}/rün 2"], 0),
        ([f"{FLOW}/1", f"{FLOW}/rün 2", "--exit-code"], 1),
        ([f"{FLOW}/1", files[1], "--exit-code"], 0),
        ([f"{FLOW}/1", "nothing.db"], 1),
        ([f"{FLOW}/1", f"{FLOW}/7"], 1),
        ([f"{FLOW}/1"], 2),
    ]:
        outcome = helpers_cli.run(files[0], "diff", *arguments)
        assert outcome.exit_code == code, (arguments, outcome.output)
    outcome = helpers_cli.run(files[0], "diff", f"{FLOW}/1", f"{FLOW}/1")
    assert (outcome.stdout, outcome.stderr) == ("", f"No differences between {FLOW}/1 and {FLOW}/1.\n")
    outcome = helpers_cli.run(files[0], "diff", f"{FLOW}/1", "nothing.db")
    assert "neither a file that is there nor a pathspec" in outcome.stderr


def test_a_name_of_a_file_and_a_flow_is_no_guess(files, tmp_path, monkeypatch):
    """What may be both is an error that says how to say which."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(files[1], FLOW)
    outcome = helpers_cli.run(files[0], "diff", FLOW, files[1])
    assert outcome.exit_code == 1
    assert f"./{FLOW}" in outcome.stderr
    assert helpers_cli.run(files[0], "diff", f"./{FLOW}", files[1]).stdout == ""
    assert helpers_cli.run(files[0], "diff", f"{files[0]}:{FLOW}", files[1]).stdout == ""
    assert helpers_cli.run("none.db", "diff", FLOW, files[1]).exit_code == 0


def test_files_are_only_read(files, tmp_path, as_nobody):
    """Also where nothing can be written; not a byte changes, nothing is left beside them, old formats stay old."""
    folder = tmp_path / "ro"
    folder.mkdir()
    golden = os.path.join(os.path.dirname(__file__), "golden", "format-1.db")
    for name, source in (("a.db", golden), ("b.db", files[1])):
        shutil.copy(source, folder / name)
        (folder / name).chmod(0o444)
    before = {name: content(folder / name) for name in ("a.db", "b.db")}
    assert helpers_cli.run("x.db", "diff", str(folder / "a.db"), str(folder / "b.db")).exit_code == 0
    assert {name: content(folder / name) for name in ("a.db", "b.db")} == before
    folder.chmod(READ_ONLY)

    def look():
        assert helpers_cli.run("x.db", "diff", str(folder / "a.db"), str(folder / "b.db"), "--exit-code").exit_code == 1

    as_nobody(look)
    folder.chmod(WRITABLE)
    assert sorted(os.listdir(folder)) == ["a.db", "b.db"]


def test_nothing_is_unpickled_and_no_terminal_obeyed(flow, path, tmp_path):
    """Artifacts that would do something, names and values with control characters."""

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "unpickled"),))

    write(flow, "1", x=Trap(), log=b"\x1b[31mred\n", note="\x1b]0;title\x07")
    write(flow, "2", x=[Trap()], log=b"\x1b[32mgreen\n", note="\x1b]0;other\x07")
    code, terminal = helpers_cli.on_terminal(path, "diff", f"{FLOW}/1", f"{FLOW}/2", columns=200)
    assert code == 0
    assert "\x1b]0;" not in terminal
    assert "\x1b[31mred" not in terminal
    assert "\\x1b[31mred" in terminal
    assert not (tmp_path / "unpickled").exists()
