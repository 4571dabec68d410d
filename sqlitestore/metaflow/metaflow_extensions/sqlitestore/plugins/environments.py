"""The environments ``conda`` and ``pypi``: Metaflow's own, which know four types of datastore.

A file on this machine is for them what ``local`` is: packages are not cached in it. The Python of such an environment
has to have sqlitestore's dependencies, since the tasks that run in it write to the file.
"""

from __future__ import annotations

from typing import Any

from metaflow.plugins.pypi.conda_environment import CondaEnvironment
from metaflow.plugins.pypi.pypi_environment import PyPIEnvironment

from .storage import TYPE


class _AsLocal:
    """Tells Metaflow's environment that the datastore is local, where it is ours."""

    def validate_environment(self, logger: Any, datastore_type: str) -> None:
        """Prepare for the datastore of the flow."""
        local = "local" if datastore_type == TYPE else datastore_type
        super().validate_environment(logger, local)  # type: ignore[misc]


class SQLiteCondaEnvironment(_AsLocal, CondaEnvironment):
    """``--environment=conda``."""

    TYPE = "conda"


class SQLitePyPIEnvironment(_AsLocal, PyPIEnvironment):
    """``--environment=pypi``."""

    TYPE = "pypi"
