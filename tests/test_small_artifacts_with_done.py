"""Small artifacts wait in memory and go into the file with the done marker: all or nothing, and nothing is lost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import apsw
import pytest
from helpers_store import FLOW, assert_sound, incompressible, rows, save_task, tampering
from xxhash import xxh3_128_digest

from sqlitestore import AttemptDone, BlobNotFound, Damaged, DataException, FlowDataStore, StoreClosed, verify
from sqlitestore import blobs as blobs_module
from sqlitestore.crash_points import set_hook
from sqlitestore.maintenance.compact import compact
from sqlitestore.maintenance.prune import plan_prune, prune
from sqlitestore.small_blobs import OVERHEAD, ROOM
from sqlitestore.testing.base import together
from sqlitestore.testing.memory import MemoryStorage

SMALL = {"number": 1, "text": "some text", "nothing": None}
LARGE = incompressible(200_000)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Name a file."""
    return str(tmp_path / "runs.db")


@pytest.fixture
def flow(path: str) -> Iterator[FlowDataStore]:
    """Open an empty store."""
    with FlowDataStore(FLOW, ds_root=path) as opened:
        yield opened


def writer_of(flow: FlowDataStore, task: str = "1", **artifacts: Any) -> Any:
    """Return the writer of an attempt that has saved the artifacts."""
    writer = flow.get_task_datastore("1", "a", task, attempt=0, mode="w")
    writer.init_task()
    writer.save_artifacts(artifacts.items())
    return writer


def values(flow: FlowDataStore, task: str = "1") -> dict[str, Any]:
    """Return what a done task holds."""
    return dict(flow.get_task_datastore("1", "a", task).to_dict())


def count(path: str, table: str) -> int:
    """Return how many rows a table has."""
    return int(rows(path, f"SELECT COUNT(*) FROM {table}")[0][0])


def held(path: str) -> dict[bytes, int]:
    """Return how often each key is held."""
    return dict(rows(path, "SELECT key, count FROM held"))


# All or nothing


def test_a_small_task_is_two_transactions(flow: FlowDataStore, path: str) -> None:
    """Its start is one, and its artifacts with the done marker are the other; nothing is held on the way."""
    passed: list[str] = []
    set_hook(passed.append)
    try:
        writer = writer_of(flow, **SMALL)
        assert count(path, "blob") == count(path, "held") == 0
        writer.done()
    finally:
        set_hook(None)
    assert passed.count("after-commit") == 2
    assert values(flow) == SMALL
    assert count(path, "held") == 0


@pytest.mark.parametrize("point", ["attempt-blobs-inserted", "attempt-artifacts-inserted", "before-commit"])
def test_a_done_that_fails_writes_nothing_and_can_be_repeated(flow: FlowDataStore, path: str, point: str) -> None:
    """Whatever fails within the transaction, nothing of it stays; what waits is still there for the next time."""

    def fail(passed: str) -> None:
        if passed == point:
            raise apsw.FullError("database or disk is full")

    writer = writer_of(flow, large=LARGE, **SMALL)
    set_hook(fail)
    try:
        with pytest.raises(DataException):
            writer.done()
    finally:
        set_hook(None)
    assert count(path, "blob") == count(path, "held") == 1  # the large one
    assert count(path, "artifact") == 0
    assert not flow.get_latest_task_datastores("1")
    writer.done()
    assert values(flow) == {"large": LARGE, **SMALL}
    assert count(path, "held") == 0


def test_what_the_other_of_two_writers_saved_is_not_written(flow: FlowDataStore, path: str) -> None:
    """The attempt is done by another meanwhile: AttemptDone, again and again, and the file is as it was."""
    late = writer_of(flow, **SMALL)
    save_task(flow, x="first")
    before = count(path, "blob")
    for _ in range(2):
        with pytest.raises(AttemptDone):
            late.done()
    assert count(path, "blob") == before
    assert values(flow) == {"x": "first"}


def test_a_writer_that_is_dropped_leaves_nothing(flow: FlowDataStore, path: str) -> None:
    """What waits is lost with it; nobody could have seen it."""
    writer = writer_of(flow, **SMALL)
    [key] = {key for name, key in writer.items() if name == "text"}
    del writer
    gc.collect()
    assert count(path, "blob") == count(path, "held") == 0
    with pytest.raises(BlobNotFound):
        list(flow.load_data([key]))


