"""What a store must do to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

FLOW, RUN, STEP = "BenchFlow", "1", "train"
DONE = "DONE"


class Peer(Protocol):
    """An open store in a folder of its own. What ``find`` returns is whatever ``value`` and ``task_id`` take."""

    name: ClassVar[str]
    durability: ClassVar[str]

    def __init__(self, folder: Path) -> None: ...
    def save_task(self, task_id: str, artifacts: Mapping[str, Any]) -> None: ...
    def find_run(self) -> Sequence[Any]: ...
    def find(self, task_ids: Sequence[str]) -> Sequence[Any]: ...
    def task_id(self, found: Any) -> str: ...
    def value(self, found: Any, name: str) -> Any: ...
    def save_data(self, blobs: Iterable[bytes]) -> list[str]: ...
    def load_data(self, keys: Sequence[str]) -> Iterable[bytes]: ...
    def close(self) -> None: ...


class Cannot(Exception):
    """A store cannot do this; the message says why, and the table has a dash."""
