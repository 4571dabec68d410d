"""The datastores of many tasks, found together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlitestore.content_addressed_store import ImmutableBlobCache
from sqlitestore.flow_datastore import FlowDataStore


class TaskDataStoreSet:
    """Readers of the latest attempts of a run's tasks (or of ``pathspecs``), and a place to find each again.

    ``prefetch_data_artifacts`` names artifacts whose blobs are loaded now, each once, and kept in memory by the flow's
    ``ca_store`` for all its readers. The parameters are those of Metaflow's class.
    """

    def __init__(
        self,
        flow_datastore: FlowDataStore,
        run_id: str | None,
        steps: Sequence[str] | None = None,
        pathspecs: Sequence[str] | None = None,
        prefetch_data_artifacts: Iterable[str] | None = None,
        allow_not_done: bool = False,
        join_type: str | None = None,
        orig_flow_datastore: FlowDataStore | None = None,
        spin_artifacts: Mapping[str, Any] | None = None,
    ) -> None:
        self.task_datastores = flow_datastore.get_task_datastores(
            run_id,
            steps=steps,
            pathspecs=pathspecs,
            allow_not_done=allow_not_done,
            join_type=join_type,
            orig_flow_datastore=orig_flow_datastore,
            spin_artifacts=spin_artifacts,
        )
        self._indexed = [] if allow_not_done else self.task_datastores
        self.pathspec_cache = {datastore.pathspec: datastore for datastore in self._indexed}
        if prefetch_data_artifacts:
            names = list(prefetch_data_artifacts)
            keys = {key for datastore in self.task_datastores for key in datastore.keys_for_artifacts(names) if key}
            preloaded = dict(flow_datastore.ca_store.load_blobs(keys))
            flow_datastore.ca_store.set_blob_cache(ImmutableBlobCache(preloaded))

    @cached_property
    def pathspec_index_cache(self) -> dict[str, Any]:
        """Readers by ``pathspec_index``; loads each task's ``_foreach_stack``, so it is made when first asked for.

        Tasks without that artifact (not written by Metaflow's runtime) have no index and are left out.
        """
        return {datastore.pathspec_index: datastore for datastore in self._indexed if "_foreach_stack" in datastore}

    def get_with_pathspec(self, pathspec: str) -> Any:
        """Return the reader of ``run_id/step_name/task_id``, None if it is not in the set."""
        return self.pathspec_cache.get(pathspec)

    def get_with_pathspec_index(self, pathspec_index: str) -> Any:
        """Return the reader of ``run_id/step_name[indexes]``, None if it is not in the set."""
        return self.pathspec_index_cache.get(pathspec_index)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.task_datastores)
