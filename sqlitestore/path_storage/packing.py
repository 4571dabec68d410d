"""A blob as Metaflow's content-addressed store keeps it: as it is (``cas_raw``), or in a gzip; and back, checked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pickle import PickleBuffer
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from sqlitestore.blobs import Payload, hasher_for, key_of
from sqlitestore.errors import BlobNotFound, Damaged, InvalidKey
from sqlitestore.model import Buffer
from sqlitestore.path_storage.paths import Opened
from sqlitestore.pickling import ReadFile

IN_MEMORY = 2**20
"""[bytes] A blob up to here waits in memory to be saved, a larger one in a temporary file."""

BLOCK = 2**18
"""[bytes] Copied at a time."""

LEVEL = 3
"""Of gzip's compression: Metaflow's."""

RAW = {"cas_raw": True, "cas_version": 1}
PACKED = {"cas_raw": False, "cas_version": 1}
"""What Metaflow keeps beside a blob."""


class Gathered:
    """The file that a payload is written to: its bytes, size and key. ``key`` is SHA-1, or as the one expected."""

    def __init__(self, payload: Payload, expected: str | None = None) -> None:
        self._hasher = hashlib.sha1(usedforsecurity=False) if expected is None else hasher_for(key_of(expected))
        self._file: BinaryIO = BytesIO()
        self.size = 0
        try:
            payload(self)
            self.key = self._checked_key(expected)
        except BaseException:
            self._file.close()
            raise

    def _checked_key(self, expected: str | None) -> str:
        key: str = self._hasher.hexdigest()
        if expected not in {None, key}:
            raise InvalidKey(f"The blob given as {expected} has the key {key}; it was not saved.")
        return key

    def write(self, data: Buffer | PickleBuffer, /) -> int:
        """Take ``data``, which may change again after the call."""
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data).cast("B")
        self.size += view.nbytes
        if self.size > IN_MEMORY and isinstance(self._file, BytesIO):
            gathered = self._file.getvalue()
            self._file = cast("BinaryIO", TemporaryFile())  # noqa: SIM115 - closed when it was saved
            self._file.write(gathered)
        self._hasher.update(view)
        self._file.write(view)
        return view.nbytes

    def raw(self) -> BinaryIO:
        """Return the bytes as they are, to be read and closed."""
        self._file.seek(0)
        return self._file

    def packed(self) -> BinaryIO:
        """Return the bytes in a gzip, to be read and closed; this file is closed."""
        made: BinaryIO = BytesIO()
        if self.size > IN_MEMORY:
            made = cast("BinaryIO", TemporaryFile())  # noqa: SIM115 - closed when it was saved
        with self.raw() as source, gzip.GzipFile(fileobj=made, mode="wb", compresslevel=LEVEL, mtime=0) as packer:
            while block := source.read(BLOCK):
                packer.write(block)
        made.seek(0)
        return made

    def close(self) -> None:
        """Let go of the bytes."""
        self._file.close()


def payload_from(open_file: Callable[[], Any]) -> Payload:
    """Return the payload that writes what ``open_file`` opens (in ``with``), anew each time."""

    def write_to(file: Any) -> None:
        with open_file() as source:
            while block := source.read(BLOCK):
                file.write(block)

    return write_to


@contextmanager
def unpacked(opened: Opened) -> Iterator[ReadFile]:
    """Open a blob that was fetched, without its gzip. Blobs of old Metaflows have no metadata and are in a gzip."""
    with open(opened.file, "rb") as file:
        if is_raw(opened.metadata):
            yield file
        else:
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacker:
                yield unpacker


def is_raw(metadata: Mapping[str, Any] | None) -> bool:
    """Return whether a blob's bytes stand there as they are."""
    return bool(metadata and metadata.get("cas_raw"))


class CheckedFile:
    """Reads a blob and hashes what it reads. Raises Damaged."""

    def __init__(self, file: ReadFile, key: str, place: str) -> None:
        self._file = file
        self._key = key
        self._hasher = hasher_for(key_of(key))
        self._place = place

    def _checked(self, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except (OSError, EOFError, zlib.error) as error:
            raise Damaged(f"Blob {self._key} in {self._place} is damaged: {error}.") from error
        self._hasher.update(data)
        return data

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes (all that are left if negative); fewer only at the end."""
        if size == 0:
            return b""
        return self._checked(lambda: self._file.read(size))

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, or as much of it as is left; return how much [bytes]."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < target.nbytes and (data := self.read(min(BLOCK, target.nbytes - done))):
            target[done : done + len(data)] = data
            done += len(data)
        return done

    def readline(self, size: int = -1, /) -> bytes:
        """Return bytes up to and with the next newline."""
        return self._checked(lambda: self._file.readline(size))

    def finish(self) -> None:
        """Read what is left. Raises Damaged if the whole has another digest."""
        while self.read(BLOCK):
            pass
        if self._hasher.hexdigest() != self._key:
            raise Damaged(f"Blob {self._key} in {self._place} is damaged: the whole has another digest.")


@contextmanager
def checked(opened: Opened | None, key: str, place: str) -> Iterator[CheckedFile]:
    """Open a blob that was fetched; leaving the block checks the whole. Raises BlobNotFound for None."""
    if opened is None:
        raise BlobNotFound(f"No blob has the key {key} in {place}.")
    with unpacked(opened) as file:
        reader = CheckedFile(file, key, place)
        yield reader
        reader.finish()
