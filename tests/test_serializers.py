"""Pluggable serializers: who is asked, what is stored with the artifact, and what a reader without them is told."""

from __future__ import annotations

import pickle
from random import Random

import pytest
from sqlite_oracle import check_file, connect

from sqlitestore import (
    DataException,
    FlowDataStore,
    Serializer,
    SerializerNotFound,
    UnpicklableArtifactException,
    register_serializer,
    unregister_serializer,
)
from sqlitestore.pickling import PICKLE, SERIALIZERS, PickleSerializer


class Table:
    """What the serializers here claim: rows of bytes under a title."""

    def __init__(self, title, rows):
        self.title = title
        self.rows = rows

    def __eq__(self, other):
        return (self.title, self.rows) == (other.title, other.rows)

    __hash__ = None


class TableSerializer(Serializer):
    """Writes the title and then each row, and keeps the sizes in the info."""

    encoding = "table-v1"

    def can_serialize(self, obj):
        """Claim tables."""
        return type(obj) is Table

    def serialize(self, obj, file):
        """Write title and rows."""
        file.write(obj.title.encode())
        for row in obj.rows:
            file.write(row)
        return {"title": len(obj.title.encode()), "rows": [len(row) for row in obj.rows], "note": {"имя": [None, 1.5]}}

    def deserialize(self, file, info):
        """Read title and rows."""
        return Table(file.read(info["title"]).decode(), [file.read(size) for size in info["rows"]])


@pytest.fixture
def registered():
    """Register serializers, and take them out again after the test."""
    taken = []

    def add(serializer, *source):
        register_serializer(serializer, *source)
        taken.append(serializer)
        return serializer

    yield add
    for serializer in taken:
        unregister_serializer(serializer)


@pytest.fixture
def path(tmp_path):
    """Name the store, which has to be sound after the test."""
    yield tmp_path / "runs.db"
    check_file(tmp_path / "runs.db")


