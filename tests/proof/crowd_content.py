"""What a task of the crowd holds: all of it follows from its name, so a torn, mixed or foreign value shows.

Nothing here is asked of the package: the expected values are made anew from the name, by Python's own generator.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

FLOW = "CrowdFlow"
LIVE = "live-"
"""Runs that stay: their names begin so, an era after the other."""

PASSING = "passing-"
"""Runs that are pruned, restored and purged while others look at them."""

ERA = 8
"""Tasks that each writer puts into a live run before it goes on to the next one."""


def noise(identity: str, size: int) -> bytes:
    """Return the bytes of that name."""
    return random.Random(identity).randbytes(size)


def live_pathspec(who: str, number: int) -> str:
    """Return the pathspec of a writer's task by its number; the run is the one of its era."""
    return f"{LIVE}{number // ERA}/step{number % 2}/{who}-{number}"


def attempts_of(pathspec: str) -> list[bool]:
    """Return whether each attempt at the task succeeds: most do at once, some after a failure, some are done twice."""
    return random.Random(f"attempts of {pathspec}").choice([[True], [True], [True], [False, True], [True, True]])


def artifacts_of(pathspec: str, attempt: int) -> dict[str, Any]:
    """Return the artifacts of an attempt: small ones, ones that many tasks share, one of some MB now and then."""
    identity = f"{pathspec}/{attempt}"
    chance = random.Random(identity)
    # What passing runs share is shared with them alone: it goes with the last of them, and comes with the next.
    shared = f"shared {pathspec.startswith(PASSING)} {chance.randrange(6)}"
    found = {
        "name": identity,
        "small": [chance.randrange(10**6) for _ in range(20)],
        "shared": noise(shared, 150_000),
        "array": np.arange(3_000, dtype=np.float64) * chance.randrange(1_000_000),
        "noise": noise(f"noise of {identity}", chance.randrange(100, 30_000)),
    }
    if chance.random() < 0.04:
        found["large"] = noise(shared, 900_000) + noise(f"large of {identity}", chance.randrange(10**6, 3 * 10**6))
    return found


def log_of(pathspec: str, attempt: int, lines: int) -> bytes:
    """Return the first so many lines of an attempt's log."""
    return b"".join(b"%s/%d line %d\n" % (pathspec.encode(), attempt, number) for number in range(lines))


LINES = 6
"""Of a log when its attempt has ended."""


def metadata_of(pathspec: str, attempt: int) -> dict[str, Any]:
    """Return the metadata of an attempt."""
    return {"who": pathspec, "numbers": [attempt, len(pathspec)]}


def check_log(pathspec: str, attempt: int, log: bytes) -> int:
    """Fail unless a log is its first lines, whole; return how many."""
    lines = log.count(b"\n")
    assert log == log_of(pathspec, attempt, lines), f"the log of {pathspec}/{attempt} is {log[-200:]!r}"
    return lines


def check_task(task: Any, pathspec: str, *, final: bool = True) -> None:
    """Fail unless a reader of a done task has all that the attempt saved (``final``: the last), and nothing else."""
    attempts, attempt = attempts_of(pathspec), task.attempt
    assert attempts[attempt], f"attempt {attempt} of {pathspec} was never done"
    assert attempt == len(attempts) - 1 or not final, f"attempt {attempt} of {pathspec} is not its last"
    expected = artifacts_of(pathspec, attempt)
    check_artifacts(task, pathspec, expected)
    assert task.load_metadata(["who", "numbers"]) == metadata_of(pathspec, attempt), f"metadata of {pathspec}"
    [(_, log)] = task.load_logs(["task"], "stdout")
    assert log == log_of(pathspec, attempt, LINES), f"the log of {pathspec} is {log[-200:]!r}"


def check_artifacts(task: Any, pathspec: str, expected: dict[str, Any]) -> None:
    """Fail unless the artifacts are those expected."""
    assert sorted(task) == sorted(expected), f"{pathspec} has {sorted(task)}"
    for name, value in expected.items():
        assert np.array_equal(task[name], value), f"artifact {name} of {pathspec} is {task[name]!r:.200}"


def check_data(identity: str, data: bytes) -> None:
    """Fail unless these are the bytes of that name."""
    assert data == noise(identity, len(data)), f"{identity} is {data[:50]!r}"
    assert len(data) == size_of_data(identity), f"{identity} has {len(data)} bytes"


def size_of_data(identity: str) -> int:
    """Return the size of what save_data is given under that name [bytes]: on either side of what a row holds."""
    return random.Random(f"size of {identity}").choice([0, 50, 5_000, 70_000, 400_000])


def check_contiguous(numbers: dict[str, list[int]], run: str) -> None:
    """Fail if a snapshot of a live run lacks a task that its writer started before another that it has."""
    start = int(run.removeprefix(LIVE)) * ERA
    for who, found in numbers.items():
        wanted = list(range(start, start + len(found)))
        assert sorted(found) == wanted, f"a look-up of {run} saw the tasks {sorted(found)} of {who}"
