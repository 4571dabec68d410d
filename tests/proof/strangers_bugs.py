"""Bugs that are put into the product, to see that looking at hostile files finds them."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import msgpack

from sqlitestore import beside, codecs, pragmas, preview, repetition, schema, tasks
from sqlitestore.archive import diff
from sqlitestore.cli import text
from sqlitestore.errors import Damaged
from sqlitestore.maintenance import row_types
from sqlitestore.task_datastore import TaskDataStore


def _everywhere(old: Any, new: Any) -> None:
    """Put ``new`` in the place of a function, also where it was imported by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("sqlitestore"):
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)


def _trusts_the_file() -> None:
    _everywhere(pragmas.distrust_the_file, lambda _: None)


def _takes_any_schema() -> None:
    schema.check_tables = lambda *_: None


def _trusts_every_run() -> None:
    TaskDataStore._check_trust = lambda *_: None


def _decompresses_all() -> None:
    def decode(codec: Any, stored: Any, size: Any) -> bytes:
        data = codecs.zstd.decompress(stored) if codec == codecs.ZSTD else stored
        if len(data) != size:
            raise Damaged("another size")
        return data

    codecs.decode = decode


def _unpacks_anything() -> None:
    def unpack(packed: bytes | None) -> Any:
        return msgpack.unpackb(packed, max_array_len=2**31 - 1, max_map_len=2**31 - 1) if packed else {}

    _everywhere(preview.unpack, unpack)


def _prints_names_raw() -> None:
    _everywhere(text.clean, str)


def _unpickles_to_compare() -> None:
    original = diff.diff

    def unpickling(store: Any, *arguments: Any, **options: Any) -> Any:
        for run in ("1", "2"):
            for task in store.get_latest_task_datastores(run) if hasattr(store, "get_latest_task_datastores") else ():
                with store._storage_impl.open_blob(task.run_id, dict(task.items())["trap"]) as file:
                    pickle.load(file)
        return original(store, *arguments, **options)

    _everywhere(original, unpickling)
    import strangers_looks

    strangers_looks.diff = unpickling


def _opens_whatever_lies_beside() -> None:
    _everywhere(beside.check_beside, lambda _: None)


def _follows_trees_for_ever() -> None:
    _everywhere(repetition.watch_for_repetition, lambda *_: None)


def _trusts_whom_nothing_is_said_of() -> None:
    for name in ("SELECT_RUN_ATTEMPTS", "SELECT_STEP_ATTEMPTS", "SELECT_TASK_ATTEMPTS"):
        setattr(tasks, name, getattr(tasks, name).replace(tasks.ORIGIN, "u.origin"))


def _takes_every_value_for_ours() -> None:
    row_types.ODD = ()


BUGS: dict[str, Callable[[], None]] = {
    "trusts the file": _trusts_the_file,
    "takes any schema": _takes_any_schema,
    "trusts every run": _trusts_every_run,
    "decompresses all": _decompresses_all,
    "unpacks anything": _unpacks_anything,
    "prints names raw": _prints_names_raw,
    "unpickles to compare": _unpickles_to_compare,
    "opens whatever lies beside": _opens_whatever_lies_beside,
    "follows trees for ever": _follows_trees_for_ever,
    "trusts whom nothing is said of": _trusts_whom_nothing_is_said_of,
    "takes every value for ours": _takes_every_value_for_ours,
}
