"""Bad input gets an error that names the thing, and changes nothing."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import helpers_bad_input
import pytest
from helpers_processes import run
from helpers_store import FLOW, beside, dump, incompressible, loose_chunks, make_store, roots, rows, save_task

from sqlitestore import (
    BlobNotFound,
    Damaged,
    DataException,
    FlowDataStore,
    InvalidInput,
    InvalidKey,
    InvalidName,
    InvalidPathspec,
    InvalidType,
    NewerFormat,
    NotAStore,
    StoreClosed,
    StoreMissing,
    StoreUnavailable,
    TaskDataStoreSet,
    UnpicklableArtifactException,
    WrongMode,
)

MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file with three done tasks, closed."""
    return make_store(tmp_path / "runs.db")


@pytest.fixture
def flow(path: str) -> Iterator[FlowDataStore]:
    """The same file, open."""
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
    os.chmod(tmp_path, 0o555)
    try:
        kind, message = run(helpers_bad_input.try_to_open, str(tmp_path / "runs.db"), unprivileged=True)
    finally:
        os.chmod(tmp_path, 0o755)
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
        assert use.rsplit(maxsplit=1)[-1] in str(caught.value) or use.split(maxsplit=1)[0] in str(caught.value) or name in {".", ".."}
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


# Values


class Loud:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no pickle of me")


class LateTrouble:
    """Cannot be pickled, and says so only after 50 MB."""

    def __reduce__(self) -> Any:
        def items() -> Iterator[bytes]:
            for seed in range(50):
                yield incompressible(MIB, seed)
            raise ZeroDivisionError("too late")

        return list, (), None, items()


def _deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 1,
    "open file": lambda: open(os.devnull, "rb"),  # noqa: SIM115 - closed by the test
    "generator": lambda: (x for x in "x"),
    "raises": Loud,
    "raises late": LateTrouble,
    "too deep": _deep,
    "half good": lambda: [incompressible(3 * MIB), Loud()],
}


@pytest.mark.parametrize("name", UNPICKLABLE)
def test_an_object_that_cannot_be_pickled_leaves_nothing(flow: FlowDataStore, name: str) -> None:
    """The error names the artifact and task, its cause is chained; nothing of the call is recorded or left in chunks."""
    before = dump(flow.datastore_root)
    writer = flow.get_task_datastore("7", "a", "1", attempt=0, mode="w")
    writer.init_task()
    bad = UNPICKLABLE[name]()
    with pytest.raises(UnpicklableArtifactException) as caught:
        writer.save_artifacts([("bad", bad), ("never", 1)])
    assert "'bad'" in str(caught.value)
    assert "7/a/1" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value.__cause__, Exception)
    assert not list(writer.items())
    after = dump(flow.datastore_root)
    assert [after[table] for table in ("blob", "chunk", "artifact")] == [
        before[table] for table in ("blob", "chunk", "artifact")
    ]
    writer.save_artifacts([("good", 1)])
    writer.done()
    assert flow.get_task_datastore("7", "a", "1").to_dict() == {"good": 1}
    if hasattr(bad, "close"):
        bad.close()


def _breaking(*things: Any) -> Iterator[Any]:
    yield from things
    raise ZeroDivisionError("half-way")


BEFORE_THE_BREAK: dict[str, list[bytes]] = {
    "nothing": [],
    "small": [b"a", b"b"],
    "large": [incompressible(5 * MIB)],
    "both": [b"a", incompressible(5 * MIB), b"b"],
    "many MiB of small ones": [incompressible(60_000, seed) for seed in range(700)],
    "many MiB of large ones": [incompressible(9 * MIB, seed) for seed in range(4)],
}