def test_only_what_the_attempt_refers_to_is_written(flow: FlowDataStore, path: str) -> None:
    """An artifact saved again under its name replaces the first; a call that fails records nothing."""
    writer = writer_of(flow, x="replaced")

    def failing() -> Iterator[tuple[str, Any]]:
        yield "y", "not recorded"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.save_artifacts(failing())
    writer.save_artifacts([("x", "in its place"), ("same", "in its place")])
    writer.done()
    assert values(flow) == {"x": "in its place", "same": "in its place"}
    assert count(path, "blob") == 1


def test_saving_into_a_closed_store_is_refused_at_once(path: str) -> None:
    """Also if nothing would be written yet."""
    flow = FlowDataStore(FLOW, ds_root=path)
    writer = writer_of(flow, **SMALL)
    flow.close()
    with pytest.raises(StoreClosed):
        writer.save_artifacts([("more", 1)])
    with pytest.raises(StoreClosed):
        writer.done()


# The bound of what waits


def test_what_waits_is_bounded(flow: FlowDataStore, path: str) -> None:
    """About a MiB of small content waits for an attempt; the rest goes in at once, held, as what is large does."""
    size = 30_000
    many = {f"x{number}": incompressible(size, number) for number in range(60)}
    writer = writer_of(flow, **many)
    waiting = writer._in_progress._pending.waiting
    assert ROOM - 2 * size < sum(len(data) + OVERHEAD for data in waiting.values()) <= ROOM
    assert count(path, "blob") == count(path, "held") == 60 - len(waiting)
    writer.save_artifacts([("x0", incompressible(size, 0)), ("more", incompressible(size, 99)), ("large", LARGE)])
    assert len(waiting) < 36
    writer.done()
    assert values(flow) == {**many, "more": incompressible(size, 99), "large": LARGE}
    assert count(path, "held") == 0
    assert not writer._in_progress._pending.waiting
    assert verify(flow).ok


# Holds


def test_holds_of_another_writer_of_the_process_stay(flow: FlowDataStore, path: str) -> None:
    """Each attempt lets go of what it held itself: not of what another holds under the same key."""
    one, two, small = writer_of(flow, "1", x=LARGE), writer_of(flow, "2", x=LARGE), writer_of(flow, "3", x=None)
    [key] = held(path)
    assert held(path) == {key: 2}
    small._objects["x"] = key.hex()  # without having put it
    small.done()
    assert held(path) == {key: 2}
    one.done()
    assert held(path) == {key: 1}
    two.done()
    assert held(path) == {}
    assert values(flow, "1") == values(flow, "2") == values(flow, "3") == {"x": LARGE}


def test_what_is_saved_twice_under_a_name_is_let_go_of(flow: FlowDataStore, path: str) -> None:
    """An artifact that was replaced before done is not held for ever."""
    writer = writer_of(flow, x=LARGE)
    writer.save_artifacts([("x", incompressible(200_000, 2))])
    assert len(held(path)) == 2
    writer.done()
    assert held(path) == {}


def test_a_clone_holds_for_itself(flow: FlowDataStore, path: str) -> None:
    """Of two clones of one task the first that is done lets go of its own hold only."""
    save_task(flow, large=LARGE)
    [origin] = flow.get_latest_task_datastores("1")
    clones = [flow.get_task_datastore("2", "a", str(number), attempt=0, mode="w") for number in range(2)]
    for clone in clones:
        clone.init_task()
        clone.clone(origin)
    assert list(held(path).values()) == [2]
    clones[0].done()
    assert list(held(path).values()) == [1]
    clones[1].done()
    assert held(path) == {}


# What sees the artifacts of an attempt that is not done


def test_the_writer_reads_what_it_saved(flow: FlowDataStore, path: str) -> None:
    """Before done, and after."""
    writer = writer_of(flow, large=LARGE, **SMALL)
    for _ in range(2):
        assert {name: writer[name] for name in writer} == {"large": LARGE, **SMALL}
        assert dict(writer.load_artifacts(["number", "nothing"])) == {"number": 1, "nothing": None}
        if not flow.get_latest_task_datastores("1"):
            writer.done()
    assert held(path) == {}


def test_the_store_has_what_an_unfinished_attempt_saved(flow: FlowDataStore, path: str) -> None:
    """A key of it can be loaded, opened and looked for through the same store, and the attempt goes on."""
    writer = writer_of(flow, **SMALL, large=LARGE)
    keys = dict(writer.items())
    assert len(dict(flow.load_data(list(keys.values())))) == 4
    other = writer_of(flow, "2", text="opened")
    with flow.ca_store.open_blob(other._objects["text"]) as file:
        assert b"opened" in file.read()
    third = writer_of(flow, "3", text="looked for")
    assert flow._storage_impl.has_blobs(FLOW, [third._objects["text"], "0" * 32]) == [True, False]
    for each in (writer, other, third):
        each.done()
    assert values(flow) == {**SMALL, "large": LARGE}
    assert values(flow, "2") == {"text": "opened"}
    assert held(path) == {}


