"""The conformance tests of attempts: started, done, found, and never changed after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sqlitestore.errors import AttemptDone, BlobNotFound, TaskNotFound
from sqlitestore.model import Artifact, Attempt, TaskAddress
from sqlitestore.storage import DataStoreStorage
from sqlitestore.testing.base import (
    DONE,
    FLOW,
    LARGE,
    NO_BLOB,
    OTHER,
    STARTED,
    TASK,
    Opener,
    StorageTests,
    artifact,
    get,
    log,
    noise,
    payload,
    put,
    together,
)


def finish(storage: DataStoreStorage, task: TaskAddress = TASK, attempt: int = 0) -> dict[str, Artifact]:
    """Start and finish an attempt with two artifacts; return them."""
    made = {"b": artifact(storage, b"of b"), "a": artifact(storage)}
    storage.start_attempt(task, attempt, STARTED)
    storage.finish_attempt(task, attempt, made, DONE)
    return made


def facts(found: list[Attempt]) -> list[Attempt]:
    """Return the attempts without their references, which are the storage's own."""
    return [attempt._replace(reference=None) for attempt in found]


def numbers(found: list[Attempt]) -> list[tuple[str, str, int]]:
    """Return step, task and number of each attempt."""
    return [(attempt.task.step_name, attempt.task.task_id, attempt.number) for attempt in found]


def _artifact(key: str, size: int) -> Artifact:
    return Artifact(key, size, "<class 'bytes'>", "raw-v1", {}, {})


