"""Content that comes again: the chunks that followed in the store are expected, compared, and need no look-up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers_store import FLOW, save_task, tampering

from sqlitestore import Damaged, FlowDataStore, StoreClosed, background, codecs, verify
from sqlitestore.continuation import WORTHWHILE, Continuation
from sqlitestore.database import Database
from sqlitestore.new_chunks import find_chunk

MANY = 1_000_000
SECOND_CHUNK = "SELECT id, c.size FROM chunk AS c JOIN blob_chunk ON chunk = id ORDER BY position LIMIT 1 OFFSET 1"
"""The first of the array: a pickle's head is one of its own."""

CONTENT = {
    "noise": lambda: np.random.default_rng(2).random(MANY),
    "shuffled": lambda: np.random.default_rng(2).integers(0, 1000, MANY),
    "compressed": lambda: np.random.default_rng(2).gamma(2, 20, MANY).round(2),
}
"""By the codec that it gets."""


@pytest.fixture(autouse=True)
def _threads_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads help with a few chunks, too."""
    monkeypatch.setattr(background, "WORTHWHILE", 1)


@pytest.fixture(params=CONTENT)
def numbers(request: pytest.FixtureRequest) -> np.ndarray:
    """Return 8 MB, some twenty chunks."""
    return CONTENT[request.param]()


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the chunks that were looked up by their digest."""
    sizes: list[int] = []

    def counting(database: Database, digest: bytes, data: bytes) -> int:
        sizes.append(len(data))
        return find_chunk(database, digest, data)

    monkeypatch.setattr("sqlitestore.chunk_stream.find_chunk", counting)
    return sizes


@pytest.fixture
def path(tmp_path: Path, numbers: np.ndarray) -> str:
    """Return a store that has the numbers."""
    path = str(tmp_path / "runs.db")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "first", x=numbers)
    return path


def save(path: str, run: str, array: np.ndarray) -> int:
    """Save an array, check that it comes back and that all is well; return how many chunks are new."""
    before = count(path)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, run, x=array)
        [task] = flow.get_latest_task_datastores(run)
        assert np.array_equal(task["x"], array)
    assert verify(path).ok
    return count(path) - before


def count(path: str) -> int:
    """Return how many chunks there are."""
    with tampering(path) as connection:
        return connection.execute("SELECT count(*) FROM chunk").get


def test_the_same_again_is_not_looked_up(path: str, numbers: np.ndarray, looked_up: list[int]) -> None:
    """But for the first chunk, which says where it is, and what is left at the end."""
    assert save(path, "again", numbers) == 0
    assert sum(looked_up) < 2 * WORTHWHILE + 2**20


