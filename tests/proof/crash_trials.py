"""Ends a process in the middle of some work, looks at what it left, and has the same work done again.

A scenario's work is a generator: each ``yield`` says that what was asked for until then is acknowledged. Done once to
the end it tells which places it passes, and what the files say after each step: what a step promised is given by
the scenario itself and compared. Then, after a kill in any step, each unit says what it said before that step or after
it, units that belong together say the same of the two, and nothing says anything else.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from crash_states import State, Unit, databases, is_only_begun, names_in, objects_of, recovered, state_of

from sqlitestore import new_chunks, small_blobs
from sqlitestore.crash_points import set_hook
from sqlitestore.maintenance import compact, purge, reclaim
from sqlitestore.maintenance.verify import verify
from sqlitestore.remote import pull, push, pushed_blobs

LONGEST = 120
"""After which a child is taken for hanging [s]."""

IMPORTED_LATE = ("importlib.metadata", "pyfastcdc", "socket", "email.message")
"""What the package imports when it makes a file, or cuts a blob: once here rather than in each child."""

Patch = Callable[[], object]


def nothing() -> None:
    """Change nothing."""


def by_run(unit: Unit) -> Hashable:
    """Tell what goes together: all of a run, in the trash or not; anything else by itself."""
    file, kind, *names = unit
    if kind in {"file", "data", "schema", "bytes"}:
        return unit
    return file, names[0], names[1].removeprefix("trash/")


def by_unit(unit: Unit) -> Hashable:
    """Nothing goes together."""
    return unit


def by_file(unit: Unit) -> Hashable:
    """All of a file goes together."""
    return unit[0]


def never(_unit: Unit, _value: Any) -> bool:
    """Nothing may stand between the state before a step and the one after it."""
    return False


@dataclass(frozen=True)
class Scenario:
    """Some work, the places that it is there for, and what of it goes together.

    ``between`` tells whether a unit may have a value in the middle of a step; ``final`` looks at the folder at the end.
    """

    name: str
    work: Callable[[str], Iterator[dict[Unit, Any]]]
    passes: tuple[str, ...]
    prepare: Callable[[str], object] = lambda folder: None
    together: Callable[[Unit], Hashable] = by_run
    between: Callable[[Unit, Any], bool] = never
    final: Callable[[str], object] = lambda folder: None
    looks: Callable[[str], object] = lambda folder: None
    imports: tuple[str, ...] = ()
    """What takes long to import, before any child is made."""


class Killed(NamedTuple):
    """How a child ended: how many steps were acknowledged, and whether it was killed."""

    steps: int
    was_killed: bool


@dataclass
class Trial:
    """A scenario with its folder as it is before the work, and what the work does when nothing ends it."""

    scenario: Scenario
    folder: str
    patch: Patch = nothing
    arrivals: Counter[str] = field(default_factory=Counter)
    states: list[State] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def made(cls, scenario: Scenario, folder: str, patch: Patch = nothing) -> Trial:
        """Prepare the folder, and do the work once."""
        trial = cls(scenario, folder, patch)
        for module in (*IMPORTED_LATE, *scenario.imports):
            importlib.import_module(module)
        os.makedirs(trial.before)
        pid = _fork(lambda: scenario.prepare(trial.before))
        _wait(pid, f"{scenario.name}: preparing")
        shutil.copytree(trial.before, trial.work)
        _wait(_fork(trial._record), f"{scenario.name}: doing it once")
        recorded = pickle.loads(Path(folder, "recorded").read_bytes())
        trial.arrivals, trial.states, trial.names, trial.seconds = recorded
        missed = set(scenario.passes) - set(trial.arrivals)
        assert not missed, f"{scenario.name} never comes to {sorted(missed)}"
        return trial

    @property
    def before(self) -> str:
        """The folder as the work finds it."""
        return os.path.join(self.folder, "before")

    @property
    def work(self) -> str:
        """Where the work is done."""
        return os.path.join(self.folder, "work")

    def _record(self) -> None:
        """Do the work; note places, states, and what each step promised to be there."""
        arrivals: Counter[str] = Counter()
        _small_batches()
        self.patch()
        states = [self._seen()]
        seconds, began = 0.0, time.monotonic()
        set_hook(lambda name: arrivals.update([name]))
        for promised in self.scenario.work(self.work):
            seconds += time.monotonic() - began
            set_hook(None)
            states.append(self._seen())
            _check_promise(promised, states[-2], states[-1], self._copy)
            set_hook(lambda name: arrivals.update([name]))
            began = time.monotonic()
        seconds += time.monotonic() - began
        set_hook(None)
        states.append(state_of(self.work))
        assert states[-1] == states[-2], "closing changed something"
        self.scenario.final(self.work)
        _check_product(self.work)
        recorded = arrivals, states[:-1], names_in(self.work), seconds
        Path(self.folder, "recorded").write_bytes(pickle.dumps(recorded))

    @property
    def _copy(self) -> str:
        return os.path.join(self.folder, "copy")

    def _seen(self) -> State:
        return recovered(self.work, self._copy)

    def kill_at(self, point: str, arrival: int) -> None:
        """End the work at the n-th arrival at a place (from 1), and check everything. It must get there."""
        left = arrival

        def hook(name: str) -> None:
            nonlocal left
            left -= name == point
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        where = f"{self.scenario.name}, killed at {point}, arrival {arrival}"
        ended = self._do(hook)
        assert ended.was_killed, f"{where}: it was not killed"
        self._check(ended.steps, where)

    def kill_after(self, seconds: float) -> bool:
        """End the work after so long, wherever it is; return whether it was still at it."""
        ended = self._do(None, seconds)
        self._check(ended.steps, f"{self.scenario.name}, killed after {seconds * 1000:.1f} ms in step {ended.steps}")
        return ended.was_killed

    def _do(self, hook: Callable[[str], object] | None, seconds: float | None = None) -> Killed:
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work)
        reading, writing = os.pipe()

        def work() -> None:
            os.close(reading)
            _small_batches()
            self.patch()
            set_hook(hook)
            os.write(writing, b"b")
            for _ in self.scenario.work(self.work):
                os.write(writing, b".")

        pid = _fork(work)
        os.close(writing)
        said = os.read(reading, 1)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reading, "rb") as words:
            said += words.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in {0, -signal.SIGKILL}, f"{self.scenario.name} ended with {status}"
        return Killed(said.count(b"."), status == -signal.SIGKILL)

    def _check(self, steps: int, where: str) -> None:
        """Look at what is left; then do the work again, which ends as if nothing had happened."""
        try:
            found = self._seen()
            self._compare(found, steps)
            self.scenario.looks(self._copy)
            _wait(_fork(self._again), "looking with the package, and doing it again")
            found = state_of(self.work)
            assert found == self.states[-1], _difference(found, self.states[-1])
            assert names_in(self.work) == self.names
            self.scenario.final(self.work)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error

    def _again(self) -> None:
        _check_product(self._copy)
        _small_batches()
        self.patch()
        for _ in self.scenario.work(self.work):
            pass

    def _compare(self, found: State, steps: int) -> None:
        before = self.states[steps]
        after = self.states[min(steps + 1, len(self.states) - 1)]
        sides: dict[Hashable, set[str]] = {}
        for unit in before.keys() | after.keys() | found.keys():
            was, will, value = before.get(unit), after.get(unit), found.get(unit)
            side = "before" if value == was else "after" if value == will else ""
            if not side:
                assert self.scenario.between(unit, value), (
                    f"{unit} is {value!r:.300}, not {was!r:.300} or {will!r:.300}"
                )
            elif was != will:
                sides.setdefault(self.scenario.together(unit), set()).add(side)
        torn = {group for group, of_group in sides.items() if len(of_group) > 1}
        assert not torn, f"half is done of {torn}"


def _check_promise(promised: dict[Unit, Any], before: State, after: State, folder: str) -> None:
    """Raise AssertionError unless a step did what it says; it must say what it changed."""
    for unit, value in promised.items():
        found = after.get(unit)
        if isinstance(value, dict):
            assert found is not None, f"{unit} is not there"
            assert found[:2] == (True, True), f"{unit} is not done"
            objects = {name: pickle.loads(data) for name, data in objects_of(f"{folder}/{unit[0]}", unit[1:]).items()}
            assert objects == value, f"{unit} has other artifacts"
        elif value is ...:
            assert found is not None, f"{unit} is not there; there are {sorted(map(str, after))}"
        else:
            assert found == value, f"{unit} is {found!r}, not {value!r}"
        assert found != before.get(unit), f"{unit} was so before"
    if not promised:
        assert after == before, f"nothing was promised: {_difference(after, before)}"


def _difference(found: State, expected: State) -> str:
    units = sorted((unit for unit in found.keys() | expected.keys() if found.get(unit) != expected.get(unit)), key=str)
    return "; ".join(f"{unit} is {found.get(unit)!r:.200}, not {expected.get(unit)!r:.200}" for unit in units[:4])


def _check_product(folder: str) -> None:
    """What verify says of each file."""
    for path in databases(folder):
        if not is_only_begun(path):
            report = verify(path)
            assert report.ok, report.problems


def _small_batches() -> None:
    """Make what is done in batches take several of them for little content; in a child, which ends with it."""
    new_chunks.BATCH = 200_000
    new_chunks.LARGE = 0  # batches go in by another thread
    small_blobs.BATCH = 20_000
    small_blobs.ROOM = 30_000
    reclaim.BATCH = 200_000
    purge.AT_ONCE = reclaim.AT_ONCE = 2
    compact.PAGES_AT_ONCE = 10
    compact.ROWS_AT_ONCE = 8
    push.TASKS_TOGETHER = pull.TASKS_TOGETHER = 2
    pushed_blobs.BLOBS_TOGETHER = pull.BLOBS_TOGETHER = 2


def _fork(work: Callable[[], object]) -> int:
    """Do it in a forked child, which leaves without any more ado."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(LONGEST)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(pid: int, what: str) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"{what} failed ({status}); see above"
