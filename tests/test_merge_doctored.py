"""Import of files that are truncated, doctored or of another version: an error that names the file, and no change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest
from helpers_archive import FLOW, LARGE, content, everything, make_full
from helpers_store import dump, incompressible, roots, rows, save_task, tampering
from sqlite_oracle import check_file

from sqlitestore import Damaged, DataException, FlowDataStore, NewerFormat, NotAStore
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import key_of, payload_of
from sqlitestore.tables import Tables, tables_of
from sqlitestore.task_records import MetadataRecord
from sqlitestore.tasks import AttemptRecord, digest_of

KEY = "99aa06d3014798d86001c324468d497f"
"""Of the empty blob."""


@pytest.fixture
def target(tmp_path):
    """A store with two runs."""
    path = tmp_path / "target.db"
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "mine", x=1, large=LARGE[::-1])
        flow._storage_impl.save_file("mine", payload_of(b"mine"))
    return path


@pytest.fixture
def archive(tmp_path):
    """An archive of everything."""
    source = make_full(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=source) as flow:
        export(flow, tmp_path / "archive.db")
    return tmp_path / "archive.db"


def refused(target, archive, error=Damaged, *, blobs=False):
    """Check that nothing comes of an import, but perhaps (``blobs``) loose blobs; return the error."""
    before = roots(target) if blobs else dump(target)
    with FlowDataStore(FLOW, ds_root=target) as flow, pytest.raises(error) as caught:
        merge(flow, [archive], rename=True)
    found = roots(target) if blobs else dump(target)
    assert found == before
    check_file(target)
    assert Path(archive).name in str(caught.value) or "own" in str(caught.value) or blobs, str(caught.value)
    return caught.value


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_archive(target, archive, share):
    """However much of it there is; not a byte is changed in it."""
    data = content(archive)
    Path(archive).write_bytes(data[: int(len(data) * share)])
    before = content(archive)
    refused(target, archive, DataException)
    assert content(archive) == before
    assert sorted(os.listdir(archive.parent)) == ["archive.db", "runs.db", "target.db"]


def test_random_damage_is_noticed_or_harmless(target, archive, tmp_path):
    """Whatever byte is changed: what is imported is what was exported, or nothing is."""
    data = content(archive)
    said = everything(archive)
    chance = incompressible(400, 5)
    for number in range(40):
        position = int.from_bytes(chance[4 * number : 4 * number + 4]) % len(data)
        changed = bytearray(data)
        changed[position] ^= 1 + chance[number] % 255
        Path(archive).write_bytes(changed)
        mine = tmp_path / "mine.db"
        shutil.copy(target, mine)
        with FlowDataStore(FLOW, ds_root=mine) as flow:
            try:
                merge(flow, [archive])
            except DataException:
                assert rows(mine, "SELECT * FROM held") == [], position
                continue
        there = everything(mine)
        for name, flow_said in said.items():
            for run, facts in flow_said.items():
                assert run == "data" or there[name][run] == facts, position


def test_a_newer_version(target, archive):
    """Of a version that this one does not know."""
    connection = apsw.Connection(str(archive))
    connection.pragma("user_version", 99)
    connection.close()
    assert "99" in str(refused(target, archive, NewerFormat))


def test_a_database_of_another_program_and_one_with_a_trigger(target, archive):
    """Nothing of it is run."""
    connection = apsw.Connection(str(archive))
    connection.execute("CREATE TRIGGER evil AFTER INSERT ON run BEGIN DELETE FROM blob; END")
    connection.close()
    refused(target, archive)
    other = archive.parent / "other.db"
    connection = apsw.Connection(str(other))
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    refused(target, other, NotAStore)


# Files whose digests are all right: who doctors one can make them


def doctored(path: Path, make) -> Path:
    """Make a file by the owners of the tables, who take any name."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "theirs", x=2)
        tables = tables_of(flow)
        tables.blobs.put([payload_of(b"")])
        make(tables)
    return path


