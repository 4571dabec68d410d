"""What a file must hold at rest, asked with SQL and digests of our own: no code is shared with the package.

The names I1 to I5 are those of the design's invariants; the fields of the digests are those that FORMAT.md lists.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter

import apsw
import msgpack
import xxhash

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


# A run in the trash has its real name there, and the digests of its rows are over that.
RUN_NAME = "COALESCE((SELECT t.name FROM trash t WHERE t.run = r.id), r.name)"


def connect(path):
    """Return a connection that changes nothing, not even the files beside; for a file that nobody has open."""
    return apsw.Connection(f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def check_file(path):
    """Fail unless the closed file is one, alone, sound, and keeps the invariants."""
    path = os.fspath(path)
    beside = [name for name in os.listdir(os.path.dirname(path)) if name.startswith(os.path.basename(path))]
    assert beside == [os.path.basename(path)]
    connection = connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []  # I1
        stand_in_for_later_tables(connection)
        check_chunks(connection)
        check_blobs(connection)
        check_attempts(connection)
        check_records(connection)
    finally:
        connection.close()


LATER_TABLES = {
    "trash": "run, name",
    "trashed_file": "path, blob, size, metadata, digest",
    "stub": "attempt, name, key, size, type, encoding, serializer_info, preview, position",
    "registered_run": "run, user_name, ts_epoch, tags, system_tags, task_ids, digest",
    "registered_step": "run, step, user_name, ts_epoch, digest",
    "registered_task": "run, step, task, user_name, ts_epoch, digest",
    "registered_metadata": "run, step, task, position, field_name, value, type, tags, user_name, ts_epoch, digest",
    "registered_artifact": "run, step, task, attempt, name, content_type, sha, ds_type, location, user_name, ts_epoch,"
    " digest",
}
"""Tables that an old format lacks, with the columns that are looked at here."""


def stand_in_for_later_tables(connection):
    """Let a file of an old format be asked what one of today's is: what it has no table for, it has nothing of."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    for table, columns in LATER_TABLES.items():
        if table not in there:
            connection.execute(f"CREATE TEMP TABLE {table}({columns})")


def decoded(codec, stored, size):
    """Return the bytes that a row of ``chunk`` or ``blob`` holds."""
    data = {0: bytes, 1: zstd.decompress, 2: lambda frame: unshuffled(zstd.decompress(frame))}[codec](stored)
    assert len(data) == size
    return data


def unshuffled(data):
    """Return numbers of 8 bytes of which the first bytes come first, then the second ones, and so on."""
    numbers = bytearray(data)
    count = len(data) // 8
    for place in range(8):
        numbers[place : 8 * count : 8] = data[place * count : (place + 1) * count]
    return bytes(numbers)


def bytes_of(connection, blob):
    """Return the bytes of a blob, by its id."""
    [(size, codec, stored)] = connection.execute("SELECT size, codec, bytes FROM blob WHERE id = ?", (blob,)).fetchall()
    if codec is not None:
        return decoded(codec, stored, size)
    parts = connection.execute(
        "SELECT c.codec, c.bytes, c.size FROM blob_chunk l JOIN chunk c ON c.id = l.chunk WHERE l.blob = ?"
        " ORDER BY l.position",
        (blob,),
    ).fetchall()
    return b"".join(decoded(*part) for part in parts)


def digest(*fields):
    """Return xxh3-128 over the fields as a msgpack array."""
    return xxhash.xxh3_128(msgpack.packb(list(fields))).digest()


def key_of(data, like):
    """Return the key of bytes, of the kind that ``like`` is."""
    return {16: xxhash.xxh3_128(data).digest(), 20: hashlib.sha1(data).digest()}[len(like)]


def check_chunks(connection):
    """Each chunk has the digest under which it is found."""
    for found, size, codec, stored in connection.execute("SELECT digest, size, codec, bytes FROM chunk"):
        assert xxhash.xxh3_128(decoded(codec, stored, size)).digest() == found


def check_blobs(connection):
    """I2: a blob's chunks, joined in a gapless order, have its size and key; a blob in its row has no chunks."""
    for blob, key, size, codec, stored in connection.execute("SELECT id, key, size, codec, bytes FROM blob"):
        parts = connection.execute(
            "SELECT l.position, c.codec, c.bytes, c.size FROM blob_chunk l JOIN chunk c ON c.id = l.chunk"
            " WHERE l.blob = ? ORDER BY l.position",
            (blob,),
        ).fetchall()
        assert [part[0] for part in parts] == list(range(len(parts)))
        if codec is None:
            data = b"".join(decoded(*part[1:]) for part in parts)
        else:
            assert parts == []
            data = decoded(codec, stored, size)
        assert len(data) == size
        assert key_of(data, key) == key