@pytest.mark.parametrize("same_store", [True, False])
@pytest.mark.parametrize("how", ["clone", "passdown_partial"])
def test_an_unfinished_attempt_is_handed_down(flow: FlowDataStore, path: str, how: str, same_store: bool) -> None:
    """Whoever takes over its artifacts may be done first, or be the only one; also through another store object."""
    origin = writer_of(flow, large=LARGE, **SMALL)
    with FlowDataStore(FLOW, ds_root=path) as other:
        heir = (flow if same_store else other).get_task_datastore("1", "a", "heir", attempt=0, mode="w")
        heir.init_task()
        heir.clone(origin) if how == "clone" else heir.passdown_partial(origin, [*SMALL, "missing"])
        compact(other)
        heir.done()
    expected = SMALL if how == "passdown_partial" else {"large": LARGE, **SMALL}
    assert values(flow, "heir") == expected
    origin.done()
    assert values(flow) == {"large": LARGE, **SMALL}
    assert held(path) == {}


def test_an_unfinished_attempt_is_transferred(flow: FlowDataStore, path: str, tmp_path: Path) -> None:
    """Into another file; there its blobs are let go of when the attempt that took them is done."""
    origin = writer_of(flow, large=LARGE, **SMALL)
    with FlowDataStore(FLOW, ds_root=tmp_path / "other.db") as other:
        heir = other.get_task_datastore("1", "a", "1", attempt=0, mode="w")
        heir.init_task()
        heir.transfer_artifacts(origin)
        heir.clone(origin)
        heir.done()
        assert values(other) == {"large": LARGE, **SMALL}
    assert rows(tmp_path / "other.db", "SELECT * FROM held") == []
    origin.done()
    assert held(path) == {}


def test_a_flow_is_persisted_with_what_its_datastore_holds(flow: FlowDataStore, path: str) -> None:
    """The datastore may be the writer itself, as in Metaflow's task, or another that is not done."""

    class Flow:
        _EPHEMERAL = frozenset({"_datastore"})

    for task, datastore in (("2", writer_of(flow, "1", **SMALL)), ("3", None)):
        writer: Any = flow.get_task_datastore("1", "a", task, attempt=0, mode="w")
        writer.init_task()
        if datastore is None:
            writer.save_artifacts(SMALL.items())
        instance: Any = Flow()
        instance._datastore = datastore or writer
        instance.extra = "own"
        writer.persist(instance)
        writer.done()
        assert values(flow, task) == {**SMALL, "extra": "own"}


def test_a_look_that_fails_can_be_repeated(flow: FlowDataStore, path: str) -> None:
    """What waits and was to be read goes on waiting if it could not be put; the attempt is done all the same."""

    def fail(passed: str) -> None:
        if passed == "before-commit":
            raise apsw.FullError("database or disk is full")

    writer = writer_of(flow, **SMALL)
    set_hook(fail)
    try:
        with pytest.raises(DataException):
            writer["text"]
    finally:
        set_hook(None)
    assert count(path, "blob") == 0
    assert writer["text"] == SMALL["text"]
    assert len(held(path)) == 3
    writer.done()
    assert held(path) == {}
    assert values(flow) == SMALL


def test_threads_read_what_others_are_about_to_finish(flow: FlowDataStore, path: str) -> None:
    """At each moment a key that was given can be read, and in the end nothing is held."""
    saved: list[list[str]] = []
    finished = Event()

    def work(number: int) -> int:
        reads = 0
        if number < 2:
            for task in range(40):
                writer = writer_of(flow, f"{number} {task}", own=[number, task], same=None)
                saved.append(list(dict(writer.items()).values()))
                writer.done()
            return 80
        while not finished.is_set() or not reads:
            if saved:
                reads += len(dict(flow.load_data(saved[-1])))
        return reads

    def watched(number: int) -> int:
        try:
            return work(number)
        finally:
            if number < 2:
                finished.set()

    outcomes = together(4, watched)
    assert all(isinstance(outcome, int) and outcome for outcome in outcomes), outcomes
    assert held(path) == {}
    assert len(flow.get_latest_task_datastores("1")) == 80


# Upkeep between save and done


