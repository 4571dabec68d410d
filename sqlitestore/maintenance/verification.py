"""What ``verify`` and ``salvage`` say of a file: the problems, each with what it hurts, and what was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlitestore.errors import DataException
from sqlitestore.model import MAX_NAME_BYTES

MAX_PROBLEMS = 10_000
"""As many are listed; all are counted."""

MAX_MESSAGE = 500
"""Characters of a message: a damaged row may hold megabytes where a name belongs."""


class Problem(NamedTuple):
    """Something that is not as it was written.

    ``kind`` is a stable word: "store" (the file as a whole), "structure" (SQLite's pages and indexes), "reference",
    "table", "chunk", "blob", "attempt", "artifact", "log", "metadata", "registration", "file", "data", "run", "flow",
    "trash", "untrusted", "held" or "garbage". ``pathspec`` is ``Flow[/run[/step[/task]]]``, "" where there is none;
    ``attempt`` its number, None where it is of no attempt; ``name`` that of the artifact, log (source/stream),
    metadatum or file, the key of the blob, the id of the chunk, or the table.
    """

    kind: str
    pathspec: str
    attempt: int | None
    name: str
    message: str

    def __str__(self) -> str:
        place = self.pathspec if self.attempt is None else f"{self.pathspec} attempt {self.attempt}"
        return f"{' '.join(part for part in (self.kind, place, self.name) if part)}: {self.message}"


class Checked(NamedTuple):
    """How many of everything were looked at. ``bytes`` are those of all blobs [bytes], each read, decoded and hashed.

    ``chunks``, ``blobs`` and ``bytes`` are 0 after a quick verification. ``stubs`` are artifacts whose bytes were left
    out; ``files`` are the named ones, those in the trash included.
    """

    bytes: int = 0
    blobs: int = 0
    chunks: int = 0
    flows: int = 0
    runs: int = 0
    attempts: int = 0
    artifacts: int = 0
    stubs: int = 0
    logs: int = 0
    metadata: int = 0
    registrations: int = 0
    files: int = 0
    data: int = 0


class Verification(NamedTuple):
    """The outcome of ``verify``. ``problems`` are the first MAX_PROBLEMS of ``found``; ``seconds`` is how long [s]."""

    path: str
    quick: bool
    checked: Checked
    problems: list[Problem]
    found: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is hurt."""
        return not self.found


class Findings:
    """Gathers problems (each once) and counts what was looked at."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.found = 0
        self.structure_hurt = False
        """Whether a page or an index is: then tables and indexes may tell different things."""
        self._counts: dict[str, int] = {}
        self._listed: set[Problem] = set()

    def add(
        self, kind: str, message: str, *, pathspec: str = "", attempt: int | None = None, name: object = ""
    ) -> None:
        """Take a problem, unless it is known."""
        problem = Problem(kind, _bounded(pathspec), attempt, _bounded(name), _bounded(message, MAX_MESSAGE))
        if problem in self._listed:
            return
        self.found += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
            self._listed.add(problem)

    def unreadable(self, table: str, error: DataException) -> None:
        """Take the error with which SQLite stopped in a table."""
        self.structure_hurt = True
        self.add("table", f"it cannot be read to its end ({reason(error)})", name=table)

    def count(self, kind: str, amount: int = 1) -> None:
        """Count what was looked at; ``kind`` is a field of Checked."""
        self._counts[kind] = self._counts.get(kind, 0) + amount

    @property
    def checked(self) -> Checked:
        """What was counted."""
        return Checked(**self._counts)


def reason(error: BaseException) -> str:
    """Return what SQLite or Python said, without our own advice around it."""
    return str(error.__cause__ or error).strip().rstrip(".")


def pathspec_of(parts: Iterable[object]) -> str:
    """Return ``Flow/run/step/task`` from names, of which damage may have made anything; "?" for what is not known."""
    return "/".join("?" if part is None else _bounded(part, 100) for part in parts)


def _bounded(text: object, most: int = MAX_NAME_BYTES * 5) -> str:
    text = text if isinstance(text, str) else str(text)
    return text if len(text) <= most else text[: most - 3] + "..."
