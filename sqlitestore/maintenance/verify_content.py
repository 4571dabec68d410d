"""Every blob and chunk of a file, read, decoded and hashed; one in memory at a time.

A large blob has a key over the whole, and nothing else says in which order its chunks belong; so each blob is read from
its first byte to its last, though it shares chunks with others. Chunks that no blob has are read afterwards.

Others prune and write meanwhile: what seems hurt is looked at again, and is not hurt if it is gone or whole then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xxhash import xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.blob_reader import MAX_CHUNK, MAX_INLINE, SELECT_CHUNK_BY_ID
from sqlitestore.blobs import hasher_for
from sqlitestore.database import Database
from sqlitestore.errors import Damaged, DataException
from sqlitestore.maintenance.scanning import ids_in_index
from sqlitestore.maintenance.verification import Findings, reason
from sqlitestore.progress import Progress

SUM_OF_SIZES = "SELECT COALESCE(SUM(size), 0) FROM blob WHERE typeof(size) = 'integer' AND size BETWEEN 0 AND 1 << 50"
SELECT_BLOB_IDS = "SELECT id, key FROM blob WHERE id > ? ORDER BY id LIMIT 1000"
SELECT_CHUNK_IDS = "SELECT id FROM chunk WHERE id > ? ORDER BY id LIMIT 1000"
SELECT_KEY = "SELECT key FROM blob WHERE id = ?"
SELECT_BLOB = "SELECT key, size, codec, bytes FROM blob WHERE id = ?"
SELECT_PARTS = "SELECT position, chunk FROM blob_chunk WHERE blob = ? ORDER BY position"
HAS_CHUNK = "SELECT 1 FROM chunk WHERE id = ?"

KEY_SIZES = (16, 20)
"""[bytes] Of xxh3-128 (ours) and of SHA-1 (Metaflow's)."""

MAX_NAMED = 20
"""Hurt chunks that are listed of one blob."""


class ContentCheck:
    """Checks the tables ``blob``, ``blob_chunk`` and ``chunk``. ``hurt`` says what is wrong, by the blob's key."""

    def __init__(self, database: Database, findings: Findings, progress: Progress) -> None:
        self.hurt: dict[bytes, str] = {}
        self._database = database
        self._findings = findings
        self._progress = progress
        self._whole: set[int] = set()
        """Chunks that were read and are as their digests say."""

    def run(self) -> None:
        """Check everything."""
        total: int | None
        try:
            total = self._database.query(SUM_OF_SIZES)[0][0]
        except DataException:
            total = None
        self._progress.start("Checking contents", total, "bytes")
        try:
            for blob, key in self._ids("blob", SELECT_BLOB_IDS):
                self._check_blob(blob, key)
            for (chunk,) in self._ids("chunk", SELECT_CHUNK_IDS):
                if chunk not in self._whole:
                    self._check_loose_chunk(chunk)
        finally:
            self._progress.finish()

    def _ids(self, table: str, statement: str) -> Iterator[tuple[Any, ...]]:
        """Yield the id (and key) of each row; where the table cannot be read, by the ids that its index has."""
        last: Any = -(2**63)
        while True:
            try:
                rows = self._database.query(statement, (last,))
            except DataException as error:
                self._findings.unreadable(table, error)
                break
            yield from rows
            if not rows:
                break
            if rows[-1][0] <= last:
                self._findings.add("table", "its ids are not in order", name=table)
                break
            last = rows[-1][0]
        if self._findings.structure_hurt:
            yield from self._ids_behind(table, last)

    def _ids_behind(self, table: str, last: int) -> Iterator[tuple[Any, ...]]:
        """Yield rows that only the index has; those that were yielded already have ids up to ``last``."""
        for row in ids_in_index(self._database, table, self._findings):
            if table == "chunk":
                if row > last:
                    yield (row,)
                continue
            try:
                keys = self._database.query(SELECT_KEY, (row,))
            except DataException as error:
                self._findings.add("blob", f"its row cannot be read ({reason(error)})", name=f"id {row}")
                continue
            if not keys:
                self._findings.add("blob", "the index has it, and the table has not", name=f"id {row}")
            elif row > last:
                yield row, keys[0][0]

    def _check_blob(self, blob: int, key: Any) -> None:
        """Check one blob; what is wrong counts if it is so twice, and the blob is there still."""
        for _ in range(2):
            try:
                rows = self._database.query(SELECT_BLOB, (blob,))
                if not rows:
                    return
                key, size = rows[0][:2]
                message = self._wrong_with(blob, *rows[0])
                if message and not self._database.query(SELECT_KEY, (blob,)):
                    return
            except DataException as error:
                message, size = f"it cannot be read ({reason(error)})", 0
            if not message:
                self._findings.count("blobs")
                self._findings.count("bytes", size)
                return
        if isinstance(key, bytes):
            self.hurt[key] = message
        self._findings.add("blob", message, name=key.hex() if isinstance(key, bytes) else f"id {blob}")

    def _wrong_with(self, blob: int, key: Any, size: Any, codec: Any, stored: Any) -> str:
        """Return what is wrong with a blob, "" if nothing is."""
        if not isinstance(key, bytes) or len(key) not in KEY_SIZES:
            return "its key is none"
        if not isinstance(size, int) or size < 0:
            return f"its size is {size!r:.40}"
        parts = self._database.query(SELECT_PARTS, (blob,))
        if [position for position, _ in parts] != list(range(len(parts))):
            return "its list of chunks has gaps"
        hasher = hasher_for(key)
        if codec is None:
            message = self._wrong_with_chunks([chunk for _, chunk in parts], size, hasher)
        elif parts:
            return "it has both bytes in its row and chunks"
        else:
            message = _hash_inline(size, codec, stored, hasher)
            self._progress.advance(size if not message else 0)
        if message:
            return message
        return "" if hasher.digest() == key else "its bytes have another digest than its key"

    def _wrong_with_chunks(self, chunks: list[Any], size: int, hasher: Any) -> str:
        length, hurt = 0, []
        for chunk in chunks:
            data = self._chunk(chunk)
            if isinstance(data, str):
                hurt.append(f"chunk {chunk!r:.40} {data}")
                continue
            hasher.update(data)
            length += len(data)
            self._progress.advance(len(data))
        if hurt:
            more = f", and {len(hurt) - MAX_NAMED} more" if len(hurt) > MAX_NAMED else ""
            return "; ".join(hurt[:MAX_NAMED]) + more
        return "" if length == size else f"its chunks have {length:,} bytes where {size:,} belong"

    def _chunk(self, chunk: Any) -> bytes | str:
        """Return the bytes of a chunk, or what is wrong with it."""
        try:
            rows = self._database.query(SELECT_CHUNK_BY_ID, (chunk,))
        except DataException as error:
            return f"cannot be read ({reason(error)})"
        if not rows:
            return "is missing"
        size, codec, stored, digest = rows[0]
        if not isinstance(size, int) or not 0 < size <= MAX_CHUNK:
            return f"claims {size!r:.40} bytes"
        try:
            data = codecs.decode(codec, stored, size)
        except Damaged as error:
            return f"is damaged ({error})"
        if xxh3_128_digest(data) != digest:
            return "has another digest"
        if chunk not in self._whole:
            self._whole.add(chunk)
            self._findings.count("chunks")
        return data

    def _check_loose_chunk(self, chunk: Any) -> None:
        """Check a chunk that no whole blob has."""
        data = self._chunk(chunk)
        if isinstance(data, bytes):
            return
        try:
            gone = not self._database.query(HAS_CHUNK, (chunk,))
        except DataException:
            gone = False
        if not gone or self._findings.structure_hurt:
            self._findings.add("chunk", f"it {data}", name=chunk)


def _hash_inline(size: int, codec: Any, stored: Any, hasher: Any) -> str:
    if size > MAX_INLINE:
        return f"it claims {size:,} bytes in its row"
    try:
        hasher.update(codecs.decode(codec, stored, size))
    except Damaged as error:
        return str(error)
    return ""