def test_upkeep_between_save_and_done_takes_nothing(flow: FlowDataStore, path: str) -> None:
    """Content that a run shared goes with the run; the attempt that has it waiting brings it again."""
    save_task(flow, "old", large=LARGE, **SMALL)
    writer = writer_of(flow, large=LARGE, **SMALL)
    prune(flow, plan_prune(flow, [f"{FLOW}/old"]))
    compact(flow)
    compact(flow, full=True)
    writer.done()
    assert values(flow) == {"large": LARGE, **SMALL}
    assert verify(flow).ok


# Equal keys


def _digest(data: bytes) -> bytes:
    return bytes(16) if b"collides" in data else xxh3_128_digest(data)


class _Hasher(bytearray):
    """A hash that an attacker has broken."""

    update = bytearray.extend

    def digest(self) -> bytes:
        """Return the same for whatever has the word in it."""
        return _digest(bytes(self))

    def hexdigest(self) -> str:
        """Return the same in digits."""
        return self.digest().hex()


def _collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything with the word in it under one key."""
    monkeypatch.setattr(blobs_module, "xxh3_128_digest", _digest)
    monkeypatch.setattr(blobs_module, "xxh3_128", _Hasher)


def test_a_collision_found_with_done_writes_nothing(
    flow: FlowDataStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored bytes are compared: Damaged names the key, the transaction goes back, another value can be saved."""
    _collide(monkeypatch)
    save_task(flow, "old", x="collides, 1")
    for other in ("collides, 2", "collides, and is longer"):
        writer = writer_of(flow, other, x=other, y="new")
        for _ in range(2):
            with pytest.raises(Damaged, match="0" * 32):
                writer.done()
        assert count(path, "blob") == 1
        writer = writer_of(flow, other, x="collides, 1", y=1)
        with pytest.raises(Damaged):
            writer.save_artifacts([("x", other)])
    writer.done()
    assert flow.get_task_datastore("old", "a", "1")["x"] == "collides, 1"
    assert values(flow, "collides, and is longer") == {"x": "collides, 1", "y": 1}


def test_after_a_collision_something_else_can_be_saved(flow: FlowDataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What collided is no longer written once its name has another value."""
    _collide(monkeypatch)
    save_task(flow, "old", x="collides, 1")
    writer = writer_of(flow, x="collides, 2", y="new", large=LARGE)
    with pytest.raises(Damaged):
        writer.done()
    writer.save_artifacts([("x", "another")])
    writer.done()
    assert values(flow) == {"x": "another", "y": "new", "large": LARGE}


def test_the_same_content_in_another_encoding_is_shared(flow: FlowDataStore, path: str) -> None:
    """A blob that was stored by another codec has the same bytes all the same."""
    text = "again and again " * 100
    writer = writer_of(flow, x=text)
    with FlowDataStore(FLOW, ds_root=path) as other:
        save_task(other, "old", x=text)
    [(key, size)] = rows(path, "SELECT key, size FROM blob")
    raw = flow._storage_impl.open_blob(FLOW, key.hex()).__enter__().read()
    with tampering(path) as connection:
        connection.execute("UPDATE blob SET codec = 0, bytes = ?", (raw,))
    writer.done()
    assert values(flow) == {"x": text}
    assert rows(path, "SELECT size FROM blob") == [(size,)]
    assert_sound(path)


def test_a_damaged_blob_is_not_shared(flow: FlowDataStore, path: str) -> None:
    """Bytes that changed under a key are found where an attempt would refer to them."""
    writer = writer_of(flow, x="whole")
    save_task(flow, "old", x="whole")
    with tampering(path) as connection:
        connection.execute("UPDATE blob SET bytes = zeroblob(length(bytes))")
    with pytest.raises(Damaged):
        writer.done()
    assert [each.run_id for each in flow.get_latest_task_datastores("old")] == ["old"]
    assert not flow.get_latest_task_datastores("1")


# Other storages


def test_a_storage_of_somebody_else_puts_at_once() -> None:
    """One that says nothing of attempts in progress works as ever."""
    with FlowDataStore(FLOW, storage_impl=MemoryStorage) as flow:
        writer = writer_of(flow, large=LARGE, **SMALL)
        assert all(flow._storage_impl.has_blobs(FLOW, list(writer._objects.values())))
        heir = flow.get_task_datastore("1", "a", "heir", attempt=0, mode="w")
        heir.init_task()
        heir.clone(writer)
        for each in (heir, writer):
            each.done()
        assert values(flow) == values(flow, "heir") == {"large": LARGE, **SMALL}
