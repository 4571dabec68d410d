"""A finished task's artifacts with others laid over them: what Metaflow's ``spin`` gives a single step to run on."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from typing import Any

from sqlitestore.task_datastore import TaskDataStore

_OF_THE_RUN = "_transition"  # where the original task went next; the spun one decides anew


class SpinTaskDatastore:
    """Reads ``spin_artifacts`` first, then the artifacts of ``orig_datastore``. The name and shape are Metaflow's."""

    def __init__(
        self,
        flow_name: str,
        run_id: str,
        step_name: str,
        task_id: str,
        orig_datastore: TaskDataStore,
        spin_artifacts: Mapping[str, Any],
    ) -> None:
        self.flow_name = flow_name
        self.run_id = run_id
        self.step_name = step_name
        self.task_id = task_id
        self.orig_datastore = orig_datastore
        self.spin_artifacts = spin_artifacts
        self._objects = {name: key for name, key in orig_datastore._objects.items() if name != _OF_THE_RUN}
        self._info = {name: info for name, info in orig_datastore._info.items() if name != _OF_THE_RUN}

    def __getitem__(self, name: str) -> Any:
        return self.spin_artifacts[name] if name in self.spin_artifacts else self.orig_datastore[name]

    def __contains__(self, name: object) -> bool:
        return name in self.spin_artifacts or name in self.orig_datastore

    def is_none(self, name: str) -> bool:
        """Return whether the artifact's value is None. Raises ArtifactNotFound."""
        return self[name] is None

    def items(self) -> ItemsView[str, str] | dict[str, str]:
        """Return ``(name, key)`` pairs of the original task's artifacts."""
        return self._objects.items() if self._objects else {}