@pytest.mark.parametrize("name", BEFORE_THE_BREAK)
def test_an_iterator_that_raises_half_way_saves_nothing(flow: FlowDataStore, name: str) -> None:
    """Its own error reaches the caller; no artifact and no data are recorded, no chunk lies about."""
    before = roots(flow.datastore_root)
    blobs = BEFORE_THE_BREAK[name]
    writer = flow.get_task_datastore("7", "a", "1", attempt=0, mode="w")
    with pytest.raises(ZeroDivisionError, match="half-way"):
        flow.save_data(_breaking(*blobs))
    with pytest.raises(ZeroDivisionError, match="half-way"):
        writer.save_artifacts(_breaking(*((f"x{n}", blob) for n, blob in enumerate(blobs))))
    with pytest.raises(InvalidType, match=f"{len(blobs)}"):
        flow.save_data([*blobs, "text"])
    assert roots(flow.datastore_root) == before
    assert loose_chunks(flow.datastore_root) == 0
    assert not list(writer.items())


ODD_VALUES: dict[str, Callable[[FlowDataStore], Any]] = {
    "flow": lambda flow: FlowDataStore(FLOW, ds_root=5),  # type: ignore[arg-type]
    "ds_root empty": lambda _: FlowDataStore(FLOW, ds_root=""),
    "ds_root NUL": lambda _: FlowDataStore(FLOW, ds_root="a\0b"),
    "ds_root bytes": lambda _: FlowDataStore(FLOW, ds_root=b"runs.db"),
    "storage": lambda flow: FlowDataStore(FLOW, ds_root=flow.datastore_root, storage_impl=lambda _: 5),
    "mode": lambda flow: flow.get_task_datastore("1", "a", "0", mode="rw"),
    "mode number": lambda flow: flow.get_task_datastore("1", "a", "0", mode=5),
    "attempt text": lambda flow: flow.get_task_datastore("1", "a", "0", attempt="0"),
    "attempt bool": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=True),
    "attempt negative": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=-1),
    "attempt huge": lambda flow: flow.get_task_datastore("1", "a", "0", attempt=2**70),
    "attempts": lambda flow: flow.get_task_datastores("1", attempt="0"),
    "no tasks named": lambda flow: flow.get_latest_task_datastores(),
    "pathspecs text": lambda flow: flow.get_latest_task_datastores(pathspecs="1/a/0"),
    "pathspecs bytes": lambda flow: flow.get_latest_task_datastores(pathspecs=b"1/a/0"),
    "pathspecs number": lambda flow: flow.get_latest_task_datastores(pathspecs=5),
    "pathspec number": lambda flow: flow.get_latest_task_datastores(pathspecs=[5]),
    "steps text": lambda flow: flow.get_latest_task_datastores("1", steps="a"),
    "steps number": lambda flow: flow.get_latest_task_datastores("1", steps=5),
    "step number": lambda flow: flow.get_latest_task_datastores("1", steps=[5]),
    "data_metadata": lambda flow: flow.get_task_datastore("1", "a", "0", data_metadata=5),
    "artifacts a dict": lambda flow: _writer(flow).save_artifacts({"x": 1}),
    "artifacts a number": lambda flow: _writer(flow).save_artifacts(5),
    "artifacts of one": lambda flow: _writer(flow).save_artifacts([("x",)]),
    "artifacts of three": lambda flow: _writer(flow).save_artifacts([("x", 1, 2)]),
    "artifacts of text": lambda flow: _writer(flow).save_artifacts(["xy"]),
    "artifact names text": lambda flow: list(flow.get_task_datastore("1", "a", "0").load_artifacts("text")),
    "artifact names number": lambda flow: list(flow.get_task_datastore("1", "a", "0").load_artifacts(5)),
    "data bytes": lambda flow: flow.save_data(b"bytes"),
    "data text": lambda flow: flow.save_data("text"),
    "data number": lambda flow: flow.save_data(5),
    "datum text": lambda flow: flow.save_data(["text"]),
    "datum None": lambda flow: flow.save_data([None]),
    "datum strided": lambda flow: flow.save_data([memoryview(bytes(100))[::2]]),
    "datum released": lambda flow: flow.save_data([_released()]),
    "blobs": lambda flow: flow.ca_store.save_blobs([1.5]),
    "keys text": lambda flow: list(flow.load_data("0" * 32)),
    "keys number": lambda flow: list(flow.load_data(5)),
    "key number": lambda flow: list(flow.load_data([5])),
    "key bytes": lambda flow: list(flow.load_data([b"0" * 32])),
    "metadata list": lambda flow: _writer(flow).save_metadata([("x", 1)]),
    "metadata set": lambda flow: _writer(flow).save_metadata({"x": {1}}),
    "metadata cycle": lambda flow: _writer(flow).save_metadata({"x": _cycle()}),
    "metadata reserved": lambda flow: _writer(flow).save_metadata({"DONE.lock": ""}),
    "metadata huge int": lambda flow: _writer(flow).save_metadata({"x": 10**5000}),
    "logs text": lambda flow: _writer(flow).save_logs("task", "text"),
    "log number": lambda flow: _writer(flow).save_logs("task", {"stdout": b"good", "stderr": 5}),
    "log surrogate": lambda flow: _writer(flow).save_logs("task", {"stdout": "\ud800"}),
    "log missing file": lambda flow: _writer(flow).save_logs("task", {"stdout": Path("missing")}),
    "no attempt": lambda flow: flow.get_task_datastore("9", "a", "1", mode="w").init_task(),
    "no attempt done": lambda flow: flow.get_task_datastore("9", "a", "1", mode="w").done(),
    "clone": lambda flow: _writer(flow).clone(5),
    "passdown": lambda flow: _writer(flow).passdown_partial(5, ["x"]),
}


