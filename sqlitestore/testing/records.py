"""The conformance tests of metadata, logs and named files."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest

from sqlitestore.storage import DataStoreStorage
from sqlitestore.testing.base import (
    DONE,
    LARGE,
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


class MetadataConformance(StorageTests):
    """Tests of ``save_metadata`` and ``load_metadata``."""

    def test_metadata_come_back_to_the_letter(self, storage: DataStoreStorage) -> None:
        """JSON texts come back as they were, by name."""
        values: list[object] = [
            None,
            2**70,
            -0.0,
            1e308,
            "текст \0 \ud800 🎉",
            [],
            {"a": [1, {"b": "x" * 100_000}]},
            float("inf"),
        ]
        texts = {f"name {index}": json.dumps(value) for index, value in enumerate(values)}
        storage.save_metadata(TASK, 0, texts, overwrite=True)
        assert storage.load_metadata(TASK, 0) == texts

    def test_no_metadata_is_no_error(self, storage: DataStoreStorage) -> None:
        """What has none gives none; storing none is fine."""
        assert storage.load_metadata(TASK, 0) == {}
        assert storage.load_metadata(TASK, None) == {}
        storage.save_metadata(TASK, 0, {}, overwrite=True)
        assert storage.load_metadata(TASK, 0) == {}

    @pytest.mark.parametrize("attempt", [None, 0])
    def test_metadata_are_overwritten_only_if_asked(self, storage: DataStoreStorage, attempt: int | None) -> None:
        """With ``overwrite`` the new text counts; without, a name keeps the text that it has. Others are added."""
        storage.save_metadata(TASK, attempt, {"a": "1", "b": "1"}, overwrite=False)
        storage.save_metadata(TASK, attempt, {"b": "2", "c": "2"}, overwrite=False)
        assert storage.load_metadata(TASK, attempt) == {"a": "1", "b": "1", "c": "2"}
        storage.save_metadata(TASK, attempt, {"b": "3", "d": "3"}, overwrite=True)
        assert storage.load_metadata(TASK, attempt) == {"a": "1", "b": "3", "c": "2", "d": "3"}

    def test_task_and_attempts_have_their_own(self, storage: DataStoreStorage) -> None:
        """Metadata of a task, of each of its attempts, and of other tasks do not mix."""
        places = [(TASK, None), (TASK, 0), (TASK, 1), (OTHER, None), (OTHER, 0), (TASK._replace(run_id="2"), 0)]
        for index, (task, attempt) in enumerate(places):
            storage.save_metadata(task, attempt, {"name": str(index)}, overwrite=True)
        assert [storage.load_metadata(*place) for place in places] == [{"name": str(i)} for i in range(len(places))]

    def test_metadata_start_no_attempt(self, storage: DataStoreStorage) -> None:
        """Metadata may come first; the attempt has not started by that."""
        storage.save_metadata(TASK, 0, {"a": "1"}, overwrite=True)
        assert [attempt for attempt in storage.find_tasks([TASK]) if attempt.started is not None] == []
        storage.start_attempt(TASK, 0, STARTED)
        assert storage.load_metadata(TASK, 0) == {"a": "1"}

    def test_metadata_are_allowed_after_done(self, storage: DataStoreStorage) -> None:
        """Metadata may arrive and change after an attempt is done, and change nothing else of it."""
        made = {"a": artifact(storage)}
        storage.save_metadata(TASK, 0, {"before": "1"}, overwrite=True)
        storage.finish_attempt(TASK, 0, made, DONE)
        done = storage.find_tasks([TASK])[0][:5]
        storage.save_metadata(TASK, 0, {"before": "2", "after": "2"}, overwrite=True)
        assert storage.load_metadata(TASK, 0) == {"before": "2", "after": "2"}
        assert storage.find_tasks([TASK])[0][:5] == done
        assert storage.load_artifacts(TASK, 0) == made

    def test_metadata_survive_closing_and_reach_other_handles(self, storage: DataStoreStorage, opened: Opener) -> None:
        """What was stored is there for a second handle at once, and after closing."""
        self.need("second handle")
        self.need("reopen")
        second = opened()
        storage.save_metadata(TASK, None, {"a": '"b"'}, overwrite=True)
        assert second.load_metadata(TASK, None) == {"a": '"b"'}
        assert opened.reopen().load_metadata(TASK, None) == {"a": '"b"'}

    def test_first_of_many_threads_keeps_the_name(self, storage: DataStoreStorage) -> None:
        """Without ``overwrite`` threads that store sets of names leave one thread's set, not a mixture."""
        self.need("threads")
        names = ("a", "b", "c", "d")
        together(4, lambda i: storage.save_metadata(TASK, 0, dict.fromkeys(names, str(i)), overwrite=False))
        values = storage.load_metadata(TASK, 0)
        assert sorted(values) == list(names)
        assert len(set(values.values())) == 1


