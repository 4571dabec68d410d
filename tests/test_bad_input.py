"""Bad input gets an error that names the thing, and changes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import helpers_bad_input
import pytest
from helpers_processes import run
from helpers_store import FLOW, READ_ONLY, WRITABLE, beside, dump, make_store, roots, rows, save_task

from sqlitestore import (
    Damaged,
    DataException,
    FlowDataStore,
    InvalidName,
    InvalidType,
    NewerFormat,
    NotAStore,
    StoreMissing,
    StoreUnavailable,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a file with three done tasks, closed."""
    return make_store(tmp_path / "runs.db")


@pytest.fixture
def flow(path: str) -> Iterator[FlowDataStore]:
    """Open the same file."""
    with FlowDataStore(FLOW, ds_root=path) as opened:
        yield opened


# Files that are no stores


def _other_program(path: str, *statements: str) -> None:
    connection = apsw.Connection(path)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _cut(path: str, length: int) -> None:
    make_store(path)
    os.truncate(path, length if length > 0 else os.path.getsize(path) + length)


BAD_FILES: dict[str, tuple[Callable[[str], Any], type[DataException], str]] = {
    "text": (lambda path: Path(path).write_text("name,value\n" * 1000), NotAStore, "not an SQLite database"),
    "short text": (lambda path: Path(path).write_text("x"), NotAStore, "not an SQLite database"),
    "zeros": (lambda path: Path(path).write_bytes(bytes(10_000)), NotAStore, "not an SQLite database"),
    "pipe": (os.mkfifo, NotAStore, "not a file"),
    "other program": (lambda path: _other_program(path, "CREATE TABLE t(x)"), NotAStore, "another program"),
    "other program, empty tables": (
        lambda path: _other_program(path, "CREATE TABLE t(x)", "DROP TABLE t"),
        NotAStore,
        "another program",
    ),
    "other program's id": (lambda path: _other_program(path, "PRAGMA application_id=77"), NotAStore, "0x4d"),
    "other program, log": (
        lambda path: _other_program(path, "PRAGMA journal_mode=wal", "CREATE TABLE t(x)"),
        NotAStore,
        "another program",
    ),
    "no version": (lambda path: _altered(path, "PRAGMA user_version=0"), StoreUnavailable, "format 0"),
    "negative version": (lambda path: _altered(path, "PRAGMA user_version=-3"), StoreUnavailable, "format -3"),
    "newer": (lambda path: _altered(path, "PRAGMA user_version=99"), NewerFormat, "format 99"),
    "newer names ours": (lambda path: _altered(path, "PRAGMA user_version=99"), NewerFormat, "1"),
    "extra table": (lambda path: _altered(path, "CREATE TABLE mine(x)"), Damaged, "'mine'"),
    "trigger": (
        lambda path: _altered(path, "CREATE TRIGGER spy AFTER INSERT ON blob BEGIN DELETE FROM flow; END"),
        Damaged,
        "'spy'",
    ),
    "view": (lambda path: _altered(path, "CREATE VIEW look AS SELECT * FROM blob"), Damaged, "'look'"),
    "index": (lambda path: _altered(path, "CREATE INDEX fast ON blob(abs(size))"), Damaged, "'fast'"),
    "more columns": (lambda path: _altered(path, "ALTER TABLE run ADD COLUMN note TEXT"), Damaged, "'run'"),
    "renamed column": (lambda path: _altered(path, "ALTER TABLE run RENAME COLUMN name TO title"), Damaged, "'run'"),
    "no table": (lambda path: _altered(path, "DROP TABLE file"), Damaged, "'file'"),
    "no store row": (lambda path: _altered(path, "DELETE FROM store"), Damaged, "'store'"),
    "cut to 1": (lambda path: _cut(path, 1), NotAStore, ""),
    "cut to 99": (lambda path: _cut(path, 99), DataException, ""),
    "cut to 100": (lambda path: _cut(path, 100), DataException, ""),
    "cut to 512": (lambda path: _cut(path, 512), Damaged, ""),
    "cut to a page": (lambda path: _cut(path, 8192), Damaged, ""),
    "cut to 100,000": (lambda path: _cut(path, 100_000), Damaged, ""),
    "cut by a page": (lambda path: _cut(path, -8192), Damaged, ""),
    "cut by a byte": (lambda path: _cut(path, -1), Damaged, ""),
}


