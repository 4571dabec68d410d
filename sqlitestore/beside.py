"""What lies beside a file under the names that SQLite uses: a stranger may have put it there, to reach other files."""

from __future__ import annotations

import os
import stat

from sqlitestore.errors import Damaged

SUFFIXES = ("-wal", "-shm", "-journal")
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
END_OF_JOURNAL = 16
"""[bytes] Behind the name of another file: its length, a checksum and the magic."""


def check_beside(path: str) -> None:
    """Raise Damaged for what SQLite would follow out of the folder, or wait for: before it opens the file.

    A pipe in the place of a log is waited for. A journal may name another, that of a transaction over several files,
    which SQLite looks at, and deletes if no file needs it any more, when it has played back the first
    (https://www.sqlite.org/atomiccommit.html, "Multi-file Commit"). SQLite is careful with both: in our tries no other
    file was harmed. But no log of ours is a link, and no transaction of ours is over several files.
    """
    for suffix in SUFFIXES:
        try:
            status = os.lstat(path + suffix)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(
                f"{path}{suffix} is no file of its own (a link, a folder or the like), as SQLite would make it. Copy "
                f"{path} alone to another folder, or remove it."
            )
        if suffix == "-journal" and status.st_size >= END_OF_JOURNAL and _names_another(path + suffix):
            raise Damaged(
                f"{path}{suffix} names another file, which is none of ours: it is no journal that we left. Copy {path} "
                "alone to another folder, or remove the journal."
            )


def _names_another(journal: str) -> bool:
    try:
        with open(journal, "rb") as file:
            file.seek(-END_OF_JOURNAL, os.SEEK_END)
            end = file.read()
    except OSError:  # gone since, or not ours to read
        return False
    return end[8:] == JOURNAL_MAGIC and any(end[:4])
