"""Files that are handed out leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sqlitestore.metaflow import handed_out
from sqlitestore.metaflow.handed_out import PREFIX, HandedOutFiles

PLACE = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()  # noqa: S108


def folders() -> set[str]:
    """Return the folders of handed-out files on this machine."""
    return {name for name in os.listdir(PLACE) if name.startswith(PREFIX)}


@pytest.mark.parametrize("limit", [0, 2, 256])
def test_files_are_there_until_the_end(limit: int) -> None:
    """In memory or with names: all can be opened, twice, by any reader; afterwards none is left."""
    before = folders()
    with HandedOutFiles(limit) as files:
        paths = [files.make([b"a" * number, b"", b"b"]) for number in range(5)]
        for _ in range(2):
            assert [Path(path).read_bytes() for path in paths] == [b"a" * number + b"b" for number in range(5)]
        assert len(set(paths)) == 5
    files.close()
    assert folders() == before
    assert len(os.listdir("/proc/self/fd")) < 200 if os.path.isdir("/proc/self/fd") else True


def test_what_a_crash_leaves_the_next_process_removes() -> None:
    """A killed process cannot clean up: its folder goes when the next one is made, that of a living one stays."""
    code = """
import sys, time
from sqlitestore.metaflow.handed_out import HandedOutFiles
files = HandedOutFiles(0)
print(files.make([b"left behind"]), flush=True)
time.sleep(60)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        paths = [Path(process.stdout.readline().strip()) for process in processes if process.stdout]
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert paths[0].read_bytes() == b"left behind"
        with HandedOutFiles(0) as files:
            files.make([b"x"])
            assert [path.parent.exists() for path in paths] == [False, True]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with HandedOutFiles(0) as files:
        files.make([b"x"])
    assert not paths[1].parent.exists()


def test_without_memory_files_there_are_files_with_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses one (no descriptors left), a named file takes its place."""

    def refused(name: str) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(handed_out.os, "memfd_create", refused)
    with HandedOutFiles() as files:
        path = files.make([b"1"])
        assert PREFIX in path
        assert Path(path).read_bytes() == b"1"