class AttemptConformance(StorageTests):
    """Tests of ``start_attempt`` to ``runs``."""

    def test_new_storage_is_empty(self, storage: DataStoreStorage) -> None:
        """Nothing is found where nothing was written, and looking writes nothing."""
        storage.check_writable(TASK, 0)
        assert storage.find_tasks([TASK]) == []
        assert storage.find_run(FLOW, "1", None) == []
        assert storage.find_run(FLOW, "1", ["train"]) == []
        assert storage.runs(FLOW) == []
        assert storage.flows() == []

    def test_started_attempt_is_found(self, storage: DataStoreStorage) -> None:
        """An attempt that started is there with its time, not done, and has no artifacts yet."""
        storage.start_attempt(TASK, 0, STARTED)
        assert facts(storage.find_tasks([TASK])) == [Attempt(TASK, 0, STARTED, None, None)]
        assert facts(storage.find_run(FLOW, "1", None)) == facts(storage.find_tasks([TASK]))
        storage.check_writable(TASK, 0)
        with pytest.raises(TaskNotFound):
            storage.load_artifacts(TASK, 0)

    def test_starting_again_moves_the_time(self, storage: DataStoreStorage) -> None:
        """The new time of an attempt that starts again counts, and its place does not change."""
        storage.start_attempt(TASK, 0, STARTED)
        storage.start_attempt(OTHER, 0, STARTED)
        storage.start_attempt(TASK, 0, STARTED + 1)
        found = storage.find_run(FLOW, "1", None)
        assert [(attempt.task, attempt.started) for attempt in found] == [(TASK, STARTED + 1), (OTHER, STARTED)]

    def test_done_attempt_has_its_artifacts(self, storage: DataStoreStorage) -> None:
        """An attempt that is done gives both times, the Python that wrote it, and every field of its artifacts."""
        made = finish(storage)
        [found] = storage.find_tasks([TASK])
        assert found[:4] == (TASK, 0, STARTED, DONE)
        assert found.python
        assert storage.load_artifacts(TASK, 0) == made

    def test_artifacts_of_many_attempts_come_together(self, storage: DataStoreStorage) -> None:
        """The artifacts of attempts that were found come in the order in which the attempts are given."""
        made = [finish(storage), {}, {"c": artifact(storage, b"of c")}]
        storage.finish_attempt(TASK, 1, made[1], DONE)
        storage.finish_attempt(OTHER, 0, made[2], DONE)
        found = storage.find_tasks([TASK, OTHER])
        assert storage.load_artifacts_of(found) == made
        assert storage.load_artifacts_of(found[::-1]) == made[::-1]
        assert storage.load_artifacts_of([found[0], found[0]]) == [made[0], made[0]]
        assert storage.load_artifacts_of([]) == []

    def test_attempt_may_have_no_artifacts(self, storage: DataStoreStorage) -> None:
        """An attempt may be done without any artifact."""
        storage.start_attempt(TASK, 0, STARTED)
        storage.finish_attempt(TASK, 0, {}, DONE)
        assert storage.load_artifacts(TASK, 0) == {}

    def test_artifacts_may_share_a_blob_and_say_nothing_more(self, storage: DataStoreStorage) -> None:
        """Two artifacts may have one blob, and serializer info and preview may be empty."""
        [key] = put(storage, b"shared")
        made = {name: Artifact(key, 6, "<class 'bytes'>", "raw-v1", {}, {}) for name in ("x", "y", "имя", "🎉 z")}
        storage.finish_attempt(TASK, 0, made, DONE)
        assert storage.load_artifacts(TASK, 0) == made

    def test_done_attempt_never_changes(self, storage: DataStoreStorage) -> None:
        """Starting or finishing an attempt that is done, or asking to, raises AttemptDone and changes nothing."""
        made = finish(storage)
        found = facts(storage.find_tasks([TASK]))
        changed = {"a": artifact(storage, b"changed")}
        _all_refused(storage, changed)
        assert facts(storage.find_tasks([TASK])) == found
        assert storage.load_artifacts(TASK, 0) == made

    def test_second_handle_refuses_too(self, storage: DataStoreStorage, opened: Opener) -> None:
        """An attempt that was finished elsewhere, while this handle was open, is refused here."""
        self.need("second handle")
        second = opened()
        second.check_writable(TASK, 0)
        made = finish(storage)
        _all_refused(second, {"a": artifact(second, b"changed")})
        assert second.load_artifacts(TASK, 0) == made
        assert facts(second.find_run(FLOW, "1", None)) == facts(storage.find_run(FLOW, "1", None))

    def test_reopened_storage_refuses_too(self, storage: DataStoreStorage, opened: Opener) -> None:
        """An attempt that was done before the storage was closed is done, with its artifacts, after it is opened."""
        self.need("reopen")
        made = finish(storage)
        again = opened.reopen()
        _all_refused(again, made)
        assert again.load_artifacts(TASK, 0) == made

    def test_other_attempts_stay_open(self, storage: DataStoreStorage) -> None:
        """That one attempt is done does not concern the task's others."""
        finish(storage)
        storage.check_writable(TASK, 1)
        storage.start_attempt(TASK, 1, STARTED)
        with pytest.raises(TaskNotFound):
            storage.load_artifacts(TASK, 1)
        again = {"a": artifact(storage, b"of the retry")}
        storage.finish_attempt(TASK, 1, again, DONE + 1)
        assert storage.load_artifacts(TASK, 1) == again
        assert [attempt.done for attempt in storage.find_tasks([TASK])] == [DONE, DONE + 1]

    def test_missing_blob_finishes_nothing(self, storage: DataStoreStorage) -> None:
        """An artifact without blob raises BlobNotFound that names the key; neither marker nor artifacts are written."""
        storage.start_attempt(TASK, 0, STARTED)
        good = artifact(storage)
        with pytest.raises(BlobNotFound, match=NO_BLOB):
            storage.finish_attempt(TASK, 0, {"a": good, "b": good._replace(key=NO_BLOB), "c": good}, DONE)
        assert facts(storage.find_tasks([TASK])) == [Attempt(TASK, 0, STARTED, None, None)]
        with pytest.raises(TaskNotFound):
            storage.load_artifacts(TASK, 0)
        storage.finish_attempt(TASK, 0, {"a": good}, DONE)
        assert storage.load_artifacts(TASK, 0) == {"a": good}

    def test_attempt_in_progress_becomes_an_attempt(self, storage: DataStoreStorage) -> None:
        """What was put for it is the attempt's when that is finished."""
        storage.start_attempt(TASK, 0, STARTED)
        progress = storage.attempt_in_progress(TASK)
        datas = [b"small", b"", b"small", noise(LARGE)]
        stored = progress.put(map(payload, datas))
        keys = [blob.key for blob in stored]
        assert [blob.size for blob in stored] == [5, 0, 5, LARGE]
        assert get(storage, *keys) == datas
        made = {f"x{number}": _artifact(*blob) for number, blob in enumerate(stored)}
        progress.finish(0, made, DONE)
        assert storage.load_artifacts(TASK, 0) == made
        assert get(storage, *keys) == datas

    def test_attempt_in_progress_is_read_before_it_is_finished(self, storage: DataStoreStorage) -> None:
        """Through the same storage, in each way in which blobs are read, and looked for."""

        def opened(key: str) -> bytes:
            with storage.open_blob(FLOW, key) as file:
                return file.read()

        reads: list[Callable[[str], object]] = [
            lambda key: get(storage, key) == [b"loaded"],
            lambda key: storage.has_blobs(FLOW, [key]) == [True],
            lambda key: storage.hold_blobs(FLOW, [key]) == [True],
            lambda key: opened(key) == b"opened",
        ]
        for read, data in zip(reads, (b"loaded", b"looked for", b"held", b"opened"), strict=True):
            progress = storage.attempt_in_progress(TASK)
            [stored] = progress.put([payload(data)])
            assert read(stored.key)

    def test_attempt_in_progress_can_be_finished_again(self, storage: DataStoreStorage) -> None:
        """What was put is not lost by an error."""
        progress = storage.attempt_in_progress(TASK)
        [stored] = progress.put([payload(b"put before")])
        made = {"a": _artifact(*stored)}
        with pytest.raises(BlobNotFound, match=NO_BLOB):
            progress.finish(0, {**made, "b": _artifact(NO_BLOB, 1)}, DONE)
        progress.finish(0, made, DONE)
        assert storage.load_artifacts(TASK, 0) == made
        assert get(storage, stored.key) == [b"put before"]
        with pytest.raises(AttemptDone):
            progress.finish(0, made, DONE)

    def test_attempts_in_progress_share_what_they_put(self, storage: DataStoreStorage) -> None:
        """One may take over what another has put, and be finished first, or as the only one."""
        origin, heir = storage.attempt_in_progress(TASK), storage.attempt_in_progress(OTHER)
        stored = origin.put([payload(b"small"), payload(noise(LARGE))])
        origin.put_what_waits()
        heir.hold(blob.key for blob in stored)
        made = {"small": _artifact(*stored[0]), "large": _artifact(*stored[1])}
        heir.finish(0, made, DONE)
        del origin
        assert storage.load_artifacts(OTHER, 0) == made
        assert get(storage, *(blob.key for blob in stored)) == [b"small", noise(LARGE)]

    def test_missing_blob_makes_no_run(self, storage: DataStoreStorage) -> None:
        """What could not be written leaves no trace, not even the names of the run and the flow."""
        with pytest.raises(BlobNotFound):
            storage.finish_attempt(TASK, 0, {"a": Artifact(NO_BLOB, 1, "", "raw-v1", {}, {})}, DONE)
        assert storage.flows() == []
        assert storage.find_tasks([TASK]) == []

    def test_artifacts_of_nothing_are_not_found(self, storage: DataStoreStorage) -> None:
        """Artifacts of a flow, run, step, task or attempt that is not there raise TaskNotFound."""
        finish(storage)
        for changed in ({"flow_name": "No"}, {"run_id": "No"}, {"step_name": "No"}, {"task_id": "No"}):
            with pytest.raises(TaskNotFound):
                storage.load_artifacts(TASK._replace(**changed), 0)
        with pytest.raises(TaskNotFound):
            storage.load_artifacts(TASK, 1)

    def test_run_is_found_in_order_of_appearance(self, storage: DataStoreStorage) -> None:
        """A run's attempts come in the order in which they first appeared, whatever their names and numbers."""
        end = TASK._replace(step_name="end")
        for task, attempt in ((OTHER, 1), (TASK, 0), (end, 0), (OTHER, 0), (TASK, 3)):
            storage.start_attempt(task, attempt, STARTED)
        storage.start_attempt(TASK, 0, STARTED + 9)
        storage.finish_attempt(TASK, 3, {}, DONE)
        found = numbers(storage.find_run(FLOW, "1", None))
        assert found == [("train", "8", 1), ("train", "7", 0), ("end", "7", 0), ("train", "8", 0), ("train", "7", 3)]
        assert numbers(storage.find_run(FLOW, "1", ["end"])) == [("end", "7", 0)]
        assert numbers(storage.find_run(FLOW, "1", ["end", "train", "no"])) == found
        assert storage.find_run(FLOW, "1", ["no"]) == []
        assert storage.find_run(FLOW, "1", []) == []

    def test_runs_are_kept_apart(self, storage: DataStoreStorage) -> None:
        """Runs of other flows, and other runs of the flow, are not mixed in."""
        places = [TASK, TASK._replace(run_id="2"), TASK._replace(flow_name="Other")]
        for task in places:
            storage.start_attempt(task, 0, STARTED)
        for task in places:
            assert [attempt.task for attempt in storage.find_run(task.flow_name, task.run_id, None)] == [task]
            assert [attempt.task for attempt in storage.find_tasks([task])] == [task]

    def test_tasks_are_found_in_the_order_asked(self, storage: DataStoreStorage) -> None:
        """Tasks come in the order asked, each with its attempts by number; what is not there is left out."""
        missing = TASK._replace(task_id="no")
        for task, attempt in ((TASK, 2), (OTHER, 0), (TASK, 0), (OTHER, 10), (TASK, 1)):
            storage.start_attempt(task, attempt, STARTED)

        def asked() -> Iterator[TaskAddress]:
            yield from (missing, OTHER, TASK)

        found = [(attempt.task, attempt.number) for attempt in storage.find_tasks(asked())]
        assert found == [(OTHER, 0), (OTHER, 10), (TASK, 0), (TASK, 1), (TASK, 2)]
        assert storage.find_tasks([]) == []

    def test_names_of_every_script_are_found(self, storage: DataStoreStorage) -> None:
        """Names may look like numbers, JSON or paths, and be of any script; similar ones are told apart."""
        names = ["1", "01", "1.0", "null", '"', "a b", "\\", "%", "_", "é", "e\u0301", "流", "🎉", "A", "a", "x" * 255]
        tasks = [TaskAddress(name, name, name, name) for name in names]
        for task in tasks:
            storage.start_attempt(task, 0, STARTED)
        assert [attempt.task for attempt in storage.find_tasks(tasks)] == tasks
        assert storage.flows() == sorted(names)
        assert [storage.runs(name) for name in names] == [[name] for name in names]

    def test_flows_are_sorted_and_runs_oldest_first(self, storage: DataStoreStorage) -> None:
        """Flows come by name, a flow's runs as they came, each once."""
        for flow, run in (("B", "9"), ("A", "1"), ("B", "10"), ("B", "1"), ("B", "9")):
            storage.start_attempt(TaskAddress(flow, run, "s", "1"), 0, STARTED)
        assert storage.flows() == ["A", "B"]
        assert storage.runs("B") == ["9", "10", "1"]
        assert storage.runs("A") == ["1"]
        assert storage.runs("C") == []

    def test_kept_blobs_have_a_flow(self, storage: DataStoreStorage) -> None:
        """A flow that only keeps blobs is a flow without runs."""
        storage.put_blobs("Data", [payload(b"kept")], keep=True)
        assert storage.flows() == ["Data"]
        assert storage.runs("Data") == []

    def test_log_may_come_before_the_start(self, storage: DataStoreStorage) -> None:
        """An attempt of which only a log arrived is there, has not started, and can start."""
        log(storage, b"early")
        assert facts(storage.find_tasks([TASK])) == [Attempt(TASK, 0, None, None, None)]
        storage.start_attempt(TASK, 0, STARTED)
        assert facts(storage.find_tasks([TASK])) == [Attempt(TASK, 0, STARTED, None, None)]

    def test_only_one_thread_finishes_an_attempt(self, storage: DataStoreStorage) -> None:
        """Of threads that finish one attempt at the same time one does, whole, and the others are told so."""
        self.need("threads")
        storage.start_attempt(TASK, 0, STARTED)
        made = [{name: artifact(storage, b"%d" % index) for name in "abc"} for index in range(4)]
        outcomes = together(4, lambda index: storage.finish_attempt(TASK, 0, made[index], DONE + index))
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [AttemptDone] * 3
        winner = outcomes.index(None)
        assert storage.load_artifacts(TASK, 0) == made[winner]
        assert storage.find_tasks([TASK])[0].done == DONE + winner

    def test_only_one_handle_finishes_an_attempt(self, storage: DataStoreStorage, opened: Opener) -> None:
        """The same with a handle for each thread."""
        self.need("threads")
        self.need("second handle")
        handles = [storage, opened(), opened()]
        made = {"a": artifact(storage)}
        outcomes = together(3, lambda index: handles[index].finish_attempt(TASK, 0, made, DONE + index))
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [AttemptDone] * 2
        assert storage.find_tasks([TASK])[0].done == DONE + outcomes.index(None)

    def test_threads_write_tasks_side_by_side(self, storage: DataStoreStorage) -> None:
        """Threads that each write tasks of their own all find them, complete."""
        self.need("threads")

        def work(index: int) -> None:
            for number in range(5):
                finish(storage, TASK._replace(task_id=f"{index}.{number}"))

        assert together(4, work) == [None] * 4
        found = storage.find_run(FLOW, "1", None)
        assert sorted(attempt.task.task_id for attempt in found) == [f"{i}.{n}" for i in range(4) for n in range(5)]
        assert all(sorted(storage.load_artifacts(attempt.task, 0)) == ["a", "b"] for attempt in found)


def _all_refused(storage: DataStoreStorage, artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(AttemptDone):
        storage.check_writable(TASK, 0)
    with pytest.raises(AttemptDone):
        storage.start_attempt(TASK, 0, STARTED + 5)
    with pytest.raises(AttemptDone):
        storage.finish_attempt(TASK, 0, artifacts, DONE + 5)
