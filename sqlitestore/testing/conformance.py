"""The whole conformance suite of a storage, with the tests of opening and closing."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from sqlitestore.errors import DataException, StoreClosed
from sqlitestore.storage import DataStoreStorage
from sqlitestore.testing.attempts import AttemptConformance
from sqlitestore.testing.base import DONE, FLOW, LARGE, STARTED, TASK, artifact, log, noise, payload, put
from sqlitestore.testing.blobs import BlobConformance
from sqlitestore.testing.records import FileConformance, LogConformance, MetadataConformance

Call = Callable[[DataStoreStorage, str], Any]

EVERY_METHOD: dict[str, Call] = {
    "put_blobs": lambda storage, _: storage.put_blobs(FLOW, [payload(b"x")]),
    "put_blobs large": lambda storage, _: storage.put_blobs(FLOW, [payload(noise(LARGE))]),
    "put_blobs none": lambda storage, _: storage.put_blobs(FLOW, []),
    "open_blob": lambda storage, key: storage.open_blob(FLOW, key).__enter__(),
    "load_blobs": lambda storage, key: list(storage.load_blobs(FLOW, [key])),
    "load_blobs none": lambda storage, _: list(storage.load_blobs(FLOW, [])),
    "load_small_blobs": lambda storage, key: storage.load_small_blobs(FLOW, [key], 1000),
    "load_small_blobs none": lambda storage, _: storage.load_small_blobs(FLOW, [], 1000),
    "has_blobs": lambda storage, key: storage.has_blobs(FLOW, [key]),
    "start_attempt": lambda storage, _: storage.start_attempt(TASK, 1, STARTED),
    "check_writable": lambda storage, _: storage.check_writable(TASK, 1),
    "finish_attempt": lambda storage, _: storage.finish_attempt(TASK, 1, {}, DONE),
    "attempt_in_progress": lambda storage, _: storage.attempt_in_progress(TASK).put([payload(b"y")]),
    "find_run": lambda storage, _: storage.find_run(FLOW, "1", None),
    "find_tasks": lambda storage, _: storage.find_tasks([TASK]),
    "load_artifacts": lambda storage, _: storage.load_artifacts(TASK, 0),
    "flows": lambda storage, _: storage.flows(),
    "runs": lambda storage, _: storage.runs(FLOW),
    "save_metadata": lambda storage, _: storage.save_metadata(TASK, 0, {"a": "1"}, overwrite=True),
    "load_metadata": lambda storage, _: storage.load_metadata(TASK, 0),
    "save_log": lambda storage, _: storage.save_log(TASK, 0, "runtime", "stdout", BytesIO(b"x")),
    "scrub_log": lambda storage, _: storage.scrub_log(TASK, 0, "runtime", "stdout", b"x"),
    "load_log": lambda storage, _: storage.load_log(TASK, 0, "runtime", "stdout"),
    "log_sizes": lambda storage, _: storage.log_sizes(TASK, 0),
    "save_file": lambda storage, _: storage.save_file("a", payload(b"x")),
    "find_file": lambda storage, _: storage.find_file("a"),
    "files_below": lambda storage, _: storage.files_below(""),
    "check_open": lambda storage, _: storage.check_open(),
    "delete_file": lambda storage, _: storage.delete_file("a"),
}
"""A call of each method; the key is that of a blob that is there."""


class StorageConformance(BlobConformance, AttemptConformance, MetadataConformance, LogConformance, FileConformance):
    """What every ``DataStoreStorage`` has to do. Subclass it, name the class ``Test...``, and say ``open_storage``."""

    def test_storage_says_what_and_where_it_is(self, storage: DataStoreStorage) -> None:
        """A storage has a kind and a root, and places have addresses below the root, in Metaflow's layout."""
        assert type(storage).TYPE == storage.TYPE
        assert storage.TYPE
        assert storage.datastore_root
        assert storage.full_uri("a/b").endswith("/a/b")
        [key] = put(storage, b"x")
        assert storage.blob_uri(FLOW, key) == storage.full_uri(f"{FLOW}/data/{key[:2]}/{key}")

    def test_default_root_is_text(
        self, storage: DataStoreStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The class knows the root that it takes when none is given."""
        monkeypatch.chdir(tmp_path)
        root = type(storage).get_datastore_root_from_config(str)
        assert isinstance(root, str)
        assert root

    @pytest.mark.parametrize("method", EVERY_METHOD)
    def test_closed_storage_says_so(self, storage: DataStoreStorage, method: str) -> None:
        """After ``close`` every method raises StoreClosed, a DataException; none does before."""
        call = EVERY_METHOD[method]
        storage.finish_attempt(TASK, 0, {"a": artifact(storage)}, DONE)
        [key] = put(storage, b"there")
        call(storage, key)
        storage.close()
        with pytest.raises(StoreClosed) as raised:
            call(storage, key)
        assert isinstance(raised.value, DataException)

    def test_closed_storage_loads_nothing_that_it_found(self, storage: DataStoreStorage) -> None:
        """Attempts and iterators from before ``close`` give nothing after it."""
        storage.finish_attempt(TASK, 0, {"a": artifact(storage)}, DONE)
        found = storage.find_tasks([TASK])
        blobs = storage.load_blobs(FLOW, put(storage, b"x"))
        storage.close()
        with pytest.raises(StoreClosed):
            storage.load_artifacts_of(found)
        with pytest.raises(StoreClosed):
            next(blobs)

    def test_closing_again_does_nothing(self, storage: DataStoreStorage) -> None:
        """``close`` may be called any number of times."""
        put(storage, b"x")
        storage.close()
        storage.close()
        with pytest.raises(StoreClosed):
            storage.flows()

    def test_other_handles_go_on_after_closing(
        self, storage: DataStoreStorage, opened: Callable[[], DataStoreStorage]
    ) -> None:
        """Closing one handle does not close another on the same data."""
        self.need("second handle")
        second = opened()
        log(storage, b"one")
        storage.close()
        log(second, b"one two")
        assert second.load_log(TASK, 0, "runtime", "stdout") == b"one two"
