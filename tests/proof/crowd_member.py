"""A member of the crowd: what each of its processes has, whatever its role."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from crowd_content import FLOW, LINES, artifacts_of, attempts_of, log_of, metadata_of
from helpers_processes import fork, wait_for

from sqlitestore import DataException, FlowDataStore, SQLiteStorage
from sqlitestore.database import Database

ROUNDS = 2
"""That every member goes through, however little time there is: so nobody is passed over."""

PATIENCE = 240
"""[s] After the end of the crowd, when a member that still hangs is killed by a signal."""


class Setting(NamedTuple):
    """What the whole crowd shares. ``end`` is a time of the monotonic clock [s]."""

    folder: str
    seed: int
    end: float
    journal: str | None
    members: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file that all use, alone in a folder of its own."""
        return os.path.join(self.folder, "store", "runs.db")

    def place(self, *names: str) -> str:
        """Return a path in the crowd's folder, outside of the store's."""
        return os.path.join(self.folder, *names)


class Member:
    """One process: its luck, its ledger of what was acknowledged, and what it measures.

    What was said in a ledger is there for everybody from then on: others read it, and look whether that is so.
    """

    def __init__(self, setting: Setting, name: str) -> None:
        self.setting = setting
        self.name = name
        self.role = name.rstrip("0123456789")
        self.chance = random.Random(f"{setting.seed} {name}")
        self.rounds = 0
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ledger = os.open(setting.place("said", name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def open(self, **options: Any) -> FlowDataStore:
        """Open the crowd's file, with its kind of journal."""
        how = partial(SQLiteStorage, journal_mode=self.setting.journal)
        return FlowDataStore(FLOW, ds_root=self.setting.path, storage_impl=how, **options)

    def goes_on(self) -> bool:
        """Return whether there is another round: until the time is up, or something went wrong."""
        self.rounds += 1
        there_is_time = time.monotonic() < self.setting.end or self.rounds <= ROUNDS
        return there_is_time and not os.path.exists(self.setting.place("stop"))

    def say(self, *words: Any) -> None:
        """Write into the ledger what was acknowledged."""
        os.write(self._ledger, json.dumps(words).encode() + b"\n")

    def heard(self, kind: str, role: str = "") -> list[Any] | None:
        """Return something of that kind that another (of that role) said, the latest more often than the older."""
        names = [name for name in self.setting.members if name != self.name and name.startswith(role)]
        if not names:
            return None
        with suppress(FileNotFoundError), open(self.setting.place("said", self.chance.choice(names)), "rb") as ledger:
            size = ledger.seek(0, os.SEEK_END)
            ledger.seek(max(0, size - self.chance.choice([1_000, 1_000, 10_000, size])))
            whole = ledger.read(4_000).split(b"\n")[1:-1]
            found = [words for words in map(json.loads, whole) if words[0] == kind]
            return self.chance.choice(found) if found else None
        return None

    def count(self, what: str, number: int = 1) -> None:
        """Count what was done or seen."""
        with self._lock:
            self.counts[what] += number

    def took(self, what: str, seconds: float) -> None:
        """Keep the longest time of each thing."""
        with self._lock:
            self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count and measure one thing that succeeds."""
        start = time.monotonic()
        yield
        self.took(what, time.monotonic() - start)
        self.count(what)

    @contextmanager
    def answered_by(self, *answers: type[DataException]) -> Iterator[None]:
        """Take these errors for an answer: what was asked for may be gone, as the documentation says."""
        try:
            yield
        except answers as error:
            self.count(f"answers {type(error).__name__}")

    def write_task(self, flow: Any, pathspec: str) -> None:
        """Write all attempts at a task, its log and metadata while it runs; say so when it is done."""
        attempts = attempts_of(pathspec)
        for attempt, succeeds in enumerate(attempts):
            artifacts = list(artifacts_of(pathspec, attempt).items())
            with self.timed("tasks written" if succeeds else "failed attempts"):
                writer = flow.get_task_datastore(*pathspec.split("/"), attempt=attempt, mode="w")
                writer.init_task()
                writer.save_artifacts(artifacts[:2])
                writer.save_logs("task", {"stdout": log_of(pathspec, attempt, LINES // 2)})
                writer.save_artifacts(artifacts[2:])
                writer.save_metadata(metadata_of(pathspec, attempt))
                writer.save_logs("task", {"stdout": log_of(pathspec, attempt, LINES)})
                if succeeds:
                    writer.done()
        self.say("task", pathspec)

    def forked(self, work: Callable[[], Any]) -> int:
        """Call ``work`` in a forked child, which reports what goes wrong as this member; return its id."""

        def child() -> None:
            signal.alarm(int(max(0, self.setting.end - time.monotonic())) + PATIENCE)
            with self.reporting_errors():
                work()

        return fork(child)

    def wait_for(self, *children: int) -> None:
        """Wait for children of ``forked``."""
        wait_for(*children)

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Write down what went wrong, and let all stop."""
        try:
            yield
        except BaseException:
            with open(self.setting.place("wrong", f"{self.name} {os.getpid()}"), "w", encoding="utf-8") as file:
                file.write(traceback.format_exc())
            with open(self.setting.place("stop"), "w", encoding="ascii"):
                pass
            raise

    def report(self) -> None:
        """Write down what was done and how long it took."""
        figures = {"rounds": self.rounds - 1, "counts": self.counts, "longest": self.longest}
        with open(self.setting.place("reports", self.name), "w", encoding="ascii") as file:
            json.dump(figures, file)


def live(setting: Setting, name: str, role: Callable[[Member], None]) -> None:
    """Be a member from beginning to end, in a forked process."""
    signal.alarm(int(max(0, setting.end - time.monotonic())) + PATIENCE)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - what goes wrong is written down
    member = Member(setting, name)
    with member.reporting_errors(), _measuring_waits(member):
        role(member)
        member.report()


@contextmanager
def _measuring_waits(member: Member) -> Iterator[None]:
    """Measure how long each writing transaction waits for the others before it begins."""
    original = Database.write

    @contextmanager
    def write(self: Database) -> Iterator[Any]:
        start = time.monotonic()
        with original(self) as connection:
            waited = time.monotonic() - start
            member.took("wait to write", waited)
            member.count("writing transactions")
            member.count("that waited for 10 ms", int(waited > 0.01))
            yield connection

    Database.write = write  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Database.write = original  # type: ignore[method-assign]
