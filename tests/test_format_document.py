"""FORMAT.md is true: its tables are the code's, its example runs, its digests can be computed by its words alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from xxhash import xxh3_128_digest

from sqlitestore import FlowDataStore, Serializer, register_serializer, schema, unregister_serializer
from sqlitestore.blob_reader import MAX_CHUNK, MAX_INLINE
from sqlitestore.blobs import INLINE
from sqlitestore.codecs import RAW, SHUFFLED, ZSTD
from sqlitestore.model import MAX_NAME_BYTES
from sqlitestore.preview import MAX_BYTES
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum, Registrations

TEXT = files("sqlitestore").joinpath("FORMAT.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

# Where a machine lacks the two tools these do what the document asks of them, by SQLite and libzstd all the same.
SQLITE3 = """
import sys, apsw
def writefile(path, data):
    with open(path, "wb") as file:
        return file.write(data)
connection = apsw.Connection(sys.argv[1])
connection.create_scalar_function("writefile", writefile, 2)
for row in connection.execute(sys.argv[2]):
    print(*row, sep="|")
"""
ZSTD_TOOL = """
import sys
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd
assert sys.argv[1:] == ["-dc"]
sys.stdout.buffer.write(zstd.decompress(sys.stdin.buffer.read()))
"""


@pytest.mark.parametrize("tools", ["installed", "stand-ins"])
def test_worked_example_runs(tmp_path: Path, tools: str) -> None:
    """The bash blocks, run in order on the file that the Python block makes, print what the document says."""
    (tmp_path / "bin").mkdir()
    _command(tmp_path / "bin", "python3", "")
    if tools == "installed":
        for tool in ("sqlite3", "zstd"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed here; the same example runs with stand-ins")
    else:
        _command(tmp_path / "bin", "sqlite3", SQLITE3)
        _command(tmp_path / "bin", "zstd", ZSTD_TOOL)
    _make_example(tmp_path)
    commands = [code for language, code in BLOCKS if language == "bash"]
    expected = [code for language, code in BLOCKS if language == "text"]
    assert len(commands) == len(expected) == 4
    script = "set -euo pipefail\n" + "echo ----\n".join(commands)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("----\n") == expected


def test_worked_example_has_all_codecs(tmp_path: Path) -> None:
    """The example's large blob has chunks of every codec, so that its loop is tried on all."""
    _make_example(tmp_path)
    rows = _query(tmp_path / "runs.db", "SELECT c.codec FROM blob_chunk JOIN chunk AS c ON c.id = chunk WHERE blob = 1")
    assert {codec for (codec,) in rows} == {RAW, ZSTD, SHUFFLED}


def test_tables_are_those_of_the_code() -> None:
    """The CREATE statements in the document are, to the letter, the newest format's."""
    statements = [
        statement for language, code in BLOCKS if language == "sql" for statement in code.rstrip(";\n").split(";\n")
    ]
    assert statements == list(schema.SCHEMAS[schema.NEWEST_FORMAT].values())


def test_header_and_limits_are_those_of_the_code() -> None:
    """The document's numbers are the code's."""
    assert TEXT.startswith(f"# The file: format {schema.NEWEST_FORMAT}\n")
    assert f"writes format {schema.NEWEST_FORMAT}, and reads formats 1 to 4." in TEXT
    assert (schema.OLDEST_FORMAT, schema.NEWEST_FORMAT) == (1, 4)
    assert f"| `{schema.APPLICATION_ID:#x}`".replace("53714c73", "53714C73") in TEXT
    assert f"in ASCII, {schema.APPLICATION_ID} |" in TEXT
    assert schema.APPLICATION_ID.to_bytes(4, "big") == b"SqLs"
    for row in (
        f"| a chunk before encoding | {MAX_CHUNK // 2**20} MiB |",
        f"(today's writer: {INLINE // 2**10} KiB) | {MAX_INLINE // 2**20} MiB |",
        f"| {MAX_NAME_BYTES} bytes, no",
        f"| a preview | {MAX_BYTES:,} bytes |",
    ):
        assert row in TEXT


def test_header_of_a_file(tmp_path: Path) -> None:
    """A file has the application id, version, encoding and journal mode that the document names."""
    _make_example(tmp_path)
    pragmas = ("application_id", "user_version", "encoding", "journal_mode")
    found = [_query(tmp_path / "runs.db", f"PRAGMA {name}")[0][0] for name in pragmas]
    assert found == [0x53714C73, 4, "UTF-8", "wal"]
    assert os.listdir(tmp_path) == ["runs.db"]


# The document's section on digests, written again: nothing of the package is used from here on but to make a file.


class Row(NamedTuple):
    """A row's stored digest, and the fields that the document says it covers."""

    stored: bytes
    fields: list[Any]


