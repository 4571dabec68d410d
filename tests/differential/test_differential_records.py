"""Metadata and logs, beyond what the random histories do."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from differential_pair import Pair, Raised, agree, compare_records
from metaflow.util import Path as MetaflowPath

from sqlitestore import DataException


@pytest.fixture
def writers(flows: Pair) -> Pair:
    """Writers of attempt 1 of a task; attempt 0 failed."""
    for flow in flows:
        flow.get_task_datastore("1", "s", "1", attempt=0, mode="w").init_task()
    pair = agree(lambda flow: flow.get_task_datastore("1", "s", "1", attempt=1, mode="w"), flows, lambda ds: ds.attempt)
    agree(lambda ds: ds.init_task(), pair)
    return pair


def readers(flows: Pair, **options: Any) -> Pair:
    """Return readers of that task."""
    return agree(lambda flow: flow.get_task_datastore("1", "s", "1", **options), flows, lambda ds: ds.attempt)


@pytest.mark.parametrize(
    "value",
    [
        {2: 2, None: 3, True: 4, 1.5: 5},
        (1, (2,)),
        [float("nan"), float("inf"), -float("inf"), -0.0, 1e308, 5e-324],
        10**300,
        -(2**64),
        "\ud800\0\u2028",
        {"a": {"b": []}},
        "",
        None,
        False,
    ],
)
def test_metadata_come_back_as_json_gives_them(flows: Pair, writers: Pair, value: Any) -> None:
    """Exactly what JSON makes of a value, at the attempt and at the task."""
    agree(lambda ds: ds.save_metadata({"m": value}), writers)
    agree(lambda ds: ds.save_metadata({"m": value, "0.n": value}, add_attempt=False), writers)
    agree(lambda ds: ds.done(), writers)
    compare_records(readers(flows), ["m", "n"])


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), {(1, 2): 3}, [10**5000]])
def test_what_json_refuses_is_refused_and_changes_nothing(flows: Pair, writers: Pair, value: Any) -> None:
    """Neither the value nor the others of the call are saved."""
    refused = agree(lambda ds: ds.save_metadata({"good": 1, "bad": value}), writers)
    assert isinstance(refused.ours, Raised)
    agree(lambda ds: (ds.has_metadata("good"), ds.has_metadata("bad")), writers)


def test_a_value_that_contains_itself_is_refused(writers: Pair) -> None:
    """A cycle is an error, as in JSON."""
    cycle: list[Any] = []
    cycle.append(cycle)
    refused = agree(lambda ds: ds.save_metadata({"m": cycle}), writers)
    assert isinstance(refused.ours, Raised)


@pytest.mark.parametrize(
    "name", ["plain.log", "task_stdout.log", "stdout.log", "x.data.json", "10.attempt.json", "1.2.3"]
)
def test_metadata_may_have_any_name_that_is_not_reserved(flows: Pair, writers: Pair, name: str) -> None:
    """Also names that look like a log's or another attempt's are found again under the name they were saved under."""
    agree(lambda ds: ds.save_metadata({name: 5}), writers)
    agree(lambda ds: ds.done(), writers)
    agree(
        lambda ds: (ds.has_metadata(name), ds.has_metadata(f"1.{name}", False), ds.has_metadata(name, False)), writers
    )
    agree(lambda ds: ds.load_metadata([name]), readers(flows))
    agree(lambda ds: ds.load_metadata([name, f"1.{name}"], add_attempt=False), readers(flows))


def test_metadata_that_are_there_are_kept_unless_overwriting(flows: Pair, writers: Pair) -> None:
    """``allow_overwrite=False`` keeps the old value of a name and saves the new names of the same call."""
    agree(lambda ds: ds.save_metadata({"m": 1}), writers)
    agree(lambda ds: ds.save_metadata({"m": 2, "n": 3}, allow_overwrite=False), writers)
    agree(lambda ds: ds.save_metadata({"1.m": 4, "o": 5}, False, False), writers)
    compare_records(readers(flows, allow_not_done=True), ["m", "n", "o"])


def test_the_files_of_an_attempt_stand_for_its_state(flows: Pair, writers: Pair) -> None:
    """``attempt.json``, ``DONE.lock`` and ``data.json`` are there when the attempt is started and done, not before."""
    compare_records(writers, [])
    assert not writers.ours.has_metadata("DONE.lock")
    agree(lambda ds: ds.save_artifacts([("x", 1)]), writers)
    agree(lambda ds: ds.done(), writers)
    compare_records(writers, [])
    compare_records(readers(flows), [])
    for attempt in (0, 1, 2):
        compare_records(readers(flows, attempt=attempt, allow_not_done=True), [])
    [metadata] = readers(flows).ours.load_metadata(["data.json"]).values()
    assert metadata["datastore"] == flows.ours.TYPE
    assert metadata["objects"] == readers(flows).ours.ds_metadata["objects"]


@pytest.mark.parametrize("path", [Path, MetaflowPath, os.fsencode])
def test_a_log_comes_from_a_path(flows: Pair, writers: Pair, tmp_path: Path, path: Any) -> None:
    """The standard library's path, and the one that Metaflow's runtime uses; plain bytes are a log, not a path."""
    text = b"line\n" * 1000
    (tmp_path / "log").write_bytes(text)
    given = path(str(tmp_path / "log"))
    writers.theirs.save_logs("task", {"stdout": given if isinstance(given, bytes) else text})
    writers.ours.save_logs("task", {"stdout": given})
    compare_records(readers(flows, allow_not_done=True))


def test_a_log_comes_from_an_open_file(flows: Pair, writers: Pair, tmp_path: Path) -> None:
    """Raw and buffered files are read from where they are; the caller's file stays open."""
    (tmp_path / "log").write_bytes(b"0123456789")

    def save(datastore: Any) -> tuple[bool, bool]:
        with open(tmp_path / "log", "rb", buffering=0) as raw, open(tmp_path / "log", "rb") as buffered:
            raw.seek(4)
            datastore.save_logs("task", {"stdout": raw, "stderr": buffered})
            return raw.closed, buffered.closed

    assert agree(save, writers).ours == (False, False)
    compare_records(readers(flows, allow_not_done=True))


