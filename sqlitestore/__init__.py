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
    from sqlitestore.archive.diff import diff as diff
    from sqlitestore.archive.export import export as export
    from sqlitestore.archive.merge import merge as merge
    from sqlitestore.archive.tags import change_tags as change_tags
    from sqlitestore.archive.tags import tags_of as tags_of
    from sqlitestore.archive.trust import trust_runs as trust_runs
    from sqlitestore.maintenance.compact import compact as compact
    from sqlitestore.maintenance.prune import plan_prune as plan_prune
    from sqlitestore.maintenance.prune import prune as prune
    from sqlitestore.maintenance.prune import restore as restore
    from sqlitestore.maintenance.salvage import salvage as salvage
    from sqlitestore.maintenance.verify import verify as verify
    from sqlitestore.remote.pull import pull as pull
    from sqlitestore.remote.push import push as push

_FUNCTIONS = ("register_serializer", "unregister_serializer")
_OVER_A_STORE = {
    "change_tags": "archive.tags",
    "compact": "maintenance.compact",
    "diff": "archive.diff",
    "export": "archive.export",
    "merge": "archive.merge",
    "plan_prune": "maintenance.prune",
    "prune": "maintenance.prune",
    "pull": "remote.pull",
    "push": "remote.push",
    "restore": "maintenance.prune",
    "salvage": "maintenance.salvage",
    "tags_of": "archive.tags",
    "trust_runs": "archive.trust",
    "verify": "maintenance.verify",
}
"""Functions over an open store, and where each is: programs that only read and write do without these modules."""


def __getattr__(name: str) -> Any:
    """Return a public name; the classes are all imported at the first.

    The plug-in for Metaflow, which every process of a flow loads, needs half of the modules and none of the names.
    Python asks here for modules too before it looks for their files, and Metaflow for constants that any may have.
    """
    if name in _OVER_A_STORE:
        with import_module("sqlitestore.forking").unforked():
            return getattr(import_module(f"sqlitestore.{_OVER_A_STORE[name]}"), name)
    if name == "__all__" or (name[0].isupper() and not name.isupper()) or name in _FUNCTIONS:
        with import_module("sqlitestore.forking").unforked():
            public = import_module("sqlitestore.api")
        if name == "__all__":
            return sorted([*public.__all__, *_OVER_A_STORE])
        if name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"module 'sqlitestore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