def test_digests_can_be_computed_by_the_document(tmp_path: Path) -> None:
    """Every digest in a file with every kind of row is xxh3-128 of the array that the document lists."""
    path = tmp_path / "rich.db"
    _make_rich(path)
    rows = {
        kind: list(reading(path))
        for kind, reading in (
            ("artifacts", _artifacts),
            ("attempt", _attempts),
            ("metadata", _metadata),
            ("log", _logs),
            ("file", _files),
            *((kind, partial(_registered, kind)) for kind in REGISTERED),
        )
    }
    assert {kind: len(found) for kind, found in rows.items()} == {
        "artifacts": 2, "attempt": 3, "metadata": 4, "log": 3, "file": 2,
        "run": 1, "step": 1, "task": 1, "registered metadata": 2, "artifact": 1,
    }  # fmt: skip
    for kind, found in rows.items():
        for row in found:
            assert xxh3_128_digest(_msgpack(row.fields)) == row.stored, kind


def test_keys_and_chunk_digests_can_be_computed_by_the_document(tmp_path: Path) -> None:
    """A key is xxh3-128 (or SHA-1) of the blob's bytes, a chunk's digest xxh3-128 of its own."""
    path = tmp_path / "rich.db"
    _make_rich(path)
    decode = {0: bytes, 1: _unpacked}
    chunks = {}
    for number, digest, size, codec, stored in _query(path, "SELECT id, digest, size, codec, bytes FROM chunk"):
        chunks[number] = decode[codec](stored)
        assert (len(chunks[number]), xxh3_128_digest(chunks[number])) == (size, digest)
    lengths = set()
    for number, key, size, codec, stored in _query(path, "SELECT id, key, size, codec, bytes FROM blob"):
        parts = _query(path, f"SELECT chunk FROM blob_chunk WHERE blob = {number} ORDER BY position")
        whole = b"".join(chunks[chunk] for (chunk,) in parts) if codec is None else decode[codec](stored)
        digest = xxh3_128_digest(whole) if len(key) == 16 else hashlib.sha1(whole).digest()
        assert (len(whole), digest) == (size, key)
        lengths.add((len(key), codec is None))
    assert lengths == {(16, False), (16, True), (20, False), (20, True)}


def _artifacts(path: Path) -> Iterator[Row]:
    for attempt, stored in _query(path, "SELECT id, artifacts_digest FROM attempt WHERE done IS NOT NULL"):
        fields = _query(
            path,
            "SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview FROM artifact AS x"
            f" JOIN blob AS b ON b.id = x.blob WHERE x.attempt = {attempt} ORDER BY x.position",
        )
        yield Row(stored, [list(row) for row in fields])


def _attempts(path: Path) -> Iterator[Row]:
    for stored, *fields in _query(
        path,
        "SELECT a.digest, f.name, r.name, a.step, a.task, a.number, a.started, a.done, a.python, a.artifacts_digest"
        " FROM attempt AS a JOIN run AS r ON r.id = a.run JOIN flow AS f ON f.id = r.flow",
    ):
        yield Row(stored, fields)


def _metadata(path: Path) -> Iterator[Row]:
    for stored, *fields in _query(
        path,
        "SELECT m.digest, f.name, r.name, m.step, m.task, m.attempt, m.name, m.value"
        " FROM task_metadata AS m JOIN run AS r ON r.id = m.run JOIN flow AS f ON f.id = r.flow",
    ):
        yield Row(stored, fields)


def _logs(path: Path) -> Iterator[Row]:
    for stored, *fields in _query(
        path,
        "SELECT l.digest, f.name, r.name, a.step, a.task, a.number, l.source, l.stream, l.part, b.key, l.size"
        " FROM log AS l JOIN blob AS b ON b.id = l.blob JOIN attempt AS a ON a.id = l.attempt"
        " JOIN run AS r ON r.id = a.run JOIN flow AS f ON f.id = r.flow",
    ):
        yield Row(stored, fields)


def _files(path: Path) -> Iterator[Row]:
    for stored, *fields in _query(
        path, "SELECT x.digest, x.path, b.key, x.size, x.metadata FROM file AS x JOIN blob AS b ON b.id = x.blob"
    ):
        yield Row(stored, fields)


REGISTERED = {
    "run": "user_name, x.ts_epoch, x.tags, x.system_tags, x.task_ids",
    "step": "step, x.user_name, x.ts_epoch",
    "task": "step, x.task, x.user_name, x.ts_epoch",
    "registered metadata": "step, x.task, x.position, x.field_name, x.value, x.type, x.tags, x.user_name, x.ts_epoch",
    "artifact": "step, x.task, x.attempt, x.name, x.content_type, x.sha, x.ds_type, x.location, x.user_name,"
    " x.ts_epoch",
}


def _registered(kind: str, path: Path) -> Iterator[Row]:
    for stored, *fields in _query(
        path,
        f"SELECT x.digest, f.name, r.name, x.{REGISTERED[kind]} FROM registered_{kind.removeprefix('registered ')} AS x"
        " JOIN run AS r ON r.id = x.run JOIN flow AS f ON f.id = r.flow",
    ):
        yield Row(stored, fields)