@pytest.mark.parametrize("log", [5, None, ["line"], io.StringIO("text")])
def test_a_log_of_another_type_is_refused(flows: Pair, writers: Pair, log: Any) -> None:
    """What is neither text nor bytes, a file or a path is an error."""
    refused = agree(lambda ds: ds.save_logs("task", {"stdout": log}), writers)
    assert isinstance(refused.ours, Raised)
    compare_records(readers(flows, allow_not_done=True))


def test_a_bad_log_is_a_data_exception_that_changes_nothing(flows: Pair, writers: Pair) -> None:
    """One bad stream of a call, or text that no file can hold, leaves the log as it was."""
    agree(lambda ds: ds.save_logs("task", {"stdout": b"before"}), writers)
    for bad in ({"stdout": b"after", "stderr": 5}, {"stdout": b"after", "a/b": b"x"}, {"stdout": "\ud800"}):
        with pytest.raises(DataException):
            writers.ours.save_logs("task", bad)
        [(_, log)] = readers(flows, allow_not_done=True).ours.load_logs(["task"], "stdout")
        assert log == b"before"


def test_a_missing_log_file_is_refused(writers: Pair, tmp_path: Path) -> None:
    """A path that leads nowhere is an error."""
    assert isinstance(agree(lambda ds: ds.save_logs("task", {"stdout": tmp_path / "none"}), writers).ours, Raised)


def test_a_log_may_grow_shrink_and_change(flows: Pair, writers: Pair) -> None:
    """Every save gives the whole log."""
    line = b"2024-01-01 12:00 line\n"
    for log in (b"", line, line * 2, line * 20_000, line * 20_000, line * 20_001, b"x" + line * 20_001, line, b""):
        agree(lambda ds, log=log: ds.save_logs("runtime", {"stdout": log}), writers)
        agree(lambda ds: (ds.load_logs(["runtime"], "stdout"), ds.get_log_size(["runtime"], "stdout")),
              readers(flows, allow_not_done=True))  # fmt: skip


