"""The client's cache of what it has loaded: Metaflow's own, which the datastore ``sqlite`` does without.

Metaflow's client keeps a copy of each artifact in a file of its own in the temporary folder, so as not to fetch it from
afar again. From a file on this machine that only costs: three quarters of the time of loading a small artifact, and as
much disk again for a large one. And it is wrong as soon as another file has the path.

This module stands in for ``metaflow.client.filecache`` (see ``toplevel/sqlitestore_overrides.py``) and has all of it.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any


def _metaflows_own() -> Any:
    """Return the module that this one stands in for; its package is being imported just now."""
    spec = PathFinder.find_spec("metaflow.client.filecache", sys.modules["metaflow.client"].__path__)
    if spec is None or spec.loader is None:
        raise ImportError("metaflow.client.filecache is missing", name="metaflow.client.filecache")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = _metaflows_own()
globals().update({name: value for name, value in vars(theirs).items() if not name.startswith("_")})


class FileItself(theirs.BlobCache):  # type: ignore[name-defined]
    """In place of the cache: blobs right from the file, checked, which is faster than by way of a path to open."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def load_key(self, key: str) -> bytes | None:
        """Return a blob; None if it is missing, which ``load_bytes`` can explain."""
        blob: bytes | None = self._storage.load_blob(key)
        return blob


class FileCache(theirs.FileCache):  # type: ignore[name-defined]
    """See Metaflow's class."""

    _last: tuple[tuple[str, str, str], Any] | None = None
    """The last datastore ``sqlite`` and what it was asked for by: for each artifact that is loaded it is the same."""

    def _get_flow_datastore(self, ds_type: str, ds_root: str, flow_name: str) -> Any:
        asked, last = (ds_type, ds_root, flow_name), self._last  # which another thread may replace meanwhile
        if last is not None and last[0] == asked:
            return last[1]
        flow_datastore = super()._get_flow_datastore(*asked)
        if ds_type == "sqlite":
            flow_datastore.ca_store.set_blob_cache(FileItself(flow_datastore._storage_impl))
            flow_datastore.set_metadata_cache(None)
            self._last = asked, flow_datastore
        return flow_datastore
