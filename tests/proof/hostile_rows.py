"""Files whose rows are doctored, and signed again: whoever doctors a file can make the digests right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import apsw
import msgpack
from helpers_damage import hostile_bytes
from helpers_store import tampering
from hostile_base import CARD, FLOW, Places, Trap
from hostile_schemas import Maker
from sqlite_oracle import REGISTERED, RUN_NAME, digest

from sqlitestore.codecs import SHUFFLED, ZSTD, zstd

OF_RUN = "JOIN run r ON r.id = x.run JOIN flow f ON f.id = r.flow"
ARTIFACTS = """SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview, x.position AS position
 FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.attempt = ?1 UNION ALL
 SELECT name, key, size, type, encoding, serializer_info, preview, position FROM stub WHERE attempt = ?1
 ORDER BY position"""
ATTEMPTS = f"""SELECT x.id, x.artifacts_digest IS NULL, f.name, {RUN_NAME}, x.step, x.task, x.number, x.started, x.done,
 x.python FROM attempt x {OF_RUN}"""
OF_LOG = """JOIN blob b ON b.id = x.blob JOIN attempt a ON a.id = x.attempt JOIN run r ON r.id = a.run
 JOIN flow f ON f.id = r.flow"""
KEYED = {
    "task_metadata": (
        "run, step, task, attempt, name",
        f"f.name, {RUN_NAME}, x.step, x.task, x.attempt, x.name, x.value",
        OF_RUN,
    ),
    "log": ("attempt, source, stream, part",
            f"f.name, {RUN_NAME}, a.step, a.task, a.number, x.source, x.stream, x.part, b.key, x.size",
            OF_LOG),
    "file": ("path", "x.path, b.key, x.size, x.metadata", "JOIN blob b ON b.id = x.blob"),
    "trashed_file": ("run, path", "x.path, b.key, x.size, x.metadata", "JOIN blob b ON b.id = x.blob"),
    **{
        f"registered_{kind}": (key, f"f.name, {fields.replace('r.name', RUN_NAME)}", OF_RUN)
        for kind, key, fields in (
            ("run", "run", REGISTERED["run"]),
            ("step", "run, step", REGISTERED["step"]),
            ("task", "run, step, task", REGISTERED["task"]),
            ("metadata", "run, step, task, position", REGISTERED["metadata"]),
            ("artifact", "run, step, task, attempt, name", REGISTERED["artifact"]),
        )
    },
}  # fmt: skip


def sign(connection: apsw.Connection) -> None:
    """Make all digests of rows right, as far as a digest can be over what the rows hold."""
    for attempt, bare, *fields in _rows(connection, ATTEMPTS):
        artifacts = None if bare else [row[:-1] for row in _rows(connection, ARTIFACTS, (attempt,))]
        of_artifacts = None if artifacts is None else digest(*map(list, artifacts))
        found = _digest(*fields, of_artifacts)
        connection.execute("UPDATE attempt SET artifacts_digest = ?, digest = ? WHERE id = ?",
                           (of_artifacts, found, attempt))  # fmt: skip
    for table, (key, fields, joins) in KEYED.items():
        columns = ", ".join(f"x.{name}" for name in key.split(", "))
        count = len(key.split(", "))
        for row in _rows(connection, f"SELECT {columns}, {fields} FROM {table} x {joins}"):
            where = " AND ".join(f"{name} IS ?" for name in key.split(", "))
            connection.execute(f"UPDATE {table} SET digest = ? WHERE {where}", (_digest(*row[count:]), *row[:count]))


def _rows(connection: apsw.Connection, statement: str, bindings: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(statement, bindings).fetchall()
    except UnicodeDecodeError:
        return []  # nobody can read it, so nobody checks its digest


def _digest(*fields: Any) -> bytes:
    try:
        return digest(*fields)
    except UnicodeEncodeError:
        return b"?" * 16


def _doctored(*changes: tuple[str, Callable[[], tuple[Any, ...]]]) -> Maker:
    """Return the maker that changes rows, and signs them."""

    def make(path: str, _: Places) -> None:
        with tampering(path) as connection:
            for statement, bindings in changes:
                connection.execute(statement, bindings()).fetchall()
            sign(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    return make


def _set(column: str, value: Any, *, raw: bool = False) -> Maker:
    """Return the maker that sets a column (table.column) of one row: others must not be taken for its equals."""
    table, name = column.split(".")
    key = _FIRST.get(table, "rowid")
    mark = "CAST(? AS TEXT)" if raw else "?"
    which = f"WHERE ({key}) = (SELECT {key} FROM {table} ORDER BY {key} LIMIT 1)"
    return _doctored((f"UPDATE {table} SET {name} = {mark} {which}", lambda: (value,)))


_FIRST = {
    "artifact": "attempt, name", "stub": "attempt, name", "log": "attempt, source, stream, part",
    "blob_chunk": "blob, position", "file": "path", "trashed_file": "run, path", "data": "blob, flow",
    "held": "key, writer", "task_metadata": "run, step, task, attempt, name", "registered_step": "run, step",
    "registered_task": "run, step, task", "registered_metadata": "run, step, task, position",
    "registered_artifact": "run, step, task, attempt, name",
}  # fmt: skip

NUMBERS = {"-1": -1, "2**62": 2**62, "2**63 - 1": 2**63 - 1, "-2**63": -(2**63), "1.5": 1.5, "infinite": 1e999,
           "null": None, "text": "x", "bytes": b"\xff" * 16}  # fmt: skip
TEXTS = {
    "escape": "\x1b]0;title\x07\x1b[2J\x9b31m", "line": "a\nb\rc\t", "above": "..", "far above": "../../../outside/up",
    "absolute": "/etc/passwd", "NUL": "a\0b", "bidi": "a\u202eb\u2066c\u200f", "empty": "", "number": 7,
    "null": None, "bytes": b"\xff\x1b", "long": "x" * 10_000_000, "markup": "[red]x[/red] <b> %s {0}",
    "option": "--help",
}  # fmt: skip
NOT_TEXT = {"not UTF-8": b"a\xff\xfe\x1b[2J", "surrogate": b"\xed\xa0\x80x"}

INTEGER_COLUMNS = (
    "blob.size", "blob.codec", "chunk.size", "chunk.codec", "blob_chunk.position", "blob_chunk.chunk", "run.flow",
    "attempt.number", "attempt.run", "artifact.position", "artifact.blob", "artifact.size", "task_metadata.attempt",
    "log.part", "log.size", "log.blob", "data.blob", "file.size", "file.blob", "registered_run.ts_epoch",
    "registered_run.task_ids", "registered_step.ts_epoch", "registered_task.ts_epoch", "registered_metadata.position",
    "registered_metadata.ts_epoch", "registered_artifact.attempt", "registered_artifact.ts_epoch", "trash.purging",
    "trashed_file.size", "stub.position", "stub.size", "store.created", "attempt.started", "attempt.done",
    "trash.trashed", "blob.key", "chunk.digest", "blob.bytes", "chunk.bytes", "artifact.preview",
    "artifact.serializer_info", "stub.key",
)  # fmt: skip
TEXT_COLUMNS = (
    "flow.name", "run.name", "attempt.step", "attempt.task", "attempt.python", "artifact.name", "artifact.type",
    "artifact.encoding", "task_metadata.step", "task_metadata.task", "task_metadata.name", "task_metadata.value",
    "log.source", "log.stream", "file.path", "file.metadata", "registered_run.user_name", "registered_run.tags",
    "registered_run.system_tags", "registered_step.step", "registered_task.task", "registered_metadata.field_name",
    "registered_metadata.value", "registered_metadata.type", "registered_metadata.tags", "registered_artifact.name",
    "registered_artifact.content_type", "registered_artifact.sha", "registered_artifact.ds_type",
    "registered_artifact.location", "trash.name", "trashed_file.path", "stub.name", "stub.type", "stub.encoding",
    "untrusted.origin", "store.uuid", "store.kind", "store.writer",
)  # fmt: skip


def _may_be(column: str, value: Any) -> bool:
    """Whether a row can have the value: in a table that is its own index, SQLite itself keeps NULL out of keys."""
    table, name = column.split(".")
    return value is not None or name not in _FIRST.get(table, "").split(", ")


COLUMNS: dict[str, Maker] = {
    **{
        f"{column} {what}": _set(column, value)
        for columns, values in ((INTEGER_COLUMNS, NUMBERS), (TEXT_COLUMNS, TEXTS))
        for column in columns
        for what, value in values.items()
        if _may_be(column, value)
    },
    **{f"{column} {w}": _set(column, value, raw=True) for column in TEXT_COLUMNS for w, value in NOT_TEXT.items()},
}

# Packed and JSON values

PREVIEWS: dict[str, bytes] = {
    "nested": b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",
    "nested maps": b"\x81\xa1a" * 100_000 + b"\xc0",
    "nested to the limit": b"\x81\xa4repr" + b"\x91" * 500 + b"\xc0",
    "a huge array": b"\x81\xa1a\xdd\x7f\xff\xff\xff",
    "a huge map": b"\xdf\x7f\xff\xff\xff",
    "a huge text": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "a huge extension": b"\x81\xa1a\xc9\xff\xff\xff\xff\x05",
    "an extension": b"\x81\xa4repr" + msgpack.packb(msgpack.ExtType(5, b"x" * 20)),
    "a time": b"\x81\xa4repr" + msgpack.packb(msgpack.Timestamp(2**33, 5)),
    "a time without end": b"\x81\xa4repr\xc7\x0c\xff" + b"\xff" * 12,
    "a key twice": b"\x82\xa4repr\xa1a\xa4repr\xa1b",
    "not a number": msgpack.packb({"repr": float("nan"), "shape": [float("inf"), -1], "length": float("-inf")}),
    "wrong types": msgpack.packb({"repr": [1], "shape": {"a": 1}, "columns": 5, "dtype": b"\x1b[2J", "length": "x"}),
    "columns": msgpack.packb({"columns": [["\x1b[2J", 5], 7, [], [[["a"]]]], "shape": ["\n", b"\xff"]}),
    "controls": msgpack.packb({"repr": "\x1b[2J\x07\r\n\u202e", "\x1b]0;x\x07": "\x9b"}),
    "not UTF-8": b"\x81\xa4repr\xa3\xff\x1b[",
    "keys of bytes": b"\x81\xc4\x01\xff\x01",
    "a large text": msgpack.packb({"repr": "x" * 10_000_000}),
}
DEEP = "[" * 100_000 + "]" * 100_000
JSONS = {
    "nested": DEEP, "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000, "a huge number": "9" * 100_000,
    "a huge exponent": "1e999999999", "a key twice": '{"a": 1, "a": "\\u001b[2J"}', "NaN": "[NaN, Infinity, -Infinity]",
    "surrogate": '"\\ud800\\u001b[2J"', "a key with a surrogate": '{"sha": "\\ud800", "ds_type": "\\udfff"}',
    "a document with a surrogate": '"{\\"sha\\": \\"\\\\ud800\\"}"', "none": "{",
    "an object": '{"sha": ["x"], "ds_type": 5}', "a list": "[1, [2]]",
    "controls": '["\\u001b]0;x\\u0007", "\\n"]', "many": "[" + "1," * 10**6 + "1]",
}  # fmt: skip
PACKED: dict[str, Maker] = {
    **{
        f"{column} is {what}": _doctored((f"UPDATE {column.replace('.', ' SET ')} = ?", lambda value=value: (value,)))
        for column in ("artifact.preview", "artifact.serializer_info", "stub.preview")
        for what, value in PREVIEWS.items()
    },
    **{
        f"{column} is {what}": _doctored((f"UPDATE {column.replace('.', ' SET ')} = ?", lambda value=value: (value,)))
        for column in (
            "task_metadata.value", "registered_run.tags", "registered_metadata.value", "registered_metadata.tags",
            "file.metadata",
        )
        for what, value in JSONS.items()
    },
}  # fmt: skip

# Content


def _frames(*contents: bytes, prefix: bytes = b"", **options: int) -> bytes:
    names = {zstd.CompressionParameter[name]: value for name, value in options.items()}
    return prefix + b"".join(zstd.compress(content, options=names) for content in contents)


def _stored(data: Callable[[], bytes], codec: int, size: int) -> Maker:
    return _doctored(
        ("UPDATE chunk SET codec = ?, bytes = ?, size = ?", lambda: (codec, data(), size)),
        ("UPDATE blob SET codec = ?, bytes = ?, size = ? WHERE codec IS NOT NULL", lambda: (codec, data(), size)),
    )


def _bomb(kind: str) -> Maker:
    def make(path: str, _: Places) -> None:
        with tampering(path) as connection:
            for statement, bindings in hostile_bytes(kind):
                connection.execute(statement, bindings)
            sign(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    return make


SKIPPED = b"\x50\x2a\x4d\x18\xff\xff\xff\x7f"
LONG_LIST = """INSERT INTO blob_chunk SELECT b.id, 1000 + n.value, (SELECT MIN(chunk) FROM blob_chunk)
 FROM (SELECT MIN(blob) AS id FROM blob_chunk) AS b, generate_series(1, 1000000) AS n"""
NUMBERS_TABLE = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 1000000)"
CONTENT: dict[str, Maker] = {
    **{kind: _bomb(kind) for kind in ("bomb", "bomb small", "endless", "window", "claims")},
    "frames": _stored(lambda: _frames(*[bytes(900_000)] * 1000), ZSTD, 900_000),
    "frame that is skipped": _stored(lambda: _frames(bytes(900), prefix=SKIPPED), ZSTD, 900),
    "frames that are skipped": _stored(lambda: _frames(b"x", prefix=b"\x50\x2a\x4d\x18\0\0\0\0" * 10**6), ZSTD, 1),
    "no content size": _stored(lambda: _frames(bytes(10**8), content_size_flag=0), ZSTD, 5),
    "negative codec": _stored(lambda: b"x", -1, 1),
    "codec 3": _stored(lambda: b"x", 3, 1),
    "shuffled bomb": _stored(lambda: _frames(bytes(10**8)), SHUFFLED, 900_000),
    "shuffled and too short": _stored(lambda: _frames(bytes(900)), SHUFFLED, 16 * 2**20),
    "codec 2**62": _stored(lambda: b"x", 2**62, 1),
    "a chunk a million times": _doctored(
        (LONG_LIST.replace("INSERT", f"{NUMBERS_TABLE} INSERT").replace("generate_series(1, 1000000)", "n")
         .replace("n AS n", "n"), tuple),
        ("UPDATE blob SET size = 5000000000000 WHERE codec IS NULL", tuple),
    ),
    "sizes of TiB": _doctored(("UPDATE artifact SET size = 5000000000000", tuple),
                              ("UPDATE blob SET size = 5000000000000", tuple),
                              ("UPDATE log SET size = 5000000000000", tuple)),
    "a large row": _stored(lambda: bytes(60_000_000), 0, 60_000_000),
}  # fmt: skip

# Who is to be run


def _pickles_everywhere(path: str, places: Places) -> None:
    """Put pickles that run a command in the place of everything that is bytes or text of a stranger's."""
    content = pickle.dumps(Trap(places.canary))
    with tampering(path) as connection:
        info = msgpack.packb({"pickle": content, "serializer": "os.system", "metaflow_serializer": "pickle"})
        connection.execute("UPDATE artifact SET serializer_info = ?, preview = ?", (info, info))
        connection.execute("UPDATE task_metadata SET value = json_quote(hex(?))", (content,))
        connection.execute("UPDATE file SET metadata = json_object('pickle', hex(?))", (content,))
        sign(connection)


