"""Fuzzed parsers of bytes: msgpack, codecs, chunking, pickles and what is looked up in them without unpickling."""

from __future__ import annotations

import pickle
import random
import sys
from array import array
from contextlib import contextmanager
from typing import Any

import msgpack
from fuzz_engine import Target, peak_of
from sqlite_oracle import unshuffled
from xxhash import xxh3_128

from sqlitestore import chunking, codecs, pickle_preview, pickling, preview
from sqlitestore.blob_reader import ChunkedReader
from sqlitestore.errors import Damaged
from sqlitestore.remote.included import with_urls

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 2**20


def check_msgpack(data: bytes) -> str:
    """A stored description is Damaged, or the map of text keys that packs back to the same; memory is bounded."""
    found, peak = peak_of(lambda: preview.unpack(data))
    assert peak <= 2 * MIB + 200 * len(data), f"{len(data)} bytes took {peak:,} bytes of memory"
    if isinstance(found, Damaged):
        return "damaged"
    assert isinstance(found, dict)
    assert all(isinstance(name, str) for name in found), f"names that are no text: {found!r:.100}"
    again = msgpack.unpackb(msgpack.packb(found, unicode_errors="surrogatepass"), unicode_errors="surrogatepass")
    assert repr(again) == repr(found)
    preview.pack(found)
    return "map"


def check_codec(data: bytes) -> str:
    """Stored bytes are Damaged, or the right size and what zstd itself says; memory follows the size that is asked."""
    codec, size, stored = data[0] % 4 if data else 0, int.from_bytes(data[1:9], "little", signed=True), data[9:]
    found, peak = peak_of(lambda: codecs.decode(codec, stored, size))
    # zstd makes buffers as they fill, and the last of them are joined; what was shuffled is put in order, then copied.
    assert peak <= 4 * max(0, min(size, 2**40)) + MIB, f"size {size} took {peak:,} bytes of memory"
    if isinstance(found, Damaged):
        return "damaged"
    assert type(found) is bytes
    assert len(found) == size
    unpacked = stored if codec == 0 else zstd.decompress(stored)[:size]
    assert found == (unshuffled(unpacked) if codec == 2 else unpacked)
    return "decoded"


def frames() -> list[bytes]:
    """Return small frames with right and wrong sizes, and one that becomes far larger than it says."""
    made = []
    for content, size in ((b"text " * 200, 1000), (b"text " * 200, 999), (bytes(8 * MIB), 5), (bytes(8 * MIB), -2)):
        made += [bytes([codec]) + size.to_bytes(8, "little", signed=True) + zstd.compress(content) for codec in (1, 2)]
    return [*made, b"\0" + (5).to_bytes(8, "little") + b"plain"]


