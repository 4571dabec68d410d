"""Previews: small for anything, true for what is known, made without anybody's code, and read without the pickle."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter, OrderedDict
from datetime import UTC, datetime
from typing import NamedTuple

import msgpack
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_oracle import connect

from sqlitestore import FlowDataStore
from sqlitestore.preview import describe, pack, stored

calls: Counter[str] = Counter()
"""How often code of the objects below ran; each test of it begins with ``calls.clear()``."""


class CountingMeta(type):
    """A type whose own code is counted: comparing it, hashing it, printing it, asking it for its name."""

    def __eq__(cls, other):
        calls["type ==" if isinstance(other, type) else "=="] += 1
        return True

    def __hash__(cls):
        calls["type hash"] += 1
        return 0

    def __repr__(cls):
        calls["type repr"] += 1
        return "type"


def _counted(name, answer):
    def method(self, *args):
        calls[name] += 1
        return answer

    return method


METHODS = {
    "__repr__": "x" * 10_000,
    "__str__": "x" * 10_000,
    "__format__": "x" * 10_000,
    "__len__": 10**9,
    "__iter__": iter(()),
    "__getitem__": 0,
    "__bool__": False,
    "__int__": 5,
    "__index__": 5,
    "__float__": 5.0,
    "__eq__": True,
    "__getattr__": [1] * 10_000,
}

Counting = type("Counting", (), {name: _counted(name, answer) for name, answer in METHODS.items()} | {"__hash__": None})
Liar = type("Liar", (), dict(vars(Counting)) | {"__class__": property(_counted("__class__", list))})
OddType = CountingMeta("OddType", (), {name: _counted(name, answer) for name, answer in METHODS.items()})


class CountingList(list):
    """A list with code of its own."""

    __repr__ = _counted("__repr__", "")
    __len__ = _counted("__len__", 0)
    __iter__ = _counted("__iter__", iter(()))


class CountingInt(int):
    """A number with code of its own."""

    __repr__ = _counted("__repr__", "")
    __str__ = _counted("__str__", "")
    __hash__ = _counted("__hash__", 0)
    __eq__ = _counted("__eq__", False)


class CountingStr(str):
    """A text with code of its own."""

    __slots__ = ()
    __repr__ = _counted("__repr__", "")
    __str__ = _counted("__str__", "")
    __getitem__ = _counted("__getitem__", "")


class Raising:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name):
        raise ZeroDivisionError(name)

    def __repr__(self):
        raise ZeroDivisionError

    __str__ = __len__ = __iter__ = __bool__ = __repr__


class HugeRepr:
    """Says a lot."""

    def __repr__(self):
        return "x" * 10_000_000


HugeName = type("N" * 100_000, (), {})
NoModule = type("NoModule", (), {"__module__": 5})

HOSTILE = {
    "object": Counting(),
    "lying class": Liar(),
    "odd type": OddType(),
    "type itself": OddType,
    "list": CountingList([1]),
    "int": CountingInt(5),
    "str": CountingStr("x"),
    "raising": Raising(),
    "huge repr": HugeRepr(),
    "huge name": HugeName(),
    "no module": NoModule(),
    "function": len,
    "slot": HugeRepr.__repr__,
    "singleton": NotImplemented,
}
"""By name, since pytest and Hypothesis would ask the objects themselves for theirs."""


class Named(NamedTuple):
    """Stands for the hostile object of the name while Hypothesis has the value."""

    name: str


def unnamed(value):
    """Return ``value`` with the hostile objects themselves."""
    if type(value) is Named:
        return HOSTILE[value.name]
    if type(value) is dict:
        return {key: unnamed(item) for key, item in value.items()}
    return type(value)(map(unnamed, value)) if type(value) in {list, tuple} else value


def size(preview):
    """Return the preview's size [bytes], as JSON and as stored, whichever is larger."""
    packed = pack(preview)
    return max(len(json.dumps(preview, ensure_ascii=False).encode(errors="replace")), len(packed or b""))


