"""An artifact store for data-science flows in one SQLite file, speaking Metaflow's datastore API.

>>> from sqlitestore import FlowDataStore
>>> with FlowDataStore("TrainFlow", ds_root="runs.db") as flow:
...     task = flow.get_task_datastore("1", "train", "7", attempt=0, mode="w")
...     task.init_task()
...     task.save_artifacts([("auc", 0.93)])
...     task.done()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlitestore.api import *  # noqa: F403

_FUNCTIONS = ("register_serializer", "unregister_serializer")


def __getattr__(name: str) -> Any:
    """Return a public name; all are imported at the first.

    The plug-in for Metaflow, which every process of a flow loads, needs half of the modules and none of the names.
    Python asks here for modules too before it looks for their files, and Metaflow for constants that any may have.
    """
    if name == "__all__" or (name[0].isupper() and not name.isupper()) or name in _FUNCTIONS:
        with import_module("sqlitestore.forking").unforked():
            public = import_module("sqlitestore.api")
        if name == "__all__" or name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"module 'sqlitestore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("sqlitestore.api").__all__})
