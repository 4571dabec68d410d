"""Arrays of strings: pickled as a few large things instead of one by one, and the same again when they are loaded."""

from __future__ import annotations

import copyreg
import io
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_store import save_task
from hypothesis import given
from hypothesis import strategies as st

from sqlitestore import FlowDataStore, preview
from sqlitestore.pickle_preview import describe
from sqlitestore.pickling import PICKLE, dumps
from sqlitestore.text_arrays import FEWEST, LONGEST

COUNT = 20_000


class Name(str):
    """Text of a user's class."""

    __slots__ = ()


def pickled(value: Any) -> bytes:
    """Return the pickle that the store would keep."""
    file = io.BytesIO()
    PICKLE.serialize(value, file)
    return file.getvalue()


def array_of(items: list[Any]) -> np.ndarray[Any, Any]:
    """Return an array of just these objects."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def told_apart(items: Any) -> list[tuple[type, Any]]:
    """Return the items in a form that differs for 1, 1.0, True, and -0.0, and is the same for NaN."""
    return [(type(item), repr(item)) for item in np.asarray(items, object).ravel().tolist()]


def check_comes_back(array: np.ndarray[Any, Any]) -> bytes:
    """Check that Python's own unpickler gives the array again; return the pickle."""
    written = pickled(array)
    found = pickle.loads(written)
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape, found.flags.writeable) == (array.dtype, array.shape, True)
    assert told_apart(found) == told_apart(array)
    return written


def names(count: int, different: int) -> np.ndarray[Any, Any]:
    """Return strings, each an object of its own."""
    return array_of([f"customer {number * 7 % different:05}" for number in range(count)])


def test_strings_that_repeat_are_written_once() -> None:
    """A column of names takes a byte or two for each row, whatever their length."""
    written = check_comes_back(names(COUNT, 100))
    assert len(written) < 1.3 * COUNT
    assert written.count(b"customer") == 100
    assert len(check_comes_back(names(COUNT, 5000))) < 2 * COUNT + 5000 * 30


def test_strings_that_differ_are_written_as_one() -> None:
    """What takes the time is the number of objects in a pickle, and here it is a few."""
    written = check_comes_back(names(COUNT, COUNT))
    assert written.count(b"customer") == COUNT
    assert len(written) < COUNT * len("customer 00000\0") + 500


def test_loading_needs_numpy_alone(tmp_path: Path) -> None:
    """The artifact's bytes are a plain pickle: who takes them out of the file needs no sqlitestore."""
    (tmp_path / "repeated.pickle").write_bytes(pickled(names(COUNT, 100)))
    (tmp_path / "different.pickle").write_bytes(pickled(names(COUNT, COUNT)))
    program = """if True:
        import pickle, sys
        repeated, different = [pickle.load(open(name, "rb")) for name in ("repeated.pickle", "different.pickle")]
        print(repeated[1], len(set(repeated)), different[1], len(set(different)), "sqlitestore" in sys.modules)
    """
    shown = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["customer", "00007", "100", "customer", "00007", str(COUNT), "False"]


def shared_names(count: int, different: int) -> np.ndarray[Any, Any]:
    """Return strings of which equal ones are one object, as pandas reads them from a CSV."""
    objects = names(different, different).tolist()
    return array_of([objects[number % different] for number in range(count)])


@pytest.mark.parametrize("different", [10, 15_000])
def test_objects_that_are_shared_stay_shared(different: int) -> None:
    """What is loaded takes no more memory than what was saved, few strings or many."""
    found = pickle.loads(check_comes_back(shared_names(COUNT, different)))
    assert len(set(map(id, found))) == different


@pytest.mark.parametrize("make", [names, shared_names])
@pytest.mark.parametrize("different", [10, 5000, 9000, 15_000, COUNT])
@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_what_was_loaded_is_pickled_to_the_same_bytes(make: Any, different: int, missing: Any) -> None:
    """A flow that loads a table in each step, and saves it as it is, adds nothing."""
    array = make(COUNT, different)
    for each in (array, np.where(np.arange(COUNT) % 3, array, missing)):
        written = pickled(each)
        assert pickled(pickle.loads(written)) == written


def test_equal_tables_are_stored_once(tmp_path: Path) -> None:
    """Whether equal strings that repeat are one object or many; also when a task saves what it has loaded."""
    tables = [
        pd.DataFrame({"customer": make(COUNT, 100), "note": names(COUNT, COUNT)}) for make in (names, shared_names)
    ]
    with FlowDataStore("TestFlow", ds_root=tmp_path / "runs.db") as flow:
        for number, table in enumerate(tables):
            save_task(flow, task=str(number), table=table)
        save_task(flow, task="2", table=flow.get_task_datastore("1", "a", "0")["table"])
        readers = [flow.get_task_datastore("1", "a", str(number)) for number in range(3)]
        assert len({key for reader in readers for key in reader.keys_for_artifacts(["table"])}) == 1
        for reader in readers:
            pd.testing.assert_frame_equal(reader["table"], tables[0])


