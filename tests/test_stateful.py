"""FlowDataStore on a file against a plain dict: whatever is done in whatever order, both give the same answers.

Also when runs are pruned, purged and restored, the file is compacted, and everything is exported and imported.
"""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
from helpers_stateful import (
    ARTIFACTS,
    JSON,
    LARGE,
    LOGS,
    NAMED,
    NAMES,
    NO_BLOB,
    NUMBERS,
    PLACES,
    SOURCES,
    STORES,
    STREAMS,
    TASKS,
    Model,
    Unpicklable,
    Writer,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlite_oracle import check_file

from sqlitestore import (
    AttemptDone,
    BlobNotFound,
    FlowDataStore,
    NotFound,
    RunExists,
    TaskNotFound,
    UnpicklableArtifactException,
    compact,
    export,
    merge,
    plan_prune,
    prune,
    restore,
)
from sqlitestore.maintenance.prune import PrunePlan

RUNS = st.sampled_from(["1", "run 2"])
NOTHING = PrunePlan()


class Machine(RuleBasedStateMachine):
    """The rules; ``path`` is the file."""

    path: Any

    def __init__(self):
        super().__init__()
        self.stores = [self.opened(), self.opened()]
        self.writers: list[Writer] = []
        self.attempts: dict[tuple[tuple[str, str, str], int], Model] = {}  # in order of appearance
        self.metadata: dict[tuple[tuple[str, str, str], int | None], dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.trash: list[Any] = []
        self.turn = 0

    def opened(self) -> FlowDataStore:
        """Return a new store on the file."""
        return FlowDataStore("Flow", ds_root=self.path)

    def attempt(self, place) -> Model:
        """Return the model of an attempt, which appears now if it has not yet."""
        return self.attempts.setdefault(place, Model())

    def writer(self, index) -> Writer:
        """Return one of the writers."""
        return self.writers[index % len(self.writers)]

    def done_places(self):
        """Return the attempts that are done."""
        return [place for place, model in self.attempts.items() if model.done is not None]

    def first_start(self, place):
        """Return when any attempt of the task started first."""
        return min(
            (model.started for (of, _), model in self.attempts.items() if of == place[0] and model.started), default=0
        )

    def latest(self, task):
        """Return the number of the latest attempt that started, None if none has."""
        return max(
            (number for (of, number), model in self.attempts.items() if of == task and model.started), default=None
        )

    # Writing

    @initialize(place=PLACES)
    def begin(self, place):
        """There is always a writer to choose."""
        self.new_writer(place, 0)

    @rule(place=PLACES, store=STORES)
    def new_writer(self, place, store):
        """Any number of writers of an attempt may be made, even of one that is done."""
        (run, step, task), number = place
        self.writers.append(
            Writer(place, self.stores[store].get_task_datastore(run, step, task, attempt=number, mode="w"))
        )

    @rule(index=st.integers(-2, 1), threaded=st.booleans())
    def start(self, index, threaded):
        """Start an attempt, unless it is done."""
        writer = self.writer(index)
        if self.refused(writer, threaded, writer.datastore.init_task):
            return
        self.attempt(writer.place).started = 1 + max((model.started for model in self.attempts.values()), default=0)

    @rule(index=st.integers(-2, 1), artifacts=ARTIFACTS, threaded=st.booleans())
    def save(self, index, artifacts, threaded):
        """Artifacts are saved, later ones of a name counting, unless the attempt is done."""
        writer = self.writer(index)
        if not self.refused(writer, threaded, lambda: writer.datastore.save_artifacts(iter(artifacts.items()))):
            writer.saved |= artifacts

    @rule(index=st.integers(-2, 1), artifacts=ARTIFACTS, pickles=st.booleans())
    def fail_to_save(self, index, artifacts, pickles):
        """Nothing of a call is recorded whose iterator raises, or of which one object does not pickle."""
        writer = self.writer(index)

        def failing():
            yield from artifacts.items()
            if pickles:
                raise ZeroDivisionError
            yield "a", Unpicklable()

        if self.is_done(writer):
            return
        with pytest.raises(ZeroDivisionError if pickles else UnpicklableArtifactException):
            writer.datastore.save_artifacts(failing())

    @rule(index=st.integers(-2, 1), threaded=st.booleans())
    def done(self, index, threaded):
        """Finish an attempt with what its writer saved, unless it is done already."""
        writer = self.writer(index)
        if self.refused(writer, threaded, writer.datastore.done):
            return
        writer.finished = True
        self.attempt(writer.place).done = dict(writer.saved)

    @rule(place=PLACES, store=STORES, artifacts=ARTIFACTS, origin=st.integers(0, 9), names=st.none() | NAMED)
    def whole_attempt(self, place, store, artifacts, origin, names):
        """Do with one writer all that a task does: start, take over, save, finish."""
        model = self.attempts.get(place)
        if model is not None and model.done is not None:
            return
        self.new_writer(place, store)
        self.start(-1, threaded=False)
        if self.done_places():
            self.take_over(-1, origin, store, names)
        self.save(-1, artifacts, threaded=False)
        self.done(-1, threaded=False)

    def is_done(self, writer):
        """Return whether the attempt of a writer is done, by whomever."""
        model = self.attempts.get(writer.place)
        return writer.finished or (model is not None and model.done is not None)

    def refused(self, writer, threaded, action) -> bool:
        """Run an action that a done attempt refuses; return whether it did, as it should."""
        if self.is_done(writer):
            with pytest.raises(AttemptDone):
                action()
            return True
        self.run(action, threaded)
        return False

    def run(self, action, threaded):
        """Run an action, which must not raise, perhaps in a thread of its own."""
        if not threaded:
            action()
            return
        finished = []
        thread = Thread(target=lambda: finished.append(action()))
        thread.start()
        thread.join()
        assert len(finished) == 1

    @precondition(lambda self: self.done_places())
    @rule(index=st.integers(-2, 1), origin=st.integers(0, 9), store=STORES, names=st.none() | NAMED)
    def take_over(self, index, origin, store, names):
        """Take over all artifacts of a done attempt (clone), or those named (passdown_partial)."""
        writer = self.writer(index)
        places = self.done_places()
        (task, number) = places[origin % len(places)]
        if writer.finished or not self.readable((task, number)):
            return
        reader = self.stores[store].get_task_datastore(*task, attempt=number)
        theirs = self.attempts[task, number].done
        if names is None:
            writer.datastore.clone(reader)
            writer.saved = dict(theirs)
        else:
            writer.datastore.passdown_partial(reader, names)
            writer.saved |= {name: theirs[name] for name in names if name in theirs}

    def readable(self, place):
        """Return False for an attempt after the latest that started: it reads as empty, as in Metaflow."""
        latest = self.latest(place[0])
        return latest is not None and place[1] <= latest

    @rule(
        index=st.integers(-2, 1),
        values=st.dictionaries(NAMES, JSON, min_size=1, max_size=3),
        overwrite=st.booleans(),
        of_attempt=st.booleans(),
        threaded=st.booleans(),
    )
    def save_metadata(self, index, values, overwrite, of_attempt, threaded):
        """Metadata are stored also after done, but not by the writer that is done."""
        writer = self.writer(index)

        def action():
            writer.datastore.save_metadata(values, allow_overwrite=overwrite, add_attempt=of_attempt)

        if writer.finished:
            with pytest.raises(AttemptDone):
                action()
            return
        self.run(action, threaded)
        # Without add_attempt, a datastore that knows its attempt stores the task's.
        place = (writer.place[0], writer.place[1] if of_attempt else None)
        there = self.metadata.get(place, {})
        self.metadata[place] = there | values if overwrite else values | there

    @rule(
        index=st.integers(-2, 1), source=SOURCES, stream=STREAMS, data=LOGS, grow=st.booleans(), threaded=st.booleans()
    )
    def save_logs(self, index, source, stream, data, grow, threaded):
        """Let a log grow, or replace it, also after done."""
        writer = self.writer(index)
        if writer.finished:
            with pytest.raises(AttemptDone):
                writer.datastore.save_logs(source, {stream: data})
            return
        model = self.attempt(writer.place)
        if grow:
            data = model.logs.get((source, stream), b"") + data
        self.run(lambda: writer.datastore.save_logs(source, {stream: data}), threaded)
        model.logs[source, stream] = data

    @rule(place=PLACES, source=SOURCES, stream=STREAMS, store=STORES)
    def scrub(self, place, source, stream, store):
        """Replace a log that is there by a note."""
        (run, step, task), number = place
        scrubber = self.stores[store].get_task_datastore(run, step, task, attempt=number, mode="d", allow_not_done=True)
        scrubber.scrub_logs([source], stream)
        model = self.attempts.get(place)
        if model is not None and (source, stream) in model.logs:
            model.logs[source, stream] = f"[REDACTED {source} {stream}]".encode()

    @rule(blobs=st.lists(st.binary(max_size=20) | LARGE, max_size=3), store=STORES, threaded=st.booleans())
    def save_data(self, blobs, store, threaded):
        """Save data: each gets a key, equal ones the same."""
        saved = []
        self.run(lambda: saved.extend(self.stores[store].save_data(iter(blobs))), threaded)
        assert len(saved) == len(blobs)
        for (uri, key), blob in zip(saved, blobs, strict=True):
            assert uri.endswith(key)
            assert self.data.setdefault(key, blob) == blob

    @rule(store=STORES)
    def reopen(self, store):
        """Close a store and open it again; its writers are gone with what they had not done."""
        self.stores[store].close()
        self.stores[store] = self.opened()
        self.writers = [writer for writer in self.writers if writer.datastore.parent_datastore in self.stores]
        if not self.writers:
            self.new_writer((TASKS[0], 0), store)

    # Runs that go, and come back

    def take(self, run):
        """Take a run out of the model; return what it had."""
        attempts = {place: model for place, model in self.attempts.items() if place[0][0] == run}
        metadata = {place: texts for place, texts in self.metadata.items() if place[0][0] == run}
        for place in attempts:
            del self.attempts[place]
        for place in metadata:
            del self.metadata[place]
        return attempts, metadata

    @rule(run=RUNS, store=STORES, empty_trash=st.booleans())
    def prune(self, run, store, empty_trash):
        """A pruned run is nowhere; writers that are at work on it go on, in a new run of its name."""
        if run in self.stores[store]._storage_impl.runs("Flow"):
            prune(self.stores[store], plan_prune(self.stores[store], [f"Flow/{run}"], force=True))
            self.trash.append((run, *self.take(run)))
        if empty_trash:
            prune(self.stores[store], NOTHING, empty_trash=True)
            self.trash.clear()

    @rule(run=RUNS, store=STORES)
    def restore(self, run, store):
        """The run of that name that was pruned last comes back, if its name is free."""
        there = [index for index, trashed in enumerate(self.trash) if trashed[0] == run]
        if not there or run in self.stores[store]._storage_impl.runs("Flow"):
            with pytest.raises((NotFound, RunExists)):
                restore(self.stores[store], [f"Flow/{run}"])
            return
        restore(self.stores[store], [f"Flow/{run}"])
        _, attempts, metadata = self.trash.pop(there[-1])
        self.attempts |= attempts
        self.metadata |= metadata

    @rule(store=STORES, full=st.booleans())
    def compact(self, store, full):
        """What nothing needs goes; what writers have put stays, though nothing needs it yet."""
        compact(self.stores[store], full=full)

    @rule(store=STORES)
    def send(self, store):
        """An archive, and a file into which it was imported, answer as the store does."""
        folder = self.path.parent
        names = [folder / "archive.db", folder / "merged.db"]
        export(self.stores[store], names[0])
        with FlowDataStore("Flow", ds_root=names[1]) as merged:
            merge(merged, names[:1])
        for name in names:
            with FlowDataStore("Flow", ds_root=name, trust=True) as sent:
                self.check_runs(sent)
                for turn in range(len(self.attempts)):
                    self.check_attempt(sent, turn)
                assert dict(sent.load_data(self.data)) == self.data
            check_file(name)
            name.unlink()

    # Looking

    @invariant()
    def runs_are_found(self):
        """Find in a run the latest started attempts that are done, by their first start, with all that they have."""
        self.turn += 1
        self.check_runs(self.stores[self.turn % 2])

    def check_runs(self, store):
        """Ask a store for its runs."""
        for run in ("1", "run 2"):
            tasks = dict.fromkeys(task for task, _ in self.attempts if task[0] == run)
            latest = sorted(((task, self.latest(task)) for task in tasks), key=self.first_start)
            expected = [place for place in latest if place[1] is not None and self.attempts[place].done is not None]
            found = store.get_latest_task_datastores(run_id=run)
            assert [self.place_of(reader) for reader in found] == expected
            unfinished = store.get_latest_task_datastores(run_id=run, allow_not_done=True)
            assert [self.place_of(reader) for reader in unfinished] == [
                place for place in latest if place[1] is not None
            ]
            for reader, place in zip(found, expected, strict=True):
                assert list(reader) == list(self.attempts[place].done)
                assert self.same(reader, self.attempts[place].done)

    @invariant()
    def one_attempt_is_as_it_should_be(self):
        """Of one attempt after the other: what it holds, its metadata and its logs."""
        self.check_attempt(self.stores[self.turn % 2], self.turn)

    def check_attempt(self, store, turn):
        """Ask a store for one attempt."""
        places = list(self.attempts)
        if places:
            task, number = place = places[turn % len(places)]
            model = self.attempts[place]
            reader = store.get_task_datastore(*task, attempt=number, allow_not_done=True)
            assert self.same(reader, (model.done or {}) if self.readable(place) else {})
            assert reader.has_metadata("attempt.json") == bool(model.started)
            assert reader.has_metadata("DONE.lock") == (model.done is not None)
            for (source, stream), data in model.logs.items():
                assert reader.load_logs([source], stream) == [(source, data)]
                assert reader.get_log_size([source], stream) == len(data)
            for of_attempt in (True, False):
                texts = self.metadata.get((task, number if of_attempt else None), {})
                names = ["a", "_b", "имя"]
                loaded = reader.load_metadata(names, add_attempt=of_attempt)
                assert repr(loaded) == repr({name: texts.get(name) for name in names})

    @rule(asked=st.lists(st.tuples(st.sampled_from(TASKS), st.none() | NUMBERS), max_size=4, unique_by=lambda t: t[0]))
    def pathspecs_are_found(self, asked):
        """Pathspecs give their tasks in the order asked: the latest attempt if it is done, or exactly the one named."""
        places = [(task, self.latest(task) if number is None else number) for task, number in asked]
        expected = [
            place
            for place in places
            if (model := self.attempts.get(place)) is not None and model.started and model.done is not None
        ]
        specs = ["/".join(task) + ("" if number is None else f"/{number}") for task, number in asked]
        found = self.stores[0].get_latest_task_datastores(pathspecs=specs)
        assert [self.place_of(reader) for reader in found] == expected

    @rule(task=st.sampled_from(TASKS), store=STORES)
    def unfinished_task_is_not_read(self, task, store):
        """Refuse a reader of the latest attempt where that is not done."""
        latest = self.latest(task)
        if latest is None or self.attempts[task, latest].done is None:
            with pytest.raises(TaskNotFound):
                self.stores[store].get_task_datastore(*task)
        else:
            assert self.stores[store].get_task_datastore(*task).attempt == latest

    @rule(store=STORES)
    def data_are_loaded(self, store):
        """All data ever saved are there; a key that never was is an error after them."""
        assert dict(self.stores[store].load_data(self.data)) == self.data
        with pytest.raises(BlobNotFound):
            list(self.stores[store].load_data([*self.data, NO_BLOB]))

    @staticmethod
    def place_of(reader):
        """Return the task and attempt of a reader."""
        return (reader.run_id, reader.step_name, reader.task_id), reader.attempt

    @staticmethod
    def same(reader, expected):
        """Return whether a reader has the expected values, and of their types: 1, 1.0 and True are equal."""
        found = dict(reader.load_artifacts(sorted(expected)))
        return sorted(reader) == sorted(expected) and all(
            found[name] == value and (isinstance(value, bytes) or repr(found[name]) == repr(value))
            for name, value in expected.items()
        )

    def teardown(self):
        """Find the file sound, and alone, once both stores are closed."""
        for store in self.stores:
            store.close()
        check_file(self.path)


def _run(folder_of_each, examples, steps):
    def machine():
        machine = type("MachineOnFile", (Machine,), {"path": folder_of_each("file") / "runs.db"})
        return machine()

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_store_answers_like_a_dict(tmp_path_factory):
    """Two stores on one file, their writers, threads and reopening give the answers of a plain dict."""
    _run(tmp_path_factory.mktemp, examples=100, steps=30)


@pytest.mark.long
def test_store_answers_like_a_dict_in_long_histories(tmp_path_factory):
    """The same with many more and longer histories."""
    _run(tmp_path_factory.mktemp, examples=1500, steps=60)
