"""Named files among Metaflow's paths: documents in a folder of their own, each of which names a blob.

A folder's name begins with "d-" there and a document's with "f-": unlike files, documents may stand beside folders of
their name. Nothing can be deleted, so a document may also say that there is no file.
"""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import quote, unquote

from sqlitestore.errors import Damaged
from sqlitestore.path_storage.paths import Item, Paths

OWN = "mf.sqlitestore"
"""The folder, beside those of the flows, for what Metaflow's layout has no place for."""

Named = tuple[str, int, str | None]
"""A file: the key of its blob, its size [bytes], its metadata."""


def write(paths: Paths, path: str, named: Named | None) -> None:
    """Write a file's document; None: there is no file."""
    paths.save([Item(_place(path), BytesIO(json.dumps(named).encode()))], 1)


def find(paths: Paths, path: str) -> Named | None:
    """Return what the document of a file says; None if there is no file."""
    place = _place(path)
    return _named(place, paths.read([place]).get(place))


def below(paths: Paths, folder: str) -> list[str]:
    """Return the paths of all files below a folder ("" for all), sorted."""
    above = [_place(f"{folder}/")] if folder else [OWN]
    places: list[str] = []
    while above:
        entries = [each for each in paths.below(above) if each.path.rpartition("/")[2][:2] in {"d-", "f-"}]
        places += [each.path for each in entries if each.is_file]
        above = [each.path for each in entries if not each.is_file]
    read = paths.read(places)
    return sorted(_file_at(place) for place in places if _named(place, read.get(place)) is not None)


def _place(path: str) -> str:
    """Return where the document of a file is, or (with a slash at the end) those below a folder."""
    *folders, name = path.split("/")
    return "/".join([OWN, *(f"d-{quote(each, safe=' ')}" for each in folders), *([f"f-{quote(name)}"] if name else [])])


def _file_at(place: str) -> str:
    return "/".join(unquote(part[2:]) for part in place.split("/")[1:])


def _named(place: str, document: bytes | None) -> Named | None:
    if document is None:
        return None
    try:
        found = json.loads(document)
        return None if found is None else (str(found[0]), int(found[1]), found[2])
    except (ValueError, TypeError, IndexError) as error:
        raise Damaged(f"The document of the named file {_file_at(place)} is damaged: {error}.") from error