MISSING = {
    "None": None,
    "NaN": math.nan,
}


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("different", [100, COUNT])
def test_missing_strings_are_missing_again(missing: str, different: int) -> None:
    """None and NaN are what pandas has where there is no string."""
    array = names(COUNT, different)
    array[::3] = MISSING[missing]
    check_comes_back(array)


LIKE_TEXT: dict[str, Callable[[int], Any]] = {
    "a number and a truth": lambda number: [1, True, 1.0][number % 3],
    "zeros of either sign": lambda number: ["a", 0.0, -0.0][number % 3],
    "text and zeros": lambda number: [f"{number % 9}", 0.0, -0.0][number % 3] if number > 9000 else f"{number % 9}",
    "text of a class": lambda number: Name(number % 50) if number % 2 else str(number % 50),
    "text of a class, late": lambda number: Name(number % 50) if number > 9000 else str(number % 50),
    "different text of a class": lambda number: Name(number) if number > 9000 else str(number),
    "text of NumPy": lambda number: np.str_(number % 50) if number % 2 else str(number % 50),
    "lists": lambda number: [number],
    "bytes": lambda number: b"%d" % (number % 50),
    "text and numbers": lambda number: str(number % 50) if number % 2 else number % 50,
}


@pytest.mark.parametrize("kind", LIKE_TEXT)
def test_what_only_looks_like_text_is_not_taken_for_it(kind: str) -> None:
    """Items that are equal and not the same stay apart."""
    array = array_of([LIKE_TEXT[kind](number) for number in range(COUNT)])
    check_comes_back(array)


STRANGE = {
    "separators": lambda number: f"{number}\0{number}",
    "nothing": lambda number: "" if number % 2 else str(number),
    "nothing but nothing": lambda _: "",
    "half a character": lambda number: f"\ud800{number}",
    "other scripts": lambda number: f"имя 🎉 {number}",
    "long text": lambda number: f"{number} " + "x" * 3 * LONGEST,
    "lines": lambda number: f"{number}\r\n",
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("different", [50, COUNT])
def test_any_text_comes_back(kind: str, different: int) -> None:
    """Whatever is in the strings."""
    check_comes_back(array_of([STRANGE[kind](number % different) for number in range(COUNT)]))


@pytest.mark.parametrize("different", [100, COUNT])
def test_any_layout_comes_back(different: int) -> None:
    """Of more dimensions, in either order, with gaps, backwards, read-only, and with notes in its dtype."""
    array = names(COUNT, different)
    table = array.reshape(20, -1)
    read_only = array.copy()
    read_only.flags.writeable = False
    noted = array.astype(np.dtype("O", metadata={"note": 1}))
    for each in (table, table.T, np.asfortranarray(table), table[:, ::2], array[::-3], read_only, noted, array[:0]):
        written = check_comes_back(each)
        plain = pickle.loads(pickle.dumps(each, 5))
        found = pickle.loads(written)
        assert (found.strides, found.dtype.metadata) == (plain.strides, plain.dtype.metadata)


def test_few_strings_are_left_to_pickle() -> None:
    """There is nothing to gain."""
    array = names(FEWEST - 1, 10)
    assert pickled(array) == pickle.dumps(array, 5)


@pytest.mark.parametrize("array", [np.arange(5000), np.array(["a", "b"] * 5000), np.zeros(3000, "i4,f8")])
def test_other_arrays_are_pickled_as_ever(array: np.ndarray[Any, Any]) -> None:
    """Numbers, NumPy's own text, and structures."""
    assert pickled(array) == pickle.dumps(array, 5)


def test_array_that_contains_itself_comes_back() -> None:
    """What is not text may refer to anything."""
    array = names(COUNT, 100)
    array[-1] = array
    found = pickle.loads(pickled(array))
    assert found[-1] is found
    assert found[:-1].tolist() == array[:-1].tolist()


def test_array_that_is_met_twice_is_one() -> None:
    """As with any object."""
    array = names(COUNT, 100)
    first, second = pickle.loads(pickled([array, array]))
    assert first is second


def test_whoever_registers_arrays_with_copyreg_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reduction that a program registers goes first, as everywhere."""
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda array: (len, ("x" * array.ndim,)))
    assert pickle.loads(pickled(names(COUNT, 100))) == 1


ITEMS = st.one_of(st.none(), st.text(max_size=3), st.floats(), st.integers(0, 1), st.booleans(), st.text().map(Name))


@given(st.lists(st.text(max_size=3) | st.none(), min_size=1), st.lists(ITEMS), st.integers(0, 40), st.booleans())
def test_any_items_come_back(text: list[Any], others: list[Any], times: int, own: bool) -> None:
    """Text first, and then anything."""
    items = text * (FEWEST // len(text) + times) + others * times
    if own:  # each its own object
        items = [(item + " ")[:-1] if type(item) is str else item for item in items]
    check_comes_back(array_of(items))


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("different", [100, COUNT])
def test_its_preview_can_be_made_of_the_bytes(different: int, protocol: int) -> None:
    """As of what Metaflow saves, and of runs that are pulled, whose previews did not travel."""
    for array in (names(COUNT, different), names(COUNT, different).reshape(20, -1)):
        written = dumps(array, protocol)
        assert np.array_equal(pickle.loads(written), array)
        assert describe(written, len(written)) == preview.describe(array)