def _msgpack(value: Any) -> bytes:
    """Encode what rows consist of: shortest forms, text as str, bytes as bin, times as 64-bit floats."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        return _msgpack_int(value)
    if isinstance(value, str):
        text = value.encode()
        return _head(len(text), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + text
    if isinstance(value, bytes):
        return _head(len(value), (0, 0), (0xC4, 0xC5, 0xC6)) + value
    return _head(len(value), (0x90, 16), (None, 0xDC, 0xDD)) + b"".join(map(_msgpack, value))


def _msgpack_int(value: int) -> bytes:
    if value < 0:
        assert value >= -32  # rows have no lower one than -1
        return struct.pack(">b", value)
    for first, form, limit in ((None, ">B", 2**7), (0xCC, ">B", 2**8), (0xCD, ">H", 2**16), (0xCE, ">I", 2**32)):
        if value < limit:
            return (b"" if first is None else bytes([first])) + struct.pack(form, value)
    return b"\xcf" + struct.pack(">Q", value)


def _head(length: int, fixed: tuple[int, int], wider: tuple[int | None, int, int]) -> bytes:
    if length < fixed[1]:
        return bytes([fixed[0] | length])
    for first, form, limit in zip(wider, (">B", ">H", ">I"), (2**8, 2**16, 2**32), strict=True):
        if first is not None and length < limit:
            return bytes([first]) + struct.pack(form, length)
    raise AssertionError(length)


def _unpacked(frame: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.decompress(frame)


def _query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Read with Python's own SQLite: the store is closed, so its locks are not in danger."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def _command(folder: Path, name: str, code: str) -> None:
    """Put a command into ``folder`` that runs ``code``, or Python itself, in this test's Python."""
    script = folder / f"{name}.py"
    script.write_text(code)
    command = folder / name
    what = f'"{script}" "$@"' if code else '"$@"'
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {what}\n')
    command.chmod(0o755)


def _make_example(folder: Path) -> None:
    [code] = [code for language, code in BLOCKS if language == "python"]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


class _Spelled(Serializer):
    encoding = "spelled-v1"

    def can_serialize(self, obj: Any) -> bool:
        return isinstance(obj, frozenset)

    def serialize(self, obj: Any, file: Any) -> Mapping[str, Any]:
        file.write(" ".join(sorted(obj)).encode())
        return {"words": len(obj)}

    def deserialize(self, file: Any, info: Mapping[str, Any]) -> Any:
        return frozenset(file.read().decode().split())


def _make_rich(path: Path) -> None:
    """Make a file with every kind of row, names in several scripts and every width of length."""
    spelled = _Spelled()
    register_serializer(spelled)
    try:
        with FlowDataStore("Flow", ds_root=path) as flow:
            task = flow.get_task_datastore("1", "train", "7", attempt=300, mode="w")
            task.init_task()
            many = [(f"x{number}", number) for number in range(20)]
            odd = [("Größe 東京", "a" * 300), ("\U0001f600", None), ("\uffee", 1.5), ("n" * 255, frozenset({"a", "b"}))]
            task.save_artifacts([*many, *odd, ("large", os.urandom(200_000) + bytes(200_000))])
            task.save_metadata({"big": 2**70, "text": "ü" * 70_000})
            task.save_metadata({"of the task": [1, None]}, add_attempt=False)
            for log in ("one\n", "one\ntwo\n"):
                task.save_logs("task", {"stdout": log})
            task.done()
            empty = flow.get_task_datastore("1", "train", "8", attempt=0, mode="w")
            empty.init_task()
            empty.done()
            early = flow.get_task_datastore("zwei", "end", "1", attempt=1, mode="w")
            early.save_logs("runtime", {"stderr": b"\xff"})
            early.save_metadata({"early": True})
            storage = flow._storage_impl
            storage.save_file("cards/ü", lambda file: file.write(b"<html>"), '{"a": 1}')
            storage.save_file("plain", lambda file: file.write(b""))
            theirs = [b"short", os.urandom(100_000)]
            keyed = ((hashlib.sha1(blob).hexdigest(), blob, {}) for blob in theirs)
            flow.ca_store.save_blobs(keyed, is_transfer=True)
            registrations = Registrations(storage.database)
            registrations.add_run("Flow", "2", None, 1_700_000_000_000, {"ü"}, ())
            registrations.new_task_id("Flow", "2", "a", "ada", 1_700_000_000_000)
            datum = RegisteredMetadatum("a", "0", "f", [2**70, None], "t", ["x"], "ada", 1)
            registrations.add_metadata("Flow", "2", [datum, datum])
            registrations.add_artifacts(
                "Flow", "2", "a", "0", [RegisteredArtifact(0, "x", "e", "0", "s3", "u", None, 5)]
            )
    finally:
        unregister_serializer(spelled)
