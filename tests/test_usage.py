"""Who uses how many bytes, against figures that are computed here without the code under test."""

import os
from collections import Counter
from contextlib import closing

import apsw
import numpy as np
import pytest

from sqlitestore import Damaged, FlowDataStore, SQLiteStorage
from sqlitestore.blobs import payload_of
from sqlitestore.database import Database
from sqlitestore.maintenance import usage as usage_module
from sqlitestore.maintenance.info import info
from sqlitestore.maintenance.listing import attempt_sizes, run_summaries
from sqlitestore.maintenance.usage import SELECT_BLOB_SIZES, SELECT_CHUNK_SIZES, SELECT_USES, usage
from sqlitestore.schema import NEWEST_FORMAT


def save_task(flow, run, task, artifacts, *, step="train", attempt=0, logs=None, done=True):
    datastore = flow.get_task_datastore(run, step, task, attempt=attempt, mode="w")
    datastore.init_task()
    datastore.save_artifacts(artifacts.items())
    if logs:
        datastore.save_logs("runtime", logs)
    if done:
        datastore.done()


def noise(seed, size):
    return np.random.default_rng(seed).bytes(size)


def usage_of(path):
    with closing(SQLiteStorage(path, create=False)) as storage:
        return usage(storage.database)


def expected_usage(path):
    """Return own and shared stored bytes by user, and the totals, by brute force over the tables."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    users_of_blob = {}
    logical = Counter()
    sizes = dict(connection.execute("SELECT id, size FROM blob"))
    for table in ("artifact", "log"):
        for blob, flow, run in connection.execute(
            f"SELECT t.blob, f.name, r.name FROM {table} t, attempt a, run r, flow f"
            " WHERE t.attempt = a.id AND a.run = r.id AND r.flow = f.id"
        ):
            users_of_blob.setdefault(blob, set()).add((flow, run))
            logical[flow, run] += sizes[blob]
    for blob, flow in connection.execute("SELECT d.blob, f.name FROM data d, flow f WHERE f.id = d.flow"):
        users_of_blob.setdefault(blob, set()).add((flow, None))
        logical[flow, None] += sizes[blob]
    for (blob,) in connection.execute("SELECT blob FROM file"):
        users_of_blob.setdefault(blob, set()).add((None, None))
        logical[None, None] += sizes[blob]
    pieces = [
        (size, len(stored), users_of_blob.get(blob, set()))
        for blob, size, stored in connection.execute("SELECT id, size, bytes FROM blob WHERE bytes IS NOT NULL")
    ]
    for chunk, size, stored in connection.execute("SELECT id, size, bytes FROM chunk").fetchall():
        blobs = connection.execute("SELECT blob FROM blob_chunk WHERE chunk = ?", (chunk,)).fetchall()
        pieces.append((size, len(stored), set().union(*(users_of_blob.get(blob, set()) for (blob,) in blobs))))
    connection.close()
    own, shared = Counter(), Counter()
    for _, stored, users in pieces:
        for user in users:
            (own if len(users) == 1 else shared)[user] += stored
    unique = sum(size for size, _, users in pieces if users)
    stored = sum(stored for _, stored, users in pieces if users)
    unreferenced = sum(stored for _, stored, users in pieces if not users)
    return own, shared, logical, (sum(logical.values()), unique, stored, unreferenced)


def a_store_of_everything(path):
    """Make a store with large and small blobs, shared and not, in artifacts, logs, data and files."""
    shared, start = noise(0, 2_000_000), noise(1, 600_000)
    with FlowDataStore("A", ds_root=path) as flow, FlowDataStore("B", ds_root=path) as other:
        save_task(flow, "1", "1", {"x": shared, "own": noise(2, 300_000), "small": "s", "zeros": bytes(900_000)})
        save_task(flow, "1", "2", {"x": shared, "again": shared, "small": "s"}, logs={"stdout": b"a log\n"})
        save_task(flow, "2", "1", {"x": shared, "tail": start + noise(3, 400_000)}, logs={"stdout": b"a log\n"})
        save_task(flow, "2", "2", {"tail": start + noise(4, 400_000)}, logs={"stderr": noise(7, 200_000)})
        save_task(other, "1", "1", {"x": shared, "text": "one line\n" * 50_000, "tail": start + noise(5, 500_000)})
        save_task(other, "9", "1", {"lost": noise(6, 500_000)}, done=False)
        flow.save_data([noise(8, 150_000), b"little"])
        other.save_data([b"little"])
        flow._storage_impl.save_file("cards/1.html", payload_of(noise(9, 120_000)))


def test_usage_agrees_with_a_count_by_brute_force(tmp_path):
    """Own and shared bytes of each run, data and files, and all totals are those of a direct count."""
    path = str(tmp_path / "a.db")
    a_store_of_everything(path)
    own, shared, logical, totals = expected_usage(path)
    found = usage_of(path)
    users = [*found.runs, *found.data, found.files]
    assert {(user.flow_name, user.run_id) for user in users} == {
        ("A", "1"), ("A", "2"), ("B", "1"), ("B", "9"), ("A", None), ("B", None), (None, None)
    }  # fmt: skip
    for user in users:
        name = user.flow_name, user.run_id
        assert (user.own, user.shared, user.logical) == (own[name], shared[name], logical[name]), name
    assert (found.logical, found.unique, found.stored, found.unreferenced) == totals
    assert found.file == os.path.getsize(path)
    assert found.records == found.file - found.stored - found.unreferenced - found.free > 0


def test_what_many_sets_of_owners_need_is_settled_in_parts(tmp_path, monkeypatch):
    """The sums are the same when chunks of different owners are settled again and again to bound the memory."""
    path = str(tmp_path / "a.db")
    a_store_of_everything(path)
    at_once = usage_of(path)
    monkeypatch.setattr(usage_module, "DIFFERENT_OWNERS", 1)
    assert usage_of(path) == at_once


def test_an_array_in_two_runs_is_shared_and_stored_once(tmp_path):
    """Two runs that save the same incompressible array each report it as shared, and dedup saves it once."""
    path, array = str(tmp_path / "a.db"), np.random.default_rng(0).random(500_000)
    with FlowDataStore("F", ds_root=path) as flow:
        save_task(flow, "1", "1", {"x": array})
        save_task(flow, "2", "1", {"x": array})
    found = usage_of(path)
    assert [run.own for run in found.runs] == [0, 0]
    for run in found.runs:
        assert 4_000_000 <= run.shared <= run.logical < 4_001_000
    assert found.logical == 2 * found.unique


def test_compression_is_told_apart_from_dedup(tmp_path):
    """Bytes that compress well, saved by one run, are saved by compression and not by dedup."""
    path = str(tmp_path / "a.db")
    text = "".join(f"line {number}\n" for number in range(100_000))
    with FlowDataStore("F", ds_root=path) as flow:
        save_task(flow, "1", "1", {"text": text})
    found = usage_of(path)
    assert found.logical == found.unique > len(text)
    assert found.stored < found.unique / 2
    assert found.runs[0].own == found.stored


def test_unreferenced_bytes_belong_to_nobody(tmp_path):
    """What an attempt that is not done saved is counted as unreferenced."""
    path = str(tmp_path / "a.db")
    with FlowDataStore("F", ds_root=path) as flow:
        save_task(flow, "1", "1", {"x": noise(0, 300_000)}, done=False)
    found = usage_of(path)
    assert found.unreferenced >= 300_000
    assert (found.logical, found.unique, found.stored) == (0, 0, 0)


def test_an_empty_store_uses_nothing(tmp_path):
    """A store without runs has no users and no bytes of content."""
    path = str(tmp_path / "a.db")
    SQLiteStorage(path).close()
    found = usage_of(path)
    assert (found.runs, found.data, found.files, found.stored) == ([], [], None, 0)


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.calls = []
        self.total = self.done = 0

    def start(self, label, total, unit):
        """Remember the total."""
        self.calls.append("start")
        self.total = total

    def advance(self, amount):
        """Add up."""
        self.done += amount

    def finish(self):
        """Remember the end."""
        self.calls.append("finish")


def test_progress_reaches_its_total(tmp_path):
    """The amounts that usage reports add up to the total that it announced."""
    path = str(tmp_path / "a.db")
    a_store_of_everything(path)
    recorder = Recorder()
    with closing(SQLiteStorage(path)) as storage:
        usage(storage.database, recorder)
    assert recorder.calls == ["start", "finish"]
    assert recorder.done == recorder.total > 0


@pytest.mark.parametrize("statement", [SELECT_USES, SELECT_BLOB_SIZES, SELECT_CHUNK_SIZES])
def test_usage_sorts_nothing(tmp_path, statement):
    """SQLite takes the rows in the order of its indexes: a million artifacts need no sort and no whole-table copy."""
    with closing(Database(str(tmp_path / "a.db"))) as database:
        plan = [row[3] for row in database.query(f"EXPLAIN QUERY PLAN {statement}")]
    assert not [step for step in plan if "TEMP B-TREE" in step and "group_concat" not in step], plan


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM blob WHERE codec IS NOT NULL",
        "DELETE FROM blob WHERE codec IS NULL",
        "DELETE FROM run WHERE name = '2'",
    ],
)
def test_rows_that_refer_to_nothing_are_damage(tmp_path, damage):
    """Where a blob or run is missing that others refer to, the answer is an error and not a wrong sum."""
    path = str(tmp_path / "a.db")
    a_store_of_everything(path)
    connection = apsw.Connection(path)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(damage)
    connection.close()
    with pytest.raises(Damaged):
        usage_of(path)


def test_info_counts_what_is_there(tmp_path):
    """The facts about a store name its identity and count rows of each kind."""
    path = str(tmp_path / "a.db")
    a_store_of_everything(path)
    with closing(SQLiteStorage(path)) as storage:
        facts = info(storage.database)
    counts = facts.counts
    assert (counts.flows, counts.runs, counts.tasks, counts.attempts) == (2, 4, 6, 6)
    assert (counts.artifacts, counts.logs, counts.data, counts.files) == (13, 3, 3, 1)
    assert (facts.format, facts.kind, facts.path) == (NEWEST_FORMAT, "live", path)
    assert facts.file_size == facts.pages * facts.page_size or facts.log_size > 0


def test_a_task_counts_by_its_latest_attempt(tmp_path):
    """Of a retried task the latest started attempt decides; a False ``_task_ok`` makes a done task a failed one."""
    path = str(tmp_path / "a.db")
    with FlowDataStore("F", ds_root=path) as flow, FlowDataStore("Empty", ds_root=path) as empty:
        save_task(flow, "1", "1", {"a": 1})
        save_task(flow, "1", "2", {"a": 1}, done=False)
        save_task(flow, "1", "2", {"a": 1, "_task_ok": True}, attempt=1)
        save_task(flow, "1", "3", {"a": 1})
        save_task(flow, "1", "3", {}, attempt=1, done=False)
        save_task(flow, "1", "4", {"_task_ok": False}, step="end")
        flow.get_task_datastore("1", "end", "5", attempt=0, mode="w").save_logs("runtime", {"stdout": b"waiting"})
        empty.save_data([b"x"])
    with closing(SQLiteStorage(path)) as storage:
        flows = run_summaries(storage.database)
        [run] = flows["F"]
        assert (run.steps, run.tasks, run.done, run.running, run.failed) == (2, 5, 2, 1, 1)
        assert run.started < run.finished
        assert flows["Empty"] == []
        assert run_summaries(storage.database, "F") == {"F": [run]}
        sizes = attempt_sizes(storage.database, "F", "1", "end")
        assert {key: size.failed for key, size in sizes.items()} == {("end", "4", 0): True, ("end", "5", 0): False}
        assert attempt_sizes(storage.database, "F", "1")["train", "2", 1].artifacts == 2