def saved(path, value):
    """Save a value; return the preview that a reader gives, and the stored row's."""
    with FlowDataStore("Flow", ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        writer.save_artifacts([("value", value)])
        writer.init_task()
        writer.done()
        read = flow.get_task_datastore("1", "step", "1").ds_metadata["info"]["value"].get("preview", {})
    connection = connect(path)
    row = connection.execute("SELECT preview FROM artifact WHERE name = 'value'").get
    connection.close()
    return read, row


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 20_000).map(lambda bits: -(7**bits)),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=300),
    st.text(st.characters(), min_size=150),
    st.text(st.sampled_from("\ud800\udfff\0\x1b🎉é'\"\\"), max_size=400),
    st.binary(max_size=400),
    st.binary(max_size=400).map(bytearray),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
    st.sampled_from([len, type, Counter(a=1), OrderedDict(b=2), slice(1, 2), datetime.now(UTC)]),
)
NESTED = st.recursive(
    SCALARS | st.builds(Named, st.sampled_from(sorted(HOSTILE))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12),
        st.lists(inner, max_size=12).map(tuple),
        st.dictionaries(st.text(max_size=100) | st.integers() | st.binary(max_size=100), inner, max_size=12),
        st.frozensets(st.text(max_size=100) | st.integers(), max_size=12),
        st.sets(st.binary(max_size=100), max_size=12),
    ),
    max_leaves=40,
)


@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_preview_of_anything_is_small_and_plain(value):
    """Whatever is saved, its preview is below 1 KiB, made of plain values, and stored as it is."""
    preview = describe(unnamed(value))
    assert size(preview) < 1024
    assert dict(stored(pack(preview), "x", "1/train/1")) == preview
    assert json.loads(json.dumps(preview)) == preview
    assert len(preview.get("repr", "")) <= 200


@settings(max_examples=150, deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner), max_leaves=4))
def test_small_built_in_values_say_what_they_are(value):
    """A built-in value whose repr is short has that repr as its preview, and its length if it has one."""
    preview = describe(value)
    kinds = {int, float, bool, complex, type(None), str, bytes, bytearray, list, tuple, range}
    if type(value) not in kinds or "int of" in preview["repr"]:
        return
    if isinstance(value, (int, float, complex, type(None))) and (not isinstance(value, int) or abs(value) < 2**200):
        assert preview == {"repr": repr(value)}
    if isinstance(value, (str, bytes, bytearray)):
        assert preview["length"] == len(value)
        if len(repr(value)) <= 200:
            assert preview["repr"] == repr(value).encode(errors="replace").decode()
    if isinstance(value, (list, tuple)):
        assert preview["length"] == len(value)
        assert preview["repr"][0] == repr(value)[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "[]"),
        ((1,), "(1,)"),
        ({}, "{}"),
        ({"a": [1, (2,)]}, "{'a': [1, (2,)]}"),
        (set(), "set()"),
        ({5}, "{5}"),
        (frozenset({5}), "frozenset({5})"),
        (list(range(8)), "[0, 1, 2, 3, 4, 5, 6, 7]"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ([[[[1]]]], "[[[[...]]]]"),
        (range(5), "range(0, 5)"),
        (2**500, "<int of 501 bits>"),
    ],
)
def test_containers_read_like_python(value, text):
    """Containers are written like Python does, cut after eight items and four levels."""
    assert describe(value)["repr"] == text


def test_endless_container_has_an_end():
    """A list that contains itself has a preview."""
    endless: list = [1]
    endless.append(endless)
    assert describe(endless)["length"] == 2
    assert size(describe(endless)) < 1024


@pytest.mark.parametrize("name", HOSTILE)
def test_nobodys_code_runs(name):
    """Neither the value's own methods nor those of its type are called, alone or inside of built-in containers."""
    hostile = HOSTILE[name]
    calls.clear()
    for value in (hostile, [hostile], (hostile,), {"key": hostile}, {"deep": [{"deeper": hostile}]}):
        assert size(describe(value)) < 1024
    assert calls == {}


def test_keys_run_no_code():
    """Keys of a dict and members of a set are not called either."""
    key = CountingInt(5)
    values = [{key: 1}, {key}, frozenset([key])]
    calls.clear()
    for value in values:
        assert size(describe(value)) < 1024
    assert calls == {}


