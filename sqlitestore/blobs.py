"""The tables ``blob``, ``chunk`` and ``blob_chunk``: immutable bytes under the digest of their content.

A small blob's bytes sit in its row; a large one is an ordered list of chunks, which blobs share (see ``chunk_stream``).
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import cache, partial
from pickle import PickleBuffer
from typing import Any, TypeAlias

import apsw
from xxhash import xxh3_128, xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.blob_reader import MAX_INLINE, ChunkedReader, InlineReader
from sqlitestore.chunk_stream import ChunkStream, Root
from sqlitestore.crash_points import crash_point
from sqlitestore.database import Database
from sqlitestore.errors import BlobLeftOut, BlobNotFound, Damaged, DataException, InvalidKey
from sqlitestore.forking import unforked
from sqlitestore.holds import hold, hold_at_least_once, is_held_by_others, release
from sqlitestore.model import Buffer, StoredBlob
from sqlitestore.new_chunks import DELETE_CHUNK, ChunkVanished, check_equal
from sqlitestore.pickling import WriteFile
from sqlitestore.pragmas import overwriting_what_is_deleted
from sqlitestore.small_blobs import SELECT_BLOB, Pending, SmallBatch, insert_small_blobs
from sqlitestore.stubs import size_left_out

INLINE = 64 * 1024
"""[bytes] A blob up to here sits in its row."""

KEYS_AT_ONCE = 256

SELECT_BLOBS = """SELECT b.id, b.size, b.codec, b.bytes FROM json_each(?) AS asked
 LEFT JOIN blob AS b ON b.key = unhex(asked.value)"""
SELECT_SMALL_BLOBS = """SELECT asked.value, b.size, b.codec, b.bytes FROM json_each(?1) AS asked
 CROSS JOIN blob AS b ON b.key = unhex(asked.value)
 WHERE b.codec IS NOT NULL AND b.size <= ?2 AND length(b.bytes) <= ?2"""
HAS_BLOBS = "SELECT b.id IS NOT NULL FROM json_each(?) AS asked LEFT JOIN blob AS b ON b.key = unhex(asked.value)"
SELECT_KEYS = "SELECT lower(hex(key)) FROM blob WHERE key >= ? AND key < ? AND length(key) = 20 ORDER BY key"
SELECT_STARTS = "SELECT DISTINCT lower(hex(substr(key, 1, 1))) FROM blob WHERE length(key) = 20"
SELECT_SIZES = """SELECT asked.value, b.size FROM json_each(?) AS asked JOIN blob AS b ON b.key = unhex(asked.value)"""
DELETE_BLOB = "DELETE FROM blob WHERE key = ?"
SELECT_CHUNKS_OF = """SELECT c.chunk FROM blob AS b JOIN blob_chunk AS c ON c.blob = b.id WHERE b.key = ?
 ORDER BY c.position"""

Payload: TypeAlias = Callable[[WriteFile], object]
"""Bytes that write themselves to a file, again if they are asked again."""

BlobReader: TypeAlias = InlineReader | ChunkedReader


def payload_of(data: Buffer) -> Payload:
    """Return the payload that writes ``data``."""
    return lambda file: file.write(data)


def key_of(hexdigest: str) -> bytes:
    """Return a key as it stands in the column ``key``."""
    return bytes.fromhex(hexdigest)


def hasher_for(key: bytes) -> Any:
    """Return the hash whose digest a key is: SHA-1 for 20 bytes (Metaflow's), else xxh3-128 (ours)."""
    return _sha1()(usedforsecurity=False) if len(key) == 20 else xxh3_128()  # noqa: PLR2004


def hexdigest_for(key: str, data: bytes) -> str:
    """Return the digest of ``data`` by the hash that a key is of, in hexadecimal digits."""
    if len(key) == 32:  # noqa: PLR2004
        return xxh3_128_digest(data).hex()  # half the time of a hasher's, for small data
    hasher = hasher_for(key_of(key))
    hasher.update(data)
    return str(hasher.hexdigest())


def sha1_of(file: BlobReader) -> str:
    """Return the SHA-1 of what is left of a file, in hexadecimal digits."""
    hasher = _sha1()(usedforsecurity=False)
    while block := file.read(2**20):
        hasher.update(block)
    return str(hasher.hexdigest())


@cache
def _sha1() -> Callable[..., Any]:
    with unforked():
        from hashlib import sha1  # 6 ms, and only needed for keys that came from Metaflow

    return sha1


class Blobs:
    """Puts, finds and reads blobs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        payloads: Iterable[Payload],
        keys: Iterable[str] = (),
        root: Root | None = None,
        pending: Pending | None = None,
    ) -> list[StoredBlob]:
        """Store each payload once; return keys and sizes in order, duplicates included.

        Blobs are keyed by xxh3-128, or by the ``keys`` given (one a payload, checked against the bytes: InvalidKey).
        The iterable may run any code: no transaction is open while it does. If it raises, blobs of earlier
        transactions stay, referenced by nothing and so harmless.

        Each blob is held (see ``holds``) until the transaction that references it releases it. With ``root`` something
        refers to it in the transaction that stores it: for callers who will not put again what is there.

        With ``pending`` small blobs wait there as long as there is room, and it counts the holds on the others.
        """
        self._database.check_open()
        stored: list[StoredBlob] = []
        put: list[bytes] = []
        small = SmallBatch(self.open, self._database, root)
        given = iter(keys)
        try:
            for payload in payloads:
                writer = self._write(payload, next(given, None), root)
                stored.append(StoredBlob(writer.key.hex(), writer.size))
                if writer.small is not None and pending is not None and pending.take(writer.key, writer.small):
                    continue
                put.append(writer.key)
                if writer.small is not None:
                    small.add(writer.key, writer.small)
            small.flush()
        except BaseException:
            # What still waits is not held: another put of this process may hold the same.
            held = Counter(put) - small.times
            with suppress(DataException):  # the error on its way is the one to see
                self.release(key.hex() for key in held.elements())
            raise
        if pending is not None:
            pending.held.update(put)
        return stored

    def put_what_waits(self, pending: Pending) -> None:
        """Put the small blobs that wait for the end of an attempt now, held: somebody else counts on them."""
        rows = pending.rows(list(pending.waiting))
        with ExitStack() as if_it_fails:
            with self._database.write() as connection:
                new = pending.to_put(rows)
                insert_small_blobs(connection, new, self.open)
                keys = [row[0] for row in new]
                hold(connection, dict.fromkeys(keys, 1))
                if_it_fails.callback(pending.were_put(keys))
            if_it_fails.pop_all()
        crash_point("waiting-blobs-put")

    def release(self, keys: Iterable[str]) -> None:
        """Let go of blobs that were put and will not be referenced; each key once."""
        with self._database.write() as connection:
            release(connection, map(key_of, keys))
            crash_point("unused-blobs-released")

    def _write(self, payload: Payload, key: str | None, root: Root | None) -> BlobWriter:
        for _ in range(10):
            writer = BlobWriter(self._database, None if key is None else key_of(key), root)
            try:
                payload(writer)
                writer.finish()
            except ChunkVanished:
                writer.undo()
                continue
            except BaseException:
                writer.undo()
                raise
            return writer
        raise Damaged(f"Chunks of a blob vanished again and again while it was saved in {self._database.path}.")

    def copy(self, source: Blobs, keys: Iterable[str], advance: Callable[[int], object] = lambda _: None) -> None:
        """Put blobs of another store, each checked on its way out of there, and held here as ``put`` does.

        ``advance`` is told the size of each [bytes]. Raises what reading there raises; BlobNotFound names the blob.
        """

        def payload(key: str) -> Payload:
            def write_to(file: Any) -> None:
                with source.open(key) as reader:
                    file.copy(reader)
                    advance(reader.size)

            return write_to

        keys = list(keys)
        self.put(map(payload, keys), keys)

    def open(self, key: str) -> BlobReader:
        """Return a file to read the blob from, checked as it is read; use it in ``with``. Raises BlobNotFound."""
        rows = self._database.query(SELECT_BLOB, (key_of(key),))
        if not rows:
            raise self.missing(key)
        return self._reader(key, rows[0])

    def missing(self, key: str) -> BlobNotFound:
        """Return the error for a blob that is not there: a BlobLeftOut if an export left it out."""
        size = size_left_out(self._database, key_of(key))
        if size is not None:
            return BlobLeftOut(
                f"Its blob {key} of {size:,} bytes is not in {self._database.path}: it was left out when the "
                "file was exported (--max-artifact-size), or lost before it was salvaged. Load it from the file that "
                "this one was made from, or import that file here."
            )
        return BlobNotFound(f"No blob has the key {key} in {self._database.path}.")

    def open_all(self, keys: Iterable[str]) -> dict[str, BlobReader]:
        """Return a file to read each blob from, by key; keys without a blob are left out. One query for all.

        Small blobs are in memory then: do not ask for thousands.
        """
        keys = list(dict.fromkeys(keys))
        rows = self._database.query(SELECT_BLOBS, (json.dumps(keys),))
        return {key: self._reader(key, row) for key, row in zip(keys, rows, strict=True) if row[0] is not None}

    def head(self, key: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a blob; of a large one only the chunks that were read are checked."""
        return self.open(key).read(size)

    def load(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield each key with its blob, in order, duplicates included. Raises BlobNotFound at a key that is missing."""
        self._database.check_open()
        keys = list(keys)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            rows = self._database.query(SELECT_BLOBS, (json.dumps(some),))
            for key, row in zip(some, rows, strict=True):
                if row[0] is None:
                    raise self.missing(key)
                self._database.check_open()
                with self._reader(key, row) as file:
                    blob = file.read()
                yield key, blob

    def load_small(self, keys: Iterable[str], largest: int) -> dict[str, bytes]:
        """Return by key those of the blobs that sit in their rows and have up to ``largest`` bytes, by one query."""
        rows = self._database.query(SELECT_SMALL_BLOBS, (json.dumps(list(keys)), largest))
        return {key: self._inline(key, *row) for key, *row in rows}

    def has(self, keys: Iterable[str]) -> list[bool]:
        """Return for each key whether its blob is complete in the store."""
        return [bool(row[0]) for row in self._database.query(HAS_BLOBS, (json.dumps(list(keys)),))]

    def hold(self, keys: Iterable[str]) -> list[bool]:
        """Return what ``has`` does, and hold the blobs that are there: the caller counts on them from now on."""
        keys = list(keys)
        with self._database.write() as connection:
            there = self.has(keys)
            hold_at_least_once(connection, [key_of(key) for key, found in zip(keys, there, strict=True) if found])
        return there

    def hold_for(self, pending: Pending, keys: Iterable[str]) -> None:
        """Hold the blobs that are there, once more each, for an attempt that will refer to them."""
        asked = list(keys)
        with self._database.write() as connection:
            held = Counter(key_of(key) for key, found in zip(asked, self.has(asked), strict=True) if found)
            hold(connection, held)
        pending.held.update(held)

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the size [bytes] of each blob by its key; keys without a blob are left out."""
        return dict(self._database.query(SELECT_SIZES, (json.dumps(list(keys)),)))

    def starts(self) -> list[str]:
        """Return the first two digits that keys of Metaflow's kind (SHA-1) have, each once."""
        return [start for (start,) in self._database.query(SELECT_STARTS)]

    def keys(self, start: str) -> list[str]:
        """Return the keys of that kind that begin with ``start``, two hexadecimal digits, sorted; else none."""
        try:
            first = bytes.fromhex(start)
        except ValueError:
            return []
        return [key for (key,) in self._database.query(SELECT_KEYS, (first, first + b"\xff" * 21))]

    def discard(self, keys: Iterable[str]) -> None:
        """Delete blobs that nothing references, and chunks that only they used, overwriting their bytes with zeros."""
        with self._database.write() as connection, overwriting_what_is_deleted(connection):
            for key in keys:
                if is_held_by_others(connection, key_of(key)):
                    continue
                chunks = connection.execute(SELECT_CHUNKS_OF, (key_of(key),)).fetchall()
                try:
                    connection.execute(DELETE_BLOB, (key_of(key),))
                except apsw.ConstraintError:
                    continue  # something else has the same content
                crash_point("discarded-blob-deleted")
                connection.executemany(DELETE_CHUNK, chunks)

    def _reader(self, key: str, row: tuple[Any, ...]) -> BlobReader:
        _, size, codec, stored = row
        if codec is None:
            try:
                chunks = array("q", (chunk for (chunk,) in self._database.query(SELECT_CHUNKS_OF, (key_of(key),))))
            except TypeError as error:
                raise Damaged(f"Blob {key} in {self._database.path} is damaged: its list of chunks is none.") from error
            if not chunks and not self.has([key])[0]:  # pruned between the two queries
                raise self.missing(key)
            return ChunkedReader(self._database, key, size, chunks, hasher_for(key_of(key)))
        return InlineReader(self._inline(key, size, codec, stored))

    def _inline(self, key: str, size: Any, codec: Any, stored: Any) -> bytes:
        """Return the checked bytes of a blob that sits in its row."""
        if not isinstance(size, int) or not 0 <= size <= MAX_INLINE:
            raise Damaged(
                f"Blob {key} in {self._database.path} is damaged: it claims {size} bytes in its row, and no more than "
                f"{MAX_INLINE} are kept there."
            )
        try:
            data = codecs.decode(codec, stored, size)
        except Damaged as error:
            raise Damaged(f"Blob {key} in {self._database.path} is damaged: {error}.") from error
        if hexdigest_for(key, data) != key:
            raise Damaged(f"Blob {key} in {self._database.path} is damaged: its bytes have another digest.")
        return data


class BlobWriter:
    """The file that one payload is written to. After ``finish`` it knows ``key`` and ``size``.

    ``small`` holds the bytes of a blob that fits in its row (the caller inserts it, many at once), else None.
    """

    def __init__(self, database: Database, expected: bytes | None = None, root: Root | None = None) -> None:
        self._database = database
        self._expected = expected
        self._root = root
        self._gathered = bytearray()
        self._stream: ChunkStream | None = None
        self.size = 0
        self.key = b""
        self.small: bytes | None = None

    def write(self, data: Buffer | PickleBuffer, /) -> int:
        """Take ``data``, which may change again after the call."""
        if type(data) is bytes:
            size, view = len(data), memoryview(data)
        else:
            view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data).cast("B")
            size = view.nbytes
        self.size += size
        if self._stream is None:
            if self.size <= INLINE:
                self._gathered += view
                return size
            self._stream = ChunkStream(self._database, partial(hasher_for, self._expected or b""))
            self._stream.write(memoryview(self._gathered))
        self._stream.write(view)
        return size

    def copy(self, source: BlobReader) -> None:
        """Take a whole blob of another store, instead of ``write``: its chunks stay as they were cut and encoded."""
        if isinstance(source, InlineReader):
            self.write(source.read())
            return
        self._stream = ChunkStream(self._database, partial(hasher_for, self._expected or b""))
        for data, codec, stored in source.encoded_chunks():
            self.size += len(data)
            self._stream.write_chunk(data, codec, stored)

    def finish(self) -> None:
        """Complete the blob; a large one is in the store afterwards. Raises InvalidKey if another key was expected."""
        if self._stream is None:
            self.small = bytes(self._gathered)
            if self._expected is None:
                self.key = xxh3_128_digest(self.small)
                return
            hasher = hasher_for(self._expected)
            hasher.update(self.small)
            self.key = hasher.digest()
            self._check_key()
        else:
            self.key = self._stream.finish_chunks()
            self._check_key()
            if not self._stream.insert_blob(self.key, self.size, self._root):
                self._share(self._stream)

    def undo(self) -> None:
        """Take the new chunks out again, where nothing references them."""
        if self._stream is not None:
            self._stream.undo()

    def _share(self, stream: ChunkStream) -> None:
        """Take the blob stored under our key for ours, if it is; else hold it no more."""
        try:
            self._compare(stream)
        except BaseException:
            with (
                suppress(DataException),
                self._database.write() as connection,
            ):  # the error on its way is the one to see
                release(connection, [self.key])
            raise
        crash_point("known-blob-compared")
        stream.undo()  # the stored blob may be cut otherwise, and does not need our chunks

    def _compare(self, stream: ChunkStream) -> None:
        """Check that the blob stored under our key has our bytes: the same chunks, or the same content."""
        rows = self._database.query(SELECT_CHUNKS_OF, (self.key,))
        if stream.is_made_of([chunk for (chunk,) in rows]):
            return
        try:
            with stream.reader(self.key, self.size) as ours, Blobs(self._database).open(self.key.hex()) as stored:
                while data := ours.read(2**20):
                    check_equal(self.key, stored.read(2**20), data)
                check_equal(self.key, stored.read(1), b"")
        except BlobNotFound as error:  # pruned since
            raise ChunkVanished from error

    def _check_key(self) -> None:
        if self._expected is not None and self._expected != self.key:
            raise InvalidKey(
                f"The blob given as {self._expected.hex()} has the key {self.key.hex()}; it was not saved."
            )
