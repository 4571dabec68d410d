"""Power cuts: every image that a disk could hold at each point of a piece of work is a state between two transactions.

A workload is recorded (``sqlitestore.testing.recording``). The states that it went through are those that plain SQLite,
Python's own ``sqlite3``, finds on a disk on which all has happened up to a point: what a killed process leaves. Then
every image (``sqlitestore.testing.power_cuts``) must hold one of these states: none from later, and none from before
what the mode promises to keep. So half a transaction, or two that should be one, cannot hide: each state is also
checked for what the design says holds at any time, by an oracle that shares no code with the package.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

import apsw
import golden_content
import xxhash
from helpers_store import FLOW
from power_cut_workloads import CLOSED, FILE, WORKLOADS, Mode, Workload, check_content, write
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, schema, verify
from sqlitestore.testing.power_cuts import SECTOR, Disk, by_chance, everything, lengths_only, nothing
from sqlitestore.testing.recording import Name, Recorder, Said, Sync
from sqlitestore.testing.watched_vfs import watched

UNIT = "images of a disk"
LONG = 32_000
IN_MEMORY = True

Image = dict[str, bytes]

COMMITTING = "committing"
"""Is said when a transaction is about to be committed, in whichever file."""


STALE = Random(1).randbytes(SECTOR)
"""What stood on the disk before."""


class State(NamedTuple):
    """What plain SQLite finds in a file: a digest of all rows, and the version of the format; both 0 for no file."""

    rows: int
    version: int


ABSENT = State(0, 0)


def record(workload: Workload, mode: Mode, folder: str) -> Recorder:
    """Do the work once, and return all that it did to its files."""
    os.makedirs(folder)
    with mode.as_default():
        workload.prepare(folder)
        recorder = Recorder(folder)

        def hook(connection: apsw.Connection) -> None:
            connection.set_commit_hook(lambda: recorder.said(COMMITTING) is not None)

        apsw.connection_hooks.append(hook)
        try:
            with watched(recorder):
                workload.work(folder, recorder.said)
        finally:
            apsw.connection_hooks.remove(hook)
    return recorder


def read_plainly(path: str) -> State:
    """Return what stock SQLite finds in a file, which it finds sound; it recovers the file on the way."""
    if not os.path.exists(path):
        return ABSENT
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.text_factory = bytes
        assert connection.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        [(version,)] = connection.execute("PRAGMA user_version")
        digest = xxhash.xxh3_64()
        tables = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        for name, sql in tables:
            digest.update(repr((name, sql)).encode())
            rows = connection.execute(f'SELECT * FROM "{name.decode()}"').fetchall()
            digest.update("".join(sorted(map(repr, rows))).encode())
        return State(digest.intdigest() if tables else 0, version)
    finally:
        connection.close()


class History:
    """The states of one file while the work went on, and which of them must have lasted at each point."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._from: list[int] = []
        self.states: list[State] = []
        """Oldest first."""
        self._lasting: list[tuple[int, int]] = []

    def add(self, point: int, state: State) -> None:
        """Note that the file is in the state; if that is a new one, since some time after the point."""
        if not self.states or self.states[-1] != state:
            self._from.append(point)
            self.states.append(state)

    def promise(self, point: int) -> None:
        """Note that from this point on the newest state must last."""
        self._lasting.append((point, len(self.states) - 1))

    def check(self, point: int, state: State) -> None:
        """Fail unless a power cut at the point may leave the file in the state."""
        latest = bisect_right(self._from, point)
        promises = bisect_right(self._lasting, (point, latest))
        oldest = self._lasting[promises - 1][1] if promises else 0
        assert state in self.states[:latest], f"{self._name} is in a state in which it never was"
        assert state in self.states[oldest:latest], f"{self._name} lost a transaction that had to last"