def check_attempts(connection):
    """I3 and I5: only what is done has artifacts, and the digests cover identity, times and artifact rows."""
    attempts = connection.execute(
        f"SELECT a.id, f.name, {RUN_NAME}, a.step, a.task, a.number, a.started, a.done, a.python, a.artifacts_digest,"
        " a.digest FROM attempt a JOIN run r ON r.id = a.run JOIN flow f ON f.id = r.flow"
    ).fetchall()
    assert len(attempts) == connection.execute("SELECT count(*) FROM attempt").get
    for attempt, *identity, done, python, artifacts_digest, found in attempts:
        artifacts = connection.execute(
            "SELECT x.name, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview, x.position AS position"
            " FROM artifact x JOIN blob b ON b.id = x.blob WHERE x.attempt = ?1 UNION ALL"
            " SELECT name, key, size, type, encoding, serializer_info, preview, position FROM stub WHERE attempt = ?1"
            " ORDER BY position",
            (attempt,),
        ).fetchall()
        artifacts = [row[:-1] for row in artifacts]
        if done is None:
            assert artifacts == []
            assert (python, artifacts_digest) == (None, None)
        else:
            assert artifacts_digest == digest(*(list(row) for row in artifacts))
        assert found == digest(*identity, done, python, artifacts_digest)
        for row in artifacts:
            assert connection.execute("SELECT size FROM blob WHERE key = ?", (row[1],)).get in {row[2], None}
            assert row[6] is None or len(row[6]) < 1024


def check_records(connection):
    """I5: each metadata, log and file row carries a digest over its identity and value; log parts have no gaps."""
    of_run = "JOIN run r ON r.id = {0}.run JOIN flow f ON f.id = r.flow"
    for *fields, found in connection.execute(
        f"SELECT f.name, {RUN_NAME}, m.step, m.task, m.attempt, m.name, m.value, m.digest FROM task_metadata m "
        + of_run.format("m")
    ):
        assert digest(*fields) == found
    parts = Counter()
    for attempt, *fields, found in connection.execute(
        f"SELECT a.id, f.name, {RUN_NAME}, a.step, a.task, a.number, l.source, l.stream, l.part, b.key, l.size,"
        " l.digest FROM log l JOIN blob b ON b.id = l.blob JOIN attempt a ON a.id = l.attempt "
        + of_run.format("a")
        + " ORDER BY l.attempt, l.source, l.stream, l.part"
    ):
        assert digest(*fields) == found
        log = (attempt, *fields[5:7])  # a run in the trash may have the names of another
        assert fields[7] == parts[log]
        parts[log] += 1
    for table in ("file", "trashed_file"):
        for *fields, found in connection.execute(
            f"SELECT p.path, b.key, p.size, p.metadata, p.digest FROM {table} p JOIN blob b ON b.id = p.blob"
        ):
            assert digest(*fields) == found
    check_registrations(connection)


REGISTERED = {
    "run": "r.name, x.user_name, x.ts_epoch, x.tags, x.system_tags, x.task_ids",
    "step": "r.name, x.step, x.user_name, x.ts_epoch",
    "task": "r.name, x.step, x.task, x.user_name, x.ts_epoch",
    "metadata": "r.name, x.step, x.task, x.position, x.field_name, x.value, x.type, x.tags, x.user_name, x.ts_epoch",
    "artifact": "r.name, x.step, x.task, x.attempt, x.name, x.content_type, x.sha, x.ds_type, x.location, x.user_name,"
    " x.ts_epoch",
}


def check_registrations(connection):
    """I5: what a provider registered carries digests too, and a task's metadata have no gaps."""
    for table, fields in REGISTERED.items():
        of_run = "JOIN run r ON r.id = x.run JOIN flow f ON f.id = r.flow"
        named = fields.replace("r.name", RUN_NAME)
        statement = f"SELECT f.name, {named}, x.digest FROM registered_{table} x {of_run}"
        for *values, found in connection.execute(statement):
            assert digest(*values) == found
    positions = "SELECT count(*), max(position) FROM registered_metadata GROUP BY run, step, task"
    assert all(count == last + 1 for count, last in connection.execute(positions))
