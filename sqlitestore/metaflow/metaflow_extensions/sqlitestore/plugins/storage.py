"""Metaflow's storage interface over our tables: paths in, bytes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from metaflow.datastore.datastore_storage import CloseAfterUse, DataStoreStorage

from .problems import SQLiteFileMissing, as_metaflow

TYPE = "sqlite"


class SQLiteDatastoreStorage(DataStoreStorage):
    """The datastore ``sqlite``. See Metaflow's base class for what each method promises.

    ``datastore_root`` is the path of the database file, or a folder in it (``/data/runs.db/mf.cards``). It is looked at
    again at each call: Metaflow's command line sets it on the class, and its cards on the instance. Who reads never
    makes a file: from one that is not there everything is missing.
    """

    TYPE = TYPE
    datastore_root: str | None = None

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
        if self.datastore_root is not None:
            self.datastore_root = self._root().given

    @classmethod
    def get_datastore_root_from_config(cls, echo: Any, create_on_absent: bool = True) -> str | None:
        """Return the file that is meant when none is given, None if it is missing and shall not be made."""
        with as_metaflow():
            from sqlitestore.metaflow.roots import configured_root

            root = configured_root()
            if not os.path.exists(root):
                if not create_on_absent:
                    return None
                echo(f"Creating {cls.TYPE} datastore {root}")
            return root

    def _root(self) -> Any:
        with as_metaflow():
            from sqlitestore.metaflow.roots import configured_root, split_root

            return split_root(self.datastore_root or configured_root())

    def _store(self, root: Any, *, create: bool = False) -> Any:
        with as_metaflow():
            from sqlitestore.paths.stores import store_at

            return store_at(root.file, create=create)

    def _find(self, paths: Iterable[str]) -> Iterator[Any]:
        from sqlitestore.paths.reading import find

        root = self._root()
        store = self._store(root)
        return iter([None for _ in paths]) if store is None else find(store, root.folder, paths)

    def is_file(self, paths: Iterable[str]) -> list[bool]:
        """Return for each path whether something stands there.

        Whoever is told that a blob is there will not save it, so it is held for the task that this process writes.
        """
        with as_metaflow():
            from sqlitestore.paths.writing import hold_blobs

            root = self._root()
            store = self._store(root)
            paths = list(paths)
            if store is not None:
                hold_blobs(store, root.folder, paths)
            return [found is not None for found in self._find(paths)]

    def info_file(self, path: str) -> tuple[bool, dict[str, Any] | None]:
        """Return whether something stands at the path, and its metadata (None if it has none)."""
        with as_metaflow():
            found = next(self._find([path]))
            return (False, None) if found is None else (True, found.metadata)

    def size_file(self, path: str) -> int | None:
        """Return the size [bytes] of what ``load_bytes`` would hand out, None if there is nothing."""
        with as_metaflow():
            found = next(self._find([path]))
            return None if found is None else found.size()

    def list_content(self, paths: Iterable[str]) -> list[Any]:
        """Return what stands one level below each path; nothing for a path that is not there."""
        with as_metaflow():
            from sqlitestore.paths.reading import children

            root = self._root()
            store = self._store(root)
            return [
                self.list_content_result(path=self.path_join(path, name), is_file=is_file)
                for path in paths
                if store is not None
                for name, is_file in children(store, root.folder, path).items()
            ]

    def save_bytes(self, path_and_bytes_iter: Iterable[Any], overwrite: bool = False, len_hint: int = 0) -> None:
        """Save what the iterator yields; without ``overwrite``, what is there stays."""
        del len_hint
        with as_metaflow():
            from sqlitestore.paths.writing import PathWriter

            root = self._root()
            PathWriter(self._store(root, create=True), root.folder, overwrite=overwrite).save(path_and_bytes_iter)

    def load_bytes(self, keys: Sequence[str]) -> CloseAfterUse:
        """Return, for ``with``, an iterator over (path, path of a file to open, metadata), in the order asked.

        A path that is not there has None and None. The files can be opened until the end of the block.
        """
        from sqlitestore.metaflow.handed_out import HandedOutFiles

        keys = list(keys)
        if not keys:  # all that was asked for was in a cache
            return CloseAfterUse(iter(()))
        files = HandedOutFiles()
        return CloseAfterUse(self._handed_out(keys, files), closer=files)

    def load_blob(self, key: str) -> bytes | None:
        """Return a blob by its key, as ``load_bytes`` has it in a file; None if there is none.

        Raises SQLiteFileMissing where there is no file: for None Metaflow would have a TypeError.
        """
        with as_metaflow():
            from sqlitestore.metaflow.roots import known_store, store_of
            from sqlitestore.paths.objects import blob_at_hand, load_blob

            blob = blob_at_hand(known_store(self.datastore_root), key)
            if blob is None:
                root, store = store_of(self.datastore_root)
                if store is None:
                    raise SQLiteFileMissing(f"The file {root.file} is gone; put it back, or look at another store.")
                blob = None if root.folder else load_blob(store, key)
            return blob

    def _explain_missing(self, path: str) -> None:
        from sqlitestore.paths.reading import explain_missing

        root = self._root()
        store = self._store(root)
        if store is not None and not root.folder:
            explain_missing(store, path)

    def _handed_out(self, paths: Sequence[str], files: Any) -> Iterator[tuple[str, str | None, dict[str, Any] | None]]:
        with as_metaflow():
            for path, found in zip(paths, self._find(paths), strict=True):
                if found is None:
                    self._explain_missing(path)
                    yield path, None, None
                else:
                    yield path, files.make(found.blocks()), found.metadata