MANY_ATTEMPTS = """INSERT INTO attempt(run, step, task, number, digest) WITH RECURSIVE n(value) AS (SELECT 1
 UNION ALL SELECT value + 1 FROM n WHERE value < 2000) SELECT 1, 'train', '1', value + 5, x'00' FROM n"""

RUNS: dict[str, Maker] = {
    "pickles everywhere": _pickles_everywhere,
    **{
        f"encoding {name}": _set("artifact.encoding", name)
        for name in ("gzip+pickle-v4", "pickle-v2", "cloudpickle", "os.system", "sqlitestore-untrusted: pickle-v4")
    },
    "trusted by itself": _doctored(("DELETE FROM untrusted", tuple)),
    "run with a name of the trash": _doctored(("UPDATE run SET name = 'trash/99' WHERE name = '1'", tuple)),
    "tasks of no run": _doctored(("UPDATE attempt SET run = run + 90", tuple)),
    "many attempts": _doctored(
        (MANY_ATTEMPTS, tuple),
    ),
    "a card elsewhere": _doctored(("UPDATE file SET path = ? WHERE path LIKE 'mf.cards/%runs/1/%'",
                                   lambda: (CARD.format("mine"),))),
    "a file that calls itself an artifact": _doctored(
        ("UPDATE file SET path = ? WHERE path LIKE '%other' AND path LIKE '%/1/train%'",
         lambda: (f"{FLOW}/1/train/1/1.data.json",)),
    ),
}  # fmt: skip

ROWS: dict[str, Maker] = {**COLUMNS, **PACKED, **CONTENT, **RUNS}
