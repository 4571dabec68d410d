"""The artifacts of many tasks, fetched when the first of them is needed, and the small blobs of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sqlitestore.errors import Damaged, DataException, NotFound
from sqlitestore.model import Artifact, Attempt, TaskAddress

TOGETHER = 500
"""Attempts of one look-up whose artifacts are fetched by one query, when the first of them is needed."""

KEPT = 4 * 2**20
"""[bytes] Of blobs that one look-up keeps for loads to come. Each thread that fetches just then may add as much."""


class ArtifactsTogether:
    """The artifacts of done attempts that were found together: whoever asks first fetches those of all.

    ``load`` returns the artifacts of each of some attempts, as ``DataStoreStorage.load_artifacts_of`` does.
    """

    def __init__(
        self, load: Callable[[Sequence[Attempt]], Sequence[Mapping[str, Artifact]]], attempts: Sequence[Attempt]
    ) -> None:
        self._load = load
        self._attempts = [attempt for attempt in attempts if attempt.done is not None]
        self._found: dict[tuple[TaskAddress, int], Mapping[str, Artifact]] | None = None

    def artifacts(self, attempt: Attempt) -> Mapping[str, Artifact]:
        """Return the artifacts of one of the attempts. A fault in another's rows is not this one's."""
        if self._found is None:
            try:
                loaded = self._load(self._attempts)
                self._found = {(a.task, a.number): found for a, found in zip(self._attempts, loaded, strict=True)}
            except (Damaged, NotFound):
                self._found = {}
        found = self._found.get((attempt.task, attempt.number))
        return self._load([attempt])[0] if found is None else found

    def keys(self, name: str) -> dict[TaskAddress, str]:
        """Return the key of each task's artifact of that name, as far as they were fetched together and are whole."""
        keys = {}
        for (task, _), found in (self._found or {}).items():
            try:
                keys[task] = found[name].key
            except (KeyError, Damaged):
                continue
        return keys


class Group(Protocol):
    """Tasks whose artifacts of a name may be loaded together."""

    def keys(self, name: str) -> Mapping[TaskAddress, str]:
        """Return the key of each task's artifact of that name, as far as it is known."""


class BlobsTogether:
    """The small blobs of the tasks of one look-up: who loads an artifact of one task mostly loads that of the others.

    When a second task of a group is asked for an artifact of the same name, those of the whole group are fetched, once.
    Each is kept for one load. ``load`` returns blobs as ``DataStoreStorage.load_small_blobs`` does.

    They are checked when they are fetched, and a key names what it is a hash of: so what is kept is right whatever
    happened to the file since. It can be loaded even if the run was purged in between, as in a longer snapshot.
    """

    def __init__(self, load: Callable[[Sequence[str], int], Mapping[str, bytes]]) -> None:
        self._load = load
        self._kept: dict[tuple[TaskAddress, str], bytes] = {}
        self._asked: dict[tuple[Group, str], TaskAddress | None] = {}
        """The first task of a group that was asked for a name; None once those of the group were fetched."""

    def take(self, group: Group, task: TaskAddress, name: str, key: str) -> bytes | None:
        """Return the blob of a task's artifact, and keep it no longer; None if it is not at hand."""
        blob = self._kept.pop((task, key), None)
        if blob is None:
            first = self._asked.setdefault((group, name), task)
            if first is not None and first != task:
                self._asked[group, name] = None
                self._fetch({each: key for each, key in group.keys(name).items() if each != first})
                blob = self._kept.pop((task, key), None)
        return blob

    def _fetch(self, keys: Mapping[TaskAddress, str]) -> None:
        """Keep what there is room for. Whoever loads something damaged is told so by the load of its own."""
        different = list(dict.fromkeys(keys.values()))
        kept = list(self._kept.values())
        room = KEPT - sum(map(len, set(kept)))
        if room < len(different) or not different:
            return
        try:
            found = self._load(different, room // len(different))
        except DataException:
            return
        self._kept |= {(task, key): found[key] for task, key in keys.items() if key in found}
