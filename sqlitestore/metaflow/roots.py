"""Datastore roots: the path of the database file, or a folder "in" it, as Metaflow makes one for cards.

``/data/runs.db`` is a store; ``/data/runs.db/mf.cards`` are the named files below ``mf.cards`` in it. The file is where
it is now: a root that Metaflow recorded somewhere else is never believed (see ``provider``).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from sqlitestore.errors import InvalidName
from sqlitestore.location import VARIABLE, resolve_root
from sqlitestore.paths.stores import Store, current_store, opened_store, store_at


class Root(NamedTuple):
    """The absolute path of the database file, and the folder in it ("" for the whole)."""

    file: str
    folder: str

    @property
    def given(self) -> str:
        """The two as one path again."""
        return f"{self.file}/{self.folder}" if self.folder else self.file


_split: dict[str, Root] = {}
"""Roots that were split, for as long as the file is there: the client asks for each artifact."""

_found: dict[tuple[str, str | None, str | None], str] = {}
"""Files that were found from a working folder and configuration, for as long as they are there."""


def split_root(root: str) -> Root:
    """Return what a datastore root means. The file need not exist, but then the root is all of its path.

    Raises InvalidName for a path with "@": Metaflow joins type and root with it, and splits there again.
    """
    known = _split.get(root)
    if known is None or not os.path.isfile(known.file):
        known = _split_anew(root)
        if os.path.isabs(root):
            _split[root] = known
    return known


def _split_anew(root: str) -> Root:
    path = resolve_root(root)
    if "@" in path:
        raise InvalidName(
            f"{path} has '@' in it, at which Metaflow would cut the path in two; rename the file or its folder."
        )
    above, folder = path, ""
    while not os.path.lexists(above) and len(above) > 1:
        above, name = os.path.split(above)
        folder = f"{name}/{folder}" if folder else name
        if os.path.isfile(above):
            return Root(above, folder)
    return Root(path, "")


def configured_root() -> str:
    """Return the file that is meant when no root is given: as for the rest of the package, or from Metaflow's profile.

    Metaflow's configuration has the environment variable too, and it wins over the profile.
    """
    asked = _asked()
    known = _found.get(asked)
    if known is None or not os.path.isfile(known):
        known = _found[asked] = split_root(resolve_root(asked[1])).file
    return known


def _asked() -> tuple[str, str | None, str | None]:
    """Return what decides which file is the configured one."""
    from metaflow import metaflow_config

    given = getattr(metaflow_config, "DATASTORE_SYSROOT_SQLITE", None) or None
    return os.getcwd(), given, os.environ.get(VARIABLE)


def store_of(root: str | None, *, create: bool = False) -> tuple[Root, Store | None]:
    """Return what a datastore root means (None: the configured file), and the store there; None if there is no file.

    While a store is open the file system is asked once, whether it is still the one: the client asks for each artifact.
    """
    file = _found.get(_asked()) if root is None else None
    known = _split.get(root or file or "")
    store = None if known is None else current_store(known.file)
    if known is None or store is None:
        known = split_root(root or configured_root())
        store = store_at(known.file, create=create)
    return known, store


def known_store(root: str | None) -> Store | None:
    """Return the store that a root meant the last time, if it is the whole of a file; None if that is not known.

    The file system is not asked: for what is right whatever became of the file since.
    """
    known = _split.get(root or "")
    return None if known is None or known.folder else opened_store(known.file)
