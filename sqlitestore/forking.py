"""What must not be cut in two by a fork: it waits, and the child starts with everything whole.

A forked child has one thread and a copy of the memory: a lock that another thread held stays locked in it for ever,
and what that thread was in the middle of is never finished.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Participant(Protocol):
    """Is told of every fork of the process."""

    def before_fork(self) -> None:
        """Come to a state that a child can start from, and stay in it."""

    def after_fork_in_parent(self) -> None:
        """Go on as before."""

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent."""


class _Forks:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.participants: weakref.WeakSet[Participant] = weakref.WeakSet()
        self.told: list[Participant] = []

    def before(self) -> None:
        self.lock.acquire()
        self.told = list(self.participants)
        for participant in self.told:
            participant.before_fork()

    def after_in_parent(self) -> None:
        for participant in self.told:
            participant.after_fork_in_parent()
        self.told = []
        self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        for participant in self.told:
            participant.after_fork_in_child()
        self.told = []


_forks = _Forks()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child
    )


def take_part(participant: Participant) -> None:
    """Tell ``participant`` of every fork from now on, for as long as it lives."""
    _forks.participants.add(participant)


@contextmanager
def unforked() -> Iterator[None]:
    """Let forks wait until the block ends: for an import in a function, which may be the first of that module."""
    with _forks.lock:
        yield
