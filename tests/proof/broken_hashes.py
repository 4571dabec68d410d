"""Hashes that an attacker has broken: what the store hashes with, cut to a byte, so that collisions are constant.

Each notes what it was asked to hash, by a hash of its own. So what collided is known without asking the product: two
contents were seen under one digest. Rows are hashed as ever (a digest of a row finds nothing, it only checks).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import xxhash

from sqlitestore import blob_reader, blobs, chunk_stream
from sqlitestore.maintenance import salvage_content, verify_content

KEY, CHUNK = "key", "chunk"

Seen = defaultdict[tuple[str, bytes], set[bytes]]
"""By what the digest is for, and the digest: the SHA-256 of each content that was hashed to it."""


def content_hash(data: Any) -> bytes:
    """Return what tells contents apart here: nobody breaks this one."""
    return hashlib.sha256(data).digest()


class BrokenHashes:
    """The doubles for xxh3-128 and SHA-1; ``key_bits`` and ``chunk_bits`` are what is left of the digests [bits]."""

    def __init__(self, key_bits: int, chunk_bits: int) -> None:
        self._bits = {KEY: key_bits, CHUNK: chunk_bits}
        self.seen: Seen = defaultdict(set)

    def cut(self, kind: str, digest: bytes) -> bytes:
        """Return what the broken hash makes of a real digest."""
        unused = len(digest) * 8 - self._bits[kind]
        return digest if unused <= 0 else (int.from_bytes(digest) >> unused << unused).to_bytes(len(digest))

    def key(self, data: bytes, length: int = 16) -> bytes:
        """Return the key of a blob, of xxh3-128 (16 bytes) or SHA-1 (20), without noting it."""
        real = xxhash.xxh3_128_digest(data) if length == 16 else hashlib.sha1(data).digest()
        return self.cut(KEY, real)

    def chunk(self, data: bytes) -> bytes:
        """Return the digest of a chunk, without noting it."""
        return self.cut(CHUNK, xxhash.xxh3_128_digest(data))

    def collided(self) -> set[tuple[str, bytes]]:
        """Return the digests under which more than one content was seen."""
        return {digest for digest, contents in self.seen.items() if len(contents) > 1}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the doubles to every module that hashes content."""
        key_digest, chunk_digest = self._function(KEY), self._function(CHUNK)
        with ExitStack() as stack:

            def put(module: Any, name: str, double: Any) -> None:
                stack.enter_context(mock.patch.object(module, name, double))

            put(blobs, "xxh3_128", lambda: _Hasher(self, xxhash.xxh3_128()))
            put(blobs, "xxh3_128_digest", key_digest)
            put(blobs, "_sha1", lambda: lambda usedforsecurity=False: _Hasher(self, hashlib.sha1()))
            for module in (chunk_stream, blob_reader, verify_content, salvage_content):
                put(module, "xxh3_128_digest", chunk_digest)
            yield

    def _function(self, kind: str) -> Callable[[Any], bytes]:
        def digest(data: Any) -> bytes:
            found = self.cut(kind, xxhash.xxh3_128_digest(data))
            self.seen[kind, found].add(content_hash(data))
            return found

        return digest


class _Hasher:
    """The double of a hash object of keys."""

    def __init__(self, broken: BrokenHashes, real: Any) -> None:
        self._broken = broken
        self._real = real
        self._content = hashlib.sha256()

    def update(self, data: Any) -> None:
        """Take bytes."""
        self._real.update(data)
        self._content.update(data)

    def digest(self) -> bytes:
        """Return what is left of the digest, and note the content."""
        found = self._broken.cut(KEY, self._real.digest())
        self._broken.seen[KEY, found].add(self._content.digest())
        return found

    def hexdigest(self) -> str:
        """Return the same in hexadecimal digits."""
        return self.digest().hex()
