"""Each call of some workloads fails in each way that fits it; the store is as good as before, or better.

An operation ends in success, and is right, or in a clear error. Then the fault is gone. What lies on the disk at that
moment is whole, as a crash would leave it. The same open store reads what was there, takes the operation again and
something new; closed, it is one file, sound by an oracle of its own, and says what it says where nothing failed.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import apsw
from file_state import first_difference, state_of
from helpers_store import FLOW
from io_templates import LARGE, SMALL, make_nothing, opened, path_in
from io_workloads import WORKLOADS, Reported, Workload
from sqlite_oracle import check_file

from sqlitestore import DataException, FileExists, FlowDataStore, verify
from sqlitestore.new_file import new_file
from sqlitestore.testing.failing_files import FAILURES, FailingFiles, failing, fits
from sqlitestore.testing.watched_vfs import Call

UNIT = "failures at most"
LONG = 110_000
"""More than there are: every call of every workload, in turn, in each way that fits it."""

SLICES = 20
IN_MEMORY = True

LIMITS = {
    "sqlitestore.new_chunks.BATCH": 50_000,
    "sqlitestore.small_blobs.BATCH": 50_000,
    "sqlitestore.pragmas.CHECKPOINT_BYTES": 100_000,
    "sqlitestore.pragmas.CACHE_BYTES": 64 * 1024,
    "sqlitestore.pragmas.BUSY_TIMEOUT": 0.02,
}
"""Small ones, so that little work makes many batches, checkpoints and spills, and a lock is not waited for."""

KINDS = {
    "full disk": {"disk_full"},
    "full disk that stays full": {"disk_full"},
    "half a write": {"disk_full"},
    "half writes": {"disk_full"},
    "locked": {"store_busy"},
    "locked thrice": {"store_busy"},
    "locked for long": {"store_busy"},
    "short read": set(),
    "interrupted read": set(),
}
"""The kinds of errors that may come of a failure; of all others "store_unavailable"."""

TEXTS = ("disk I/O error", "unable to open", "interrupted", "out of memory")
"""What ``verify`` may give as the reason why it could not look at something."""

LONGEST = 20.0
"""[s] Of a workload: above it something waits that should not. They take 0.02 s."""

ADVICE = ("try again", "make room", "look at", "restore", "give the path", "copy it", "verify", "wait", "end it")


class Case(NamedTuple):
    """One failure: the call ``at`` of a workload is ``method`` on a file that ends in ``suffix``."""

    workload: str
    failure: str
    method: str
    suffix: str
    at: int
    seed: int

    def __str__(self) -> str:
        where = f"call {self.at}, {self.method} of *{self.suffix}"
        return f"workload {self.workload!r}, failure {self.failure!r}, {where}, seed {self.seed}"


@dataclass(slots=True)
class Reference:
    """What a workload does where nothing fails: its calls, its result, and what the files say before and after."""

    workload: Workload
    template: str
    calls: list[Call]
    result: Any
    before: dict[str, Any]
    after: dict[str, Any]


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Make ``amount`` calls fail. Raises AssertionError, naming seed and case."""
    with small_limits():
        references = {name: make_reference(each, folder) for name, each in WORKLOADS.items()}
        figures: Counter[str] = Counter()
        for case in choose(references, amount, seed):
            figures.update(_prove_named(references[case.workload], case, folder, seed))
    assert figures["failures"] == amount, f"seed {seed}: only {figures['failures']} of {amount} calls failed"
    assert figures["clear errors"] > 0, f"seed {seed}: nothing ended in an error"
    return dict(figures)


