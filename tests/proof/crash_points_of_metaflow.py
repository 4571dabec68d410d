"""A place in Metaflow's local storage to be killed at, where it stands between a file and what is said of it."""

from __future__ import annotations

from typing import Any

from sqlitestore.crash_points import crash_point

FILE_WRITTEN = "metaflow-file-written"


def follow_files() -> None:
    """Have each file that Metaflow writes followed by such a place, in this process."""
    from metaflow.plugins.datastores.local_storage import LocalStorage

    write = LocalStorage.__dict__["_atomic_write"].__func__
    if getattr(write, "is_followed", False):
        return

    def followed(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        crash_point(FILE_WRITTEN)

    followed.is_followed = True  # type: ignore[attr-defined]
    LocalStorage._atomic_write = staticmethod(followed)
