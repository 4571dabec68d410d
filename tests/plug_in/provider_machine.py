"""Random histories told to Metaflow's local metadata provider and to ours; every answer is the same.

Taken out of the answers: times, the ids that each gives to its runs, and the order of sets. Metaflow's local provider
answers a single artifact outside of a list, which its base class does not say; ours is compared as a list.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from metaflow.exception import MetaflowTaggingError
from metaflow.metadata_provider import DataArtifact, MetaDatum
from metaflow.plugins.datastores.local_storage import LocalStorage
from metaflow.plugins.metadata_providers.local import LocalMetadataProvider
from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage

INFO = {"runtime": "dev", "python_version_code": "3.11", "metaflow_version": "2", "script": "flow.py"}
FLOWS = ("AFlow", "BFlow")
STEPS = ("_parameters", "start", "end")
TAGS = ("a", "b", "ü", "runtime:dev", "user:tester", "c" * 20)
LEVELS = ("flow", "run", "step", "task")
tags = st.lists(st.sampled_from(TAGS), max_size=3)
filters = st.sampled_from([None, {}, {"any_tags": "a"}, {"tags": "b"}, {"system_tags": "runtime:dev"},
                           {"any_tags": "a", "tags": "ü"}, {"tags": "runtime:dev"}])  # fmt: skip
values = st.sampled_from(["0", "1", "x", "a.b", "", ["a", 1, None], 5, {"a": 1}])


def provider(kind: type, flow_name: str) -> Any:
    """Return a provider of that kind for a flow."""
    environment = SimpleNamespace(get_environment_info=lambda: INFO)
    return kind(environment, SimpleNamespace(name=flow_name), None, None)


class Ticking:
    """A clock that never shows the same millisecond twice, for local keeps metadata in files named by it."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1_700_000_000_000)

    def __call__(self) -> float:
        return next(self._ticks) / 1000