def test_noise_is_compared_by_the_callers_thread(
    path: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one piece of memory for all chunks: a second thread would overwrite what the first compares."""
    threads: set[int] = set()
    read = Continuation._read

    def watched(self: Continuation, size: int, chunk_id: int) -> memoryview | None:
        threads.add(threading.get_ident())
        return read(self, size, chunk_id)

    monkeypatch.setattr(Continuation, "_read", watched)
    save(path, "again", numbers)
    assert threads <= {threading.get_ident()}
    assert bool(threads) == (codecs.best_codec(numbers.tobytes()) == codecs.RAW)


def test_other_threads_are_begun_only_where_they_help(
    path: str, numbers: np.ndarray, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what zstd packs by itself: shuffled numbers need Python's lock, and noise is only read."""
    begun: list[object] = []

    def counting(work: Callable[[], object]) -> object:
        begun.append(work)
        return background.done_here(work)

    monkeypatch.setattr(background._threads, "submit", counting)
    save(path, "again", numbers)
    assert bool(begun) == ("compressed" in request.node.name)
    begun.clear()
    monkeypatch.setattr(background, "WORTHWHILE", 2 * numbers.nbytes)
    save(path, "once more", numbers)
    assert not begun


def test_where_one_element_changed_only_that_is_new(path: str, numbers: np.ndarray, looked_up: list[int]) -> None:
    """The chunks after it are expected again."""
    changed = numbers.copy()
    changed[MANY // 2] = 7
    assert 1 <= save(path, "changed", changed) <= 2
    assert sum(looked_up) < 4 * WORTHWHILE


EDITS = {
    "at the front": lambda array: np.concatenate([[5], array]),
    "at the end": lambda array: np.concatenate([array, array[:9999] + 1]),
    "in the middle": lambda array: np.insert(array, MANY // 3, 77),
    "a part left out": lambda array: np.delete(array, slice(MANY // 3, MANY // 2)),
    "a part moved": lambda array: np.concatenate([array[MANY // 2 :], array[: MANY // 2]]),
    "a part that comes twice": lambda array: np.concatenate([array, array]),
    "several elements": lambda array: np.where(np.arange(MANY) % (MANY // 3) == 5, 3, array),
    "only the front": lambda array: array[: MANY // 2].copy(),
    "nothing the same": lambda array: array[::-1].copy(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_content_comes_back_and_little_of_it_is_new(path: str, numbers: np.ndarray, edit: str) -> None:
    """Also when it is saved again, and when the original is."""
    edited = EDITS[edit](numbers)
    new = save(path, "edited", edited)
    assert new <= 10 or edit == "nothing the same"
    assert save(path, "edited again", edited) == 0
    assert save(path, "original", numbers) == 0


def test_content_that_repeats_itself_is_stored_once(tmp_path: Path, looked_up: list[int]) -> None:
    """Each of its chunks is the same; the first of them says what follows."""
    path = str(tmp_path / "runs.db")
    zeros = np.zeros(2 * MANY)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "first", x=zeros)
    assert count(path) <= 4
    looked_up.clear()
    assert save(path, "again", zeros) == 0
    assert sum(looked_up) < 4 * WORTHWHILE
    mixed = zeros.copy()
    mixed[MANY] = 1
    assert save(path, "mixed", mixed) <= 4


def test_of_several_blobs_the_latest_is_expected_to_come_again(
    path: str, numbers: np.ndarray, looked_up: list[int]
) -> None:
    """Whatever begins with the same chunks: versions of something follow each other."""
    half = MANY // 2
    other = np.concatenate([numbers[:half], numbers[:half] + 1])
    save(path, "other", other)
    looked_up.clear()
    assert save(path, "other again", other) == 0
    assert sum(looked_up) < 2 * WORTHWHILE + 2**20


@pytest.mark.parametrize("what", ["codec = 9", "size = size + 1", "size = -1", "bytes = zeroblob(length(bytes))"])
def test_a_damaged_chunk_is_an_error(path: str, numbers: np.ndarray, what: str) -> None:
    """It is not what comes, so it is looked up by its digest, and is not what it should be."""
    with tampering(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"UPDATE chunk SET {what} WHERE id = 10")
    with FlowDataStore(FLOW, ds_root=path) as flow, pytest.raises(Damaged):
        save_task(flow, "again", x=numbers)


def test_a_chunk_whose_digest_is_damaged_is_not_shared(path: str, numbers: np.ndarray) -> None:
    """Its bytes are stored anew: whoever read the old ones would say that they are damaged."""
    with tampering(path) as connection:
        connection.execute("UPDATE chunk SET digest = randomblob(16) WHERE id = 10")
    longer = np.append(numbers, 1)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "longer", x=longer)
        [task] = flow.get_latest_task_datastores("longer")
        assert np.array_equal(task["x"], longer)


def test_other_bytes_under_the_same_digest_are_noticed(path: str, numbers: np.ndarray) -> None:
    """As without expecting them."""
    with tampering(path) as connection:
        [(row, size)] = connection.execute("SELECT id, size FROM chunk ORDER BY id LIMIT 1 OFFSET 9").fetchall()
        connection.execute("UPDATE chunk SET codec = 0, bytes = ? WHERE id = ?", (b"x" * size, row))
    with FlowDataStore(FLOW, ds_root=path) as flow, pytest.raises(Damaged, match="other bytes under the digest"):
        save_task(flow, "again", x=numbers)


def test_a_buffer_that_changes_after_it_was_compared_makes_no_wrong_blob(
    path: str, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compared is what is stored, under its own key."""
    same = Continuation._same

    def and_changed(continuation: Continuation, expected: object) -> bytearray | None:
        found = same(continuation, expected)
        expected.coming[:8] = b"\1" * 8
        return found

    before = numbers.copy()
    monkeypatch.setattr(Continuation, "_same", and_changed)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "again", x=numbers)
        assert not np.array_equal(numbers, before)
        [task] = flow.get_latest_task_datastores("again")
        assert np.array_equal(task["x"], before)
    assert verify(path).ok


def test_inside_of_a_transaction_nothing_is_expected(path: str, numbers: np.ndarray) -> None:
    """Other threads would not see its snapshot."""
    coming = memoryview(numbers).cast("B")
    with FlowDataStore(FLOW, ds_root=path) as flow:
        database = flow._storage_impl.database
        [(first, size)] = database.query(SECOND_CHUNK)
        for inside in (False, True):
            continuation = Continuation(database)
            continuation.found(first)
            if inside:
                with database.read(), closing(continuation.chunks(coming[size:])) as chunks:
                    assert list(chunks) == []
            else:
                with closing(continuation.chunks(coming[size:])) as chunks:
                    assert len(list(chunks)) > 5


def test_a_store_that_is_closed_meanwhile_says_so(path: str, numbers: np.ndarray) -> None:
    """And no thread looks at the content any more."""
    flow = FlowDataStore(FLOW, ds_root=path)
    database = flow._storage_impl.database
    [(first, size)] = database.query(SECOND_CHUNK)
    continuation = Continuation(database)
    continuation.found(first)
    with pytest.raises(StoreClosed), closing(continuation.chunks(memoryview(numbers).cast("B")[size:])) as chunks:  # noqa: PT012
        next(chunks)
        flow.close()
        list(chunks)
