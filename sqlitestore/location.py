"""Where the database file is when the caller does not say: the one place of the core that reads the environment.

The order is Metaflow's for its own local datastore, with a file in the place of the ``.metaflow`` folder.
"""

from __future__ import annotations

import os

from sqlitestore.errors import InvalidName, InvalidType

DEFAULT_NAME = "metaflow.db"
VARIABLE = "METAFLOW_DATASTORE_SYSROOT_SQLITE"


def resolve_root(ds_root: str | os.PathLike[str] | None) -> str:
    """Return the absolute path of the database file that ``ds_root`` means.

    A folder means the file ``metaflow.db`` in it. None means: what ``METAFLOW_DATASTORE_SYSROOT_SQLITE`` names (a file
    or a folder), else the nearest ``metaflow.db`` in the working folder or above it, else ``metaflow.db`` in the
    working folder. The file need not exist.
    """
    if ds_root is None:
        ds_root = os.environ.get(VARIABLE) or _nearest(os.getcwd())
    if not isinstance(ds_root, str | os.PathLike) or not isinstance(os.fspath(ds_root), str):
        raise InvalidType(f"ds_root is the path of a file, not {type(ds_root).__name__}: {ds_root!r:.80}")
    path = os.fspath(ds_root)
    if not path or "\0" in path:
        raise InvalidName(f"ds_root is the path of the database file; {path!r:.80} cannot be one.")
    path = os.path.abspath(os.path.expanduser(path))
    if os.name == "posix":
        path = "/" + path.lstrip("/")  # abspath keeps two slashes, which a URI takes for a host
    return os.path.join(path, DEFAULT_NAME) if os.path.isdir(path) else path


def _nearest(folder: str) -> str:
    above = folder
    while not os.path.isfile(os.path.join(above, DEFAULT_NAME)):
        if above == os.path.dirname(above):
            return os.path.join(folder, DEFAULT_NAME)
        above = os.path.dirname(above)
    return os.path.join(above, DEFAULT_NAME)
