"""Forked children use the store of their parent as if it were theirs; neither hurts the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import helpers_fork
import helpers_fork_threads
import pytest
from helpers_processes import run
from helpers_store import FLOW, assert_sound, loose_chunks

from sqlitestore import FlowDataStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Give a file that must be sound, and alone in its folder, when the test has ended."""
    path = str(tmp_path / "runs.db")
    yield path
    assert sorted(os.listdir(tmp_path)) == [name for name in ("runs.db", "runs.db.other") if (tmp_path / name).exists()]
    assert_sound(path)
    assert loose_chunks(path) == 0
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in flow.get_latest_task_datastores("1"):
            task.to_dict()


@pytest.mark.parametrize("how", ["close", "sys.exit", "_exit", "exception", "kill"])
def test_a_child_reads_and_writes_however_it_leaves(path: str, how: str) -> None:
    """What it saved is there, and the parent goes on."""
    assert run(helpers_fork.child_works, path, how) == [0, 1, 2, 3, 4]


def test_a_child_holds_locks_of_its_own(path: str) -> None:
    """The kernel lists them; so when the parent closes, the log stays for the children, and nothing is lost."""
    files, held, still_held, numbers = run(helpers_fork.parent_closes_first, path, 3)
    assert files == ["runs.db", "runs.db-shm", "runs.db-wal"]
    assert (held, still_held) == (True, True)
    assert numbers == [0, 1, 2, 3]


def test_a_child_that_closes_takes_nothing_from_its_parent(path: str) -> None:
    """Neither its locks nor its log."""
    outcome = run(helpers_fork.child_closes_first, path)
    assert outcome == [True, 3, True, 3, True, 3, [0, 2, 3, 11, 12, 13]]


def test_children_that_never_use_the_store_change_nothing(path: str) -> None:
    """Ending before the parent, by whatever exit, or after it has closed."""
    assert run(helpers_fork.nothing_is_used, path) == [0, 1]


def test_children_of_children(path: str) -> None:
    """Each generation saves before and after the next."""
    expected = [*range(5), *range(100, 105)]
    assert run(helpers_fork.nested, path, 4) == expected


@pytest.mark.parametrize(("threads", "forks"), [(4, 12), pytest.param(8, 200, marks=pytest.mark.long)])
def test_forking_while_other_threads_are_inside_transactions(path: str, threads: int, forks: int) -> None:
    """The child starts between transactions, of all stores of the process."""
    assert run(helpers_fork_threads.fork_among_threads, path, threads, forks, 1, timeout=600)[0] >= 2 * forks


def test_several_threads_fork_at_the_same_time(path: str) -> None:
    """As executors do that start processes on demand."""
    assert run(helpers_fork_threads.fork_among_threads, path, 2, 10, 3, timeout=30)[0] >= 60


@pytest.mark.parametrize("module", ["pyfastcdc"])
def test_forking_during_an_import(path: str, module: str) -> None:
    """What is imported late to start fast must not stay half imported in a child, which would wait for it for ever."""
    assert run(helpers_fork_threads.fork_during_an_import, path, module, timeout=45) == [1, 2]


def test_forking_during_the_search_for_serializers(path: str) -> None:
    """Nor may the lock around that search stay locked."""
    assert run(helpers_fork_threads.fork_during_the_search_for_serializers, path, timeout=45) == [1, 2]


@pytest.mark.parametrize("forks", [25, pytest.param(500, marks=pytest.mark.long)])
def test_forking_while_threads_come_and_go(path: str, forks: int) -> None:
    """A thread that ends closes its connection; a fork in the middle of that must not leave a lock in the child."""
    assert run(helpers_fork_threads.fork_while_threads_end, path, forks, timeout=600) == forks


def test_forking_in_the_middle_of_a_save(path: str) -> None:
    """From an object's own pickling; a half consumed iterator goes on in both processes."""
    sizes, right, rest, numbers = run(helpers_fork.fork_in_the_middle_of_a_save, path)
    assert (sizes, right) == ([20_000_000, 20_000_000], True)
    assert (rest, numbers) == ([3_000_000, 3_000_000], [1])


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(path: str) -> None:
    """The child cannot use this store, and says so; the parent's transaction commits whole."""
    flows, numbers = run(helpers_fork.fork_inside_a_transaction, path)
    assert flows == [FLOW, "inside", "still inside"]
    assert numbers == [0, 1]


def test_the_workers_of_a_pool_share_the_parents_store(path: str) -> None:
    """``multiprocessing`` with fork, on Linux the default up to Python 3.13."""
    assert run(helpers_fork.pool, path, 4, 24) == [*range(24), 1000]


def test_children_of_multiprocessing_leave_one_file_when_they_are_the_last(path: str) -> None:
    """They end without running what ``atexit`` would; the store must be closed nevertheless."""
    codes, files = run(helpers_fork.children_of_multiprocessing_outlive_the_store, path)
    assert codes == [0, 0, 0]
    assert files == ["runs.db"]