def _save_legacy_logs(flows: Pair, attempt: int, log: bytes) -> None:
    """Write a log as Metaflow before 2.2.6 did, without a source."""
    theirs = flows.theirs.get_task_datastore("1", "s", "1", attempt=attempt, mode="w")
    theirs._save_file({"stdout.log": log})
    ours = flows.ours.get_task_datastore("1", "s", "1", attempt=attempt, mode="w")
    flows.ours._storage_impl.save_log(ours._task, attempt, "", "stdout", io.BytesIO(log))


def test_legacy_logs_are_read_and_scrubbed(flows: Pair, writers: Pair) -> None:
    """Logs without a source are found by their own methods, and scrubbed with the others."""
    _save_legacy_logs(flows, 0, b"old")
    _save_legacy_logs(flows, 1, b"older")
    agree(lambda ds: ds.save_logs("task", {"stdout": b"new", "stderr": b""}), writers)
    agree(lambda ds: ds.done(), writers)
    compare_records(readers(flows))
    agree(lambda ds: ds.has_metadata("stdout.log"), readers(flows))
    scrubbers = readers(flows, mode="d")
    agree(lambda ds: ds.scrub_logs([], "stdout", attempt_override=0), scrubbers)
    compare_records(readers(flows))
    agree(lambda ds: ds.scrub_logs(["task", "none"], "stdout"), scrubbers)
    agree(lambda ds: ds.scrub_logs(["task"], "stderr"), scrubbers)
    compare_records(readers(flows))
    assert readers(flows).ours.load_log_legacy("stdout") == b"[REDACTED stdout stdout]"
    assert readers(flows).ours.load_logs(["task"], "stderr") == [("task", b"[REDACTED task stderr]")]


def test_logs_arrive_before_and_after_the_attempt(flows: Pair) -> None:
    """Metaflow's runtime saves logs from its own process: before ``init_task``, and after ``done``."""
    runtime = agree(
        lambda flow: flow.get_task_datastore("1", "s", "1", attempt=0, mode="w"), flows, lambda ds: ds.attempt
    )
    agree(lambda ds: ds.save_logs("runtime", {"stdout": b"before"}), runtime)
    agree(lambda flow: flow.get_task_datastores("1", allow_not_done=True), flows, len)
    task = agree(lambda flow: flow.get_task_datastore("1", "s", "1", attempt=0, mode="w"), flows, lambda ds: ds.attempt)
    agree(lambda ds: ds.init_task(), task)
    agree(lambda ds: ds.done(), task)
    agree(lambda ds: ds.save_logs("runtime", {"stdout": b"before and after"}), runtime)
    agree(lambda ds: ds.save_metadata({"late": 1}), runtime)
    agree(lambda ds: ds._dangerous_save_metadata_post_done({"later": 2}), task)
    for call in (lambda ds: ds.save_logs("task", {"stdout": b"x"}), lambda ds: ds.save_metadata({"m": 1})):
        assert isinstance(agree(call, task).ours, Raised)
    compare_records(readers(flows), ["late", "later", "m"])


def test_places_of_logs_are_in_metaflows_layout(flows: Pair) -> None:
    """``get_log_location`` names the same place below the root, with and without an attempt."""
    for attempt in (None, 0, 3):
        location = agree(
            lambda flow, attempt=attempt: (
                flow.get_task_datastore("1", "s", "ü 1", attempt=attempt, mode="w")
                .get_log_location("task", "stdout")
                .removeprefix(flow.datastore_root)
            ),
            flows,
        )
    assert location.ours == "/Flow/1/s/ü 1/3.task_stdout.log"


def test_full_metadata_names_are_made_and_parsed_alike(flows: Pair) -> None:
    """The static helpers."""
    kinds = Pair(*(type(flow.get_task_datastore("1", "s", "1", attempt=0, mode="w")) for flow in flows))
    agree(lambda kind: [kind.metadata_name_for_attempt("a.b", attempt) for attempt in (None, 0, 12)], kinds)
    agree(lambda kind: [kind.parse_attempt_metadata(name) for name in ("0.a.b", "12.x", "plain", "")], kinds)
