"""Who uses how many bytes of the file, what only they use, and what dedup and compression save.

One pass over the blobs and one over the chunks, each in the order of its table and by indexes, in one snapshot. What
stays in memory is small: a total for each *set* of users that share something, and 16 bytes for each large blob.

``length(bytes)`` does not read the bytes: SQLite knows it from the row's header
(https://www.sqlite.org/fileformat2.html, "Record Format").
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import apsw

from sqlitestore.database import Database
from sqlitestore.errors import Damaged
from sqlitestore.progress import SILENT, Progress

COUNT_WORK = "SELECT (SELECT COUNT(*) FROM blob) + (SELECT COUNT(*) FROM chunk)"
SELECT_OF_RUNS = "SELECT r.id, f.name, r.name FROM run AS r JOIN flow AS f ON f.id = r.flow ORDER BY f.name, r.id"
SELECT_OF_FLOWS = "SELECT -id, name FROM flow WHERE id IN (SELECT flow FROM data) ORDER BY name"
SELECT_BLOB_SIZES = "SELECT id, size, length(bytes) FROM blob ORDER BY id"
# Each branch comes out of its index in this order, so SQLite merges them without sorting. CROSS JOIN fixes the order.
# Users: a run by its id, what save_data keeps for a flow by minus the flow's id, the named files by 0.
SELECT_USES = """SELECT x.blob AS blob, a.run AS user, 1 AS artifact
  FROM artifact AS x INDEXED BY artifact_by_blob CROSS JOIN attempt AS a ON a.id = x.attempt
 UNION ALL SELECT l.blob, a.run, 0 FROM log AS l INDEXED BY log_by_blob CROSS JOIN attempt AS a ON a.id = l.attempt
 UNION ALL SELECT blob, -flow, 0 FROM data
 UNION ALL SELECT blob, 0, 0 FROM file INDEXED BY file_by_blob
 ORDER BY blob"""
SELECT_CHUNK_SIZES = """SELECT c.size, length(c.bytes),
 (SELECT group_concat(DISTINCT p.blob) FROM blob_chunk AS p WHERE p.chunk = c.id) FROM chunk AS c ORDER BY c.id"""

FILES = 0
"""The user that stands for all named files."""

REPORT_EVERY = 1000
"""Rows between two reports of progress."""

DIFFERENT_OWNERS = 20_000
"""Different sets of blobs whose chunks are added up before they are settled: what bounds the memory for them."""


class User(NamedTuple):
    """A run, or (``run_id`` None) what ``save_data`` keeps for a flow, or (both None) the named files.

    ``logical`` counts each artifact and log in full; ``own`` and ``shared`` are bytes as stored (deduplicated and
    compressed) that only this user needs, and that others need too. All in [bytes].
    """

    flow_name: str | None
    run_id: str | None
    artifacts: int
    logical: int
    own: int
    shared: int


class Usage(NamedTuple):
    """What the file's bytes are for; everything in [bytes].

    ``logical`` >= ``unique`` (each piece once) >= ``stored`` (compressed), all of what somebody uses.
    ``unreferenced`` is stored and used by nobody. ``free`` pages are kept for later. The rest of ``file`` are
    names, previews, metadata and indexes.
    """

    runs: list[User]
    data: list[User]
    files: User | None
    logical: int
    unique: int
    stored: int
    unreferenced: int
    free: int
    file: int

    @property
    def records(self) -> int:
        """What is neither content nor free: rows, indexes, and the unused ends of pages."""
        return max(0, self.file - self.stored - self.unreferenced - self.free)


def usage(database: Database, progress: Progress = SILENT) -> Usage:
    """Return who uses what of the file. Raises Damaged where a row refers to one that is not there."""
    with database.read() as connection:
        names = {user: (flow, run) for user, flow, run in connection.execute(SELECT_OF_RUNS)}
        names |= {user: (flow, None) for user, flow in connection.execute(SELECT_OF_FLOWS)}
        names[FILES] = (None, None)
        count = _Count(database.path, set(names))
        total: Any = connection.execute(COUNT_WORK).fetchall()[0][0]
        progress.start("Counting", total, "blobs and chunks")
        try:
            count.blobs(connection, progress)
            count.chunks(connection, progress)
        finally:
            progress.finish()
        page_size = int(connection.pragma("page_size"))
        free, pages = int(connection.pragma("freelist_count")), int(connection.pragma("page_count"))
    return count.result(names, free=free * page_size, file=pages * page_size)


class _Count:
    """The sums on the way: by set of users, each set known by a number; set 0 is nobody."""

    def __init__(self, path: str, users: set[int]) -> None:
        self._path = path
        self._users = users
        self._sets: dict[frozenset[int], int] = {frozenset(): 0}
        self._members: list[frozenset[int]] = [frozenset()]
        self._unique = [0]
        self._stored = [0]
        self._large = array("q")
        """The ids of the blobs made of chunks, ascending."""
        self._set_of_large = array("q")
        self._logical: dict[int, int] = {}
        self._artifacts: dict[int, int] = {}

    def blobs(self, connection: apsw.Connection, progress: Progress) -> None:
        """Go through the blobs and, beside them, through what uses them."""
        with closing(connection.execute(SELECT_USES)) as uses, closing(connection.execute(SELECT_BLOB_SIZES)) as blobs:
            use = next(uses, None)
            for blob, size, stored in _reporting(blobs, progress):
                users = set()
                while use is not None and use[0] == blob:
                    user = use[1]
                    users.add(user)
                    self._logical[user] = self._logical.get(user, 0) + size
                    self._artifacts[user] = self._artifacts.get(user, 0) + use[2]
                    use = next(uses, None)
                number = self._number(frozenset(users))
                if stored is None:
                    self._large.append(blob)
                    self._set_of_large.append(number)
                else:
                    self._add(number, size, stored)
            if use is not None:
                raise Damaged(f"{self._path} is damaged: something in it needs blob {use[0]}, which is not there.")

    def chunks(self, connection: apsw.Connection, progress: Progress) -> None:
        """Go through the chunks. Runs of them belong to the same blobs, so they are added up by those first."""
        waiting: dict[str | None, list[int]] = {}
        with closing(connection.execute(SELECT_CHUNK_SIZES)) as chunks:
            for size, stored, blobs in _reporting(chunks, progress):
                sums = waiting.get(blobs)
                if sums is None:
                    if len(waiting) >= DIFFERENT_OWNERS:
                        self._settle(waiting)
                    waiting[blobs] = [size, stored]
                else:
                    sums[0] += size
                    sums[1] += stored
        self._settle(waiting)

    def _settle(self, waiting: dict[str | None, list[int]]) -> None:
        for blobs, (size, stored) in waiting.items():
            numbers = {self._set_of(int(blob)) for blob in blobs.split(",")} if blobs else {0}
            if len(numbers) == 1:
                number = numbers.pop()
            else:
                number = self._number(frozenset().union(*(self._members[number] for number in numbers)))
            self._add(number, size, stored)
        waiting.clear()

    def _set_of(self, blob: int) -> int:
        position = bisect_left(self._large, blob)
        if position == len(self._large) or self._large[position] != blob:
            raise Damaged(f"{self._path} is damaged: a chunk in it belongs to blob {blob}, which is not there.")
        return self._set_of_large[position]

    def _number(self, users: frozenset[int]) -> int:
        number = self._sets.get(users)
        if number is None:
            if unknown := users - self._users:
                raise Damaged(f"{self._path} is damaged: something in it belongs to run {min(unknown)}, not there.")
            number = self._sets[users] = len(self._members)
            self._members.append(users)
            self._unique.append(0)
            self._stored.append(0)
        return number

    def _add(self, number: int, size: int, stored: int) -> None:
        self._unique[number] += size
        self._stored[number] += stored

    def result(self, names: dict[int, tuple[str | None, str | None]], *, free: int, file: int) -> Usage:
        """Hand the sums of each set to its members."""
        own = dict.fromkeys(names, 0)
        shared = dict.fromkeys(names, 0)
        for members, stored in zip(self._members, self._stored, strict=True):
            for user in members:
                (own if len(members) == 1 else shared)[user] += stored
        users = {
            user: User(*name, self._artifacts.get(user, 0), self._logical.get(user, 0), own[user], shared[user])
            for user, name in names.items()
        }
        return Usage(
            runs=[users[user] for user in users if user > 0],
            data=[users[user] for user in users if user < 0],
            files=users[FILES] if FILES in self._logical else None,
            logical=sum(self._logical.values()),
            unique=sum(self._unique[1:]),
            stored=sum(self._stored[1:]),
            unreferenced=self._stored[0],
            free=free,
            file=file,
        )


def _reporting(rows: Iterator[tuple[Any, ...]], progress: Progress) -> Iterator[tuple[Any, ...]]:
    """Yield the rows, and tell ``progress`` now and then."""
    waiting = 0
    for row in rows:
        yield row
        waiting += 1
        if waiting == REPORT_EVERY:
            progress.advance(waiting)
            waiting = 0
    progress.advance(waiting)
