"""Scenarios of a task that is written: files that begin, artifacts, attempts, logs, metadata, files, registrations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from crash_states import Unit
from crash_trials import Scenario, by_unit
from helpers_store import FLOW, incompressible, save_task

from sqlitestore import FlowDataStore, SQLiteStorage, change_tags
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.archive.trust import trust_runs
from sqlitestore.blobs import payload_of
from sqlitestore.files import Data
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum
from sqlitestore.schema import NEWEST_FORMAT

DB = "runs.db"
OTHER = "other.db"
TIME = 1_700_000_000_000
LARGE = incompressible(700_000, 1)
HALF_KNOWN = LARGE[:400_000] + incompressible(300_000, 2)

Steps = Iterator[dict[Unit, Any]]


def opened(folder: str, name: str = DB, **options: Any) -> FlowDataStore:
    """Open a file in the folder."""
    return FlowDataStore(FLOW, ds_root=os.path.join(folder, name), **options)


def attempt(run: str, step: str, task: str, number: int = 0) -> Unit:
    """Name an attempt."""
    return (DB, "attempt", FLOW, run, step, task, number)


def writer_of(flow: FlowDataStore, run: str, step: str, task: str, number: int = 0) -> Any:
    """Return a started writer, as who does something again would: None if the attempt is done."""
    done = flow.get_latest_task_datastores(pathspecs=[f"{run}/{step}/{task}"])
    begun = flow.get_latest_task_datastores(pathspecs=[f"{run}/{step}/{task}"], allow_not_done=True)
    if any(each.attempt >= number for each in done) or any(each.attempt > number for each in begun):
        return None
    writer = flow.get_task_datastore(run, step, task, attempt=number, mode="w")
    writer.init_task()
    return writer


def save(flow: FlowDataStore, run: str, step: str, task: str, number: int = 0, **artifacts: Any) -> Steps:
    """Save an attempt in three steps."""
    unit = attempt(run, step, task, number)
    writer = writer_of(flow, run, step, task, number)
    yield {unit: (True, False, ())}
    if writer:
        writer.save_artifacts(artifacts.items())
    yield {}
    if writer:
        writer.done()
    yield {unit: artifacts}


def a_task(folder: str) -> None:
    """Make a file with a task."""
    with opened(folder) as flow:
        save_task(flow, "0", large=LARGE, small="small")


# Files that begin


def begin(folder: str, **options: Any) -> Steps:
    """Make a file, and save a task."""
    with opened(folder, **options) as flow:
        yield {(DB, "schema"): NEWEST_FORMAT}
        yield from save(flow, "1", "a", "1", small="small", large=LARGE)


def begin_without_log(folder: str) -> Steps:
    """Make a file with a rollback journal, and save a task."""
    return begin(folder, storage_impl=lambda root: SQLiteStorage(root, journal_mode="delete"))


def _journal(folder: str, expected: int) -> None:
    """SQLite's file format says at byte 18 which journal a file has: 1 a rollback journal, 2 the log."""
    assert Path(folder, DB).read_bytes()[18:20] == bytes([expected]) * 2


# Artifacts


def artifacts(folder: str) -> Steps:
    """Save artifacts, known, half known, new, and more small ones than may wait; a second attempt; one that breaks."""
    with opened(folder) as flow:
        yield from save(flow, "1", "a", "1", known=LARGE, new=incompressible(900_000, 3), half=HALF_KNOWN, one=1)
        many = {f"small{number}": incompressible(9_000, 10 + number) for number in range(5)}
        yield from save(flow, "1", "a", "2", 0, **many)
        yield from save(flow, "1", "a", "2", 1, **many, last=None)
        with suppress(ZeroDivisionError):
            flow._storage_impl.put_blobs(FLOW, [payload_of(b"x" * 70_000), _breaks])
        yield {}
        yield from save(flow, "1", "a", "3")


def _breaks(file: Any) -> None:
    file.write(incompressible(600_000, 5))
    raise ZeroDivisionError


class Provider:
    """A metadata provider of somebody's own, which is told of attempts that are done."""

    def register_metadata(self, *_: Any) -> None:
        """Be told."""

    def register_data_artifacts(self, *_: Any) -> None:
        """Be told."""


