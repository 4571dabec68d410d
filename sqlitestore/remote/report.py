"""What a transfer did, or would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """Counts of a transfer. ``bytes`` are those sent or fetched: of blobs as they are kept here, and of all else.

    ``runs`` were looked through, ``runs_there`` were not because they were complete already. ``problems`` are runs that
    could not be transferred, each with what to do about it: nothing of a run that is other there was changed.
    """

    place: str
    dry_run: bool = False
    runs: int = 0
    runs_there: int = 0
    tasks: int = 0
    tasks_there: int = 0
    blobs: int = 0
    blobs_there: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name."""
        return asdict(self)