class LogConformance(StorageTests):
    """Tests of ``save_log``, ``scrub_log``, ``load_log`` and ``log_sizes``."""

    def test_missing_log_is_none(self, storage: DataStoreStorage) -> None:
        """Where there is no log the answer is None, and there are no sizes."""
        assert storage.load_log(TASK, 0, "runtime", "stdout") is None
        assert storage.log_sizes(TASK, 0) == {}

    def test_empty_log_is_a_log(self, storage: DataStoreStorage) -> None:
        """An empty log is there, unlike a missing one, and can grow."""
        log(storage, b"")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b""
        assert storage.log_sizes(TASK, 0) == {("runtime", "stdout"): 0}
        log(storage, b"more")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"more"

    @pytest.mark.parametrize("size", [10, 100_000, LARGE])
    def test_log_grows(self, storage: DataStoreStorage, size: int) -> None:
        """A log saved again and again while it grows is whole each time, and saving it unchanged is fine."""
        data = noise(3 * size)
        for end in (size, size, 2 * size, 2 * size + 1, 3 * size):
            log(storage, data[:end])
            assert storage.load_log(TASK, 0, "runtime", "stdout") == data[:end]
            assert storage.log_sizes(TASK, 0) == {("runtime", "stdout"): end}

    def test_other_log_replaces_it(self, storage: DataStoreStorage) -> None:
        """A log that does not begin with the old one replaces it: shorter, emptied, or changed in the middle."""
        log(storage, b"one ")
        log(storage, b"one two ")
        log(storage, b"one two three")
        for data in (b"one two thrEe and more", b"one t", b"other", b"", b"one two three"):
            log(storage, data)
            assert storage.load_log(TASK, 0, "runtime", "stdout") == data

    def test_log_begins_where_the_file_is(self, storage: DataStoreStorage, tmp_path: Path) -> None:
        """The log is what the file holds from its position on, also when it is saved again."""
        path = tmp_path / "log"
        path.write_bytes(b"skipped\n" + noise(LARGE))
        for end in (1000, LARGE):
            path.write_bytes(b"skipped\n" + noise(LARGE)[:end])
            with path.open("rb") as file:
                file.readline()
                storage.save_log(TASK, 0, "runtime", "stdout", file)
            assert storage.load_log(TASK, 0, "runtime", "stdout") == noise(LARGE)[:end]

    def test_logs_are_kept_apart(self, storage: DataStoreStorage) -> None:
        """Each source and stream (names may be empty) of each attempt and task has a log of its own."""
        places = [
            (task, attempt, source, stream)
            for task in (TASK, OTHER)
            for attempt in (0, 1)
            for source in ("runtime", "task", "")
            for stream in ("stdout", "stderr")
        ]
        for index, place in enumerate(places):
            storage.save_log(*place, BytesIO(b"x" * index))
        assert [storage.load_log(*place) for place in places] == [b"x" * index for index in range(len(places))]
        assert storage.log_sizes(TASK, 1) == {places[i][2:]: i for i in range(6, 12)}

    def test_logs_are_allowed_after_done(self, storage: DataStoreStorage) -> None:
        """Logs may arrive, grow and be scrubbed after an attempt is done, and change nothing else of it."""
        made = {"a": artifact(storage)}
        log(storage, b"before")
        storage.finish_attempt(TASK, 0, made, DONE)
        done = storage.find_tasks([TASK])[0][:5]
        log(storage, b"before and after")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"before and after"
        storage.scrub_log(TASK, 0, "runtime", "stdout", b"gone")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"gone"
        assert storage.find_tasks([TASK])[0][:5] == done
        assert storage.load_artifacts(TASK, 0) == made

    @pytest.mark.parametrize("size", [30, LARGE])
    def test_scrubbed_log_is_gone(self, storage: DataStoreStorage, size: int) -> None:
        """The new text is the log, and the bytes of the old one are in the storage no longer."""
        self.need("scrub")
        [key] = put(storage, noise(size))
        log(storage, noise(size))
        storage.scrub_log(TASK, 0, "runtime", "stdout", b"[REDACTED]")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"[REDACTED]"
        assert storage.log_sizes(TASK, 0) == {("runtime", "stdout"): 10}
        assert storage.has_blobs(TASK.flow_name, [key]) == [False]

    def test_scrubbing_spares_what_others_hold(self, storage: DataStoreStorage) -> None:
        """Bytes that an artifact, kept data, a file or another log has too stay where they are."""
        shared = [noise(size, seed) for seed, size in enumerate((40, 40, 40, 40, LARGE))]
        storage.finish_attempt(TASK, 1, {"a": artifact(storage, shared[0]), "b": artifact(storage, shared[4])}, DONE)
        storage.put_blobs(TASK.flow_name, [payload(shared[1])], keep=True)
        storage.save_file("file", payload(shared[2]))
        log(storage, shared[3], OTHER)
        keys = put(storage, *shared)
        for data in shared:
            log(storage, data)
            storage.scrub_log(TASK, 0, "runtime", "stdout", b"")
        assert get(storage, *keys) == shared
        assert storage.load_log(OTHER, 0, "runtime", "stdout") == shared[3]

    def test_scrubbing_again_or_with_the_same_text_is_fine(self, storage: DataStoreStorage) -> None:
        """A log may be scrubbed to what it is, and one that is not there becomes the text."""
        for text in (b"text", b"text", b"", b"", b"text"):
            storage.scrub_log(TASK, 0, "runtime", "stdout", text)
            assert storage.load_log(TASK, 0, "runtime", "stdout") == text

    def test_scrubbed_log_can_grow_again(self, storage: DataStoreStorage) -> None:
        """A log saved after scrubbing is whole, not the old text continued."""
        log(storage, b"secret")
        storage.scrub_log(TASK, 0, "runtime", "stdout", b"[REDACTED]")
        log(storage, b"[REDACTED] and on")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"[REDACTED] and on"

    def test_threads_that_save_one_log_leave_a_whole_one(self, storage: DataStoreStorage) -> None:
        """Of threads that save one log at the same time, each a longer one, some thread's log is there, whole."""
        self.need("threads")
        data = noise(4000)
        outcomes = together(4, lambda index: log(storage, data[: 1000 * (index + 1)]))
        assert outcomes == [None] * 4
        assert storage.load_log(TASK, 0, "runtime", "stdout") in [data[: 1000 * (i + 1)] for i in range(4)]

    def test_logs_survive_closing_and_reach_other_handles(self, storage: DataStoreStorage, opened: Opener) -> None:
        """A log can be continued from a second handle, and is there after closing."""
        self.need("second handle")
        self.need("reopen")
        second = opened()
        log(storage, b"one")
        log(second, b"one two")
        assert storage.load_log(TASK, 0, "runtime", "stdout") == b"one two"
        assert opened.reopen().load_log(TASK, 0, "runtime", "stdout") == b"one two"