def handed_down(folder: str) -> Steps:
    """Clone a task, also an unfinished one; pass artifacts down, take them over from another file; save data."""
    with opened(folder, metadata=Provider()) as flow, opened(folder, OTHER) as other:
        [origin] = flow.get_latest_task_datastores("0")
        [elsewhere] = other.get_latest_task_datastores("9")
        for task, take in (
            ("1", lambda writer: writer.clone(origin)),
            ("2", lambda writer: writer.passdown_partial(origin, ["small"])),
            ("3", lambda writer: writer.transfer_artifacts(elsewhere)),
        ):
            writer = writer_of(flow, "1", "a", task)
            yield {attempt("1", "a", task): (True, False, ())}
            if writer:
                take(writer)
                if task == "3":
                    writer.save_artifacts([("far", elsewhere["far"])])
                writer.done()
            expected = {"1": {"large": LARGE, "small": "small"}, "2": {"small": "small"}, "3": {"far": FAR}}[task]
            yield {attempt("1", "a", task): expected}
        origin = writer_of(flow, "1", "a", "4")
        yield {attempt("1", "a", "4"): (True, False, ())}
        if origin:
            origin.save_artifacts([("waits", "in memory")])
        heir = writer_of(flow, "1", "a", "5")
        yield {attempt("1", "a", "5"): (True, False, ())}
        for task, writer in (("5", heir), ("4", origin)):
            if writer:
                if task == "5":
                    writer.clone(origin)
                writer.done()
            yield {attempt("1", "a", task): {"waits": "in memory"}}
        [(_, small), (_, large)] = flow.save_data([b"data", LARGE[:300_000]])
        yield {(DB, "data", FLOW, small): "there", (DB, "data", FLOW, large): "there"}


FAR = incompressible(350_000, 9)


def two_files(folder: str) -> None:
    """Make a file with a task, and another with another one."""
    a_task(folder)
    with opened(folder, OTHER) as flow:
        save_task(flow, "9", far=FAR)


# Logs, metadata, files

TASK = TaskAddress(FLOW, "1", "a", "1")
LOG = (DB, "log", FLOW, "1", "a", "1", 0)
FIRST, GROWN = b"line\n" * 100, b"line\n" * 100 + incompressible(100_000, 6)


def logs(folder: str) -> Steps:
    """Save logs that grow, are replaced, scrubbed and deleted; two streams; metadata of the attempt and of the task."""
    with opened(folder) as flow:
        task = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
        if ("task", "stdout") not in flow._storage_impl.log_sizes(TASK, 0):
            task.save_logs("task", {"stdout": FIRST})
        yield {(*LOG, "task", "stdout"): FIRST}
        task.save_logs("task", {"stdout": GROWN})
        yield {(*LOG, "task", "stdout"): GROWN}
        task.save_logs("task", {"stdout": b"other"})
        yield {(*LOG, "task", "stdout"): b"other"}
        task.save_logs("runtime", {"stderr": b"secret" * 30_000})
        yield {(*LOG, "runtime", "stderr"): b"secret" * 30_000}
        flow._storage_impl.scrub_log(TASK, 0, "runtime", "stderr", b"scrubbed")
        yield {(*LOG, "runtime", "stderr"): b"scrubbed"}
        flow._storage_impl._logs.delete(TASK, 0, "task", "stdout")
        yield {(*LOG, "task", "stdout"): None}
        task.save_logs("more", {"stdout": b"out", "stderr": b"err"})
        yield {(*LOG, "more", "stdout"): b"out", (*LOG, "more", "stderr"): b"err"}
        task.save_metadata({"one": 1, "two": [2]})
        metadata = (DB, "metadata", FLOW, "1", "a", "1")
        yield {(*metadata, 0, "one"): "1", (*metadata, 0, "two"): "[2]"}
        task.save_metadata({"of task": None, "more": 2}, add_attempt=False)
        yield {(*metadata, -1, "of task"): "null", (*metadata, -1, "more"): "2"}


def streams_apart(unit: Unit) -> Any:
    """Each stream of a call is a log of its own, and has the attempt's row at once."""
    return unit[:-1] if unit[1] == "metadata" else unit


def files(folder: str) -> Steps:
    """Save named files, one over another; delete one; let go of data."""
    with opened(folder) as flow:
        storage: Any = flow._storage_impl
        storage.save_file("cards/1.html", payload_of(b"<html>"), '{"a": 1}', overwrite=True)
        yield {(DB, "file", "cards/1.html"): ...}
        storage.save_file("cards/1.html", payload_of(LARGE[:200_000]), None, overwrite=True)
        yield {(DB, "file", "cards/1.html"): ...}
        storage.save_file("cards/2.html", payload_of(b"2"))
        yield {(DB, "file", "cards/2.html"): ...}
        storage.delete_file("cards/1.html")
        yield {(DB, "file", "cards/1.html"): None}
        [(_, key)] = flow.save_data([b"kept"])
        yield {(DB, "data", FLOW, key): "there"}
        Data(storage.database).drop(FLOW, [key])
        yield {(DB, "data", FLOW, key): None}


# Registrations, tags, trust


