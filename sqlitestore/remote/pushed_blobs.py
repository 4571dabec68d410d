"""Blobs and files on their way out: asked for in batches, and sent, packed as Metaflow packs them, if missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlitestore.blobs import payload_of
from sqlitestore.crash_points import crash_point
from sqlitestore.layout import BlobPlace, path_of
from sqlitestore.path_storage.packing import PACKED, RAW, Gathered, payload_from
from sqlitestore.path_storage.paths import Item, Paths, batches
from sqlitestore.paths.reading import Found
from sqlitestore.tables import Tables

BLOBS_TOGETHER = 64
GZIPPED = {"gzip": True}
"""Metadata of an included file whose gzip was taken off on the way in."""


class PushedBlobs:
    """Sends blobs of flows; each is asked for once. ``count`` is told the bytes sent."""

    def __init__(self, tables: Tables, there: Paths, count: Callable[[int], object], *, dry_run: bool) -> None:
        self._tables = tables
        self._there = there
        self._count = count
        self._dry_run = dry_run
        self._known: set[tuple[str, str]] = set()
        self.sent = 0
        self.were_there = 0

    def send(self, flow: str, keys: Iterable[str], made: Mapping[str, bytes]) -> None:
        """Send those of the flow's blobs that are missing, packed; ``made`` are some that the file does not have."""
        self._send(flow, keys, made, raw=False)

    def send_kept(self, flow: str, keys: Iterable[str]) -> None:
        """Send those of the flow's code packages that are missing, as they are: they are fetched without Metaflow."""
        self._send(flow, keys, {}, raw=True)

    def _send(self, flow: str, keys: Iterable[str], made: Mapping[str, bytes], *, raw: bool) -> None:
        new = [key for key in dict.fromkeys(keys) if (flow, key) not in self._known]
        places = {key: path_of(BlobPlace(flow, key)) for key in new}
        there = self._there.have_whole(places.values())
        missing = [key for key in new if not there[places[key]]]
        self._known |= {(flow, key) for key in new}
        self.were_there += len(new) - len(missing)
        self.sent += len(missing)
        if self._dry_run:
            return
        for some in batches(missing, BLOBS_TOGETHER):
            self._there.save(self._items({key: places[key] for key in some}, made, raw=raw), len(some))
            crash_point("push-blobs-sent")

    def _items(self, places: Mapping[str, str], made: Mapping[str, bytes], *, raw: bool) -> Iterator[Item]:
        for key, path in places.items():
            if key in made:
                blob = Gathered(payload_of(made[key]), key)
            else:
                blob = Gathered(payload_from(lambda key=key: self._tables.blobs.open(key)), key)  # type: ignore[misc]
            self._count(blob.size)
            yield Item(path, blob.raw(), RAW) if raw else Item(path, blob.packed(), PACKED)


def has_metadata(text: str | None) -> bool:
    """Return whether a file goes out with the metadata that it has here, a JSON text."""
    return text is not None and json.loads(text) != GZIPPED


def item_of(path: str, found: Found, count: Callable[[int], object]) -> Item:
    """Return a file of the store to be saved at a path; an included one in the gzip that Metaflow expects."""

    def write_to(file: Any) -> None:
        for block in found.blocks():
            file.write(block)

    gathered = Gathered(write_to)
    count(gathered.size)
    if found.metadata == GZIPPED:
        return Item(path, gathered.packed(), None)
    return Item(path, gathered.raw(), found.metadata)