def saved(path, task="1", **artifacts):
    """Save artifacts as a task of their own; return what the reader knows of them."""
    with FlowDataStore("Flow", ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "step", task, attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts(artifacts.items())
        writer.done()
        return flow.get_task_datastore("1", "step", task).ds_metadata["info"]


def loaded(path, name, task="1"):
    """Load an artifact in a store of its own."""
    with FlowDataStore("Flow", ds_root=path) as flow:
        return flow.get_task_datastore("1", "step", task)[name]


def chunk_bytes(path):
    """Return how many bytes the chunks of the closed file take."""
    connection = connect(path)
    try:
        return connection.execute("SELECT coalesce(sum(length(bytes)), 0) FROM chunk").get
    finally:
        connection.close()


def claims(encoding_, claim=lambda obj: True):
    """Return a serializer that claims what ``claim`` says, and otherwise is pickle under another name."""

    class Claiming(PickleSerializer):
        encoding = encoding_
        also_reads = frozenset()

        def can_serialize(self, obj):
            return claim(obj)

    return Claiming()


def test_claimed_object_makes_the_round_trip(path, registered):
    """An object that a serializer claims is stored in its encoding, with its info, and comes back by it."""
    serializer = registered(TableSerializer(), "tables")
    table = Table("данные", [b"a", b"", b"c" * 300_000])
    info = saved(path, table=table, other=1)
    assert info["table"]["encoding"] == "table-v1"
    assert info["table"]["serializer_info"] == {"source": "tables", **serializer.serialize(table, NullFile())}
    assert info["table"]["size"] == len("данные".encode()) + 1 + 300_000
    assert (info["other"]["encoding"], "serializer_info" in info["other"]) == ("pickle-v5", False)
    assert loaded(path, "table") == table


class NullFile:
    """Takes everything."""

    def write(self, data):
        """Return the size."""
        return memoryview(data).nbytes


def test_stored_bytes_are_what_the_serializer_wrote(path, registered):
    """The blob of an artifact is the joined writes of its serializer, nothing around them."""
    registered(TableSerializer())
    saved(path, table=Table("t", [b"one", b"two"]))
    with FlowDataStore("Flow", ds_root=path) as flow:
        [key] = flow.get_task_datastore("1", "step", "1").keys_for_artifacts(["table"])
        assert dict(flow.load_data([key])) == {key: b"tonetwo"}


def test_pickle_of_others_is_plain(path):
    """What nobody claims is a pickle of protocol 5 that any Python reads."""
    value = {"a": [1.5, b"x" * 100_000]}
    saved(path, value=value)
    with FlowDataStore("Flow", ds_root=path) as flow:
        [key] = flow.get_task_datastore("1", "step", "1").keys_for_artifacts(["value"])
        [(_, data)] = flow.load_data([key])
    assert data[:2] == b"\x80\x05"
    assert pickle.loads(data) == value


def test_last_registered_is_asked_first(registered):
    """Of two that claim an object the one registered later gets it; pickle gets what none of them claims."""
    first = registered(claims("first", lambda obj: isinstance(obj, (int, str))))
    second = registered(claims("second", lambda obj: isinstance(obj, int)))
    assert SERIALIZERS.for_object(1)[0] is second
    assert SERIALIZERS.for_object("1")[0] is first
    assert SERIALIZERS.for_object(1.0) == (PICKLE, "")
    unregister_serializer(second)
    assert SERIALIZERS.for_object(1)[0] is first
    unregister_serializer(second)
    unregister_serializer(first)
    assert SERIALIZERS.for_object(1) == (PICKLE, "")


def test_pickle_is_asked_last(registered):
    """A serializer that claims everything leaves nothing to pickle, and what pickle wrote is still read by pickle."""
    everything = registered(claims("everything"))
    assert SERIALIZERS.for_object(object())[0] is everything
    assert SERIALIZERS.for_encoding("pickle-v5", {}) is PICKLE
    assert SERIALIZERS.for_encoding("gzip+pickle-v4", {}) is PICKLE


def test_claim_that_raises_is_passed_over(path, registered):
    """A serializer whose claim raises is skipped with a warning that names it; the artifact is saved by the next."""

    def fails(obj):
        raise ZeroDivisionError("division of a claim")

    registered(claims("next", lambda obj: isinstance(obj, int)))
    registered(claims("failing", fails))
    with pytest.warns(RuntimeWarning, match="Claiming raised ZeroDivisionError.*int.*division of a claim"):
        info = saved(path, value=5)
    assert info["value"]["encoding"] == "next"
    assert loaded(path, "value") == 5


def test_serializer_that_raises_loses_nothing_else(path, registered):
    """What serialize raises names the artifact, with the cause; nothing of the call is recorded, the task goes on."""

    class Failing(TableSerializer):
        def serialize(self, obj, file):
            file.write(b"x" * 300_000)
            raise ZeroDivisionError("half-way")

    registered(Failing())
    with FlowDataStore("Flow", ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("before", 1)])
        with pytest.raises(UnpicklableArtifactException, match=r"'bad'.*1/step/1.*half-way") as raised:
            writer.save_artifacts([("same call", 2), ("bad", Table("", []))])
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        writer.done()
        assert flow.get_task_datastore("1", "step", "1").to_dict() == {"before": 1}
    assert chunk_bytes(path) == 0


