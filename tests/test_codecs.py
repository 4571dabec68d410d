"""How chunks are encoded: what each codec is taken for, and that every one gives back what went in."""

from __future__ import annotations

import random
import sys
from array import array
from itertools import accumulate
from typing import Any

import numpy  # noqa: F401 - loaded, as where arrays are
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlitestore import codecs
from sqlitestore.codecs import RAW, SHUFFLED, ZSTD
from sqlitestore.errors import Damaged

CHOICE = random.Random(1)
COUNT = 40_000

CONTENT: dict[str, tuple[int, bytes]] = {
    "little": (RAW, b"small"),
    "noise": (RAW, CHOICE.randbytes(8 * COUNT)),
    "noise of some kilobytes": (RAW, CHOICE.randbytes(20_000)),
    "text": (ZSTD, b"".join(b"line %d of a text\n" % number for number in range(COUNT))),
    "zeros": (ZSTD, bytes(8 * COUNT)),
    "noise and zeros": (ZSTD, b"".join(CHOICE.randbytes(2000) + bytes(2000) for _ in range(COUNT // 500))),
    "whole numbers": (SHUFFLED, array("q", (CHOICE.randrange(1000) for _ in range(COUNT))).tobytes()),
    "a few whole numbers": (SHUFFLED, array("q", (CHOICE.randrange(1000) for _ in range(1000))).tobytes()),
    "numbers of 4 bytes": (SHUFFLED, array("i", (CHOICE.randrange(5000) for _ in range(COUNT))).tobytes()),
    "measured values": (SHUFFLED, array("d", (round(CHOICE.gammavariate(2, 20), 1) for _ in range(COUNT))).tobytes()),
    "a random walk": (SHUFFLED, array("q", accumulate(CHOICE.randrange(-5, 6) for _ in range(COUNT))).tobytes()),
    "times": (SHUFFLED, array("q", range(1_577_836_800 * 10**9, 1_577_836_800 * 10**9 + COUNT)).tobytes()),
}


@pytest.mark.parametrize("name", CONTENT)
def test_each_content_gets_the_codec_that_suits_it(name: str) -> None:
    """Noise stays as it is, what repeats itself is compressed, and numbers are shuffled before."""
    expected, data = CONTENT[name]
    codec, stored = codecs.encode(data)
    assert codec == expected
    assert codecs.decode(codec, bytes(stored), len(data)) == data
    if codec == RAW:
        assert stored is data
    if codec == SHUFFLED:
        most = codecs.AS_SMALL if name == "a random walk" else 0.9
        assert len(stored) < most * len(codecs.compress(data, ZSTD)[1])


@given(data=st.binary(max_size=100), times=st.integers(1, 100), cut=st.integers(0, 20))
def test_numpy_changes_no_stored_byte(data: bytes, times: int, cut: int) -> None:
    """It puts the bytes of numbers apart where it is loaded. Were they other bytes, they would be stored twice."""
    content = (data * times)[cut:]
    assert "numpy" in sys.modules
    stored = codecs.compress(content, SHUFFLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numpy", None)
        assert codecs.compress(content, SHUFFLED) == stored


@pytest.mark.parametrize("codec", [RAW, ZSTD, SHUFFLED])
@given(data=st.binary(max_size=100), times=st.integers(1, 100), cut=st.integers(0, 20))
def test_any_bytes_come_back(codec: int, data: bytes, times: int, cut: int) -> None:
    """Also those that are no whole number of numbers, and where there is nothing."""
    content = (data * times)[cut:]
    found, stored = codecs.compress(content, codec)
    assert found in {codec, RAW}  # what does not get smaller stays as it is
    assert codecs.decode(found, bytes(stored), len(content)) == content


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers_are_encoded_as_bytes_are(kind: Any) -> None:
    """The callers have chunks of several types."""
    for _, data in CONTENT.values():
        codec, stored = codecs.encode(kind(data))
        assert (codec, bytes(stored)) == codecs.encode(data)


def test_what_is_shuffled_is_what_the_format_says() -> None:
    """The first bytes of all numbers, then the second ones, ..., then what is left, in one frame of zstd."""
    data = bytes(range(240)) * 50 + b"left"
    [first, *_, last] = (data[place : 50 * 240 : 8] for place in range(8))
    shuffled = codecs.zstd.decompress(codecs.compress(data, SHUFFLED)[1])
    assert len(shuffled) == len(data)
    assert shuffled.startswith(first)
    assert shuffled.endswith(last + b"left")


@pytest.mark.parametrize("codec", [ZSTD, SHUFFLED])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored[:-3], "does not end after its 8000 bytes"),
        (lambda stored: stored + b"x", "more behind its frame"),
        (lambda stored: b"x" + stored, "cannot be decoded"),
        (lambda stored: codecs.zstd.compress(bytes(7999)), "has 7999 bytes where 8000 belong"),
        (lambda stored: codecs.zstd.compress(bytes(10**7)), "does not end after its 8000 bytes"),
    ],
)
def test_a_damaged_frame_is_noticed(codec: int, change: Any, message: str) -> None:
    """Whatever was done to it, and nothing but the size that was asked for is unpacked."""
    found, stored = codecs.compress(array("q", range(1000)).tobytes(), codec)
    assert found == codec
    with pytest.raises(Damaged, match=message):
        codecs.decode(codec, change(stored), 8000)


@pytest.mark.parametrize("codec", [3, -1, 2.5, None, "2", b"2"])
def test_an_unknown_codec_is_damage(codec: Any) -> None:
    """A column may hold anything in a forged file."""
    with pytest.raises(Damaged, match="unknown codec"):
        codecs.decode(codec, b"stored", 6)


@pytest.mark.parametrize("codec", [RAW, ZSTD, SHUFFLED])
@pytest.mark.parametrize(("stored", "size"), [("text", 4), (None, 0), (5, 5), (b"x", -1), (b"x", "1"), (b"x", None)])
def test_other_types_are_damage(codec: int, stored: Any, size: Any) -> None:
    """So is a row whose columns are none of a chunk's."""
    with pytest.raises(Damaged, match="a chunk is a"):
        codecs.decode(codec, stored, size)


def test_numbers_are_put_in_order_in_the_same_memory() -> None:
    """What was there before does not show through, and what is larger than any chunk of ours has memory of its own."""
    sizes = (800, 80_001, 0, 7, 240_000, 8 * 2**18 + 3)
    for values in (lambda number: 2**62 - number, lambda number: number % 7):
        for size in sizes:
            data = array("q", map(values, range(size // 8 + 1))).tobytes()[:size]
            stored = codecs._shuffled(data)
            found = codecs.unshuffled(stored, size)
            assert bytes(found) == data
            assert found.nbytes == size


def test_an_interrupted_frame_does_not_get_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two blocks of a chunk leaves a compressor in the middle of a frame; it is not used again."""
    _, data = CONTENT["whole numbers"]
    expected = codecs.encode(data)
    true = codecs._compressor()

    class Interrupted:
        FLUSH_BLOCK, FLUSH_FRAME = true.FLUSH_BLOCK, true.FLUSH_FRAME
        calls = 0

        def compress(self, block: bytes, mode: int) -> Any:
            self.calls += 1
            if self.calls == 5:
                raise KeyboardInterrupt
            return true.compress(block, mode)

    codecs._local.compressor = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        codecs.compress(data, SHUFFLED)
    assert codecs.encode(data) == expected
    assert codecs._compressor() is not true