@pytest.mark.parametrize("name", ["object", "int", "str", "list"])
def test_column_labels_run_no_code(name):
    """Labels of a table's columns may be anybody's objects; they are not called."""
    label = HOSTILE[name]
    frame = pd.DataFrame([[1]])
    labels = np.empty(1, dtype=object)
    labels[0] = label
    frame.columns = pd.Index(labels, dtype=object)
    nested = pd.DataFrame([[1]])
    tuples = np.empty(1, dtype=object)
    tuples[0] = ("outer", label)
    nested.columns = pd.Index(tuples, dtype=object, tupleize_cols=False)
    calls.clear()
    assert describe(frame)["shape"] == [1, 1]
    assert describe(nested)["shape"] == [1, 1]
    assert calls == {}


def test_items_of_object_arrays_run_no_code():
    """What an array or a series of objects holds is not called."""
    array = np.empty(3, dtype=object)
    for index, name in enumerate(("object", "int", "raising")):
        array[index] = HOSTILE[name]
    series = pd.Series(array)
    table = pd.DataFrame({"a": series})
    calls.clear()
    for value, shape in ((array, [3]), (series, [3]), (table, [3, 1]), (array[:1].reshape(()), [])):
        assert describe(value)["shape"] == shape
    assert calls == {}


def test_a_type_that_says_it_is_of_a_library_runs_no_code():
    """A class that gives itself the name of a known library's module is somebody's code all the same."""
    for module in ("numpy", "pandas.core.frame", "polars", "pyarrow.lib", "torch"):
        pretender = type("ndarray", (), dict(vars(Counting)) | {"__module__": module})()
        calls.clear()
        assert size(describe(pretender)) < 1024
        assert calls == {}


HUGE = 1_000_000


@pytest.mark.parametrize(
    "value",
    [
        list(range(HUGE)),
        tuple(range(HUGE)),
        dict.fromkeys(range(HUGE)),
        set(range(HUGE)),
        "é" * HUGE,
        b"x" * HUGE,
        bytearray(HUGE),
        np.arange(HUGE),
        np.arange(HUGE)[::-2].reshape(2, -1).T,
        np.ma.masked_less(np.arange(HUGE), 5),
        pd.DataFrame({"a": np.arange(HUGE), "b": ["text"] * HUGE}),
        [list(range(HUGE))] * 5,
    ],
    ids=lambda value: type(value).__name__,
)
def test_huge_values_are_not_copied(value):
    """The preview of a million items needs little memory: nothing is copied, sorted or written out."""
    describe(value)  # what the libraries import or cache at the first time is not ours
    tracemalloc.start()
    preview = describe(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert preview
    assert peak < 300_000  # pandas takes 263,000 to list dtypes, whatever the length; a copy would be a million


@pytest.mark.parametrize(
    "value",
    [5, [1, "🎉"], np.arange(10), pd.DataFrame({"a": [1], "é": ["x"]}), {"nested": [{}]}],
    ids=["int", "list", "array", "frame", "dict"],
)
def test_preview_is_read_without_the_pickle(tmp_path, monkeypatch, value):
    """A reader's ds_metadata, and the row itself as msgpack, give the preview; nothing is unpickled for it."""
    monkeypatch.setattr("pickle.Unpickler", None)
    read, row = saved(tmp_path / "runs.db", value)
    assert read == describe(value) == msgpack.unpackb(row)
    assert read


def test_unknown_values_have_none(tmp_path):
    """What nothing is known of has no preview, and its row has NULL."""
    read, row = saved(tmp_path / "runs.db", datetime(2020, 1, 1, tzinfo=UTC))
    assert (read, row) == ({}, None)


def test_preview_is_what_it_was_when_saved(tmp_path):
    """The preview describes the value as it was saved, whatever is done to it afterwards."""
    value = [1, 2]
    with FlowDataStore("Flow", ds_root=tmp_path / "runs.db") as flow:
        writer = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_artifacts([("value", value)])
        value += [3] * 1000
        writer.done()
        reader = flow.get_task_datastore("1", "step", "1")
        assert reader.ds_metadata["info"]["value"]["preview"] == {"repr": "[1, 2]", "length": 2}
        assert reader["value"] == [1, 2]