def _released() -> memoryview:
    view = memoryview(b"bytes")
    view.release()
    return view


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize("name", ODD_VALUES)
def test_values_that_make_no_sense_are_refused_before_anything_changes(flow: FlowDataStore, name: str) -> None:
    """Each is an InvalidInput, so a program can catch them together; the file stays as it was."""
    before = roots(flow.datastore_root)
    with pytest.raises(InvalidInput) as caught:
        ODD_VALUES[name](flow)
    assert str(caught.value)
    assert roots(flow.datastore_root) == before


@pytest.mark.parametrize(
    "key", ["", "0", "0" * 31, "0" * 33, "g" * 32, "A" * 32, "0" * 64, "../" * 11, "\ud800" * 32, "٠" * 32]
)
def test_what_has_no_form_of_a_key_is_no_key(flow: FlowDataStore, key: str) -> None:
    """InvalidKey, also when good keys stand before it."""
    with pytest.raises(InvalidKey):
        list(flow.load_data([key]))
    with pytest.raises(InvalidKey):
        flow.ca_store.open_blob(key)


@pytest.mark.parametrize("key", ["0" * 32, "f" * 40])
def test_a_missing_key_is_named(flow: FlowDataStore, key: str) -> None:
    """A KeyError, too; what stood before it was right."""
    [(_, first)] = flow.save_data([b"first"])
    loading = flow.load_data([first, key])
    assert next(loading) == (first, b"first")
    with pytest.raises(BlobNotFound, match=key) as caught:
        next(loading)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    "pathspec",
    ["", "/", "1", "1/a", "1//1", "/1/a/1", "1/a/1/0/x", "1/a/1/x", "1/a/1/-1", "1/a/1/٣", "1/a/1/1.0", "1/a/1/ 1"]
    + ["1/a/\0", "1/../1", f"1/a/1/{10**20}", f"1/a/1/{'9' * 5000}", "1/a/" + "x" * 256, "1/a\n/1"],
)
def test_a_pathspec_that_does_not_parse_shows_the_form(flow: FlowDataStore, pathspec: str) -> None:
    """Not an empty answer, and not the error of whatever stumbled over it."""
    with pytest.raises(InvalidPathspec) as caught:
        flow.get_latest_task_datastores(pathspecs=["1/a/0", pathspec])
    assert caught.value.kind == "invalid_pathspec"


# Wrong moments


