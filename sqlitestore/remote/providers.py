"""Where documents of a metadata provider are kept, beside the data of a datastore.

In a folder they are what Metaflow's local provider writes and reads, a file each. A task has some forty of them, and an
object store takes its time for each: there a task has one object, ``TrainFlow/12/train/40/_meta/all.json``, with all of
them by path. It is for ``pull``, since no provider of Metaflow's reads metadata from an object store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from sqlitestore import layout
from sqlitestore.crash_points import crash_point
from sqlitestore.errors import Damaged
from sqlitestore.model import TaskAddress
from sqlitestore.path_storage.paths import Item, Paths, batches
from sqlitestore.remote.documents import Documents, read_json, self_path
from sqlitestore.remote.looking import Listing

ALL = "all"
FILES_TOGETHER = 200


class Provider:
    """The documents in one place."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._bundles = paths.type != "local"

    def read(self, tasks: Iterable[TaskAddress], listing: Listing) -> dict[TaskAddress, Documents]:
        """Return all documents of tasks; ``listing`` says which there are in a folder."""
        if self._bundles:
            return self._read_bundles(tasks)
        found: dict[TaskAddress, Documents] = {}
        paths = {path: task for task in tasks for path in listing.metadata.get(task, ())}
        for path, document in sorted(self.paths.read(paths).items()):
            found.setdefault(paths[path], {})[path] = read_json(path, document)
        return found

    def _read_bundles(self, tasks: Iterable[TaskAddress]) -> dict[TaskAddress, Documents]:
        places = {_bundle(task): task for task in tasks}
        return {places[path]: _documents(path, bundle) for path, bundle in self.paths.read(places).items()}

    def seen(self, tasks: Sequence[TaskAddress]) -> set[TaskAddress]:
        """Return the tasks whose documents are all there."""
        places = {task: _bundle(task) if self._bundles else self_path(*task) for task in tasks}
        there = self.paths.have(places.values())
        return {task for task in tasks if there[places[task]]}

    def write_tasks(self, parts: Mapping[TaskAddress, Sequence[Documents]]) -> int:
        """Write what is missing of tasks: first all first parts, and so on. Return how many files were written."""
        if self._bundles:
            return self._write_bundles(parts)
        count = 0
        for part in zip(*parts.values(), strict=True):
            count += self.write({path: document for each in part for path, document in each.items()})
            crash_point("push-documents-written")
        return count

    def _write_bundles(self, parts: Mapping[TaskAddress, Sequence[Documents]]) -> int:
        there = self._read_bundles(parts)
        changed: Documents = {}
        for task, documents in parts.items():
            here = there.get(task, {})
            both = here | {path: each for part in documents for path, each in part.items() if path not in here}
            if both != here:
                changed[_bundle(task)] = both
        return self.write(changed, overwrite=True)

    def write(self, documents: Documents, *, overwrite: bool = False) -> int:
        """Write documents, without ``overwrite`` only those that are missing. Return how many were written."""
        there = {} if overwrite else self.paths.have(documents)
        missing = [path for path in documents if not there.get(path)]
        for some in batches(missing, FILES_TOGETHER):
            self.paths.save((Item(path, BytesIO(json.dumps(documents[path]).encode())) for path in some), len(some))
        return len(missing)


def _bundle(task: TaskAddress) -> str:
    return layout.metadata_path(task, ALL)


def _documents(path: str, bundle: bytes) -> dict[str, dict[str, Any]]:
    found = read_json(path, bundle)
    if not all(isinstance(each, dict) for each in found.values()):
        raise Damaged(f"{path} is damaged: it holds something else than documents.")
    return found
