"""How much memory work needs at its peak, and how much disk a folder takes."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path


def peak_above(work: Callable[[], object]) -> int:
    """Do ``work``; return how much resident memory it needed at its peak [bytes], above what there was before."""
    gc.collect()
    if sys.platform != "linux":
        return _peak_of_process(work)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but is kept for later would hide what is needed
    with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
        reset.write("5")  # sets the peak back: man 5 proc
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _peak_of_process(work: Callable[[], object]) -> int:
    """Do the same where the peak cannot be set back: what the process did before can hide what the work needed."""
    try:
        import resource
    except ImportError:  # Windows
        work()
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def disk_of(folder: Path) -> int:
    """Return how much disk a folder takes, its files and folders [bytes]."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
