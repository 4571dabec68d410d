"""What a store answers to all that can be asked, and what SQL of our own says that the answers are.

``expected`` shares no code with the product; ``ask`` calls nothing but the product. Both speak of the same items: a
tuple of a kind and names, so that answers can be compared one by one, and what is missing has a name.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

from helpers_inventory import Items, contents, inventory

from sqlitestore import DataException, FlowDataStore
from sqlitestore.model import Attempt, TaskAddress
from sqlitestore.registrations import Registrations

Item = tuple[Any, ...]


class Parts(tuple[bytes, ...]):
    """The parts of a log: the answer is all of them, joined."""

    __slots__ = ()


def is_right(answer: Any, wanted: Any) -> bool:
    """Whether an answer is the one that is wanted."""
    return bool(answer == (b"".join(wanted) if isinstance(wanted, Parts) else wanted))


def lacks_rows(item: Item, answer: Any, wanted: Any) -> bool:
    """Whether an answer that is made of several rows lacks some: that is missing, not wrong, and verify must tell."""
    if isinstance(wanted, Parts):
        return any(answer == b"".join(wanted[:count]) for count in range(1, len(wanted)))
    if item[0] == "registered_metadata":
        rest = iter(wanted)
        return len(answer) < len(wanted) and all(each in rest for each in answer)
    return False


class Answers(NamedTuple):
    """What was answered, by item, and the errors that came instead."""

    found: Items
    errors: dict[Item, DataException]


def expected(path: str) -> Items:
    """Return the right answers for a whole file at rest."""
    items, stubs = inventory(path)
    data = contents(path)
    trashed = {item[1:3] for item in items if item[0] == "trash"}
    answers: Items = {}
    for item, value in items.items():
        kind, *key = item
        if tuple(key[:2]) in trashed and kind not in {"trash", "data", "file", "blob"}:
            continue  # nobody can ask for it
        if kind == "artifact":
            blob, _, size, type_, encoding, _, _ = value
            answers[item] = (blob.hex(), size, type_, encoding)
            if item not in stubs:
                answers["value", *key] = pickle.loads(data[blob])
        elif kind == "log":
            answers[item] = Parts(data[blob] for blob in value)
        elif kind == "registered_run":
            user, stamp, tags, system_tags, ids = value
            answers[kind, *key[:2]] = (user, stamp, set(json.loads(tags)), set(json.loads(system_tags)), ids)
        elif kind == "registered_metadata":
            answers[item] = tuple((field, json.loads(text), stamp) for field, text, stamp in value)
        elif kind == "file":
            answers[item] = (value[0].hex(), value[1], value[2])
        elif kind == "data":
            answers[kind, key[0], key[1].hex()] = True
            answers["flow", key[0]] = True
        elif kind == "trash":
            answers[item] = (value[0], bool(value[1]))
        elif kind == "untrusted":
            answers[item] = True
        elif kind == "run":
            answers[item] = True
            answers["flow", key[0]] = True
        elif kind == "blob":
            answers[kind, key[0].hex()] = data[key[0]]
        elif kind != "trashed_file":  # to be had by a restore only
            answers[item] = value
    return answers


class Asking:
    """Asks a store for everything that ``wanted`` names, and for all its lists; ``path`` is the file's."""

    def __init__(self, path: str, wanted: Iterable[Item]) -> None:
        self._wanted: dict[str, list[Item]] = {}
        for item in wanted:
            self._wanted.setdefault(item[0], []).append(item)
        self.path = path
        self.found: Items = {}
        self.errors: dict[Item, DataException] = {}

    def ask(self) -> Answers:
        """Ask; what cannot be opened is an error of everything."""
        try:
            self._flow = FlowDataStore("Nobody", ds_root=self.path, trust=True)
        except DataException as error:
            everything = [item for items in self._wanted.values() for item in items]
            return Answers({}, dict.fromkeys(everything, error))
        with ExitStack() as self._open:
            self._open.enter_context(self._flow)
            self._storage: Any = self._flow._storage_impl
            self._lists()
            self._attempts()
            self._values()
            self._logs()
            self._records()
            self._bytes()
        return Answers(self.found, self.errors)

    def _try(self, items: Iterable[Item], answer: Callable[[], Any]) -> Any:
        """Return the answer, None if it is an error: one of all the items."""
        try:
            return answer()
        except DataException as error:
            for item in items:
                self.errors[item] = error
        return None

    def _all(self, kind: str, *names: Any) -> list[Item]:
        return [item for item in self._wanted.get(kind, ()) if item[1 : 1 + len(names)] == names]

    def _lists(self) -> None:
        flows = {item[1] for item in self._all("flow")}
        for flow in self._try(self._all("flow"), self._storage.flows) or ():
            self.found["flow", flow] = True
        for flow in flows:
            for run in self._try(self._all("run", flow), lambda flow=flow: self._storage.runs(flow)) or ():
                self.found["run", flow, run] = True
            kept = self._try(self._all("data", flow), lambda flow=flow: self._storage.tables.data.kept(flow))
            for key in kept or ():
                self.found["data", flow, key] = True
        trash = self._try(self._all("trash"), self._storage.tables.trash.runs)
        for run in trash or ():
            self.found["trash", run.flow_name, run.run_id] = (run.trashed, run.purging)

    def _attempts(self) -> None:
        self._found_attempts: dict[Item, Attempt] = {}
        for _, flow, run in self._all("run"):
            of_run = self._all("attempt", flow, run)
            for attempt in self._try(of_run, lambda f=flow, r=run: self._storage.find_run(f, r, None)) or ():
                self._take(attempt)
            for item in of_run:
                task = TaskAddress(*item[1:5])
                for attempt in self._try([item], lambda task=task: self._storage.find_tasks([task])) or ():
                    self._take(attempt)
        for key, attempt in self._found_attempts.items():
            if attempt.done is not None:
                self._artifacts(key, attempt)

    def _take(self, attempt: Attempt) -> None:
        key = (*attempt.task, attempt.number)
        self.errors.pop(("attempt", *key), None)  # another attempt of the run was hurt
        self._found_attempts[key] = attempt
        self.found["attempt", *key] = (attempt.started, attempt.done, attempt.python)
        if attempt.origin is not None:
            self.found["untrusted", *key[:2]] = True

    def _artifacts(self, key: Item, attempt: Attempt) -> None:
        rows = self._try(self._all("artifact", *key), lambda: self._storage.load_artifacts_of([attempt])[0])
        for name, artifact in (rows or {}).items():
            fields = (artifact.key, artifact.size, artifact.type, artifact.encoding)
            self.found["artifact", *key, name] = fields

    def _values(self) -> None:
        """Load all artifacts as users do; an attempt that is not done, or not there, has none."""
        asked: dict[Item, list[Item]] = {}
        for item in self._all("value"):
            asked.setdefault(item[1:6], []).append(item)
        stores: dict[str, FlowDataStore] = {}
        for (flow, run, step, task, number), items in asked.items():
            if (flow, run, step, task, number) not in self._found_attempts:
                continue  # missing, or an error already
            if flow not in stores:
                stores[flow] = self._open.enter_context(FlowDataStore(flow, ds_root=self.path, trust=True))
            store = stores[flow]
            reader = self._try(
                items, lambda s=store, r=run, p=step, t=task, n=number: s.get_task_datastore(r, p, t, attempt=n)
            )
            for item in items if reader is not None else ():
                value = self._try([item], lambda reader=reader, item=item: [reader[item[6]]])
                if value is not None:
                    self.found[item] = value[0]

    def _logs(self) -> None:
        for item in self._all("log"):
            _, flow, run, step, task, _, source, stream = item
            address = TaskAddress(flow, run, step, task)
            log = self._try([item], lambda a=address, i=item: self._storage.load_log(a, i[5], i[6], i[7]))
            sizes = self._try([item], lambda a=address, i=item: self._storage.log_sizes(a, i[5])) if log else None
            if sizes is not None:
                self.found[item] = log
                assert sizes[source, stream] == len(log), f"{item} has the size {sizes}, and {len(log)} bytes"

    def _records(self) -> None:
        for key in {item[1:6] for item in self._all("task_metadata")}:
            number = None if key[4] == -1 else key[4]
            texts = self._try(
                self._all("task_metadata", *key),
                lambda key=key, number=number: self._storage.load_metadata(TaskAddress(*key[:4]), number),
            )
            for name, text in (texts or {}).items():
                self.found["task_metadata", *key, name] = (text,)
        registrations = Registrations(self._storage.database)
        for flow in {item[1] for item in self._all("flow")}:
            for run in self._try(self._all("registered_run", flow), lambda f=flow: registrations.runs(f)) or ():
                tags = (set(run.tags), set(run.system_tags))
                self.found["registered_run", flow, run.name] = (run.user_name, run.ts_epoch, *tags, run.task_ids)
        for _, flow, run in self._all("run"):
            self._registered(registrations, flow, run)

    def _registered(self, registrations: Registrations, flow: str, run: str) -> None:
        def of_run(kind: str, answer: Callable[..., Any], *more: Any) -> Any:
            return self._try(self._all(kind, flow, run), lambda: answer(flow, run, *more)) or ()

        for step in of_run("registered_step", registrations.steps):
            self.found["registered_step", flow, run, step.step] = (step.user_name, step.ts_epoch)
        for task in of_run("registered_task", registrations.tasks):
            self.found["registered_task", flow, run, task.step, task.task] = (task.user_name, task.ts_epoch)
        tasks = [item[3:5] for item in self._all("registered_metadata", flow, run)]
        for each in of_run("registered_metadata", registrations.metadata, tasks):
            item = ("registered_metadata", flow, run, each.step, each.task)
            self.found[item] = (*self.found.get(item, ()), (each.field_name, each.value, each.ts_epoch))
        tasks = list({item[3:5] for item in self._all("registered_artifact", flow, run)})
        found = of_run("registered_artifact", registrations.artifacts, tasks)
        for (step, task), artifacts in found.items() if found else ():
            for each in artifacts:
                item = ("registered_artifact", flow, run, step, task, each.attempt, each.name)
                self.found[item] = (each.content_type, each.sha, each.ds_type, each.location)

    def _bytes(self) -> None:
        files = self._all("file")
        listed = self._try(files, lambda: self._storage.files_below("")) or ()
        for path in {*listed, *(item[1] for item in files)}:
            file = self._try([("file", path)], lambda path=path: self._storage.find_file(path))
            if file is not None:
                self.found["file", path] = tuple(file)
                assert path in listed or ("file", path) in self.errors, f"file {path!r} is there, and not listed"
        for item in self._all("blob"):
            got = self._try([item], lambda key=item[1]: list(self._storage.load_blobs("Nobody", [key])))
            if got is not None:
                [(key, self.found[item])] = got
                assert key == item[1], f"asked for {item[1]}, and got {key}"
