"""What stands in the folders of tasks beside attempts, logs and metadata, and the files that artifacts name."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

from sqlitestore import layout
from sqlitestore.layout import LogPlace, MetadataPlace
from sqlitestore.model import TaskAddress
from sqlitestore.path_storage.packing import payload_from
from sqlitestore.path_storage.paths import Opened, Paths, batches
from sqlitestore.paths.writing import PathWriter
from sqlitestore.remote.included import DATATOOLS
from sqlitestore.remote.looking import Listing
from sqlitestore.tables import Tables

FILES_TOGETHER = 200
GZIPPED = json.dumps({"gzip": True})
"""Metadata of an included file, whose gzip was taken off: as the plug-in keeps it."""


class PulledWriter(PathWriter):
    """Saves what comes from elsewhere: this process writes no task of its own by that."""

    def task_starts(self) -> None:
        """Note nothing."""

    def task_ends(self) -> None:
        """Note nothing."""


def pull_files(
    tables: Tables, source: Paths, listing: Listing, tasks: Iterable[TaskAddress], new: set[TaskAddress]
) -> tuple[int, int]:
    """Bring logs and metadata of tasks; of those not ``new`` what is not here, and logs of another size.

    Return bytes and files.
    """
    wanted: list[str] = []
    for task in tasks:
        names = set() if task in new else {MetadataPlace(task, *name) for name in tables.metadata.names(task)}
        for path in sorted(listing.files.get(task, ())):
            place = layout.place_of(path)
            if (isinstance(place, MetadataPlace) and place not in names) or (
                isinstance(place, LogPlace) and (task in new or _is_other(tables, source, path, place))
            ):
                wanted.append(path)
    amount = 0
    writer = PulledWriter(tables, "", overwrite=True)
    for some in batches(wanted, FILES_TOGETHER):
        with source.opened(some) as found:
            amount += sum(os.path.getsize(opened.file) for opened in found.values())
            for path, opened in found.items():
                with open(opened.file, "rb") as file:
                    writer.save([(path, file)])
    return amount, len(wanted)


def _is_other(tables: Tables, source: Paths, path: str, place: LogPlace) -> bool:
    here = tables.logs.sizes(place.task, place.attempt).get((place.source, place.stream))
    return here is None or here != source.size(path)


def pull_included(tables: Tables, source: Paths, urls: Mapping[str, str]) -> tuple[int, int]:
    """Bring files that artifacts name, by ``<flow>/<sha1>`` from their URLs. Return bytes and files.

    They are looked for in the datastore, and for a local one also where their URLs say: with
    METAFLOW_DATASTORE_SYSROOT_LOCAL set, Metaflow keeps them beside it. One that is lost is left out: the artifact is
    as readable as it was.
    """
    missing = [tail for tail in urls if tables.files.find(f"{layout.INCLUDED}/{tail}") is None]
    amount = 0
    places = {f"{DATATOOLS}/{tail}": tail for tail in missing}
    count = 0
    with source.opened(list(places)) as found:
        files = {places[path]: opened for path, opened in found.items()}
        if source.type == "local":
            beside = os.path.join(os.path.dirname(source.root), DATATOOLS)
            for tail in missing:
                for path in (os.path.join(beside, tail), urls[tail].partition("://")[2]):
                    if tail not in files and os.path.isfile(path):
                        files[tail] = Opened(path, None)
        for tail, opened in files.items():
            _save(tables, f"{layout.INCLUDED}/{tail}", opened.file)
            amount += os.path.getsize(opened.file)
            count += 1
    return amount, count


def _save(tables: Tables, path: str, file: str) -> None:
    with suppress(gzip.BadGzipFile, EOFError):
        tables.files.save(path, payload_from(partial(gzip.open, file, "rb")), GZIPPED, overwrite=False)
        return
    tables.files.save(path, payload_from(partial(open, file, "rb")), None, overwrite=False)
