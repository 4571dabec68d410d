"""Blobs out of a damaged file: each that is whole, decoded and hashed, goes into the new one, with its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw
from xxhash import xxh3_128_digest

from sqlitestore import codecs
from sqlitestore.blob_reader import MAX_CHUNK, MAX_INLINE
from sqlitestore.blobs import hasher_for
from sqlitestore.errors import Damaged
from sqlitestore.maintenance.carving import ORPHANED, UNCERTAIN
from sqlitestore.maintenance.salvage_staging import Staging
from sqlitestore.maintenance.verification import Findings
from sqlitestore.progress import Progress

INSERT_BLOB = "INSERT INTO blob(id, key, size, codec, bytes) VALUES (?, ?, ?, ?, ?)"
INSERT_CHUNK = "INSERT INTO chunk(id, digest, size, codec, bytes) VALUES (?, ?, ?, ?, ?)"
INSERT_PART = "INSERT INTO blob_chunk(blob, position, chunk) VALUES (?, ?, ?)"
SELECT_BLOB = "SELECT id, size FROM blob WHERE key = ?"
SELECT_CHUNK = "SELECT id, size, codec, bytes FROM chunk WHERE digest = ?"
HAS_ID = "SELECT 1 FROM {} WHERE id = ?"
SELECT_SUM = "SELECT COALESCE(SUM(c2), 0) FROM blob WHERE typeof(c2) = 'integer' AND c2 BETWEEN 0 AND 1 << 50"
DELETE_LOOSE_CHUNKS = "DELETE FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)"
COMMIT_EVERY = 64 * 2**20
"""[bytes] Of content, between two commits."""

MANY_CANDIDATES = 8
"""Rows that are tried for one id: more are no accident."""


class ContentSalvage:
    """Moves whole blobs. ``payload`` gives the values of a row by page and cell, of which the content is the last."""

    def __init__(
        self,
        staging: Staging,
        out: apsw.Connection,
        payload: Callable[[int, int], list[Any] | None],
        findings: Findings,
        progress: Progress,
    ) -> None:
        self._staging = staging
        self._out = out
        self._payload = payload
        self._findings = findings
        self._progress = progress
        self._written = 0
        self._candidates: dict[int, int] = {}
        """How many contents the rows of a chunk's id have, of those that were wanted."""
        self.unsure: set[bytes] = set()
        """Keys of blobs of which nobody knows whether they were deleted: only those that something needs are kept."""

    def run(self) -> None:
        """Move everything that is whole, and say what is not."""
        total = self._staging.query(SELECT_SUM)[0][0]
        self._progress.start("Saving contents", total, "bytes")
        self._out.execute("BEGIN")
        try:
            for blob in self._staging.firsts("blob"):
                self._save(blob)
                if self._written >= COMMIT_EVERY:
                    self._out.execute("COMMIT; BEGIN")
                    self._written = 0
            self._out.execute(DELETE_LOOSE_CHUNKS)
            self._out.execute("COMMIT")
        finally:
            self._progress.finish()

    def keys_of(self, blob: Any) -> list[bytes]:
        """Return the keys that a blob's id may stand for, the surest first.

        That is one whose content was found; rows that may be of chunks come last.
        """
        keys = dict.fromkeys(row[2] for row in self._staging.find("blob", blob))
        chunks = {row[2] for row in self._staging.find("chunk", blob) if row[3] is not None}
        return sorted(keys, key=lambda key: (self.saved(key) is None, key in chunks))

    def saved(self, key: bytes) -> tuple[int, int] | None:
        """Return the id and size [bytes] of a blob in the new file, None if it is not there."""
        found: Any = self._out.execute(SELECT_BLOB, (key,)).fetchone()
        return None if found is None else (found[0], found[1])

    def _save(self, blob: int) -> None:
        """Save the blob of every key that the id may stand for."""
        rows = self._staging.places("blob", blob)[:MANY_CANDIDATES]
        for key in dict.fromkeys(row[4] for row in rows):
            if self.saved(key):
                continue
            message = "its row is lost; the index still has it"
            for rank, page, cell, _, _, size, codec in (row for row in rows if row[4] == key and row[5] is not None):
                message = self._save_candidate(blob, key, size, codec, (page, cell))
                if not message:
                    if rank >= UNCERTAIN or (rank >= ORPHANED and self._may_be_chunk(blob, key)):
                        self.unsure.add(key)
                    break
            if message and any(row[4] == key and row[0] < UNCERTAIN for row in rows):
                self._findings.add("blob", message, name=key.hex())

    def _may_be_chunk(self, blob: int, key: bytes) -> bool:
        """Whether the row's page may as well be one of the table of chunks: they look alike."""
        return any(row[2] == key for row in self._staging.find("chunk", blob))

    def _save_candidate(self, blob: int, key: bytes, size: int, codec: Any, place: tuple[int, int]) -> str:
        """Save a blob if it is whole; else return what is wrong with it."""
        if codec is None:
            message = "its chunks are lost"
            for chunks in self._lists(blob):
                message = self._save_chunks(blob, key, size, chunks)
                if not message:
                    return ""
            return message
        data, stored = self._decoded(place, size, codec, MAX_INLINE)
        if data is None:
            return "its bytes are damaged"
        hasher = hasher_for(key)
        hasher.update(data)
        if hasher.digest() != key:
            return "its bytes have another digest than its key"
        self._out.execute(INSERT_BLOB, (self._free_id("blob", blob), key, size, codec, stored))
        self._count(size)
        return ""

    def _lists(self, blob: int) -> Iterator[list[int]]:
        """Yield the lists of chunks that the blob may be made of: table first, index first, what is surest alone."""
        rows = self._staging.find("blob_chunk", blob)
        seen = []
        for ranks in (sorted(rows), sorted(rows, key=lambda row: (row[0] ^ 1, row)), [r for r in rows if r[0] == 0]):
            by_position: dict[int, int] = {}
            for _, _, position, chunk in ranks:
                by_position.setdefault(position, chunk)
            chunks = [chunk for _, chunk in sorted(by_position.items())]
            if sorted(by_position) == list(range(len(chunks))) and chunks not in seen:
                seen.append(chunks)
                yield chunks

    def _save_chunks(self, blob: int, key: bytes, size: int, chunks: Sequence[int]) -> str:
        """Save a blob that is made of chunks; what an id stands for may be in doubt, and the blob's key decides."""
        message = self._save_choice(blob, key, size, chunks, 0)
        choice = 1
        while message and choice < max((self._candidates.get(chunk, 0) for chunk in chunks), default=0):
            if not self._save_choice(blob, key, size, chunks, choice):
                return ""
            choice += 1
        return message

    def _save_choice(self, blob: int, key: bytes, size: int, chunks: Sequence[int], choice: int) -> str:
        hasher = hasher_for(key)
        length, parts, lost = 0, [], []
        for chunk in chunks:
            found = self._save_chunk(chunk, choice)
            if found is None:
                lost.append(chunk)
                continue
            data, row = found
            hasher.update(data)
            length += len(data)
            parts.append(row)
            self._count(len(data))
        if lost:
            return f"{len(lost)} of its {len(chunks)} chunks are lost or damaged: {', '.join(map(str, lost[:20]))}"
        if length != size or hasher.digest() != key:
            return "its chunks, joined, have another digest than its key"
        row = self._free_id("blob", blob)
        self._out.execute(INSERT_BLOB, (row, key, size, None, None))
        self._out.executemany(INSERT_PART, ((row, position, part) for position, part in enumerate(parts)))
        return ""

    def _save_chunk(self, chunk: int, choice: int) -> tuple[bytes, int] | None:
        """Return a chunk's bytes and its id in the new file; None if nothing of that id is whole.

        Rows of several contents may have the id, where they may also be of blobs: ``choice`` says which is taken.
        """
        whole: set[bytes] = set()
        last: tuple[bytes, int] | None = None
        for _, page, cell, _, digest, size, codec in self._staging.places("chunk", chunk)[:MANY_CANDIDATES]:
            if digest in whole:
                continue
            data, stored = self._decoded((page, cell), size, codec, MAX_CHUNK)
            if data is None or xxh3_128_digest(data) != digest:
                continue
            if len(whole) <= choice:
                row = self._chunk_id(chunk, digest, size, codec, stored, data)
                if row is None:
                    continue
                last = data, row
            whole.add(digest)
        self._candidates[chunk] = len(whole)
        return last

    def _chunk_id(self, chunk: int, digest: bytes, size: int, codec: int, stored: bytes, data: bytes) -> int | None:
        """Return the id of a chunk in the new file, where it is put if it is not there.

        None if other bytes have its digest there: made to collide, and not to be shared.
        """
        found: Any = self._out.execute(SELECT_CHUNK, (digest,)).fetchone()
        if found is not None:
            return int(found[0]) if codecs.decode(found[2], found[3], found[1]) == data else None
        row = self._free_id("chunk", chunk)
        self._out.execute(INSERT_CHUNK, (row, digest, size, codec, stored))
        return row

    def _decoded(self, place: tuple[int, int], size: Any, codec: Any, most: int) -> tuple[bytes | None, Any]:
        values = self._payload(*place)
        if values is None or not 0 <= size <= most:
            return None, None
        try:
            return codecs.decode(codec, values[-1], size), values[-1]
        except Damaged:
            return None, None

    def _free_id(self, table: str, wanted: int) -> int:
        """Return the id that a row had, or another if that is taken."""
        if wanted > 0 and self._out.execute(HAS_ID.format(table), (wanted,)).fetchone() is None:
            return wanted
        return int(self._out.execute(f"SELECT MAX(id) + 1 FROM {table}").get)

    def _count(self, size: int) -> None:
        self._written += size
        self._progress.advance(size)
