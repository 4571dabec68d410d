"""The metadata provider ``sqlite``: registers runs, steps, tasks, metadata and tags in the tables of the file.

The file is the one of the datastore ``sqlite`` where that has been given a root (the command line does), else the
configured one. What is registered never names it: its root becomes a mark on the way in, and the root of the day on
the way out, so that the file can be moved.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

from metaflow.exception import MetaflowTaggingError
from metaflow.metadata_provider import MetadataProvider
from metaflow.util import get_username

from .problems import SQLiteFileMissing, as_metaflow
from .storage import TYPE, SQLiteDatastoreStorage


class SQLiteMetadataProvider(MetadataProvider):
    """See Metaflow's base class for what each method promises."""

    TYPE = TYPE

    # Where the file is

    @classmethod
    def compute_info(cls, val: str) -> str:
        """Take the file (or the folder it is in) as the one of this provider and of the datastore; return its path."""
        with as_metaflow():
            from sqlitestore.metaflow.roots import split_root

            file = split_root(val).file
        if not os.path.exists(file):
            raise SQLiteFileMissing(f"There is no file {file}; give the path of a store: {TYPE}@/path/of/runs.db.")
        SQLiteDatastoreStorage.datastore_root = file
        return file

    @classmethod
    def default_info(cls) -> str:
        """Return the path of the file, which need not be there yet."""
        return cls._file()

    def version(self) -> str:
        """Return the name that Metaflow prints."""
        return TYPE

    @classmethod
    def _file(cls) -> str:
        with as_metaflow():
            from sqlitestore.metaflow.roots import configured_root, split_root

            root = SQLiteDatastoreStorage.datastore_root
            return split_root(root).file if root else configured_root()

    @classmethod
    def _store(cls, *, create: bool = False) -> Any:
        """Return the store, None if there is no file; only who registers something makes one."""
        with as_metaflow():
            from sqlitestore.metaflow.roots import store_of

            return store_of(SQLiteDatastoreStorage.datastore_root, create=create)[1]

    @classmethod
    def _registrations(cls) -> Any:
        return cls._store(create=True).registrations

    # Runs and tasks

    def new_run_id(self, tags: Any = None, sys_tags: Any = None) -> str:
        """Register a run under an id that no run of the flow has: the time [us], or the next that is free."""
        number = int(time.time() * 1e6)
        while not self._new_run(str(number), tags, sys_tags):
            number += 1
        return str(number)

    def register_run_id(self, run_id: str, tags: Any = None, sys_tags: Any = None) -> bool:
        """Register a run whose id was made elsewhere; True if nobody had. A number was made here, and is registered."""
        return False if _is_number(run_id) else self._new_run(str(run_id), tags, sys_tags)

    def _new_run(self, run_id: str, tags: Any, sys_tags: Any) -> bool:
        tags, sys_tags = self.sticky_tags.union(tags or ()), self.sticky_sys_tags.union(sys_tags or ())
        with as_metaflow():
            created = self._registrations().add_run(self._flow_name, run_id, get_username(), _now(), tags, sys_tags)
            return bool(created)

    def new_task_id(self, run_id: str, step_name: str, tags: Any = None, sys_tags: Any = None) -> str:
        """Register a task under an id that the run never had: a counter of the run, in the file."""
        del tags, sys_tags  # a task's are those of its run
        with as_metaflow():
            from sqlitestore.crash_points import crash_point

            task_id = str(
                self._registrations().new_task_id(self._flow_name, str(run_id), step_name, get_username(), _now())
            )
            crash_point("provider-task-made")
        self._register_system_metadata(run_id, step_name, task_id, 0)
        return task_id

    def register_task_id(
        self, run_id: str, step_name: str, task_id: str, attempt: int = 0, tags: Any = None, sys_tags: Any = None
    ) -> bool:
        """Register a task whose id was made elsewhere; True if nobody had. A number was made here: then False.

        Its row is made all the same if it is missing, as after a resume that cloned a task and was killed.
        """
        del tags, sys_tags
        with as_metaflow():
            from sqlitestore.crash_points import crash_point

            names = (self._flow_name, str(run_id), step_name, str(task_id))
            created = bool(self._registrations().add_task(*names, get_username(), _now()))
            crash_point("provider-task-known")
        self._register_system_metadata(run_id, step_name, task_id, attempt)
        return created and not _is_number(task_id)

    # Metadata and artifacts

    def register_metadata(self, run_id: str, step_name: str, task_id: str, metadata: Iterable[Any]) -> None:
        """Add metadata of a task; values may be whatever JSON can hold, and a name may come again."""
        with as_metaflow():
            from sqlitestore.paths.here import relative
            from sqlitestore.registrations import RegisteredMetadatum

            store = self._store(create=True)
            user, now = get_username(), _now()
            rows = [
                RegisteredMetadatum(
                    step_name,
                    str(task_id),
                    each.field,
                    relative(each.field, each.value, store.path),
                    each.type,
                    sorted(set(each.tags or ())),
                    user,
                    now,
                )
                for each in metadata
            ]
            store.registrations.add_metadata(self._flow_name, str(run_id), rows)

    def register_data_artifacts(
        self, run_id: str, step_name: str, task_id: str, attempt_id: int, artifacts: Iterable[Any]
    ) -> None:
        """Register artifacts of an attempt. Those that the file holds itself are there already."""
        with as_metaflow():
            from sqlitestore.model import TaskAddress
            from sqlitestore.paths.here import HERE
            from sqlitestore.registrations import RegisteredArtifact

            store = self._store(create=True)
            task = TaskAddress(self._flow_name, str(run_id), step_name, str(task_id))
            held = _held(store, task, int(attempt_id))
            user, now = get_username(), _now()
            rows = []
            for each in artifacts:
                here = each.ds_type == TYPE and each.ds_root == store.path and not each.url
                if here and held.get(each.name) == (each.sha, each.type):
                    continue
                location = each.url or f":root:{HERE if here else each.ds_root}"
                rows.append(
                    RegisteredArtifact(
                        int(attempt_id), each.name, each.type, each.sha, each.ds_type, location, user, now
                    )
                )
            if rows:
                store.registrations.add_artifacts(*task, rows)

    # Tags

    @classmethod
    def _mutate_user_tags_for_run(
        cls, flow_id: str, run_id: str, tags_to_add: Any = None, tags_to_remove: Any = None
    ) -> frozenset[str]:
        """Remove tags, then add some, in one transaction; return what the run has then."""
        to_add, to_remove = frozenset(tags_to_add or ()), frozenset(tags_to_remove or ())

        with as_metaflow():
            from sqlitestore.archive.tags import change_tags
            from sqlitestore.errors import InvalidInput, NotFound

            store = cls._store()
            try:
                if store is not None:
                    return frozenset(change_tags(store, f"{flow_id}/{run_id}", add=to_add, remove=to_remove).tags)
            except NotFound:
                pass
            except InvalidInput as error:
                raise MetaflowTaggingError(msg=str(error)) from error
        raise MetaflowTaggingError(msg=f"Run not found ({flow_id}, {run_id})")

    # Queries

    @classmethod
    def filter_tasks_by_metadata(
        cls, flow_name: str, run_id: str, step_name: str, field_name: str, pattern: str
    ) -> list[str]:
        """Return the pathspecs of a step's tasks that have a metadatum of the name whose whole value matches."""
        tasks = cls.get_object("step", "task", {}, None, flow_name, run_id, step_name) or []
        ids = [task["task_id"] for task in tasks]
        if pattern != ".*":
            matches = re.compile(pattern).fullmatch
            with as_metaflow():
                found = (
                    cls._store().registrations.metadata_of_step(flow_name, run_id, step_name, field_name) if ids else ()
                )
            wanted = {each.task for each in found if isinstance(each.value, str) and matches(each.value)}
            ids = [task_id for task_id in ids if task_id in wanted]
        return [f"{flow_name}/{run_id}/{step_name}/{task_id}" for task_id in ids]

    @classmethod
    def _get_object_internal(
        cls, obj_type: str, obj_order: int, sub_type: str, sub_order: int, filters: Any, attempt: Any, *args: str
    ) -> Any:
        """Return for "self" a dictionary or None, for all else a list of them."""
        del obj_order, sub_order
        with as_metaflow():
            from sqlitestore.metaflow.queries import answer

            things = answer(SQLiteDatastoreStorage.datastore_root, obj_type, sub_type, args, attempt)
        if sub_type not in {"artifact", "metadata"}:
            things = cls._apply_filter(things, filters)
        return next(iter(things), None) if sub_type == "self" else things


def _held(store: Any, task: Any, number: int) -> dict[str, tuple[str, str]]:
    """Return key and encoding (as Metaflow names it) of the artifacts that the file holds of an attempt."""
    from sqlitestore.layout import encoding_for_metaflow

    return {
        name: (artifact.key, encoding_for_metaflow(artifact.encoding))
        for attempt in store.tasks.find_tasks([task])
        if attempt.number == number and attempt.done is not None
        for name, artifact in store.tasks.artifacts([attempt])[0].items()
    }


def _is_number(identifier: Any) -> bool:
    try:
        int(identifier)
    except ValueError:
        return False
    return True


def _now() -> int:
    return round(time.time() * 1000)
