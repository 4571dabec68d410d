"""Previews of arrays and tables: any layout and dtype, wide ones, columns of several levels, what a mask hides."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sqlitestore.preview import describe, pack


def size(preview):
    """Return the preview's size [bytes], as JSON and as stored, whichever is larger."""
    packed = pack(preview)
    return max(len(json.dumps(preview, ensure_ascii=False).encode(errors="replace")), len(packed or b""))


ARRAYS = {
    "plain": (np.arange(6, dtype="i4").reshape(2, 3), [2, 3], "int32", "[0, 1, 2, 3, 4, 5]"),
    "long": (np.arange(100), [100], "int64", "[0, 1, 2, 3, 4, 5, ...]"),
    "empty": (np.empty((0, 5)), [0, 5], "float64", "[]"),
    "zero-dimensional": (np.array(1.5), [], "float64", "1.5"),
    "scalar": (np.float32(1.5), [], "float32", "1.5"),
    "fortran": (np.asfortranarray(np.arange(6).reshape(2, 3)), [2, 3], "int64", "[0, 1, 2, 3, 4, 5]"),
    "backwards": (np.arange(6)[::-2], [3], "int64", "[5, 3, 1]"),
    "complex": (np.array([1 + 2j]), [1], "complex128", "[(1+2j)]"),
    "text": (np.array(["a", "é"]), [2], "<U1", "[a, é]"),
    "dates": (np.array(["2020-01-02"], dtype="M8[D]"), [1], "datetime64[D]", "[2020-01-02]"),
    "swapped": (np.array([1, 2], dtype=">f8"), [2], ">f8", "[1.0, 2.0]"),
    "structured": (np.zeros(2, dtype=[("x", "i4"), ("y", "f8")]), [2], "[('x', '<i4'), ('y', '<f8')]", None),
    "object": (np.array([1, "a"], dtype=object), [2], "object", None),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_says_shape_dtype_and_beginning(name):
    """An array of any layout and dtype gives shape and dtype, and its first items where they are plain."""
    array, shape, dtype, text = ARRAYS[name]
    expected = {"shape": shape, "dtype": dtype} | ({} if text is None else {"repr": text})
    assert describe(array) == expected


def test_masked_items_are_not_shown():
    """What a mask hides is not in the preview."""
    preview = describe(np.ma.masked_equal([123456, 7], 123456))
    assert preview["shape"] == [2]
    assert "123456" not in preview["repr"]
    assert "7" in preview["repr"]


def test_arrays_of_any_shape_and_dtype_are_small():
    """Many dimensions, long texts and large structures stay below 1 KiB, and shape and dtype are kept."""
    for array in (
        np.zeros((1,) * 64),
        np.array(["x" * 100_000] * 10),
        np.array("🎉" * 100_000),
        np.zeros(1, dtype=[(f"field {index} " + "n" * 50, "f8") for index in range(500)]),
        np.array([b"\xff" * 100_000] * 10),
    ):
        preview = describe(array)
        assert size(preview) < 1024
        assert pack(preview) is not None
        assert preview["shape"] == list(array.shape)


def test_frame_says_its_columns():
    """A frame gives shape, length, and names and dtypes of its columns, categorical and object ones included."""
    frame = pd.DataFrame(
        {"n": [1, 2], 5: [0.5, None], "c": pd.Categorical(["a", "b"]), "o": [[], {}], "t": pd.to_datetime([0, 1])}
    )
    preview = describe(frame)
    assert (preview["shape"], preview["length"]) == ([2, 5], 2)
    assert [name for name, _ in preview["columns"]] == ["n", "5", "c", "o", "t"]
    assert [dtype for _, dtype in preview["columns"]][:4] == ["int64", "float64", "category", "object"]


@pytest.mark.parametrize("name", ["column {}", "é" * 500 + "{}"], ids=["short", "long"])
def test_wide_frame_says_its_first_columns(name):
    """Of ten thousand columns the first are named, with their true dtypes; the shape says how many there are."""
    width = 10_000
    frame = pd.DataFrame(np.zeros((1, width)), columns=[name.format(index) for index in range(width)])
    preview = describe(frame)
    assert size(preview) < 1024
    assert preview["shape"] == [1, width]
    assert 1 <= len(preview["columns"]) <= 20
    assert [label for label, _ in preview["columns"]] == [
        name.format(index)[:60] for index in range(len(preview["columns"]))
    ]


def test_columns_of_several_levels_are_named():
    """Columns of a MultiIndex give their levels; rows of one change nothing."""
    columns = pd.MultiIndex.from_product([["mean", "std"], ["x", "y"]])
    rows = pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])
    preview = describe(pd.DataFrame(np.zeros((2, 4)), columns=columns, index=rows))
    assert preview["shape"] == [2, 4]
    assert len(preview["columns"]) == 4
    assert all(part in preview["columns"][1][0] for part in ("mean", "y"))


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame(index=range(3)), pd.DataFrame({"a": []})])
def test_empty_frames_have_a_shape(frame):
    """A frame without rows, or without columns, gives its shape."""
    assert describe(frame)["shape"] == list(frame.shape)


def test_columns_of_one_name_are_told_apart():
    """Two columns of the same name are two."""
    frame = pd.DataFrame([[1, "a"]], columns=["x", "x"])
    assert [name for name, _ in describe(frame)["columns"]] == ["x", "x"]


@pytest.mark.parametrize(
    "value",
    [
        pd.Series([1.5, 2.5]),
        pd.Series(["a", "b"], dtype="category"),
        pd.Series([1, None], dtype="Int64"),
        pd.Index([1, 2]),
        pd.date_range("2020", periods=2),
    ],
)
def test_series_and_indexes_say_dtype_and_length(value):
    """A series or an index gives dtype and length."""
    preview = describe(value)
    assert (preview["dtype"], preview["length"], preview["shape"]) == (str(value.dtype), 2, [2])