def _altered(path: str, statement: str) -> None:
    _other_program(make_store(path), statement)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_store_of_ours_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    """Opening it raises the fitting error, which names the file; no byte changes and nothing appears beside it."""
    make, expected, word = BAD_FILES[name]
    path = str(tmp_path / "runs.db")
    make(path)
    is_file = os.path.isfile(path)
    before = Path(path).read_bytes() if is_file else b""
    for _ in range(2):
        with pytest.raises(expected) as caught:
            FlowDataStore(FLOW, ds_root=path)
        assert path in str(caught.value)
        assert word in str(caught.value)
        assert not is_file or Path(path).read_bytes() == before
        assert beside(path) == ["runs.db"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """What ``touch`` or ``mktemp`` made is a place for a store."""
    path = tmp_path / "runs.db"
    path.touch()
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, x=1)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        assert flow.get_task_datastore("1", "a", "1")["x"] == 1


@pytest.mark.parametrize("name", ["nowhere/runs.db", "runs.txt/runs.db"])
def test_a_missing_folder_is_named_and_not_made(tmp_path: Path, name: str) -> None:
    """A mistyped path must not become a tree of new folders."""
    (tmp_path / "runs.txt").touch()
    with pytest.raises(StoreMissing, match=os.path.dirname(name)) as caught:
        FlowDataStore(FLOW, ds_root=tmp_path / name)
    assert isinstance(caught.value, OSError)
    assert os.listdir(tmp_path) == ["runs.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A new store is refused there."""
    tmp_path.chmod(READ_ONLY)
    try:
        kind, message = run(helpers_bad_input.try_to_open, str(tmp_path / "runs.db"), unprivileged=True)
    finally:
        tmp_path.chmod(WRITABLE)
    assert kind == "store_read_only"
    assert str(tmp_path) in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("mode", "expected"), [(0o000, "store_unavailable"), (0o444, "store_read_only")])
def test_a_file_without_permission_is_named(path: str, mode: int, expected: str) -> None:
    """No permission to read: it does not open. None to write: it opens, and the first write is refused."""
    before = dump(path)
    os.chmod(path, mode)
    try:
        kind, message = run(helpers_bad_input.try_to_open, path, unprivileged=True)
    finally:
        os.chmod(path, 0o644)
    assert (kind, path in message) == (expected, True)
    assert dump(path) == before
    assert beside(path) == ["runs.db"]


