"""Who uses how many bytes of the file, what only they use, and what dedup and compression save.

One pass over the blobs and one over the chunks, each in the order of its table and by indexes, in one snapshot. What
stays in memory is small: a total for each *set* of users that share something, and 16 bytes for each large blob.

``length(bytes)`` does not read the bytes: SQLite knows it from the row's header
(https://www.sqlite.org/fileformat2.html, "Record Format").
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import apsw

from sqlitestore.database import Database
from sqlitestore.errors import Damaged
from sqlitestore.pragmas import size_of_file, size_of_free_pages
from sqlitestore.progress import SILENT, Progress
from sqlitestore.schema import RUNS_COME_AND_GO

COUNT_WORK = "SELECT (SELECT COUNT(1) FROM blob) + (SELECT COUNT(1) FROM chunk)"
SELECT_OF_RUNS = """SELECT r.id, f.name, COALESCE(t.name, r.name), t.run IS NOT NULL FROM run AS r
 JOIN flow AS f ON f.id = r.flow LEFT JOIN trash AS t ON t.run = r.id ORDER BY f.name, r.id"""
SELECT_OF_RUNS_BEFORE_FORMAT_3 = """SELECT r.id, f.name, r.name, 0 FROM run AS r
 JOIN flow AS f ON f.id = r.flow ORDER BY f.name, r.id"""
SELECT_OF_FLOWS = "SELECT -id, name FROM flow WHERE id IN (SELECT flow FROM data) ORDER BY name"
SELECT_BLOB_SIZES = "SELECT id, size, length(bytes) FROM blob ORDER BY id"
# Each branch comes out of its index in this order, so SQLite merges them without sorting. CROSS JOIN fixes the order.
# Users: a run by its id, what save_data keeps for a flow by minus the flow's id, the named files by 0.
TRASHED = " UNION ALL SELECT blob, run, 0 FROM trashed_file INDEXED BY trashed_file_by_blob"
SELECT_USES = f"""SELECT x.blob AS blob, a.run AS user, 1 AS artifact
  FROM artifact AS x INDEXED BY artifact_by_blob CROSS JOIN attempt AS a ON a.id = x.attempt
 UNION ALL SELECT l.blob, a.run, 0 FROM log AS l INDEXED BY log_by_blob CROSS JOIN attempt AS a ON a.id = l.attempt
 UNION ALL SELECT blob, -flow, 0 FROM data
 UNION ALL SELECT blob, 0, 0 FROM file INDEXED BY file_by_blob
{TRASHED} ORDER BY blob"""
SELECT_USES_BEFORE_FORMAT_3 = SELECT_USES.replace(TRASHED, "")
SELECT_CHUNK_SIZES = """SELECT c.size, length(c.bytes),
 (SELECT group_concat(DISTINCT p.blob) FROM blob_chunk AS p WHERE p.chunk = c.id) FROM chunk AS c ORDER BY c.id"""

SELECT_OF_RUN = """SELECT x.blob FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN attempt AS a ON a.run = r.id
 JOIN artifact AS x ON x.attempt = a.id WHERE f.name = ?1 AND r.name = ?2
 UNION SELECT l.blob FROM flow AS f JOIN run AS r ON r.flow = f.id JOIN attempt AS a ON a.run = r.id
 JOIN log AS l ON l.attempt = a.id WHERE f.name = ?1 AND r.name = ?2"""
SUM_SIZES = "SELECT COALESCE(SUM(b.size), 0) FROM json_each(?) AS asked JOIN blob AS b ON b.id = asked.value"

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

    ``logical`` >= ``unique`` (each piece once) >= ``stored`` (compressed), all of what somebody uses; ``trashed`` is
    what of ``stored`` only runs in the trash use. ``unreferenced`` is stored and used by nobody. ``free`` pages are
    kept for later. The rest of ``file`` are names, previews, metadata and indexes.
    """

    runs: list[User]
    trash: list[User]
    data: list[User]
    files: User | None
    logical: int
    unique: int
    stored: int
    trashed: int
    unreferenced: int
    free: int
    file: int

    @property
    def comes_back(self) -> int:
        """What ``compact`` gives back to the file system, about."""
        return self.unreferenced + self.free

    @property
    def records(self) -> int:
        """What is neither content nor free: rows, indexes, and the unused ends of pages."""
        return max(0, self.file - self.stored - self.unreferenced - self.free)


def usage(database: Database, progress: Progress = SILENT) -> Usage:
    """Return who uses what of the file. Raises Damaged where a row refers to one that is not there."""
    try:
        return _counted(database, progress).result()
    except (TypeError, ValueError) as error:  # a damaged row may hold anything in the place of a size or an id
        raise Damaged(f"{database.path} is damaged: what should be a number is none ({error}).") from error


def content_size(database: Database, runs: Iterable[tuple[str, str]]) -> int:
    """Return how much content the artifacts and logs of runs (flow and run) have, each piece once [bytes].

    Raises Damaged where one of them refers to nothing.
    """
    blobs: set[Any] = set()
    for flow, run in runs:
        blobs.update(blob for (blob,) in database.query(SELECT_OF_RUN, (flow, run)))
    if not all(isinstance(blob, int) for blob in blobs):
        raise Damaged(f"{database.path} is damaged: an artifact or log needs a blob that is none.")
    ids = sorted(blobs)
    return sum(
        database.query(SUM_SIZES, (json.dumps(ids[start : start + REPORT_EVERY]),))[0][0]
        for start in range(0, len(ids), REPORT_EVERY)
    )


