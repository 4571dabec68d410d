"""What lies in the place of a file or beside it: journals that name other files, links, folders, pipes and devices."""

from __future__ import annotations

import os
import struct

from hostile_base import Places
from hostile_schemas import PAGE, Maker

JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
SUFFIXES = ("-wal", "-journal", "-shm")


def _hot_journal(*, names_the_victim: bool, records: int = 0) -> Maker:
    """Return the maker of a journal that SQLite would play back; its end may name a file that is then deleted."""

    def make(path: str, places: Places) -> None:
        pages = os.path.getsize(path) // PAGE
        head = JOURNAL_MAGIC + struct.pack(">5I", records, 7, pages, 512, PAGE)
        name = places.victim.encode()
        end = struct.pack(">I", 0x40000000 // PAGE + 1) + name
        end += struct.pack(">II", len(name), sum(name)) + JOURNAL_MAGIC
        with open(path + "-journal", "wb") as file:
            file.write(head.ljust(512, b"\0") + (end if names_the_victim else b"\0" * 1024))

    return make


def _link(suffix: str) -> Maker:
    def make(path: str, places: Places) -> None:
        os.symlink(places.victim, path + suffix)

    return make


def _folder(suffix: str) -> Maker:
    def make(path: str, _: Places) -> None:
        os.mkdir(path + suffix)

    return make


def _pipe(suffix: str) -> Maker:
    def make(path: str, _: Places) -> None:
        os.mkfifo(path + suffix)

    return make


def _noise(suffix: str) -> Maker:
    def make(path: str, _: Places) -> None:
        with open(path + suffix, "wb") as file:
            file.write(b"\xff" * 40_000)

    return make


def _instead(kind: str) -> Maker:
    def make(path: str, _: Places) -> None:
        os.unlink(path)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "link to itself":
            os.symlink(path, path)
        else:
            os.symlink({"device": "/dev/zero", "terminal": "/dev/tty"}[kind], path)

    return make


BESIDE_REFUSED: dict[str, Maker] = {
    "journal that names another file": _hot_journal(names_the_victim=True),
    **{f"link as {suffix}": _link(suffix) for suffix in SUFFIXES},
    **{f"pipe as {suffix}": _pipe(suffix) for suffix in SUFFIXES},
    **{f"folder as {suffix}": _folder(suffix) for suffix in SUFFIXES},
    **{f"{kind} instead": _instead(kind) for kind in ("pipe", "folder", "link to itself", "device", "terminal")},
}
BESIDE_TOLERATED: dict[str, Maker] = {
    "journal of 4 billion pages": _hot_journal(names_the_victim=False, records=2**32 - 2),
    **{f"noise as {suffix}": _noise(suffix) for suffix in SUFFIXES},
}
