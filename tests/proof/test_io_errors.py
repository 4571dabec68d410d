"""Failing calls: nothing is lost, nothing is wrong, and the machine that says so notices what is built in for it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from helpers_store import FLOW, incompressible
from io_workloads import WORKLOADS
from proof_io_errors import every_case, make_reference, prove, prove_every_call, small_limits
from xxhash import xxh3_128

from sqlitestore import DataException, FlowDataStore, SQLiteStorage, new_file
from sqlitestore.database import Database
from sqlitestore.new_chunks import NewChunks
from sqlitestore.testing.failing_files import CUT_OFF, FAILURES, FailingFiles, failing

SAMPLE = 130


def test_calls_fail_and_nothing_is_lost(tmp_path: Path) -> None:
    """A sample of all calls and all kinds of failures, of which most end in errors, and some in success."""
    figures = prove(SAMPLE, 1, str(tmp_path))
    assert figures["failures"] == SAMPLE
    assert figures["clear errors"] > SAMPLE / 3
    assert figures["successes"] > SAMPLE / 10
    assert sum(f"of {name!r}" in figures for name in FAILURES) >= 12


def test_the_slices_of_the_long_run_are_every_call_once(tmp_path: Path) -> None:
    """Whatever a failure fits is in one of them, whichever process works it out."""
    with small_limits():
        references = {name: make_reference(WORKLOADS[name], str(tmp_path)) for name in ("tags", "trust")}
    cases = list(every_case(references))
    assert len(cases) == len(set(cases)) > 200
    for name, reference in references.items():
        assert {case.at for case in cases if case.workload == name} == set(range(len(reference.calls)))


def test_a_transaction_that_could_not_begin_is_not_left_open(tmp_path: Path) -> None:
    """SQLite may report an error of BEGIN IMMEDIATE and have begun; the next would be a transaction within it."""
    assert prove_every_call("import, journal", "I/O error that lasts", str(tmp_path), "xUnlock") > 5


# Content that is cut off


def read_cut_off(folder: Path) -> int:
    """Read content while each read in turn comes short; return how often that was an error."""
    path, content = str(folder / "runs.db"), incompressible(200_000, 9)
    errors: list[DataException] = []
    with FlowDataStore(FLOW, ds_root=path) as flow:
        [(_, key)] = flow.save_data([content])
    for at in range(1000):
        files = FailingFiles(CUT_OFF, at, at)
        try:
            with (
                failing(files),
                FlowDataStore(FLOW, ds_root=path) as flow,
                flow._storage_impl.open_blob(FLOW, key) as file,
            ):
                files.start()
                assert file.read() == content, f"content that was cut off at read {at} is wrong"
                files.stop()
        except DataException as error:
            errors.append(error)
        if not files.failed:
            break
    assert {error.kind for error in errors} == {"damaged"}
    assert all(path in error.message for error in errors)
    return len(errors)


def test_content_that_is_cut_off_is_never_returned(tmp_path: Path) -> None:
    """Where a read came short there are zeros, which the digests tell from what was written."""
    assert read_cut_off(tmp_path) > 10


class NoHasher:
    """A hash that agrees with everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_content_that_is_not_compared_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes what it reads as it is returns zeros, and that is found."""
    monkeypatch.setattr("sqlitestore.blob_reader.xxh3_128_digest", lambda _: NoHasher())
    monkeypatch.setattr("sqlitestore.blobs.hasher_for", lambda _: Agreeing())
    with pytest.raises(AssertionError, match="is wrong"):
        read_cut_off(tmp_path)


class Agreeing:
    """A hasher whose digest equals every other, but is a true one when it makes a key."""

    def __init__(self) -> None:
        self._hasher = xxh3_128()

    def update(self, data: Any) -> None:
        """Take bytes."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """Return the digest."""
        return self._hasher.digest()

    def hexdigest(self) -> Any:
        """Return what equals every key."""
        return NoHasher()


# Bugs that are built in, and must be found


def undone_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that failed is not rolled back."""
    monkeypatch.setattr(Database, "_roll_back", lambda *_: None)


