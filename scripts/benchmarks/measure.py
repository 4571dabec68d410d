"""Rounds in which the stores take turns, each step in a process of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contract import Cannot
from benchmarks.groups import Group, Step
from benchmarks.scale import Scale
from benchmarks.workloads import Call, Costs

PRELOADED = [
    "benchmarks.groups",
    "diskcache",
    "joblib",
    "metaflow.datastore",
    "metaflow.plugins.datastores.local_storage",
    "sqlitestore.api",
    "benchmarks.frozen",
]
"""What the server has imported that forks the processes, so that each starts in milliseconds and none imports more."""


@dataclass(slots=True)
class Measured:
    """Costs by group, step and store, one for each round; and why a store cannot do a group's work."""

    costs: dict[tuple[str, str], dict[str, list[Costs]]] = field(default_factory=dict)
    cannot: dict[tuple[str, str], str] = field(default_factory=dict)


class Session:
    """Measures groups below ``folder``, each store in a folder of its own; all is gone afterwards."""

    def __init__(self, folder: Path, scale: Scale, rounds: int | None = None, progress: Any = None) -> None:
        self._folder = folder
        self._scale = scale
        self._rounds = rounds
        self._progress = progress
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self.measured = Measured()

    def rounds(self, group: Group) -> int:
        """Return how many rounds a group gets."""
        return self._rounds or (self._scale.few_rounds if group.few_rounds else self._scale.rounds)

    def measure(self, groups: Sequence[Group]) -> Measured:
        """Measure all."""
        if self._progress:
            total = sum(self.rounds(group) * len(group.peers) for group in groups)
            self._progress.start("", total)
        for group in groups:
            self._measure(group)
        if self._progress:
            self._progress.finish()
        return self.measured

    def _measure(self, group: Group) -> None:
        with self._temporary() as kept:
            if group.prepare:
                for peer in group.peers:
                    self._tell(f"{group.name}: {peer} prepared")
                    (kept / peer).mkdir()
                    self._in_process(group.prepare, Call(peer, kept / peer, self._scale))
            for number in range(self.rounds(group)):
                for peer in group.peers[:: -1 if number % 2 else 1]:
                    self._tell(f"{group.name}: {peer}")
                    if group.prepare:
                        self._steps(group, peer, kept / peer)
                    else:
                        with self._temporary() as folder:
                            (folder / peer).mkdir()
                            self._steps(group, peer, folder / peer)
                    if self._progress:
                        self._progress.advance(1)

    def _steps(self, group: Group, peer: str, place: Path) -> None:
        for step in group.steps:
            if not step.can(peer) or (group.name, peer) in self.measured.cannot:
                continue
            try:
                costs = self._in_process(step.function, Call(peer, place, self._scale))
            except Cannot as error:
                self.measured.cannot[group.name, peer] = str(error)
                return
            self._add(group, step, peer, costs)

    def _add(self, group: Group, step: Step, peer: str, costs: Costs) -> None:
        self.measured.costs.setdefault((group.name, step.name), {}).setdefault(peer, []).append(costs)

    def _in_process(self, function: Any, call: Call) -> Any:
        """Call it in a new process; an error there is raised here."""
        with ProcessPoolExecutor(1, mp_context=self._context) as pool:
            return pool.submit(function, call).result()

    def _tell(self, what: str) -> None:
        if self._progress:
            self._progress.tell(what)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