def attempt(tables: Tables, flow=FLOW, run="9", step="a", task="1", number=0, name="x", key=KEY, size=0):
    """Insert a done attempt."""
    artifact = (name, key_of(key), size, "<class 'int'>", "pickle-v5", None, None)
    with tables.database.write() as connection:
        tables.tasks.insert(connection, flow, run, [AttemptRecord(step, task, number, 1.0, 2.0, "3", (artifact,))])


def metadatum(tables: Tables, name="note", value="1"):
    """Insert a metadatum."""
    with tables.database.write() as connection:
        tables.metadata.insert(connection, FLOW, "9", [MetadataRecord("a", "1", 0, name, value)])


BAD = ["..", ".", "", "a\x1b[2Jb", "line\nbreak", "x" * 300, "\u2028"]
DOCTORED = {
    **{f"flow {name[:9]!r}": (lambda tables, name=name: attempt(tables, flow=name)) for name in [*BAD, "a/b"]},
    **{f"run {name[:9]!r}": (lambda tables, name=name: attempt(tables, run=name)) for name in BAD},
    **{f"step {name[:9]!r}": (lambda tables, name=name: attempt(tables, step=name)) for name in [*BAD, "a/b"]},
    **{f"task {name[:9]!r}": (lambda tables, name=name: attempt(tables, task=name)) for name in [*BAD, "../../x"]},
    **{f"artifact {name[:9]!r}": (lambda tables, name=name: attempt(tables, name=name)) for name in [*BAD, "a/b"]},
    "a huge attempt": lambda tables: attempt(tables, number=2**40),
    **{f"metadatum {name[:9]!r}": (lambda tables, name=name: metadatum(tables, name)) for name in [*BAD, "a/b"]},
    **{
        f"value {value[:9]!r}": (lambda tables, value=value: metadatum(tables, value=value))
        for value in ["", "{", "[" * 10**5]
    },
    **{
        f"file {path[-12:]!r}": (
            lambda tables, path=path: tables.files.save(path, payload_of(b"evil"), None, overwrite=True)
        )
        for path in [
            "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/\x1b[2J", f"{FLOW}/theirs/../mine/x", "",
            f"mf.cards/{FLOW}/runs/mine/steps/a/tasks/1/cards/default.html", f"{FLOW}/mine/a/1/0.data.json",
        ]
    },
    "step of a provider": lambda tables: tables.registrations.add_task(FLOW, "9", "a\x1b", "1", None, 1),
    "task of a provider": lambda tables: tables.registrations.add_task(FLOW, "9", "a", "../x", None, 1),
}  # fmt: skip


@pytest.mark.parametrize("what", DOCTORED)
def test_names_and_paths_that_nothing_of_ours_has(tmp_path, target, what):
    """Names that write to a terminal or lead elsewhere, attempts beyond counting, values that are no JSON."""
    path = doctored(tmp_path / "doctored.db", DOCTORED[what])
    assert sorted(rows(target, "SELECT path FROM file")) == [("mine",)]
    refused(target, path)
    assert rows(target, "SELECT * FROM held") == []