class Providers(RuleBasedStateMachine):
    """The two, side by side; a run is known by the pair of its ids."""

    folder: Path
    count = 0
    runs = Bundle("runs")
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.root = self.folder / f"metaflow{self.count}"
        self.root.mkdir()
        LocalStorage.datastore_root = str(self.root)
        SQLiteDatastoreStorage.datastore_root = str(self.folder / f"ours{self.count}.db")
        self.theirs = {name: provider(LocalMetadataProvider, name) for name in FLOWS}
        self.ours = {name: provider(SQLiteMetadataProvider, name) for name in FLOWS}
        self.names: dict[str, str] = {}
        self._clock, time.time = time.time, Ticking()

    @initialize(target=runs, tags=tags)
    def first_run(self, tags: list[str]) -> tuple[str, str, str]:
        """There is a run from the beginning."""
        return self.new_run(FLOWS[0], tags)

    @rule(target=runs, flow=st.sampled_from(FLOWS), tags=tags)
    def run_starts(self, flow: str, tags: list[str]) -> tuple[str, str, str]:
        """A run gets an id of its own."""
        return self.new_run(flow, tags)

    def new_run(self, flow: str, tags: list[str]) -> tuple[str, str, str]:
        theirs, ours = self.theirs[flow].new_run_id(tags), self.ours[flow].new_run_id(tags)
        assert int(ours) > 10**15
        assert ours not in self.names
        self.names[ours] = theirs
        return flow, theirs, ours

    @rule(target=runs, flow=st.sampled_from(FLOWS), name=st.sampled_from(["argo-x", "r 2"]), tags=tags)
    def run_with_a_name_is_registered(self, flow: str, name: str, tags: list[str]) -> tuple[str, str, str]:
        """The first to register a name is told so; its tags count."""
        assert self.ours[flow].register_run_id(name, tags) == self.theirs[flow].register_run_id(name, tags)
        return flow, name, name

    @rule(run=runs)
    def run_is_registered_again(self, run: tuple[str, str, str]) -> None:
        """A run that is there is never created again."""
        flow, theirs, ours = run
        assert (self.ours[flow].register_run_id(ours), self.theirs[flow].register_run_id(theirs)) == (False, False)

    @rule(target=tasks, run=runs, step=st.sampled_from(STEPS))
    def task_starts(self, run: tuple[str, str, str], step: str) -> Any:
        """A task gets an id that its run never had."""
        flow, theirs, ours = run
        their_id, our_id = self.theirs[flow].new_task_id(theirs, step), self.ours[flow].new_task_id(ours, step)
        before = self.ours[flow].get_object("run", "task", None, None, flow, ours)
        assert [task["task_id"] for task in before].count(our_id) == 1
        return run, step, their_id, our_id

    @rule(target=tasks, run=runs, step=st.sampled_from(STEPS), name=st.sampled_from(["named", "control-x"]))
    def task_with_a_name_is_registered(self, run: tuple[str, str, str], step: str, name: str) -> Any:
        """The first to register a name is told so."""
        flow, theirs, ours = run
        assert self.ours[flow].register_task_id(ours, step, name, 0) == self.theirs[flow].register_task_id(
            theirs, step, name, 0
        )
        return run, step, name, name

    @rule(task=tasks, attempt=st.integers(0, 2))
    def task_is_registered_again(self, task: Any, attempt: int) -> None:
        """A task that is there is never created again; each time the system's metadata are added."""
        (flow, theirs, ours), step, their_id, our_id = task
        assert self.ours[flow].register_task_id(ours, step, our_id, attempt) is False
        assert self.theirs[flow].register_task_id(theirs, step, their_id, attempt) is False

    @rule(
        task=tasks, field=st.sampled_from(["attempt", "attempt-done", "x", "y"]), value=values, number=st.integers(0, 2)
    )
    def metadata(self, task: Any, field: str, value: Any, number: int) -> None:
        """Metadata are added; a field may come again."""
        if field.startswith("attempt"):
            value = str(number)
        (flow, theirs, ours), step, their_id, our_id = task
        data = [MetaDatum(field, value, "type", [f"attempt_id:{number}"]), MetaDatum("z", value, "t", None)]
        self.theirs[flow].register_metadata(theirs, step, their_id, data)
        self.ours[flow].register_metadata(ours, step, our_id, data)

    @rule(
        task=tasks,
        names=st.lists(st.sampled_from("abc"), unique=True),
        number=st.integers(0, 2),
        sha=st.sampled_from("01"),
    )
    def artifacts(self, task: Any, names: list[str], number: int, sha: str) -> None:
        """Artifacts of an attempt; the first word about a name counts."""
        (flow, theirs, ours), step, their_id, our_id = task
        data = [DataArtifact(name, "s3", "s3://x", None, "pickle-v4", sha * 40) for name in names]
        data += [DataArtifact("url", "local", "/r", "/r/u", "e", sha * 40)]
        self.theirs[flow].register_data_artifacts(theirs, step, their_id, number, data)
        self.ours[flow].register_data_artifacts(ours, step, our_id, number, data)

    @rule(run=runs, add=tags, remove=tags)
    def tags_change(self, run: tuple[str, str, str], add: list[str], remove: list[str]) -> None:
        """Tags change, or the same is refused by both."""
        flow, theirs, ours = run
        answers = []
        for kind, run_id in ((LocalMetadataProvider, theirs), (SQLiteMetadataProvider, ours)):
            try:
                answers.append(kind.mutate_user_tags_for_run(flow, run_id, tags_to_remove=remove, tags_to_add=add))
            except MetaflowTaggingError:
                answers.append(None)
        assert answers[0] == answers[1]
        assert answers[1] is None or type(answers[1]) is frozenset

    @rule(run=runs, kind=st.integers(0, 3), below=st.integers(1, 4), filters=filters, step=st.sampled_from(STEPS))
    def things_below(self, run: tuple[str, str, str], kind: int, below: int, filters: Any, step: str) -> None:
        """What is below an object of any level, filtered by tags."""
        flow, theirs, ours = run
        below = 1 if kind == 0 else below  # local has an IndexError for what is further below the root
        upper, lower = ("root", *LEVELS)[kind], LEVELS[min(3, kind + below - 1)]
        both = [
            each.get_object(upper, lower, filters, None, *[flow, run_id, step][:kind])
            for each, run_id in ((LocalMetadataProvider, theirs), (SQLiteMetadataProvider, ours))
        ]
        assert self.seen(both[1], self.names) == self.seen(both[0], {})

    @rule(task=tasks, attempt=st.sampled_from([None, 0, 1, 2, 5]))
    def of_a_task(self, task: Any, attempt: int | None) -> None:
        """A task and what is above it, its metadata and artifacts, for the latest attempt or one."""
        (flow, theirs, ours), step, their_id, our_id = task
        answers: list[list[Any]] = [[], []]
        ids = ((LocalMetadataProvider, theirs, their_id), (SQLiteMetadataProvider, ours, our_id))
        for answer, (kind, run_id, task_id) in zip(answers, ids, strict=True):
            path = (flow, run_id, step, task_id)
            answer += [[kind.get_object(level, "self", None, None, *path[: n + 1])] for n, level in enumerate(LEVELS)]
            answer.append(kind.get_object("task", "metadata", None, attempt, *path))
            for query in (
                ("task", "artifact", *path),
                ("artifact", "self", *path, "a"),
                ("artifact", "self", *path, "no"),
            ):
                found = kind.get_object(*query[:2], None, attempt, *query[2:])
                answer.append(found if isinstance(found, list) else [] if found is None else [found])
        names = self.names | {our_id: their_id}
        assert [self.seen(each, names) for each in answers[1]] == [self.seen(each, {}) for each in answers[0]]

    @rule(
        run=runs,
        field=st.sampled_from(["x", "z", "attempt"]),
        pattern=st.sampled_from([".*", "0|1", "a", "a.*", "", "."]),
    )
    def found_by_metadata(self, run: tuple[str, str, str], field: str, pattern: str) -> None:
        """Tasks are found by the whole of a value; their number is the same (values that are no text match nothing)."""
        flow, theirs, ours = run
        ours_found = SQLiteMetadataProvider.filter_tasks_by_metadata(flow, ours, "start", field, pattern)
        try:
            found = LocalMetadataProvider.filter_tasks_by_metadata(flow, theirs, "start", field, pattern)
        except TypeError:  # local cannot match a list
            return
        assert len(ours_found) == len(found)

    @rule()
    def nothing_is_there(self) -> None:
        """What does not exist is None itself, and has nothing below it."""
        for kind in (LocalMetadataProvider, SQLiteMetadataProvider):
            for level, path in zip(
                LEVELS, (["NoFlow"], ["AFlow", "9"], ["AFlow", "9", "s"], ["AFlow", "9", "s", "1"]), strict=True
            ):
                assert not kind.get_object(level, "self", None, None, *path)
            assert not kind.get_object("flow", "run", None, None, "NoFlow")
            assert not kind.get_object("task", "metadata", None, None, "AFlow", "9", "s", "1")

    def seen(self, things: Any, names: dict[str, str]) -> list[Any]:
        """Return the answer without times, with one name for a run (and task) of both."""
        seen = []
        for thing in things or []:
            if thing is None:
                seen.append("None")
                continue
            shown = {key: value for key, value in thing.items() if key not in {"ts_epoch", "user_name", "location"}}
            for key in ("run_number", "task_id"):
                if key in shown:
                    shown[key] = names.get(shown[key], shown[key]) if key == "run_number" else ""
            for key in ("tags", "system_tags"):
                if key in shown:
                    shown[key] = sorted(shown[key])
            seen.append(repr(sorted(shown.items(), key=lambda item: item[0])))
        return sorted(seen)

    def teardown(self) -> None:
        """Close the file: it is one, alone and sound."""
        from sqlite_oracle import check_file

        from sqlitestore.paths import stores

        time.time = self._clock
        for store in stores.open_stores():
            store.database.close()
        check_file(SQLiteDatastoreStorage.datastore_root)