def prove_slice(number: int, amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Do ``amount`` cases of a part of all, or all of that part; the parts of all SLICES are every case, once."""
    with small_limits():
        references = {name: make_reference(each, folder) for name, each in WORKLOADS.items()}
        cases = list(every_case(references))
        Random(seed // 10**9).shuffle(cases)  # the same order for all slices
        part = cases[number::SLICES][:amount]
        figures: Counter[str] = Counter()
        for case in part:
            figures.update(_prove_named(references[case.workload], case, folder, seed))
    assert figures["failures"] == len(part), f"seed {seed}: only {figures['failures']} of {len(part)} calls failed"
    return dict(figures)


@contextmanager
def small_limits() -> Iterator[None]:
    """Have many batches, checkpoints and spills."""
    patches = [patch(name, value) for name, value in LIMITS.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def make_reference(workload: Workload, folder: str) -> Reference:
    """Do a workload where nothing fails."""
    template = os.path.join(folder, f"template {id(workload.make)}")
    if not os.path.exists(template):
        os.mkdir(template)
        workload.make(template)
    before = _states_after_a_crash(template, os.path.join(folder, "before"))
    trial = os.path.join(folder, "trial")
    shutil.copytree(template, trial)
    files = FailingFiles()
    with failing(files), _store(workload, trial) as flow:
        files.start()
        result = workload.work(flow or trial)
        files.stop()
        if flow is not None:
            use(flow, workload)
    if workload.opens_itself:
        _use_anew(trial, workload)
    after = _states(trial)
    shutil.rmtree(trial)
    assert len(files.calls) > 5, workload.name
    return Reference(workload, template, files.calls, result, before, after)


def choose(references: dict[str, Reference], amount: int, seed: int) -> Iterator[Case]:
    """Yield as many cases: each workload and each kind of failure in turn, and each kind of call as likely."""
    chance = Random(seed)
    pairs = []
    for name, reference in references.items():
        for failure in FAILURES.values():
            places = defaultdict(list)
            for number, call in enumerate(reference.calls):
                if fits(failure, call):
                    places[call.method, _suffix(call.path)].append(number)
            if places:
                pairs.append((name, failure.name, places))
    assert len(pairs) > len(references) * 5
    for number in range(amount):
        if number % len(pairs) == 0:
            chance.shuffle(pairs)
        name, failure_name, places = pairs[number % len(pairs)]
        method, suffix = chance.choice(sorted(places))
        at = chance.choice(places[method, suffix])
        yield Case(name, failure_name, method, suffix, at, chance.randrange(2**32))


def every_case(references: dict[str, Reference]) -> Iterator[Case]:
    """Yield each call of each workload with each failure that fits it."""
    for name, reference in references.items():
        for at, call in enumerate(reference.calls):
            for failure in FAILURES.values():
                if fits(failure, call):
                    yield Case(name, failure.name, call.method, _suffix(call.path), at, at)


def _suffix(path: str) -> str:
    end = path.rpartition("/")[2].rpartition(".")[2]
    return end if end.startswith(("db", "partial")) else "folder"


def prove_every_call(workload: str, failure: str, folder: str, method: str = "") -> int:
    """Make each call of a workload fail that the failure fits (of one ``method``); return how many."""
    with small_limits():
        reference = make_reference(WORKLOADS[workload], folder)
        calls = [
            at
            for at, call in enumerate(reference.calls)
            if fits(FAILURES[failure], call) and method in {"", call.method}
        ]
        Random(0).shuffle(calls)  # early ones and late ones soon
        for at in calls:
            call = reference.calls[at]
            _prove_named(reference, Case(workload, failure, call.method, _suffix(call.path), at, at), folder)
    return len(calls)


def _prove_named(reference: Reference, case: Case, folder: str, seed: int | None = None) -> Counter[str]:
    """Do one case; whatever goes wrong is an AssertionError that names it."""
    try:
        return prove_case(reference, case, os.path.join(folder, "case"))
    except Exception as error:
        of_seed = "" if seed is None else f"seed {seed}: "
        raise AssertionError(f"{of_seed}{case}: {type(error).__name__}: {error}") from error


def prove_case(reference: Reference, case: Case, folder: str) -> Counter[str]:
    """Make one call fail, and look at all that can be seen of it. Raises AssertionError."""
    shutil.copytree(reference.template, folder)
    files = FailingFiles(FAILURES[case.failure], case.at, case.seed)
    workload = reference.workload
    ignored: list[Any] = []
    with patch.object(sys, "unraisablehook", ignored.append), failing(files), _store(workload, folder) as flow:
        start = time.monotonic()
        files.start()
        result, error = _try(lambda: workload.work(flow or folder))
        files.stop()
        seconds = time.monotonic() - start
        assert seconds < LONGEST, f"it took {seconds:.1f} s"
        unsynced = [call for call in files.failed if call.method == "os.fsync"]
        assert error is not None or not unsynced, "it succeeded, though the file may not be on the disk"
        crashed = _states_after_a_crash(folder, folder + "-crashed")
        if error is not None:
            _check_error(error, case, folder, unchanged=crashed == reference.before)
            result = workload.work(flow or folder)
        assert result == reference.result, f"it returned {result!r:.500}, not {reference.result!r:.500}"
        if flow is not None:
            use(flow, workload)
    if workload.opens_itself:
        _use_anew(folder, workload)
    if any(call.method == "os.unlink" for call in files.failed):
        _make_once_more(os.path.join(folder, "out.db"))
    _close_once_more(folder)
    _check_states(reference, _states(folder))
    _verify(folder)
    shutil.rmtree(folder)
    return Counter(
        {
            "failures": min(1, len(files.failed)),
            "clear errors": error is not None,
            "successes": error is None,
            f"of {case.failure!r}": 1,
        }
    )


@contextmanager
def _store(workload: Workload, folder: str) -> Iterator[FlowDataStore | None]:
    if workload.opens_itself:
        yield None
        return
    with opened(folder, workload.journal) as flow:
        yield flow


def _try(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except (Exception, KeyboardInterrupt) as error:
        return None, error


def _check_error(error: BaseException, case: Case, folder: str, *, unchanged: bool) -> None:
    """Check that an error is of the kind that fits, names the file, says what to do, and says what is true."""
    if (case.failure, type(error)) in {("Ctrl-C", KeyboardInterrupt), ("no memory", MemoryError)}:
        return
    if isinstance(error, Reported):
        assert any(text in str(error) for text in TEXTS), f"verify says {error}"
        return
    if type(error).__name__ == "SQLiteStoreException":  # Metaflow's form of ours
        error = error.__cause__ or error
    assert isinstance(error, DataException), f"raised {type(error).__name__}: {error}"
    allowed = KINDS.get(case.failure, {"store_unavailable"})
    assert error.kind in allowed, f"raised {type(error).__name__} ({error.kind}): {error}"
    assert folder in error.message, f"does not name the file: {error}"
    assert any(advice in error.message.lower() for advice in ADVICE), f"does not say what to do: {error}"
    assert unchanged or "othing was changed" not in error.message, f"something was changed: {error}"


def use(flow: FlowDataStore, workload: Workload) -> None:
    """Read what was there before, and write something new."""
    if workload.make is not make_nothing and "base" in flow._storage_impl.runs(FLOW):
        assert flow.get_task_datastore("base", "a", "1")["large"] == LARGE
    task = flow.get_task_datastore("after", "a", "1", attempt=0, mode="w")
    task.init_task()
    task.save_artifacts([("small", SMALL), ("large", LARGE[:100_000])])
    task.done()


def _use_anew(folder: str, workload: Workload) -> None:
    with opened(folder) as flow:
        use(flow, workload)


def _stores(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".db"))


def _make_once_more(path: str) -> None:
    """Make a file again whose hidden name could not be removed; that is refused, but the hidden name goes."""
    with suppress(FileExists), new_file(path):
        raise AssertionError(f"{path} was not there")


def _close_once_more(folder: str) -> None:
    """Open and close the files beside which a log stayed, since closing them failed."""
    for name in _stores(folder):
        path = os.path.join(folder, name)
        if os.path.exists(path + "-wal"):
            FlowDataStore(FLOW, ds_root=path).close()


def _states(folder: str) -> dict[str, Any]:
    """Return what the files of a folder say, each of which must be sound and alone; there may be no other."""
    stores = _stores(folder)
    assert sorted(os.listdir(folder)) == stores, f"there are {sorted(os.listdir(folder))}"
    for name in stores:
        check_file(os.path.join(folder, name))
    return {name: state_of(os.path.join(folder, name)) for name in stores}


def _states_after_a_crash(folder: str, copy: str) -> dict[str, Any]:
    """Return what the files would say if the process were killed now: SQLite alone opens a copy of them."""
    os.mkdir(copy)
    for name in os.listdir(folder):
        if not name.startswith(".") and not name.endswith("-shm"):
            shutil.copy(os.path.join(folder, name), copy)
    found = {}
    for name in _stores(copy):
        path = os.path.join(copy, name)
        connection = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        format_ = connection.pragma("user_version")
        connection.close()
        _forget_journal_without_header(path + "-journal")
        if tables and format_ == 3:
            check_file(path)
            found[name] = state_of(path)
    shutil.rmtree(copy)
    return found


def _forget_journal_without_header(path: str) -> None:
    """Remove a journal whose header is not written: the file was not touched, and SQLite leaves the journal alone."""
    if os.path.exists(path):
        with open(path, "rb") as journal:
            assert journal.read(1) in {b"", b"\0"}, "a journal was not undone"
        os.unlink(path)


def _check_states(reference: Reference, states: dict[str, Any]) -> None:
    assert list(states) == list(reference.after), f"there are {list(states)}"
    for name, state in states.items():
        difference = first_difference(reference.after[name], state)
        assert not difference, f"{name} says something else: {difference}"


def _verify(folder: str) -> None:
    found = verify(path_in(folder))
    assert found.ok, f"verify says {[str(problem) for problem in found.problems]}"