def _check_full_disk(outcome: dict[str, Any], kinds: set[str]) -> None:
    assert len(outcome["kinds"]) == 4
    assert set(outcome["kinds"]) <= kinds
    assert outcome["unfinished"] == 0
    assert outcome["still"] == ["kept", True]
    assert outcome["again"] == ["kept", "works"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that this fills")
def test_a_full_disk_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    """DiskFull each time; earlier tasks stay, small ones still fit, and the file is sound."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", tmp_path], check=True)
    try:
        outcome = run(helpers_bad_input.fill_the_disk, str(tmp_path / "runs.db"))
        integrity = rows(tmp_path / "runs.db", "PRAGMA integrity_check")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    _check_full_disk(outcome, {"disk_full"})
    assert integrity == [("ok",)]


def test_a_limit_on_file_sizes_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    """What a quota does: writes beyond some size fail, all else works."""
    path = str(tmp_path / "runs.db")
    _check_full_disk(run(helpers_bad_input.fill_the_disk, path, 30_000_000), {"disk_full", "store_unavailable"})
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


# Names

BAD_NAMES = ["", ".", "..", "a/b", "/", "nul\0", "line\n", "\x1b[31m", "\x85", "\u2028", "\ud800", "x" * 256, "é" * 128]
GOOD_NAMES = [
    "two words",
    " ",
    "...",
    "été",
    "日本語",
    "🎉" * 63,
    "x" * 255,
    "%s",
    "?#&=",
    "a\\b",
    "'\"--",
    "-rf",
    "None",
]

NAME_USES: dict[str, Callable[[FlowDataStore, Any], Any]] = {
    "flow": lambda flow, name: FlowDataStore(name, ds_root=flow.datastore_root),
    "run": lambda flow, name: flow.get_task_datastore(name, "a", "1", attempt=0, mode="w").init_task(),
    "step": lambda flow, name: flow.get_task_datastore("1", name, "1", attempt=0, mode="w").init_task(),
    "task": lambda flow, name: flow.get_task_datastore("1", "a", name, attempt=0, mode="w").init_task(),
    "run read": lambda flow, name: flow.get_task_datastore(name, "a", "1"),
    "run listed": lambda flow, name: flow.get_latest_task_datastores(name),
    "step listed": lambda flow, name: flow.get_latest_task_datastores("1", steps=["a", name]),
    "artifact": lambda flow, name: _writer(flow).save_artifacts([("first", 1), (name, 2)]),
    "metadata": lambda flow, name: _writer(flow).save_metadata({"first": 1, name: 2}),
    "log source": lambda flow, name: _writer(flow).save_logs(name, {"stdout": b"text"}),
    "log stream": lambda flow, name: _writer(flow).save_logs("task", {"stdout": b"text", name: b"text"}),
}


def _writer(flow: FlowDataStore) -> Any:
    return flow.get_task_datastore("9", "a", "1", attempt=0, mode="w")


@pytest.mark.parametrize("use", NAME_USES)
def test_odd_names_are_refused_before_anything_changes(flow: FlowDataStore, use: str) -> None:
    """Empty, with slashes or control characters, the names of folders, or longer than a file name may be."""
    before = roots(flow.datastore_root)
    for name in BAD_NAMES:
        with pytest.raises(InvalidName) as caught:
            NAME_USES[use](flow, name)
        assert (caught.value.kind, isinstance(caught.value, ValueError)) == ("invalid_name", True)
        assert (
            use.rsplit(maxsplit=1)[-1] in str(caught.value)
            or use.split(maxsplit=1)[0] in str(caught.value)
            or name in {".", ".."}
        )
        str(caught.value).encode()  # can be printed
    for wrong in (None, 5, b"bytes", ("tuple",), 1.5):
        if (use, wrong) == ("run listed", None):
            continue  # means: none given
        with pytest.raises(InvalidType):
            NAME_USES[use](flow, wrong)
    assert roots(flow.datastore_root) == before


def test_names_may_be_any_other_text(tmp_path: Path) -> None:
    """Spaces, quotes, every script, up to 255 bytes: all come back as they were, and find what was saved."""
    path = tmp_path / "runs.db"
    for name in GOOD_NAMES:
        with FlowDataStore(name, ds_root=path) as flow:
            writer = flow.get_task_datastore(name, name, name, attempt=0, mode="w")
            writer.init_task()
            writer.save_artifacts([(name, name)])
            writer.save_metadata({name: name})
            writer.save_logs(name, {name: name})
            writer.done()
            [task] = flow.get_latest_task_datastores(name, steps=[name])
            [again] = flow.get_latest_task_datastores(pathspecs=[f"{name}/{name}/{name}"])
            assert (task.run_id, task.step_name, task.task_id) == (name, name, name)
            assert (dict(task.load_artifacts([name])), again[name]) == ({name: name}, name)
            assert task.load_metadata([name]) == {name: name}
            assert task.load_logs([name], name) == [(name, name.encode())]