def registrations(folder: str) -> Steps:
    """Register a run, tasks, metadata and artifacts; change tags, also of a run that nobody registered."""
    with opened(folder) as flow:
        tables = flow._storage_impl.tables
        registered = tables.registrations
        registered.add_run(FLOW, "7", "ada", TIME, {"b"}, {"user:ada"})
        yield {(DB, "registered run", FLOW, "7"): '["b"] ["user:ada"] 0'}
        if not registered.tasks(FLOW, "7"):
            assert registered.new_task_id(FLOW, "7", "start", None, TIME) == "0"
        yield {
            (DB, "registered task", FLOW, "7", "start", "0"): "there",
            (DB, "registered step", FLOW, "7", "start"): ...,
        }
        registered.add_task(FLOW, "7", "end", "named", None, TIME)
        yield {(DB, "registered task", FLOW, "7", "end", "named"): "there"}
        if not registered.metadata(FLOW, "7", [("start", "0")]):
            rows = [RegisteredMetadatum("start", "0", name, name, "t", ("x",), None, TIME) for name in "ab"]
            registered.add_metadata(FLOW, "7", rows)
        yield {(DB, "registered metadata", FLOW, "7", "start", "0", place): ... for place in (0, 1)}
        rows = [RegisteredArtifact(0, name, "pickle", "0" * 40, "s3", ":root:s3://b", None, TIME) for name in "ab"]
        registered.add_artifacts(FLOW, "7", "start", "0", rows)
        yield {(DB, "registered artifact", FLOW, "7", "start", "0", 0, name): ... for name in "ab"}
        change_tags(flow, f"{FLOW}/7", add=["new"], remove=["b"])
        yield {(DB, "registered run", FLOW, "7"): '["new"] ["user:ada"] 1'}
        change_tags(flow, f"{FLOW}/0", add=["first"])
        yield {(DB, "registered run", FLOW, "0"): '["first"] [] 0'}


def trust(folder: str) -> Steps:
    """Trust all runs that came from elsewhere."""
    with opened(folder) as flow:
        trust_runs(flow)
        yield {(DB, "untrusted", FLOW, run): None for run in ("8", "9")}


def strangers_runs(folder: str) -> None:
    """Make a file with two runs that were imported."""
    with opened(folder, OTHER) as flow:
        for run in ("8", "9"):
            save_task(flow, run, small=run)
        export(flow, os.path.join(folder, "archive.db"))
    with opened(folder) as flow:
        merge(flow, [os.path.join(folder, "archive.db")])


def all_of_a_file(unit: Unit) -> Any:
    """Trust comes to all of the runs at once."""
    return unit[0]


WRITERS = (
    Scenario(
        "a file that begins",
        begin,
        (
            "file-opened", "tables-made", "tables-identified", "tables-versioned", "tables-committed",
            "before-journal-mode", "after-journal-mode", "attempt-started", "artifacts-put", "attempt-done",
        ),
        final=lambda folder: _journal(folder, 2),
    ),
    Scenario(
        "a file that begins without the log",
        begin_without_log,
        ("tables-made", "tables-versioned", "before-journal-mode", "after-journal-mode", "before-commit"),
        final=lambda folder: _journal(folder, 1),
    ),
    Scenario(
        "artifacts",
        artifacts,
        (
            "before-commit", "after-commit", "chunks-announced", "chunks-inserted", "chunks-committed", "blob-held",
            "blob-row-inserted", "blob-chunks-listed", "blob-committed", "small-blobs-inserted",
            "small-blobs-committed", "undo-released", "undo-chunks-deleted", "known-blob-compared",
            "attempt-run-made", "attempt-blobs-inserted", "attempt-artifacts-inserted", "attempt-blobs-released",
            "attempt-finished", "unused-blobs-released",
        ),
        a_task,
    ),
    Scenario(
        "what is handed down",
        handed_down,
        (
            "blobs-put", "waiting-blobs-put", "clone-held", "passed-down-held", "artifacts-transferred",
            "attempt-done-registered", "data-flow-made", "data-row-inserted",
        ),
        two_files,
    ),
    Scenario(
        "logs",
        logs,
        (
            "log-bytes-put", "log-parts-deleted", "log-part-inserted", "log-stream-saved", "scrubbed-log-put",
            "scrubbed-log-replaced", "discarded-blob-deleted", "log-deleted", "task-metadata-inserted",
            "task-metadata-saved",
        ),
        a_task,
        streams_apart,
    ),
    Scenario(
        "named files",
        files,
        ("file-bytes-put", "file-row-written", "file-row-deleted", "data-rows-deleted"),
        a_task,
        by_unit,
    ),
    Scenario(
        "registrations",
        registrations,
        (
            "registered-run-named", "task-id-taken", "step-registered", "metadatum-registered", "artifacts-registered",
            "tags-updated", "tags-run-registered",
        ),
        a_task,
    ),
    Scenario("trust", trust, ("trust-run-trusted",), strangers_runs, all_of_a_file),
)  # fmt: skip
