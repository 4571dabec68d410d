"""Files of every format version are read for good, and migrated in one transaction."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

import apsw
import golden_content
import pytest

from sqlitestore import FlowDataStore, NewerFormat, schema
from sqlitestore.registrations import Registrations

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*.db"))


def test_there_is_a_golden_file_for_every_readable_format() -> None:
    """A format without one could be broken unnoticed."""
    names = [f"format-{number}.db" for number in range(schema.OLDEST_FORMAT, schema.NEWEST_FORMAT + 1)]
    assert [path.name for path in GOLDEN] == names
    assert set(schema.SCHEMAS) == set(range(schema.OLDEST_FORMAT, schema.NEWEST_FORMAT + 1))
    assert set(schema.MIGRATIONS) == set(range(schema.OLDEST_FORMAT, schema.NEWEST_FORMAT))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_file_is_read_whole(golden: Path, tmp_path: Path) -> None:
    """Everything that its version wrote is there, before and after more is written."""
    copy = tmp_path / "golden.db"
    shutil.copy(golden, copy)
    golden_content.check(str(copy))
    if golden.stem != "format-1":
        golden_content.check_registered(str(copy))
    if golden.stem not in {"format-1", "format-2"}:
        golden_content.check_come_and_gone(str(copy))
    with FlowDataStore("GoldenFlow", ds_root=copy) as flow:
        task = flow.get_task_datastore("18", "train", "1", attempt=0, mode="w")
        task.init_task()
        task.save_artifacts(golden_content.artifacts("1").items())
        task.done()
    golden_content.check(str(copy))
    assert copy.stat().st_size < golden.stat().st_size * 1.2  # its chunks and blobs are found again


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_file_is_read_where_nothing_can_be_written(golden: Path, tmp_path: Path, as_nobody: object) -> None:
    """An old file on read-only media is read as it is."""
    copy = tmp_path / "golden.db"
    shutil.copy(golden, copy)
    before = hashlib.sha256(copy.read_bytes()).hexdigest()
    copy.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    as_nobody(lambda: golden_content.check(str(copy)))  # type: ignore[operator]
    assert [entry.name for entry in tmp_path.iterdir()] == ["golden.db"]
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == before


def test_an_old_file_learns_to_register(tmp_path: Path) -> None:
    """A file of format 1 answers that nothing is registered while it is only read, and takes registrations then."""
    copy = tmp_path / "golden.db"
    shutil.copy(GOLDEN[0], copy)
    connection = apsw.Connection(str(copy))
    assert connection.pragma("user_version") == 1
    connection.close()
    with FlowDataStore("GoldenFlow", ds_root=copy) as flow:
        registrations = Registrations(flow._storage_impl.database)
        assert registrations.runs("GoldenFlow") == []
        golden_content.register(registrations)
    golden_content.check_registered(str(copy))
    golden_content.check(str(copy))


def test_nothing_is_registered_in_an_old_file_that_is_only_read(tmp_path: Path, as_nobody: object) -> None:
    """Its tables are not there, and nobody asks for them."""
    copy = tmp_path / "golden.db"
    shutil.copy(GOLDEN[0], copy)
    copy.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)

    def nothing() -> None:
        with FlowDataStore("GoldenFlow", ds_root=copy) as flow:
            registrations = Registrations(flow._storage_impl.database)
            assert registrations.runs("GoldenFlow") == []
            assert registrations.metadata("GoldenFlow", "17", [("train", "0")]) == []

    as_nobody(nothing)  # type: ignore[operator]


def test_this_version_writes_the_newest_golden_file(tmp_path: Path) -> None:
    """What is written today has the same rows as the golden file: a change of format needs a new number."""
    path = tmp_path / "new.db"
    golden_content.write(str(path))
    golden_content.check(str(path))
    golden_content.check_registered(str(path))
    # How NumPy pickles itself is its own affair, and changes with its versions.
    statement = """SELECT a.name, hex(b.key), a.size, a.type, a.encoding
     FROM artifact AS a JOIN blob AS b ON b.id = a.blob
     WHERE a.type NOT LIKE '%numpy%' ORDER BY a.attempt, a.name"""
    rows = []
    for file in (path, GOLDEN[-1]):
        connection = apsw.Connection(f"file:{file}?immutable=1", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        rows.append(connection.execute(statement).fetchall())
        connection.close()
    assert rows[0] == rows[1]
    assert len(rows[0]) == 9


def next_format(monkeypatch: pytest.MonkeyPatch, migration: object) -> int:
    """Make this version one that knows a further format, with a table more."""
    newest = schema.NEWEST_FORMAT
    table = "CREATE TABLE later(id INTEGER PRIMARY KEY) STRICT"
    monkeypatch.setattr(schema, "NEWEST_FORMAT", newest + 1)
    monkeypatch.setitem(schema.SCHEMAS, newest + 1, {**schema.SCHEMAS[newest], "later": table})
    monkeypatch.setitem(schema.MIGRATIONS, newest, migration or (lambda connection: connection.execute(table)))
    return newest + 1


def test_an_old_file_is_migrated_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content stays, the version is the newest, and the older program refuses the file, naming both versions."""
    path = tmp_path / "runs.db"
    golden_content.write(str(path))
    newest = schema.NEWEST_FORMAT
    with monkeypatch.context() as later:
        next_format(later, None)
        golden_content.check(str(path))
        golden_content.check(str(path))
    with pytest.raises(NewerFormat, match=rf"format {newest + 1}.*{newest}"):
        FlowDataStore("GoldenFlow", ds_root=path)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps and its version commit together or not at all."""
    path = tmp_path / "runs.db"
    golden_content.write(str(path))

    def fails(connection: apsw.Connection) -> None:
        connection.execute("CREATE TABLE later(id INTEGER PRIMARY KEY) STRICT")
        connection.execute("DELETE FROM log")
        raise RuntimeError("power cut")

    with monkeypatch.context() as later:
        next_format(later, fails)
        with pytest.raises(RuntimeError, match="power cut"):
            FlowDataStore("GoldenFlow", ds_root=path)
    golden_content.check(str(path))