class FileConformance(StorageTests):
    """Tests of ``save_file``, ``find_file``, ``files_below`` and ``delete_file``."""

    def test_missing_file_is_none(self, storage: DataStoreStorage) -> None:
        """A file that is not there is None, deleting it is fine, and no folder has any."""
        assert storage.find_file("a/b") is None
        storage.delete_file("a/b")
        assert storage.files_below("") == []
        assert storage.files_below("a") == []

    @pytest.mark.parametrize("size", [0, 100, LARGE])
    def test_file_comes_back(self, storage: DataStoreStorage, size: int) -> None:
        """A file gives the key of its bytes, their size, and its metadata to the letter."""
        storage.save_file("cards/a.html", payload(noise(size)), '{"é": [1]}')
        [key] = put(storage, noise(size))
        assert storage.find_file("cards/a.html") == (key, size, '{"é": [1]}')
        assert get(storage, key) == [noise(size)]

    def test_files_are_overwritten_only_if_asked(self, storage: DataStoreStorage) -> None:
        """Without ``overwrite`` a file that is there stays as it is; with it bytes and metadata are the new ones."""
        first, second = put(storage, b"first", b"second")
        storage.save_file("a", payload(b"first"), "1")
        storage.save_file("a", payload(b"second"), "2")
        assert storage.find_file("a") == (first, 5, "1")
        storage.save_file("a", payload(b"second"), "2", overwrite=True)
        assert storage.find_file("a") == (second, 6, "2")
        storage.save_file("a", payload(b"first"), overwrite=True)
        assert storage.find_file("a") == (first, 5, None)

    def test_files_are_listed_by_folder(self, storage: DataStoreStorage) -> None:
        """Files below a folder, at any depth, come sorted; a folder's name is no prefix of its neighbour's."""
        paths = ["a/b/c", "a", "a/b", "ab/c", "a/b-c", "a.b/c", "a0/c", "a/é", "a/🎉", "a/B"]
        for path in paths:
            storage.save_file(path, payload(path.encode()))
        assert storage.files_below("") == sorted(paths)
        assert storage.files_below("a") == sorted(path for path in paths if path.startswith("a/"))
        assert storage.files_below("a/b") == ["a/b/c"]
        assert storage.files_below("b") == []

    def test_deleted_file_is_gone(self, storage: DataStoreStorage) -> None:
        """A deleted file is not found; one with the same bytes stays, and it can be saved again."""
        for path in ("a/x", "a/y"):
            storage.save_file(path, payload(b"same"))
        storage.delete_file("a/x")
        storage.delete_file("a/x")
        assert storage.find_file("a/x") is None
        assert storage.files_below("a") == ["a/y"]
        found = storage.find_file("a/y")
        assert found is not None
        assert get(storage, found[0]) == [b"same"]
        storage.save_file("a/x", payload(b"new"))
        assert storage.files_below("a") == ["a/x", "a/y"]

    def test_failed_payload_leaves_the_file_as_it_was(self, storage: DataStoreStorage) -> None:
        """A payload that raises changes nothing, neither a file that is there nor one that is not."""

        def failing(file: object) -> None:
            raise ZeroDivisionError(file)

        storage.save_file("a", payload(b"first"), "1")
        found = storage.find_file("a")
        with pytest.raises(ZeroDivisionError):
            storage.save_file("a", failing, overwrite=True)
        with pytest.raises(ZeroDivisionError):
            storage.save_file("b", failing)
        assert storage.find_file("a") == found
        assert storage.files_below("") == ["a"]

    def test_files_survive_closing_and_reach_other_handles(self, storage: DataStoreStorage, opened: Opener) -> None:
        """A file is there for a second handle at once, and after closing."""
        self.need("second handle")
        self.need("reopen")
        second = opened()
        storage.save_file("a", payload(b"first"), "1")
        found = second.find_file("a")
        assert found is not None
        assert found[1:] == (5, "1")
        again = opened.reopen()
        assert again.find_file("a") == found
        assert get(again, found[0]) == [b"first"]