@pytest.mark.parametrize("what", ["artifact", "log", "file"])
def test_sizes_that_lie(tmp_path, target, what):
    """A row that claims another size than its blob has; nothing stays held for the import that failed."""
    path = doctored(tmp_path / "doctored.db", lambda tables: attempt(tables, run="theirs", step="b"))
    with FlowDataStore(FLOW, ds_root=path) as flow:
        flow.get_task_datastore("theirs", "b", "1", attempt=1, mode="w").save_logs("task", {"stdout": b"text"})
        flow._storage_impl.save_file(f"mf.cards/{FLOW}/runs/theirs/x", payload_of(b"card"))
    if what == "artifact":
        artifact = ("x", key_of(KEY), 17, "<class 'int'>", "pickle-v5", None, None)
        of = (FLOW, "theirs", "b", "1", 0, 1.0, 2.0, "3", digest_of(artifact))
        with tampering(path) as connection:
            connection.execute("UPDATE artifact SET size = 17 WHERE size = 0")
            connection.execute("UPDATE attempt SET artifacts_digest = ?, digest = ? WHERE step = 'b' AND number = 0",
                               (of[-1], digest_of(*of)))  # fmt: skip
    elif what == "log":
        [(key,)] = rows(path, "SELECT b.key FROM log l JOIN blob b ON b.id = l.blob")
        found = digest_of(FLOW, "theirs", "b", "1", 1, "task", "stdout", 0, key, 17)
        with tampering(path) as connection:
            connection.execute("UPDATE log SET size = 17, digest = ?", (found,))
    else:
        [(name, key)] = rows(path, "SELECT f.path, b.key FROM file f JOIN blob b ON b.id = f.blob")
        with tampering(path) as connection:
            connection.execute("UPDATE file SET size = 17, digest = ?", (digest_of(name, key, 17, None),))
    error = refused(target, path, blobs=True)
    assert "17" in str(error)
    assert rows(target, "SELECT * FROM held") == []


def test_a_blob_under_the_key_of_another(tmp_path, target):
    """Its bytes are hashed on the way; those of ours stay what they are, whatever the stranger calls so."""
    path = doctored(tmp_path / "doctored.db", lambda _: None)
    [(ours,)] = rows(target, "SELECT b.key FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.name = 'x'")
    [(theirs,)] = rows(path, "SELECT b.key FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.name = 'x'")
    [row] = rows(path, "SELECT name, size, type, encoding, preview FROM artifact")
    with tampering(path) as connection:
        connection.execute("UPDATE blob SET key = ? WHERE key = ?", (ours, theirs))
        [(python, started, done)] = connection.execute("SELECT python, started, done FROM attempt").fetchall()
        artifacts = digest_of((row[0], ours, row[1], row[2], row[3], None, row[4]))
        digest = digest_of(FLOW, "theirs", "a", "1", 0, started, done, python, artifacts)
        connection.execute("UPDATE attempt SET artifacts_digest = ?, digest = ?", (artifacts, digest))
    refused(target, path)
    with FlowDataStore(FLOW, ds_root=target) as flow:
        assert flow.get_task_datastore("mine", "a", "1")["x"] == 1


def test_bytes_are_compared_where_digests_are_equal(tmp_path, target, monkeypatch):
    """With a digest that an attacker has made to collide, the content that comes is another: never shared."""
    from sqlitestore import blob_reader

    path = doctored(tmp_path / "doctored.db", lambda _: None)
    [(ours,)] = rows(target, "SELECT b.key FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.name = 'x'")
    with FlowDataStore(FLOW, ds_root=path) as theirs, FlowDataStore(FLOW, ds_root=target) as mine:

        class Colliding:
            """A source whose blob has, by its hash, our key."""

            def open(self, key):
                return blob_reader.InlineReader(b"other bytes")

        class Weak:
            def __init__(self, *_args, **_options):
                pass

            def update(self, data):
                pass

            def digest(self):
                return ours

            def hexdigest(self):
                return ours.hex()

        monkeypatch.setattr("sqlitestore.blobs.hasher_for", lambda _: Weak())
        before = dump(target)
        with pytest.raises(Damaged):
            tables_of(mine).blobs.copy(Colliding(), [ours.hex()])
        assert dump(target) == before
        del theirs


def test_registrations_that_do_not_fit_together(tmp_path, target):
    """A task of a run that is not registered, which foreign keys refuse, is damage like any other."""
    path = doctored(
        tmp_path / "doctored.db", lambda tables: tables.registrations.add_task(FLOW, "theirs", "a", "1", None, 1)
    )
    with tampering(path) as connection:
        connection.execute("DELETE FROM registered_run")
    error = refused(target, path, blobs=True)
    assert "theirs" in str(error)
    assert rows(target, "SELECT * FROM held") == []
