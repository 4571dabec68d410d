"""The content-addressed part of the published API: bytes in, keys out, and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any, NamedTuple

from sqlitestore.blobs import Payload, payload_of
from sqlitestore.errors import InvalidType
from sqlitestore.model import Buffer, check_iterable, check_key
from sqlitestore.pickling import ReadFile
from sqlitestore.storage import DataStoreStorage


class BlobCache:
    """A cache that a ContentAddressedStore asks first; this one keeps nothing: subclass it, as in Metaflow."""

    def load_key(self, key: str) -> bytes | None:
        """Return the blob of ``key``, None if it is not cached."""

    def store_key(self, key: str, blob: bytes) -> None:
        """Take a blob that was loaded; keeping it is up to the cache."""


class ImmutableBlobCache(BlobCache):
    """Holds what was preloaded, and nothing else."""

    def __init__(self, preloaded: dict[str, bytes]) -> None:
        self._preloaded = preloaded

    def load_key(self, key: str) -> bytes | None:
        """Return a preloaded blob."""
        return self._preloaded.get(key)


class SavedBlob(NamedTuple):
    """Where a blob was saved. ``uri`` is None unless it was saved raw."""

    uri: str | None
    key: str


class ContentAddressedStore:
    """Blobs under the hash of their content; equal ones are stored once, in whichever flow.

    ``prefix`` is ``<flow name>/data``, as in Metaflow.
    """

    save_blobs_result = SavedBlob

    def __init__(self, prefix: str, storage_impl: DataStoreStorage) -> None:
        self._prefix = prefix
        self._flow_name = prefix.split("/", 1)[0]
        self._storage_impl = storage_impl
        self.TYPE = storage_impl.TYPE
        self._blob_cache: BlobCache | None = None

    def set_blob_cache(self, blob_cache: BlobCache | None) -> None:
        """Ask ``blob_cache`` before the store from now on; None: no cache."""
        self._blob_cache = blob_cache

    def save_blobs(
        self, blob_iter: Iterable[Any], raw: bool = False, len_hint: int = 0, is_transfer: bool = False
    ) -> list[SavedBlob]:
        """Save the blobs (bytes, bytearray or memoryview) that ``blob_iter`` yields; return results in their order.

        ``raw`` blobs get a URI and stay until `prune --data`; others go once nothing needs them.
        (Metaflow also stores raw blobs uncompressed; here all are read through the key.) With ``is_transfer`` the
        iterator yields what ``load_blobs(..., is_transfer=True)`` does, and the keys are kept after checking them.

        If the iterator raises, nothing is kept, and what was put already goes when the file is compacted. Raises
        InvalidType for anything that is not bytes.
        """
        del len_hint
        keys: list[str] = []
        payloads = _transferred(blob_iter, keys) if is_transfer else _payloads(blob_iter)
        # The list of keys grows as the payloads are taken; put_blobs takes one of each at a time.
        saved = self._storage_impl.put_blobs(
            self._flow_name, payloads, keys=_growing(keys) if is_transfer else (), keep=raw
        )
        return [
            SavedBlob(self._storage_impl.blob_uri(self._flow_name, blob.key) if raw or is_transfer else None, blob.key)
            for blob in saved
        ]

    def load_blobs(self, keys: Iterable[str], force_raw: bool = False, is_transfer: bool = False) -> Iterator[Any]:
        """Yield ``(key, bytes)`` in the order asked, duplicates too; with ``is_transfer`` also Metaflow's metadata.

        ``force_raw`` means: the stored bytes, undecoded. They are what was saved, so it changes nothing. Unlike in
        Metaflow, a missing key raises BlobNotFound that names it, and what has no form of a key InvalidKey.
        """
        del force_raw
        cache = self._blob_cache
        asked = _checked(keys)
        if cache is None:
            found = self._storage_impl.load_blobs(self._flow_name, asked)
        else:
            found = ((key, self._load_cached(cache, key)) for key in asked)
        for key, blob in found:
            yield (key, blob, {"cas_raw": True, "cas_version": 1}) if is_transfer else (key, blob)

    def load_small_blobs(self, keys: Sequence[str], largest: int) -> Mapping[str, bytes]:
        """Return by key those of the blobs that are cheap to load together and have up to ``largest`` bytes.

        None with a cache: what it keeps is for it to say. Raises Damaged.
        """
        if self._blob_cache is not None:
            return {}
        return self._storage_impl.load_small_blobs(self._flow_name, keys, largest)

    def open_blob(
        self, key: str, at_hand: Callable[[str], bytes | None] | None = None
    ) -> AbstractContextManager[ReadFile]:
        """Return a file to read one blob from, in ``with``, without ever having the whole in memory.

        A cache is asked first, and filled as ``load_blobs`` does. Without one, ``at_hand`` is asked before the store;
        what it returns was checked. Raises BlobNotFound, and Damaged while reading.
        """
        cache = self._blob_cache
        if cache is None:
            if at_hand is not None and (blob := at_hand(key)) is not None:
                self._storage_impl.check_open()
                return BytesIO(blob)
            return self._storage_impl.open_blob(self._flow_name, check_key(key))
        if isinstance(cache, ImmutableBlobCache):  # takes nothing, so the whole is not needed
            blob = cache.load_key(key)
            return BytesIO(blob) if blob is not None else self._storage_impl.open_blob(self._flow_name, check_key(key))
        return BytesIO(self._load_cached(cache, check_key(key)))

    def _load_cached(self, cache: BlobCache, key: str) -> bytes:
        blob = cache.load_key(key)
        if blob is None:
            [(_, blob)] = self._storage_impl.load_blobs(self._flow_name, [key])
            cache.store_key(key, blob)
        return blob


def _payloads(blobs: Iterable[Buffer]) -> Iterator[Payload]:
    for index, blob in enumerate(check_iterable("blobs", blobs)):
        yield payload_of(_bytes_like(index, blob))


def _transferred(blobs: Iterable[tuple[str, Buffer, object]], keys: list[str]) -> Iterator[Payload]:
    for index, (key, blob, _) in enumerate(blobs):
        keys.append(check_key(key))
        yield payload_of(_bytes_like(index, blob))


def _growing(keys: list[str]) -> Iterator[str]:
    index = 0
    while index < len(keys):
        yield keys[index]
        index += 1


def _bytes_like(index: int, blob: Any) -> Buffer:
    if not isinstance(blob, Buffer):
        raise InvalidType(f"Blob {index} is not bytes but {type(blob).__name__}; encode or serialize it first.")
    try:
        contiguous = memoryview(blob).c_contiguous
    except ValueError as error:  # a view that was released
        raise InvalidType(f"Blob {index} cannot be read: {error}") from error
    if not contiguous:
        raise InvalidType(f"Blob {index} is a view with gaps; pass bytes(...) of it.")
    return blob


def _checked(keys: Iterable[str]) -> list[str]:
    return [check_key(key) for key in check_iterable("keys", keys)]