class Sizes:
    """How large the file would be without runs, for whoever decides how many must go."""

    def __init__(self, database: Database, progress: Progress = SILENT) -> None:
        self._count = _counted(database, progress)
        found = self._count.result()
        self.left = found.file - found.comes_back
        """[bytes] The file's size, were it compacted now."""
        self._records = found.records / max(1, sum(self._count.rows.values()))
        self._users_left = [len(members) for members in self._count.members]

    def remove(self, run: int) -> None:
        """Take a run away, by the id of its row."""
        self.left -= int(self._records * self._count.rows.get(run, 0))
        for number in self._count.sets_of(run):
            self._users_left[number] -= 1
            if not self._users_left[number]:
                self.left -= self._count.stored[number]


def _counted(database: Database, progress: Progress) -> _Count:
    with database.read() as connection:
        has_trash = database.format >= RUNS_COME_AND_GO
        names: dict[int, tuple[str | None, str | None]] = {}
        trashed: set[int] = set()
        statement = SELECT_OF_RUNS if has_trash else SELECT_OF_RUNS_BEFORE_FORMAT_3
        for user, flow, run, is_trashed in connection.execute(statement):
            names[user] = (flow, run)
            if is_trashed:
                trashed.add(user)
        names |= {user: (flow, None) for user, flow in connection.execute(SELECT_OF_FLOWS)}
        names[FILES] = (None, None)
        count = _Count(database.path, names, trashed)
        total: Any = connection.execute(COUNT_WORK).fetchall()[0][0]
        progress.start("Counting", total, "blobs and chunks")
        try:
            count.blobs(connection, SELECT_USES if has_trash else SELECT_USES_BEFORE_FORMAT_3, progress)
            count.chunks(connection, progress)
        finally:
            progress.finish()
        count.free, count.file = size_of_free_pages(connection), size_of_file(connection)
    return count


class _Count:
    """The sums on the way: by set of users, each set known by a number; set 0 is nobody."""

    def __init__(self, path: str, names: dict[int, tuple[str | None, str | None]], trashed: set[int]) -> None:
        self._path = path
        self._names = names
        self._trashed = trashed
        self.free = self.file = 0
        self.rows: dict[int, int] = {}
        """How many artifacts, logs and files refer to a blob, by user."""
        self._sets: dict[frozenset[int], int] = {frozenset(): 0}
        self.members: list[frozenset[int]] = [frozenset()]
        self._unique = [0]
        self.stored = [0]
        self._large = array("q")
        """The ids of the blobs made of chunks, ascending."""
        self._set_of_large = array("q")
        self._by_user: dict[int, list[int]] = {}
        self._logical: dict[int, int] = {}
        self._artifacts: dict[int, int] = {}

    def blobs(self, connection: apsw.Connection, select_uses: str, progress: Progress) -> None:
        """Go through the blobs and, beside them, through what uses them."""
        with closing(connection.execute(select_uses)) as uses, closing(connection.execute(SELECT_BLOB_SIZES)) as blobs:
            use = next(uses, None)
            for blob, size, stored in _reporting(blobs, progress):
                users = set()
                while use is not None and use[0] == blob:
                    user = use[1]
                    users.add(user)
                    self.rows[user] = self.rows.get(user, 0) + 1
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
                number = self._number(frozenset().union(*(self.members[number] for number in numbers)))
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
            if unknown := users - set(self._names):
                raise Damaged(f"{self._path} is damaged: something in it belongs to run {min(unknown)}, not there.")
            number = self._sets[users] = len(self.members)
            self.members.append(users)
            self._unique.append(0)
            self.stored.append(0)
        return number

    def _add(self, number: int, size: int, stored: int) -> None:
        self._unique[number] += size
        self.stored[number] += stored

    def sets_of(self, user: int) -> list[int]:
        """Return the numbers of the sets that a user is in."""
        if not self._by_user:
            for number, members in enumerate(self.members):
                for member in members:
                    self._by_user.setdefault(member, []).append(number)
        return self._by_user.get(user, [])

    def result(self) -> Usage:
        """Hand the sums of each set to its members."""
        own = dict.fromkeys(self._names, 0)
        shared = dict.fromkeys(self._names, 0)
        trashed = 0
        for members, stored in zip(self.members, self.stored, strict=True):
            for user in members:
                (own if len(members) == 1 else shared)[user] += stored
            trashed += stored if members and members <= self._trashed else 0
        users = {
            user: User(*name, self._artifacts.get(user, 0), self._logical.get(user, 0), own[user], shared[user])
            for user, name in self._names.items()
        }
        return Usage(
            runs=[users[user] for user in users if user > 0 and user not in self._trashed],
            trash=[users[user] for user in users if user in self._trashed],
            data=[users[user] for user in users if user < 0],
            files=users[FILES] if FILES in self._logical else None,
            logical=sum(self._logical.values()),
            unique=sum(self._unique[1:]),
            stored=sum(self.stored[1:]),
            trashed=trashed,
            unreferenced=self.stored[0],
            free=self.free,
            file=self.file,
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