class Subject:
    """One recorded workload, whose images are judged."""

    def __init__(self, name: str, mode: Mode, folder: str) -> None:
        self.name, self.mode = name, mode
        self.folder = folder
        self.recorder = record(WORKLOADS[name], mode, os.path.join(folder, "recorded"))
        self.points = [point for point, step in enumerate(self.recorder.steps, 1) if not isinstance(step, Said)]
        self.histories = {file: History(file) for file in WORKLOADS[name].files}
        self.images: dict[int, dict[str, State]] = {}
        """What was found in each image, by its digest."""
        self.cut_at: set[int] = set()
        """Points of which an image was judged."""
        self._judged: dict[State, State] = {}
        self._follow()

    def _follow(self) -> None:
        """Find the states: what is there if all has happened, before each commit and when something was promised."""
        disk = Disk(self.recorder)
        committing = 0
        files = dict(enumerate(self.recorder.start, 1))
        self._note(disk, committing)
        for point, step in enumerate(self.recorder.steps, 1):
            disk.apply(step)
            if isinstance(step, Name) and step.file is not None:
                files[step.file] = step.path
            log_synced = isinstance(step, Sync) and files[step.file].endswith(f"{FILE}-wal")
            if isinstance(step, Said) or log_synced:
                self._note(disk, committing)
            if isinstance(step, Said) and step.what == COMMITTING:
                committing = point
            for file, history in self.histories.items():
                if (log_synced and file == FILE) or (isinstance(step, Said) and self._is_promise(step.what, file)):
                    history.promise(point)
        self._note(disk, committing)

    def _note(self, disk: Disk, committing: int) -> None:
        self._lay(everything(disk))
        for file, history in self.histories.items():
            history.add(committing, read_plainly(self._path(file)))

    def _is_promise(self, what: str, file: str) -> bool:
        """Return whether what was said means that the file's state lasts from then on."""
        if file != FILE:
            return what == f"exported {file}"
        return what == CLOSED or (
            what != COMMITTING and (self.mode.journal == "delete" or self.mode.synchronous == "full")
        )

    def _path(self, file: str) -> str:
        return os.path.join(self.folder, "image", file)

    def _lay(self, image: Image) -> None:
        """Make the folder hold the image, and nothing else."""
        folder = os.path.join(self.folder, "image")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        for path, content in image.items():
            with open(os.path.join(folder, os.path.basename(path)), "wb") as file:
                file.write(content)

    def judge_some(self, amount: int, seed: int) -> None:
        """Judge so many images; one that comes again is looked into once."""
        chance = Random(seed)
        each, more = divmod(amount, len(self.points))
        chosen = set(chance.sample(self.points, more))
        disk = Disk(self.recorder)
        for point, step in enumerate(self.recorder.steps, 1):
            disk.apply(step)
            for _ in range((each + (point in chosen)) * (not isinstance(step, Said))):
                image = _image(disk, chance)
                self.cut_at.add(point)
                try:
                    self.judge(image, point)
                except Exception as error:
                    step_text = f"step {point} ({type(step).__name__})"
                    error.add_note(f"{self.name}, {self.mode}, seed {seed}, amount {amount}, after {step_text}")
                    raise

    def judge(self, image: Image, point: int) -> None:
        """Fail unless the image is one that the power may leave at the point; the same may come at several."""
        digest = digest_of(image)
        found = self.images.get(digest) or self._look_into(image)
        for file, history in self.histories.items():
            history.check(point, found[file])
        if digest not in self.images:
            for file, state in found.items():
                if state.rows:
                    self._open(image, file, state)
            self.images[digest] = found

    def _look_into(self, image: Image) -> dict[str, State]:
        self._lay(image)
        return {file: read_plainly(self._path(file)) for file in self.histories}

    def _open(self, image: Image, file: str, state: State) -> None:
        """Open the file by our own classes, as the image has it: they find the same, and nothing wrong."""
        self._lay(image)
        path = self._path(file)
        report = verify(path)
        assert report.ok, [str(problem) for problem in report.problems]
        with FlowDataStore("Any", ds_root=path):
            pass
        found = read_plainly(path)
        if found not in self._judged:
            self._judge_state(path)
            self._judged[found] = state
        assert found.version == schema.NEWEST_FORMAT
        assert state in {found, self._judged[found]}, f"{file} is another when we have opened it"

    def _judge_state(self, path: str) -> None:
        """Fail unless the state keeps the invariants, all that is there is right, and one can go on."""
        journal = Path(path + "-journal")
        if journal.exists() and journal.read_bytes()[:1] in {b"", b"\0"}:
            journal.unlink()  # cut off before its header was there: SQLite ignores it, and leaves it
        check_file(path)
        if self.name.startswith("migrate"):
            golden_content.check(path)
        else:
            check_content(path)
        with FlowDataStore(FLOW, ds_root=path, trust=True) as flow:
            write(flow, "after/a/1", "small", "noise_100000")
            assert [task["small"] for task in flow.get_latest_task_datastores("after")] == ["small of after/a/1/0"]
        check_file(path)


SUBJECTS = [(name, mode) for name, workload in WORKLOADS.items() for mode in workload.modes]
SLICES = len(SUBJECTS)


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Judge so many images, spread over all workloads."""
    figures: Counter[str] = Counter()
    for number in range(SLICES):
        share = amount * (number + 1) // SLICES - amount * number // SLICES
        figures.update(prove_slice(number, share, seed, folder))
    return dict(figures)


def prove_slice(number: int, amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Judge so many images of one workload, at points by chance, but at each once before at any twice."""
    with TemporaryDirectory(dir=folder) as place:
        subject = Subject(*SUBJECTS[number], place)
        subject.judge_some(amount, seed)
    return {
        "distinct images": len(subject.images),
        "points": len(subject.points),
        "points at which the power was cut": len(subject.cut_at),
        "states between transactions": sum(len(history.states) for history in subject.histories.values()),
    }


def _image(disk: Disk, chance: Random) -> Image:
    """Return one of the extremes, or any."""
    extremes = [everything, nothing, lambda disk: lengths_only(disk, b""), lambda disk: lengths_only(disk, STALE)]
    return chance.choice(extremes)(disk) if chance.random() < 0.4 else by_chance(disk, chance)


def digest_of(image: Image) -> int:
    """Return what is the same for the same image only."""
    digest = xxhash.xxh3_64()
    for path in sorted(image):
        digest.update(f"{path} {len(image[path])} ".encode())
        digest.update(image[path])
    return digest.intdigest()