def test_deserializer_that_raises_says_where(path, registered):
    """What deserialize raises comes out as it is, with a note that names the artifact."""

    class Failing(TableSerializer):
        def deserialize(self, file, info):
            raise ZeroDivisionError

    registered(Failing())
    saved(path, table=Table("", []))
    with pytest.raises(ZeroDivisionError) as raised:
        loaded(path, "table")
    assert any("'table'" in note and "1/step/1" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("told", [[1, 2], "text", 5, {"value": object()}, {"value": 2**100}])
def test_info_that_cannot_be_stored_is_refused(path, registered, told):
    """Info that is no mapping of JSON values raises a DataException that names the artifact; the task is not done."""

    class Telling(TableSerializer):
        def serialize(self, obj, file):
            return told

    registered(Telling())
    with FlowDataStore("Flow", ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        writer.init_task()
        with pytest.raises(DataException, match="'table'"):  # noqa: PT012 - which of the two refuses is open
            writer.save_artifacts([("table", Table("", []))])
            writer.done()
        assert flow.get_latest_task_datastores("1") == []


def test_older_encodings_are_read(path, registered):
    """A serializer reads the encodings that it names in also_reads."""

    class Newer(TableSerializer):
        encoding = "table-v2"
        also_reads = frozenset({"table-v1"})

    older = registered(TableSerializer())
    saved(path, table=Table("t", [b"row"]))
    unregister_serializer(older)
    registered(Newer())
    assert loaded(path, "table") == Table("t", [b"row"])


def test_unknown_encoding_says_what_to_install(path, registered):
    """A reader without the serializer is told who wrote the artifact; the other artifacts are read as before."""
    serializer = registered(TableSerializer(), "my-tables")
    saved(path, table=Table("t", []), other=1)
    unregister_serializer(serializer)
    with pytest.raises(SerializerNotFound, match=r"'table'.*1/step/1.*'table-v1'.*install 'my-tables'") as raised:
        loaded(path, "table")
    assert isinstance(raised.value, KeyError)
    assert loaded(path, "other") == 1


def test_source_is_the_package_if_not_given(path, registered):
    """Who registers without saying a source gets that of the class's top-level module."""
    registered(TableSerializer())
    info = saved(path, table=Table("t", []))
    assert info["table"]["serializer_info"]["source"] == __name__.partition(".")[0]


@pytest.mark.parametrize("wrong", [TableSerializer, "table-v1", None, object()])
def test_only_serializers_are_registered(wrong):
    """A class, a name or anything else that is no instance of Serializer is refused."""
    with pytest.raises(TypeError) as raised:
        register_serializer(wrong)
    assert isinstance(raised.value, DataException)


@pytest.mark.parametrize("encoding_", [None, "", 5])
def test_serializer_needs_an_encoding(encoding_):
    """A serializer without the name of its format is refused."""

    class Nameless(TableSerializer):
        encoding = encoding_

    with pytest.raises(TypeError) as raised:
        register_serializer(Nameless())
    assert isinstance(raised.value, DataException)


def test_large_rows_are_stored_once(path, registered):
    """Large writes begin chunks of their own: the same row behind another title, or beside others, adds no chunk."""
    registered(TableSerializer())
    rows = [Random(seed).randbytes(3_000_000) for seed in range(3)]
    saved(path, task="1", table=Table("title", rows[:2]))
    before = chunk_bytes(path)
    saved(path, task="2", table=Table("a title of another length", [rows[1], rows[0]]))
    assert chunk_bytes(path) - before < 1000
    saved(path, task="3", table=Table("", [rows[0], rows[2], rows[1]]))
    assert abs(chunk_bytes(path) - before - 3_000_000) < 1000
    assert loaded(path, "table", task="3") == Table("", [rows[0], rows[2], rows[1]])


@pytest.mark.parametrize("size", [10, 40_000, 150_000, 200_000, 1_500_000])
def test_one_buffer_may_serve_all_writes(path, registered, size):
    """A serializer may fill one bytearray again for each write: what it held during the write counts."""

    class Reusing(TableSerializer):
        def serialize(self, obj, file):
            buffer = bytearray(size)
            for row in obj.rows:
                buffer[:] = row
                assert file.write(memoryview(buffer)) == size
            buffer[:] = bytes(size)
            return {"title": 0, "rows": [size] * len(obj.rows)}

    registered(Reusing())
    table = Table("", [Random(seed).randbytes(size) for seed in range(8)])
    saved(path, table=table)
    assert loaded(path, "table") == table


def test_reader_may_leave_bytes_unread(path, registered):
    """A serializer need not read all that it wrote, and may read in any of the three ways."""

    class Partial(TableSerializer):
        def deserialize(self, file, info):
            buffer = bytearray(4)
            return [file.readline(), file.readinto(buffer), bytes(buffer), file.read(2)]

    registered(Partial())
    saved(path, table=Table("line\n", [b"123456", b"x" * 1_000_000]))
    assert loaded(path, "table") == [b"line\n", 4, b"1234", b"56"]


def test_registered_comes_before_installed(monkeypatch, registered):
    """A serializer of an entry point is asked after those registered in code, and before pickle."""
    installed = claims("installed", lambda obj: isinstance(obj, (int, str)))
    monkeypatch.setattr(SERIALIZERS, "_found", [(installed, "somebody")])
    ours = registered(claims("ours", lambda obj: isinstance(obj, int)))
    assert SERIALIZERS.for_object(1)[0] is ours
    assert SERIALIZERS.for_object("1") == (installed, "somebody")
    assert SERIALIZERS.for_object(None) == (PICKLE, "")
    monkeypatch.undo()
    unregister_serializer(ours)
