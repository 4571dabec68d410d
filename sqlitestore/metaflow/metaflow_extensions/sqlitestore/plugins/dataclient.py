"""The data client ``sqlite``: where ``IncludeFile`` puts its files, and finds them again.

An included file becomes an artifact that holds a URL, ``sqlite://mf.datatools/<flow>/<sha1>``: a named file of the
store in which the artifact is, wherever that is now. Metaflow gzips what it puts; the gzip is taken off on the way in
and a new one, that only frames the bytes, is made on the way out.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from metaflow.exception import MetaflowException

from .problems import as_metaflow
from .storage import TYPE, SQLiteDatastoreStorage

FOLDER = "mf.datatools"
SCHEME = f"{TYPE}://"
GZIPPED = '{"gzip": true}'
"""Metadata of a file whose gzip was taken off."""


class SQLiteFileNotFound(MetaflowException):
    """No open store has the included file."""

    headline = "Included file not found"


class SQLiteObject:
    """A file that was asked for. ``path`` is where it can be opened, None if it is missing; ``size`` is in bytes."""

    def __init__(self, url: str, path: str | None, size: int | None) -> None:
        self.url = url
        self.path = path
        self.size = size

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path is not None


class SQLiteDataClient:
    """Puts and gets files by URL; use it in ``with``, until whose end the paths that it gave can be opened."""

    TYPE = TYPE

    def __init__(self) -> None:
        from sqlitestore.metaflow.handed_out import HandedOutFiles

        self._files = HandedOutFiles()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._files.close()

    @classmethod
    def get_root_from_config(cls, echo: Any, create_on_absent: bool = True) -> str:
        """Return the folder, in whichever file, below which included files are."""
        del echo, create_on_absent
        return FOLDER

    def put(self, key: str, obj: bytes, overwrite: bool = True) -> str:
        """Save bytes in the store of the run that is being started; return their URL."""
        from sqlitestore.blobs import payload_of
        from sqlitestore.paths.stores import store_at

        path = key.removeprefix(SCHEME)
        with as_metaflow():
            store = store_at(SQLiteDatastoreStorage()._root().file, create=True)
            assert store is not None, "made if it was missing"  # noqa: S101
            raw = _unpacked(obj)
            data, metadata = (obj, None) if raw is None else (raw, GZIPPED)
            store.files.save(path, payload_of(data), metadata, overwrite=overwrite)
        return SCHEME + path

    def get(self, key: str, return_missing: bool = False) -> SQLiteObject:
        """Return the file of a URL; a missing one raises SQLiteFileNotFound, or is returned as such."""
        with as_metaflow():
            found = _find(key.removeprefix(SCHEME))
            if found is not None:
                store, (blob, size, metadata) = found
                return SQLiteObject(key, self._files.make(_blocks(store, blob, framed=metadata == GZIPPED)), size)
        if not return_missing:
            raise SQLiteFileNotFound(f"The included file {key} is not in {SQLiteDatastoreStorage()._root().file}.")
        return SQLiteObject(key, None, None)

    def info(self, key: str, return_missing: bool = False) -> SQLiteObject:
        """Return what ``get`` does; for this store that is as cheap."""
        return self.get(key, return_missing)


def _blocks(store: Any, blob: str, *, framed: bool) -> Iterator[bytes]:
    """Yield a blob's bytes, as they are or in a gzip that does not compress."""
    frame = zlib.compressobj(level=0, wbits=31) if framed else None
    with store.blobs.open(blob) as source:
        while block := source.read(2**20):
            yield frame.compress(block) if frame else block
    if frame:
        yield frame.flush()


def _find(path: str) -> tuple[Any, tuple[str, int, str | None]] | None:
    """Return the store that has the file and what it knows of it; the current one is asked first.

    A client may look at several files, and an artifact does not say from which of them it came.
    """
    from sqlitestore.paths.stores import open_stores, store_at

    current = store_at(SQLiteDatastoreStorage()._root().file)
    for store in ([] if current is None else [current]) + open_stores():
        found = store.files.find(path)
        if found is not None:
            return store, found
    return None


def _unpacked(data: bytes) -> bytes | None:
    """Return what is gzipped in ``data``, None if it is not gzip."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(data), mode="rb") as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None
