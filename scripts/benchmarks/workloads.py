"""The work itself. Each function does one step of a workload with one store, in a process of its own.

It returns costs by name: ``seconds`` until ``done()`` or the load returned, ``closed`` until the store is closed as
well (opening it belongs to that), ``peak`` memory beyond the object [bytes], ``disk`` of the store [bytes], of which
the step ``added`` some; and the ``amount`` of work. What comes back is checked: a fast wrong answer is none.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import content
from benchmarks.contract import Peer
from benchmarks.memory import disk_of, peak_above
from benchmarks.peers import PEERS
from benchmarks.scale import Scale

Costs = dict[str, float]


class WrongAnswer(Exception):
    """A store returned something else than what was saved."""


@dataclass(frozen=True, slots=True)
class Call:
    """One step with one store: its name, its folder, and how much."""

    peer: str
    place: Path
    scale: Scale

    def open(self) -> Peer:
        return PEERS[self.peer](self.place)

    def warm(self) -> None:
        """Use the store once beside the folder, so that loading its modules is not measured."""
        with (
            tempfile.TemporaryDirectory(dir=self.place.parent) as folder,
            closing(PEERS[self.peer](Path(folder))) as peer,
        ):
            peer.save_task("warm", {"value": np.arange(50_000.0)})
            [found] = peer.find(["warm"])
            peer.value(found, "value")


def check(right: bool, what: str) -> None:
    """Raise unless an answer is right."""
    if not right:
        raise WrongAnswer(what)


def saved(call: Call, amount: float, save: Callable[[Peer], object]) -> Costs:
    """Open the store, save, close it; return the costs."""
    times: list[float] = []

    def work() -> None:
        times.append(time.perf_counter())
        peer = call.open()
        times.append(time.perf_counter())
        save(peer)
        times.append(time.perf_counter())
        peer.close()
        times.append(time.perf_counter())

    call.warm()
    before = disk_of(call.place)
    peak = peak_above(work)
    start, opened, done, closed = times
    disk = disk_of(call.place)
    return {
        "amount": amount, "seconds": done - opened, "closed": closed - start, "peak": peak, "disk": disk,
        "added": disk - before,
    }  # fmt: skip


def answered(amount: float, ask: Callable[[], Any]) -> tuple[Costs, Any]:
    """Ask, and return the costs and the answer."""
    answers: list[Any] = []
    seconds: list[float] = []

    def work() -> None:
        start = time.perf_counter()
        answers.append(ask())
        seconds.append(time.perf_counter() - start)

    peak = peak_above(work)
    return {"amount": amount, "seconds": seconds[0], "peak": peak}, answers[0]


# One large artifact.


def objects(kind: str, scale: Scale) -> Any:
    """Return the large artifact of a workload."""
    if kind == "frame":
        return content.frame(scale.frame)
    if kind == "integers":
        return content.integers(scale.integers)
    return content.noise(scale.large_noise if kind == "large noise" else scale.noise)


def size_of(thing: Any) -> int:
    """Return the size of an object in memory, or of its pickle if it is a table [bytes]."""
    return thing.nbytes if isinstance(thing, np.ndarray) else len(pickle.dumps(thing, protocol=5))


def save_object(call: Call, kind: str, task: str = "first") -> Costs:
    """Save it as the artifact of a task, as it is or changed."""
    thing = objects(kind, call.scale)
    change = {"changed": content.changed, "appended": content.appended}.get(task)
    thing = thing if change is None else change(thing)
    size = size_of(thing)
    return saved(call, size / 1e6, lambda peer: peer.save_task(task, {"value": thing}))


def load_object(call: Call, kind: str) -> Costs:
    """Load what was saved; that the task is looked up is not measured."""
    call.warm()
    with closing(call.open()) as peer:
        [found] = peer.find(["first"])
        costs, thing = answered(0, lambda: peer.value(found, "value"))
    size = size_of(thing)
    check(content.same(thing, objects(kind, call.scale)), f"{call.peer} loaded another {kind}")
    return costs | {"amount": size / 1e6, "peak": costs["peak"] - size}


# Many small tasks.


def task_ids(scale: Scale) -> list[str]:
    return [str(number) for number in range(scale.tasks)]


def save_tasks(call: Call) -> Costs:
    """Write the tasks, each for itself."""

    def save(peer: Peer) -> None:
        for number in range(call.scale.tasks):
            peer.save_task(str(number), content.small_artifacts(number))

    return saved(call, call.scale.tasks, save)


def look_up(call: Call, by: str) -> Costs:
    """Look all of them up, by run and step or by pathspecs."""
    call.warm()
    wanted = task_ids(call.scale)
    with closing(call.open()) as peer:
        peer.find(wanted[:1])
        costs, found = answered(len(wanted), lambda: peer.find_run() if by == "run" else peer.find(wanted))
        ids = [peer.task_id(each) for each in found]
    check(sorted(ids) == sorted(wanted), f"{call.peer} found {len(ids)} of {len(wanted)} tasks")
    return costs


def load_each(call: Call) -> Costs:
    """Load one artifact of each; that they are looked up is not measured."""
    call.warm()
    with closing(call.open()) as peer:
        found = peer.find(task_ids(call.scale))
        costs, values = answered(len(found), lambda: [peer.value(each, "text") for each in found])
    expected = {content.small_artifacts(number)["text"] for number in range(call.scale.tasks)}
    check(len(values) == len(expected) and set(values) == expected, f"{call.peer} loaded other texts")
    return costs


# Bytes without a task.


def save_data(call: Call) -> Costs:
    """Save the blobs in one call; their keys are left beside the folder."""
    blobs = content.blobs(call.scale.blobs)
    keys: list[str] = []
    costs = saved(call, len(blobs), lambda peer: keys.extend(peer.save_data(blobs)))
    call.place.with_suffix(".keys").write_text(json.dumps(keys))
    return costs


def load_data(call: Call) -> Costs:
    """Load them in one call."""
    call.warm()
    keys = json.loads(call.place.with_suffix(".keys").read_text())
    with closing(call.open()) as peer:
        costs, found = answered(len(keys), lambda: list(peer.load_data(keys)))
    check(sorted(found) == sorted(content.blobs(call.scale.blobs)), f"{call.peer} loaded other blobs")
    return costs
