"""The artifacts of many tasks, fetched when the first of them is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlitestore.errors import Damaged, NotFound
from sqlitestore.model import Artifact, Attempt, TaskAddress

TOGETHER = 500
"""Attempts of one look-up whose artifacts are fetched by one query, when the first of them is needed."""


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