def commits_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that failed looks like one that was made."""

    @contextmanager
    def transaction(self: Any, handle: Any, begin: str, commit: str, rollback: str) -> Iterator[None]:
        handle.connection.execute(begin)
        handle.depth += 1
        try:
            yield
            with suppress(apsw.Error):
                handle.connection.execute(commit)
        except apsw.Error as error:
            self._roll_back(handle, rollback)
            raise self._translated(error) from error
        except BaseException:
            self._roll_back(handle, rollback)
            raise
        finally:
            handle.depth -= 1
            if handle.connection.in_transaction and not handle.depth:
                handle.connection.execute("ROLLBACK")

    monkeypatch.setattr(Database, "_transaction", transaction)


def failed_batches_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of chunks that failed counts as written, and no foreign key says otherwise."""
    insert_batch = NewChunks._insert_batch

    def insert_anyhow(self: Any, **options: Any) -> None:
        try:
            insert_batch(self, **options)
        except DataException:
            for new in self._going_in.values():
                for position in new.positions:
                    self._order[position] = 10**6
            self._going_in = {}

    monkeypatch.setattr(NewChunks, "_insert_batch", insert_anyhow)
    monkeypatch.setattr("sqlitestore.database_file.enforce_foreign_keys", lambda _: None)


def sync_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file that the disk did not take gets its name."""
    sync = new_file._sync

    def ignoring(path: str) -> None:
        with suppress(OSError):
            sync(path)

    monkeypatch.setattr(new_file, "_sync", ignoring)


def partial_files_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file that fails stays under its hidden name."""

    @contextmanager
    def leaving(path: str) -> Iterator[str]:
        temporary = os.path.join(os.path.dirname(path), f".x.{os.urandom(4).hex()}.partial")
        Path(temporary).touch()
        yield temporary
        os.link(temporary, path)
        os.unlink(temporary)

    monkeypatch.setattr("sqlitestore.archive.export.new_file", leaving)


def logs_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log whose saving failed is saved again at once, behind what is there."""
    save = SQLiteStorage.save_log

    def save_log(self: Any, task: Any, attempt: int, source: str, stream: str, file: Any) -> None:
        text = file.read()
        try:
            save(self, task, attempt, source, stream, io.BytesIO(text))
        except DataException:
            save(self, task, attempt, source, stream, io.BytesIO(text + text))

    monkeypatch.setattr(SQLiteStorage, "save_log", save_log)


def state_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited when a batch failed is in the next blob too."""
    insert_batch, begin = NewChunks._insert_batch, NewChunks.__init__
    kept: list[Any] = []

    def insert_or_keep(self: Any, **options: Any) -> None:
        try:
            insert_batch(self, **options)
        except DataException:
            kept.append((self._order, self._going_in))
            raise

    def begin_with_kept(self: Any, database: Any, order: Any) -> None:
        begin(self, database, order)
        if kept:
            kept_order, self._waiting = kept.pop()
            order.extend(kept_order)

    monkeypatch.setattr(NewChunks, "_insert_batch", insert_or_keep)
    monkeypatch.setattr(NewChunks, "__init__", begin_with_kept)


@pytest.mark.parametrize(
    ("bug", "workload", "failure", "method"),
    [
        (undone_never, "tags", "Ctrl-C", ""),
        (commits_swallowed, "save small", "I/O error", ""),
        (failed_batches_counted, "save_data", "half a write", ""),
        (sync_ignored, "export", "I/O error", "os.fsync"),
        (partial_files_left, "export", "full disk", ""),
        (logs_written_twice, "logs", "full disk", ""),
        (state_kept, "save large", "full disk", ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_bug_that_is_built_in_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: Callable[[pytest.MonkeyPatch], None],
    workload: str,
    failure: str,
    method: str,
) -> None:
    """Each is noticed at one of the calls, and the error names which."""
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=f"workload '{workload}', failure '{failure}'"):
        prove_every_call(workload, failure, str(tmp_path), method)
