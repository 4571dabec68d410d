"""Previews from a pickle's bytes: those of the object, or a part of them; no code runs, and no bytes cost much."""

from __future__ import annotations

import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlitestore import preview
from sqlitestore.pickle_preview import FRAMED, MAX_OPCODES, describe

PROTOCOLS = [2, 3, 4, 5]
MIB = 1 << 20


class Plain:
    """An object of a user's class."""

    class Inner(list):
        """Its name has a dot."""


class Point(NamedTuple):
    """A tuple of a user's class."""

    x: int


class Called:
    """Its pickle calls a function of the user's, or anybody's."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def endless(kind):
    """Return a list that contains itself, within a ``kind``."""
    inner: list = []
    inner.append(kind([inner, 1, 2, 3]))
    return inner


def of_head(value, protocol):
    """Return the preview made of the value's pickle."""
    pickled = pickle.dumps(value, protocol=protocol)
    return describe(pickled, len(pickled))


SCALARS = [None, True, False, 0, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63, -(2**399), 2**401, -(7**3000)]
SCALARS += [0.0, -0.0, 1.5, 1e300, float("inf"), float("nan"), 1j, complex(float("-inf"), -0.0)]
TEXTS = ["", "é", "'\"\\\n", "x" * 199, "x" * 200, "x" * 201, "\ud800", "🎉" * 300, "é" * 70_000]
TEXTS += [b"", b"ab", b"\xff\0" * 300, b"x" * 70_000, bytearray(), bytearray(b"ab"), bytearray(b"x" * 70_000)]
CONTAINERS = [[], [1], list(range(8)), list(range(9)), list(range(2500)), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
CONTAINERS += [{}, {1: 2}, {"a": [1, (2,)], (1, "b"): None}, {n: str(n) for n in range(2500)}, [[[[1]]]], [[[[]]]]]
CONTAINERS += [set(), {5}, set("abcdefghijkl"), set(range(0, 10**6, 997)), frozenset(), frozenset(map(str, range(20)))]
CONTAINERS += [[{1, 2}, frozenset({3}), set(), range(3), 1j, b"x", bytearray(b"y"), 2**500], ["x" * 100] * 9, [[]] * 9]
CONTAINERS += [range(5), range(0, -(10**30), -7), endless(list), endless(tuple), [endless(list)] * 3, {"k" * 300: 1}]
OBJECTS = [[Plain()], (Point(1),), {"a": Plain()}, [Plain()] * 30, {Point(2): Plain()}]
OBJECTS += [[datetime(2020, 1, 1, tzinfo=UTC), date(2020, 1, 1), timedelta(1)], [Decimal("1.5"), Fraction(1, 3)]]
OBJECTS += [[OrderedDict(a=1), Counter("aa"), defaultdict(list), deque()], [np.arange(3), np.rec.array([(1,)])]]
OBJECTS += [[[[pd.Series([1])]]], reduce(lambda inner, _: [inner] * 8, range(10), Plain()), [{"a": [Plain()] * 2}] * 2]
ALONE = [Plain(), Point(1), len, Plain, np.float64, np.dtype("i4"), date(2020, 1, 1), Counter()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_preview_of_the_bytes_is_that_of_the_object(protocol):
    """What built-in values give as objects, their pickles give as bytes, user's objects in containers included."""
    nested = [[Plain.Inner([1])]] if protocol >= 4 else []  # before, its pickle calls getattr
    for value in SCALARS + TEXTS + CONTAINERS + OBJECTS + ALONE + nested:
        assert of_head(value, protocol) == preview.describe(value), repr(value)[:80]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("item", [len, Called(int, ("5",)), ValueError("x"), object(), np.float64(1), pd.Timestamp(0)])
def test_item_of_unknown_type_leaves_the_length(protocol, item):
    """An item that only the pickle's code could name leaves the length, and the text if it is not shown."""
    assert of_head([1, item], protocol) == {"length": 2}
    shown = [*range(9), item]
    assert of_head(shown, protocol) == {"repr": "[0, 1, 2, 3, 4, 5, 6, 7, ...]", "length": 10}


TEXT = st.text(max_size=300) | st.text(st.sampled_from("\ud800\udfff\0\x1b🎉é'\"\\"), max_size=400)
SCALAR = st.none() | st.booleans() | st.integers() | st.integers(0, 2000).map(lambda bits: -(7**bits)) | st.floats()
SCALAR |= st.complex_numbers() | TEXT | st.binary(max_size=400) | st.binary(max_size=400).map(bytearray)
SCALAR |= st.builds(range, st.integers(), st.integers(), st.integers(1))
KEY = st.text(max_size=100) | st.integers() | st.binary(max_size=100) | st.tuples(st.floats())


def containers(inner):
    """Return containers of what ``inner`` gives."""
    lists = st.lists(inner, max_size=12)
    return lists | lists.map(tuple) | st.dictionaries(KEY, inner, max_size=12) | st.sets(KEY) | st.frozensets(KEY)


@settings(max_examples=200, deadline=None)
@given(st.recursive(SCALAR, containers, max_leaves=40), st.sampled_from(PROTOCOLS))
def test_any_built_in_value_has_its_own_preview(value, protocol):
    """Whatever built-in values are nested, the pickle gives the object's preview."""
    assert of_head(value, protocol) == preview.describe(value)


def test_head_may_be_a_view_of_anything():
    """The head may be a view, of bytes that change later or of another format; what is not contiguous gives nothing."""
    pickled = pickle.dumps([1, 2], protocol=4)
    expected = {"repr": "[1, 2]", "length": 2}
    buffer = bytearray(pickled)
    assert describe(memoryview(buffer), len(pickled)) == expected
    buffer.clear()  # raises BufferError if the view were kept
    assert describe(memoryview(pickled).cast("b"), len(pickled)) == expected
    assert describe(memoryview(pickled)[::2], len(pickled)) == {}


PLAIN_DTYPES = "bool i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c16 >i2 >u8 >f4 >c16"
OTHER_DTYPES = "c8 f16 S5 U3 >U2 M8[ns] m8[s] M8[D]"


def layouts(dtype):
    """Return arrays of the dtype in many layouts, and a scalar."""
    array = (np.arange(24) % 7).astype("i1").astype(dtype)
    table = array.reshape(2, 3, 4)
    arrays = [array[:0], array[:6], array[:7], array[::-3], table, table.T, table[:, ::2], table[:, :0]]
    arrays += [np.asfortranarray(table[0]), array[:1].reshape(()), array[3], array.copy()]
    arrays[-1].flags.writeable = False
    return arrays


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", PLAIN_DTYPES.split())
def test_array_of_plain_dtype_has_its_own_preview(protocol, dtype):
    """Arrays of numbers in any layout, and scalars, give shape, dtype and first items as the objects do."""
    for array in layouts(dtype):
        assert of_head(array, protocol) == preview.describe(array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", OTHER_DTYPES.split())
def test_array_of_other_dtype_says_shape_and_dtype(protocol, dtype):
    """Arrays of what is not decoded give all but the items."""
    for array in layouts(dtype):
        expected = preview.describe(array)
        expected.pop("repr", None)
        assert of_head(array, protocol) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_that_are_no_plain_ones_give_what_is_certain(protocol):
    """Structures give the shape; masked arrays, records and tables give nothing; 40 dimensions have no items."""
    assert of_head(np.array([1, "a"], dtype=object), protocol) == {"shape": [2], "dtype": "object"}
    assert of_head(np.zeros(2, dtype=[("x", "i4")]), protocol) == {"shape": [2]}
    assert of_head(np.zeros((1,) * 40), protocol) == {"shape": [1] * 40, "dtype": "float64"}
    assert of_head(np.array([1, 2], dtype="M8[25s]"), protocol) == {"shape": [2]}
    axes = np.zeros((2, 3, 4)).transpose(1, 0, 2)  # some versions of NumPy pickle it by a call of its own in protocol 5
    assert of_head(axes, protocol).items() <= preview.describe(axes).items()
    for value in (np.ma.masked_equal([1, 2], 1), np.rec.array([(1,)]), pd.Series([1]), pd.DataFrame({"a": [1]})):
        assert of_head(value, protocol) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_choices_from_arrays_give_nothing(protocol):
    """Only whole numbers that choose from one dimension tell the shape."""
    items, table = np.arange(4.0), np.zeros((4, 3))
    for chosen in ((table, np.array([1, 2], "u1")), (items, items > 2), (items, slice(2)), (items, [1, 2])):
        assert of_head(Called(operator.getitem, chosen), protocol) == {}
    shape = {"shape": [2, 1], "dtype": "object"}
    assert of_head(Called(operator.getitem, (items.astype(object), np.array([[1], [2]], "u1"))), protocol) == shape


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
def test_floats_are_written_as_numpy_does(dtype):
    """Floats of any size are written like NumPy's, or not at all where its versions differ."""
    bits = np.random.default_rng(7).integers(0, 256, 40_000, dtype="u1").view(dtype)
    scaled = (np.random.default_rng(8).normal(size=3000) * 100).round(2).astype(dtype)
    powers = np.ldexp(1.0, np.arange(-140, 120)) if dtype != "f2" else np.ldexp(1.0, np.arange(-24, 16))
    written = 0
    for value in (*bits[:3000], *scaled, *powers.astype(dtype), *np.array([0.1, 1e-4, 999.5, 1 / 3], dtype=dtype)):
        got = of_head(value, 4)
        assert got.get("repr", str(value)[:24]) == str(value)[:24]
        written += "repr" in got
    assert written > 3500


def test_heads_of_any_length_say_nothing_wrong():
    """Cut anywhere, the pickle of a value gives a part of the value's preview, and never raises."""
    large = [np.arange(9000), "é" * 40_000, b"x" * 70_000, bytearray(70_000), ("x" * 70_000,), [b"x" * 70_000, 1]]
    for protocol in PROTOCOLS:
        for value in [*SCALARS, *OBJECTS, *ALONE, *layouts("f8"), *layouts("U3"), *CONTAINERS, *large]:
            pickled = pickle.dumps(value, protocol=protocol)
            expected = preview.describe(value)
            size = len(pickled)
            for cut in {*range(min(size, 300)), *range(max(size - 40, 0), size + 1), *range(0, size, size // 20 + 1)}:
                assert describe(memoryview(pickled)[:cut], size).items() <= expected.items()


def neighbours(large):
    """Return values whose pickles begin like that of ``large``."""
    yield from ((large,), (large, None), (large, 5), (large, 5, 6), (large, "abcd"), (large, 1.5), (large, large))
    yield from ([large], {"a": large}, Called(len, (large,)), Called(Plain, (), {"state": large}))
    for length in range(30):
        yield (large, "x" * length)
        yield (large, b"x" * length, None)
        yield (large, (0,) * length)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("large", ["x" * 2 * FRAMED, b"x" * 2 * FRAMED, bytearray(2 * FRAMED), np.zeros(2 * FRAMED)])
def test_head_of_what_holds_a_large_value_is_not_taken_for_it(protocol, large):
    """A tuple of one to three items begins like its first item: its head gives nothing, whatever else is in it."""
    for value in neighbours(large):
        for pickler in (pickle.dumps, pickle._dumps):  # in C, in Python
            pickled = pickler(value, protocol=protocol)
            assert describe(pickled[:FRAMED], len(pickled)) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("cut", [1000, FRAMED, MIB])
def test_head_of_a_large_value_is_enough(protocol, cut):
    """The head of text gives its beginning; that of bytes the length too; that of an array all, up to protocol 4."""
    for pickler in (pickle.dumps, pickle._dumps):
        for value, keys in (("é" * MIB, {"repr"}), (b"\xff" * 2 * MIB, {"repr", "length"})):
            pickled = pickler(value, protocol=protocol)
            if protocol > 2 or type(value) is str:  # bytes are a call of a text in protocol 2
                expected = {key: item for key, item in preview.describe(value).items() if key in keys}
                assert describe(pickled[:cut], len(pickled)) == expected
        for dtype in ("f4", "i8", "M8[s]"):
            array = np.arange(2 * MIB).astype(dtype).reshape(2, -1)
            pickled = pickler(array, protocol=protocol)
            expected = preview.describe(array)
            if dtype == "M8[s]":
                del expected["repr"]
            unknown = protocol == 2 or (protocol == 5 and dtype != "M8[s]")
            assert describe(pickled[:cut], len(pickled)) == ({} if unknown else expected)


def test_head_of_a_large_array_in_columns_leaves_the_items():
    """Items of a Fortran array that lie behind the head are left out, those within are shown."""
    array = np.asfortranarray(np.arange(2.0 * MIB).reshape(-1, 8))
    pickled = pickle.dumps(array, protocol=4)
    expected = {"shape": [MIB // 4, 8], "dtype": "float64"}
    assert describe(pickled[:MIB], len(pickled)) == expected
    assert describe(pickled, len(pickled)) == preview.describe(array)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]), st.integers(0, 1 << 40))
def test_any_bytes_are_described(tail, head, size):
    """Any bytes give a mapping of the known keys, below 1 KiB."""
    described = describe(head + tail, size)
    assert set(described) <= {"repr", "length", "shape", "dtype"}
    assert len(preview.pack(described) or b"") < 1024


HARMLESS = {("builtins", "range"), ("builtins", "complex"), ("_codecs", "encode")}
ORDERED = [[1, 2, (3, 4.5, "x"), [[]] * 3, [b"ab", "é"]], (1, [], ()), range(3), 1j, b"ab", 2**70, [None, True, False]]


class Careful(pickle._Unpickler):
    """Unpickles what calls nothing that could harm."""

    def find_class(self, module, name):
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(name)
        return super().find_class(module, name)


OPCODES = st.sampled_from(b".(012]})tuesabqrhjK\x85\x86\x87\x94N\x88\x89RC\x8c")
EDITS = st.tuples(st.integers(0, 200), st.sampled_from(["replace", "remove", "insert"]), st.integers(0, 255) | OPCODES)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(ORDERED), st.sampled_from(PROTOCOLS), st.lists(EDITS, min_size=1, max_size=3))
def test_damaged_pickles_say_what_they_load_as(value, protocol, edits):
    """A pickle with bytes changed gives a part of the preview of what it loads as, if it loads."""
    damaged = bytearray(pickle.dumps(value, protocol=protocol))
    for place, edit, byte in edits:
        begin = place % (len(damaged) + 1)
        damaged[begin : begin + (edit != "insert")] = b"" if edit == "remove" else bytes([byte])
    described = describe(bytes(damaged), len(damaged))
    if pickle.BYTEARRAY8 in damaged:
        return  # it may ask for any amount of memory
    try:
        after = Careful(io.BytesIO(damaged)).load()
    except Exception:
        return
    if "{" not in repr(after) and "set(" not in repr(after):  # it is believed that a pickler wrote those
        assert described.items() <= preview.describe(after).items()


RAN: list[str] = []


def ran(*_):
    """Note that a pickle ran code."""
    RAN.append("ran")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickle_that_runs_code_runs_none(protocol, tmp_path):
    """What a pickle names is neither called nor imported, wherever it stands."""
    made = tmp_path / "made"
    sys.modules.pop("this", None)
    calls = [Called(os.system, (f"touch {made}",)), Called(eval, (f"open({str(made)!r}, 'w')",)), Called(ran, ())]
    calls += [Called(ran, (), {"state": 1}), Called(getattr, (Plain(), "x")), Called(Plain, (), None, iter([1]))]
    RAN.clear()
    for call in calls:
        assert of_head(call, protocol) == {}
        assert of_head([call, call], protocol) == {"length": 2}
        assert of_head({"key": (call,)}, protocol) == {"length": 1}
        assert of_head(np.array([call], dtype=object), protocol) == {"shape": [1], "dtype": "object"}
    assert describe(b"\x80\x04cthis\ns\n.", 11) == {}
    assert (RAN, made.exists(), "this" in sys.modules) == ([], False, False)


def test_known_names_with_odd_arguments_are_not_called():
    """Calls of what is known give nothing unless the arguments are those that a pickler writes."""
    for call in (b"bytearray\nJ\xff\xff\xff\x7f\x85", b"range\nK\x00K\x01K\x00\x87", b"complex\n\x8c\x012\x85"):
        pickled = b"\x80\x04cbuiltins\n" + call + b"R."
        assert describe(pickled, len(pickled)) == {}


ARRAY = b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
HALF = b"X" + struct.pack("<I", MIB // 2) + b"x" * (MIB // 2) + b"\x94"
BIG = b"\x8b" + struct.pack("<I", MIB // 2) + b"\x7f" * (MIB // 2) + b"\x94"
BOMBS = {
    "nothings": b"\x80\x04" + b"N" * MIB,
    "lists": b"\x80\x04" + b"]" * MIB,
    "marks": b"\x80\x04" + b"(" * MIB,
    "deep tuple": b"\x80\x04)" + b"\x85" * 200_000 + b".",
    "deep list": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep calls": b"\x80\x02)" + b"q\x00cx\ny\nh\x00R\x85" * 25_000 + b".",
    "deep states": b"\x80\x02cx\ny\n)\x81" + b"q\x00cx\ny\n)\x81h\x00b" * 25_000 + b".",
    "shared lists": b"\x80\x02]" + b"q\x00](" + b"h\x00" * 8 + b"e" + (b"q\x00](" + b"h\x00" * 8 + b"e") * 8000 + b".",
    "shared tuples": b"\x80\x02)" + b"q\x00h\x00\x86" * 60_000 + b".",
    "shared key": b"\x80\x02}()" + b"q\x00h\x00\x86" * 60_000 + b"Nu.",
    "colliding keys": b"\x80\x04}(%bu."
    % b"".join(b"\x8a\x0a%bN" % ((i << 61) - i).to_bytes(10, "little") for i in range(70_000)),
    "copies": b"\x80\x04" + HALF.replace(b"X", b"B", 1) + b"(" + b"cbuiltins\nbytearray\nh\x00\x85R" * 15_000 + b"t.",
    "texts": b"\x80\x04" + HALF + b"(" + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R" * 15_000 + b"t.",
    "long names": b"\x80\x04" + HALF + b"(" + b"h\x00h\x00\x930" * 60_000 + b"t.",
    "shared sets": b"\x80\x02](" + b"N" * 100_000 + b"eq\x00(" + b"cbuiltins\nset\nh\x00\x85R" * 6000 + b"t.",
    "false length": b"\x80\x04\x8d" + b"\xff" * 8 + b"x" * 100,
    "negative length": b"\x80\x04\x8b\xff\xff\xff\xff" + b"x" * 100,
    "large memo": b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", (i << 18) % 2**32) for i in range(200_000)) + b".",
    "long range": b"\x80\x04cbuiltins\nrange\n" + BIG + b"h\x00h\x00\x87R.",
    "long shape": ARRAY + b"(" + BIG + b"h\x00" * 100_000 + b"tNNC\x00tb.",
    "deep order": ARRAY + b"K\x06\x85N)" + b"\x85" * 200_000 + b"C\x00tb.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_time(name):
    """A MiB of hostile bytes takes little time, and does not overflow any stack."""
    begin = time.process_time()
    described = describe(BOMBS[name], len(BOMBS[name]))
    assert time.process_time() - begin < 3  # 0.3 s where nothing else runs
    assert len(preview.pack(described) or b"") < 1024


@pytest.mark.parametrize(
    "name", ["lists", "deep tuple", "colliding keys", "copies", "texts", "long names", "long shape"]
)
def test_bombs_take_little_memory(name):
    """A MiB of hostile bytes takes less than 40 MB."""
    tracemalloc.start()
    describe(BOMBS[name], len(BOMBS[name]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000


def test_too_long_programs_have_no_preview():
    """A pickle of more opcodes than are followed gives nothing."""
    assert of_head([None] * (MAX_OPCODES + 1), 4) == {}


def test_numpy_and_pandas_are_not_needed():
    """Arrays are described in a process that has neither NumPy nor pandas."""
    pickled = pickle.dumps(np.arange(10), protocol=4)
    code = f"""
import sys
sys.modules["numpy"] = sys.modules["pandas"] = None
from sqlitestore.pickle_preview import describe
print(describe({pickled!r}, {len(pickled)}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(describe(pickled, len(pickled)))
    assert "'dtype': 'int64'" in ran.stdout