def check_chunks(data: bytes) -> str:
    """Chunks joined are what was written, none is larger than the limit, and equal segments are cut equally."""
    choice = random.Random(data[:16])
    chunker = chunking.Chunker()
    writes = []
    for _ in range(choice.randint(1, 2)):
        size = choice.choice((0, 1, 1000, chunking.SEGMENT - 1, chunking.SEGMENT, chunking.LARGEST + 1))
        block = data + choice.randbytes(1 + choice.randrange(1000))
        writes.append(block * (size // len(block) + 1))
    chunks = [bytes(chunk) for write in writes for chunk in chunker.write(memoryview(write))]
    chunks += map(bytes, chunker.flush())
    assert b"".join(chunks) == b"".join(writes), "chunks joined are not what was written"
    assert all(0 < len(chunk) <= chunking.LARGEST for chunk in chunks), "a chunk is too large, or empty"
    for write in writes:
        if len(write) >= chunking.SEGMENT:
            alone = [bytes(chunk) for chunk in chunking.Chunker().write(memoryview(write))]
            assert set(alone) <= set(chunks), "a segment is not cut as it is alone"
    reader, whole = _reader(chunks), b""
    with reader:
        while len(whole) < reader.size:
            smallest = 100_000 if len(whole) > 20_000 else 1
            buffer = bytearray(choice.choice((smallest, 7 * smallest, 3_000_000)))
            part = bytes(buffer[: reader.readinto(buffer)]) if choice.random() < 0.5 else reader.read(len(buffer))
            assert len(part) == min(len(buffer), reader.size - len(whole)), "a read came short"
            whole += part
    assert whole == b"".join(writes), "a reader returns other bytes"
    if not chunks:
        return "empty"
    chunks[choice.randrange(len(chunks))] += b"more"
    try:
        with _reader(chunks, key_of=b"".join(writes)) as reader:
            reader.read()
    except Damaged:
        return "large" if any(len(write) >= chunking.SEGMENT for write in writes) else "small"
    raise AssertionError("other chunks were read as if they were right")


def _reader(chunks: list[bytes], key_of: bytes | None = None) -> ChunkedReader:
    """Return a reader of chunks that no file holds."""

    class Rows:
        path = "no file"

        def query(self, statement: str, bindings: tuple[int]) -> list[tuple[Any, ...]]:
            chunk = chunks[bindings[0]]
            codec, stored = codecs.encode(chunk)
            return [(len(chunk), codec, bytes(stored), xxh3_128(chunk).digest())]

    whole = b"".join(chunks) if key_of is None else key_of
    rows: Any = Rows()
    return ChunkedReader(rows, xxh3_128(whole).hexdigest(), len(whole), array("q", range(len(chunks))), xxh3_128())


WATCHED = ("import", "exec", "compile", "open", "pickle.find_class", "os.", "subprocess.", "socket.", "ctypes.")
_events: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event.startswith(WATCHED):
        _events.append(f"{event} {arguments!r:.100}")


sys.addaudithook(_listen)  # there is no taking it out again: it is silent but in ``nothing_runs``


@contextmanager
def nothing_runs() -> Any:
    """Fail if code in the block imports, compiles, executes, or opens anything, or finds a class for a pickle."""
    global _events  # noqa: PLW0603 - an audit hook has no other place
    _events = []
    try:
        yield
        assert not _events, f"something ran: {_events[:3]}"
    finally:
        _events = None


def check_pickle(data: bytes) -> str:
    """A preview of any bytes runs nothing, is small, and has a bounded cost; urls are changed without unpickling."""
    with nothing_runs():
        found, peak = peak_of(lambda: pickle_preview.describe(data, len(data)))
        changed = with_urls(data, lambda text: text)
        with_urls(data, lambda text: text + "x")
    assert isinstance(found, dict)
    assert peak <= 40 * MIB + 300 * len(data), f"{len(data)} bytes took {peak:,} bytes of memory"
    packed = msgpack.packb(found, unicode_errors="strict")
    assert len(packed) <= 4096, f"a preview has {len(packed)} bytes"
    assert set(found) <= {"repr", "length", "shape", "dtype", "columns"}
    assert changed == data, "a pickle was changed though nothing was to change"
    return "described" if found else "unknown"


def check_value(data: bytes) -> str:
    """A value made from the bytes pickles to what any unpickler reads, and its pickle's preview is its own preview."""
    choice = random.Random(data)
    value = random_value(choice, 3)
    parts: list[bytes] = []

    class Sink:
        def write(self, part: Any) -> int:
            parts.append(
                bytes(memoryview(part).cast("B")) if not isinstance(part, pickle.PickleBuffer) else bytes(part.raw())
            )
            return len(parts[-1])

    pickling.PICKLE.serialize(value, Sink())
    joined = b"".join(parts)
    assert pickle.loads(joined) == value, f"{value!r:.200} came back as another"
    protocol = choice.choice((2, 3, 4, 5))
    pickled = pickle.dumps(value, protocol)
    with nothing_runs():
        told = pickle_preview.describe(pickled, len(pickled))
    own = preview.describe(value)
    assert told == own, f"{value!r:.200} of protocol {protocol} is told as {told!r}, not {own!r}"
    return type(value).__name__


SCALARS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    255,
    2**31,
    -(2**70),
    7**900,
    0.5,
    float("inf"),
    1j,
    "",
    "é\ud800",
    b"\0\xff",
    "x" * 250,
)


def random_value(choice: random.Random, depth: int) -> Any:
    """Return a value of built-in types."""
    kind = choice.randrange(10) if depth else 0
    if kind < 5:
        made = choice.choice(
            (*SCALARS, choice.getrandbits(90), choice.random(), choice.randbytes(choice.randrange(90)))
        )
        return made + made if isinstance(made, str) and choice.random() < 0.1 else made
    items = [random_value(choice, depth - 1) for _ in range(choice.choice((0, 1, 2, 5, 9)))]
    scalars = [choice.choice(SCALARS) for _ in items]
    if kind == 5:
        return items
    if kind == 6:
        return tuple(items)
    if kind == 7:
        return dict(zip(scalars, items, strict=True))
    return frozenset(scalars) if kind == 8 else bytearray(choice.randbytes(70_000 if choice.random() < 0.1 else 5))


def pickles() -> list[bytes]:
    """Return pickles of many kinds, also of what runs code when it is unpickled."""
    trap = b"cos\nsystem\n(S'true'\ntR."
    bomb = b"\x80\x04" + b"]" + b"\x94h\x00h\x00\x86" * 200 + b"."
    values = [
        [1, "a", (2.5, None)],
        {"k": [1] * 9, 2: {3}},
        "x" * 70_000,
        b"y" * 300,
        2**300,
        frozenset("ab"),
        range(3),
        1j,
    ]
    values += [{"url": "s3://b/F/" + "0" * 40}]
    return [trap, bomb, *(pickle.dumps(value, protocol) for value in values for protocol in (2, 4, 5))]


WORDS = (
    b"cos\nsystem\n",
    b"\x93",
    b"R",
    b"b",
    b"\x81",
    b"(",
    b"t",
    b"\x94",
    b"h\0",
    b"}",
    b"]",
    b"e",
    b"u",
    b"\x8d" + b"\xff" * 8,
    b".",
)
PACKED = [
    msgpack.packb(each)
    for each in ({"repr": "1"}, {"shape": [1, 2], "dtype": "f8"}, {"a": {"b": [1.5, None, b"x"]}}, [1])
]
KINDS_OF_VALUES = frozenset(
    {"NoneType", "bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple", "dict", "frozenset"}
)

TARGETS = (
    Target(
        "msgpack",
        check_msgpack,
        PACKED.copy,
        frozenset({"damaged", "map"}),
        10,
        (
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\0\0\xff\xff",
            b"\xc4\1a",
            b"\xc7\xff\xff",
            b"\xd6\xff\0\0\0\0",
            b"\xa2\xed\xa0",
        ),
    ),
    Target("codecs", check_codec, frames, frozenset({"damaged", "decoded"}), 8, (b"\xff" * 8, b"\x28\xb5\x2f\xfd")),
    Target(
        "chunks", check_chunks, lambda: [b"seed", bytes(5000), b"ab" * 900], frozenset({"empty", "small", "large"}), 1
    ),
    Target("pickles", check_pickle, pickles, frozenset({"described", "unknown"}), 10, WORDS),
    Target("values", check_value, lambda: [b"seed", b"other"], KINDS_OF_VALUES, 8),
)
