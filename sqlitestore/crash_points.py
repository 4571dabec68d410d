"""Named places between two steps of a write, at which a test may end the process.

What must hold "after a crash at any instruction" is shown by ending a process at each of these places and looking at
the file that it leaves. They stand wherever our own code is between two durable steps, or between two statements of a
transaction whose order would matter if it were none. In use they do nothing, and cost 30 ns.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], object] | None = None


def crash_point(name: str) -> None:
    """Pass a place. The name is a literal, in lower-case words with hyphens, and stands in one place of the sources."""
    if _hook is not None:
        _hook(name)


def set_hook(hook: Callable[[str], object] | None) -> None:
    """Have ``hook`` called with the name of each place that this process passes; None: no more. For tests only."""
    global _hook  # noqa: PLW0603 - a crash is one of the process
    _hook = hook