def test_a_method_of_another_mode_says_which_mode_it_needs(flow: FlowDataStore) -> None:
    """An AttributeError, too, so that hasattr() answers rightly."""
    reader = flow.get_task_datastore("1", "a", "0")
    writer, scrubber = _writer(flow), flow.get_task_datastore("1", "a", "0", mode="d")
    for datastore, names in {
        reader: ["save_artifacts", "done", "init_task", "save_logs", "save_metadata", "persist", "scrub_logs"],
        writer: ["scrub_logs", "load_logs", "get_artifact_sizes", "is_none", "format"],
        scrubber: ["save_artifacts", "done", "load_logs", "init_task"],
    }.items():
        for name in names:
            with pytest.raises(WrongMode, match=name):
                getattr(datastore, name)
            assert not hasattr(datastore, name)
        assert not hasattr(datastore, "no_such_method")


def _closed(path: str) -> dict[str, Callable[[], Any]]:
    """Return what can still be called on things that came from a store, now closed."""
    flow = FlowDataStore(FLOW, ds_root=path)
    keys = [key for _, key in flow.save_data([b"one", b"two", incompressible(3 * MIB)])]
    reader, untouched = (flow.get_latest_task_datastores("1", ["b"])[0] for _ in range(2))
    scrubber, writer = flow.get_task_datastore("1", "b", "1", mode="d"), _writer(flow)
    artifacts, data = reader.load_artifacts(["large", "large"]), flow.load_data([*keys, *keys])
    next(artifacts)
    next(data)
    opened = flow.ca_store.open_blob(keys[2])
    flow.close()
    flow.close()
    return {
        "get_latest_task_datastores": lambda: flow.get_latest_task_datastores("1"),
        "pathspecs": lambda: flow.get_latest_task_datastores(pathspecs=["1/a/0"]),
        "get_task_datastore": lambda: flow.get_task_datastore("1", "a", "0"),
        "set": lambda: TaskDataStoreSet(flow, "1"),
        "save_data": lambda: flow.save_data([b"x"]),
        "save_data large": lambda: flow.save_data([incompressible(MIB, 5)]),
        "load_data": lambda: list(flow.load_data(keys)),
        "save_blobs": lambda: flow.ca_store.save_blobs([b"x"]),
        "load_blobs": lambda: next(flow.ca_store.load_blobs(keys)),
        "open_blob": lambda: flow.ca_store.open_blob(keys[0]),
        "opened blob": opened.__enter__().read,
        "half consumed artifacts": lambda: list(artifacts),
        "half consumed data": lambda: list(data),
        "artifact": lambda: reader["large"],
        "first artifact": lambda: untouched["large"],
        "items": lambda: untouched.items(),
        "to_dict": reader.to_dict,
        "has_metadata": lambda: reader.has_metadata("x"),
        "load_metadata": lambda: reader.load_metadata(["x"]),
        "load_logs": lambda: reader.load_logs(["task"], "stdout"),
        "get_log_size": lambda: reader.get_log_size(["task"], "stdout"),
        "scrub_logs": lambda: scrubber.scrub_logs(["task"], "stdout"),
        "init_task": writer.init_task,
        "save_artifacts": lambda: writer.save_artifacts([("x", 1)]),
        "save_metadata": lambda: writer.save_metadata({"x": 1}),
        "save_logs": lambda: writer.save_logs("task", {"stdout": b"x"}),
        "done": writer.done,
    }


def test_whatever_came_from_a_closed_store_says_so(path: str) -> None:
    """Flow, readers, writers, iterators half consumed: StoreClosed, which names the file; and the file stays whole."""
    calls = _closed(path)
    before = dump(path)
    answers = {}
    for name, call in calls.items():
        try:
            answers[name] = call()
        except StoreClosed as error:
            assert path in str(error)
    assert answers == {}
    assert dump(path) == before
    assert beside(path) == ["runs.db"]


def test_errors_survive_pickling() -> None:
    """So that they come out of the worker processes of an executor."""
    for error in (NotAStore("file x"), BlobNotFound("key y"), UnpicklableArtifactException("artifact z")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.kind) == (type(error), str(error), error.kind)
