"""Scenarios of upkeep: runs that go and come back, space that is given back, files that are made and brought in."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Any

from crash_states import GOLDEN, State, Unit
from crash_trials import Scenario, by_file, by_run
from crash_writers import DB, FAR, LARGE, OTHER, TIME, Steps, attempt, opened
from helpers_store import FLOW, incompressible, rows, save_task

from sqlitestore import FileExists, FlowDataStore, NotFound, compact, export, layout, merge, plan_prune, prune, restore
from sqlitestore.blobs import payload_of
from sqlitestore.maintenance.salvage import salvage
from sqlitestore.model import TaskAddress
from sqlitestore.schema import NEWEST_FORMAT

ARCHIVE, OUT = "archive.db", "out.db"
BIG = incompressible(500_000, 21)


def own(run: str) -> bytes:
    """Return what only one run has."""
    return incompressible(250_000, 100 + int(run))


def fill(flow: FlowDataStore, *runs: str) -> None:
    """Write runs with something of everything: content of their own and shared, logs, metadata, files, records."""
    storage: Any = flow._storage_impl
    for run in runs:
        for task in ("1", "2", "3"):
            save_task(flow, run, "a", task, shared=LARGE, own=own(run), text=f"{run} {task}")
            address = TaskAddress(FLOW, run, "a", task)
            storage.save_metadata(address, 0, {"note": f'"{run} {task}"'}, overwrite=True)
            flow.get_task_datastore(run, "a", task, attempt=0, mode="w").save_logs("task", {"stdout": f"log {run}"})
            storage.tables.registrations.add_task(FLOW, run, "a", task, "ada", TIME)
        for name in ("1", "2", "3"):
            storage.save_file(f"mf.cards/{FLOW}/runs/{run}/card{name}.html", payload_of(f"{run} {name}".encode()))


def three_runs(folder: str) -> None:
    """Make a file with runs 1 to 3, and data."""
    with opened(folder) as flow:
        fill(flow, "1", "2", "3")
        flow.save_data([b"data", BIG])


def trashed(run: str) -> Unit:
    """Name a run in the trash."""
    return (DB, "trash", FLOW, run)


# Runs that go and come back


def pruning(folder: str) -> Steps:
    """Put two runs into the trash, and let go of data."""
    with opened(folder) as flow:
        there = [f"{FLOW}/{run}" for run in ("1", "2") if run in flow._storage_impl.runs(FLOW)]
        if there:
            prune(flow, plan_prune(flow, there))
        yield {trashed("1"): "whole", trashed("2"): "whole", attempt("1", "a", "1"): None}
        prune(flow, plan_prune(flow, [FLOW], keep_last=3, data=True))
        yield {(DB, "data", FLOW, _key(b"data")): None, (DB, "data", FLOW, _key(BIG)): None}


def _key(data: bytes) -> str:
    import xxhash

    return xxhash.xxh3_128(data).hexdigest()


def two_in_the_trash(folder: str) -> None:
    """Make a file with runs 1 and 2 in the trash."""
    three_runs(folder)
    with opened(folder) as flow:
        prune(flow, plan_prune(flow, [f"{FLOW}/1", f"{FLOW}/2"]))


def restoring(folder: str) -> Steps:
    """Bring both runs back, in one call."""
    with opened(folder) as flow:
        with suppress(NotFound):  # done again: they are back
            restore(flow, [f"{FLOW}/1", f"{FLOW}/2"])
        yield {trashed("1"): None, trashed("2"): None, attempt("1", "a", "1"): ...}


def purging(folder: str) -> Steps:
    """Empty the trash."""
    with opened(folder) as flow:
        prune(flow, plan_prune(flow, [FLOW], keep_last=3), empty_trash=True)
        yield {trashed("1"): None, trashed("2"): None}


def is_purging(unit: Unit, value: Any) -> bool:
    """A run on its way out is marked before anything of it goes."""
    return unit[1] == "trash" and value == "purging"


def nothing_is_left_over(folder: str) -> None:
    """What only the runs that are gone had is gone, and nothing waits to be deleted."""
    path = os.path.join(folder, DB)
    assert rows(path, "SELECT count(*) FROM garbage") == [(0,)]
    needed = (
        "SELECT blob FROM artifact UNION SELECT blob FROM log UNION SELECT blob FROM data UNION SELECT blob FROM file"
    )
    assert rows(path, f"SELECT count(*) FROM blob WHERE id NOT IN ({needed} UNION SELECT blob FROM trashed_file)") == [
        (0,)
    ]
    assert rows(path, "SELECT count(*) FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)") == [(0,)]


# Space


def leftovers(folder: str) -> None:
    """Make a file with a purged run, blobs that nothing needs, chunks without a blob, old holds, a forgotten file."""
    two_in_the_trash(folder)
    with opened(folder) as flow:
        storage: Any = flow._storage_impl
        storage.put_blobs(FLOW, [payload_of(incompressible(300_000, 30)), payload_of(b"small")])
        with suppress(ZeroDivisionError):
            storage.put_blobs(FLOW, [_dies(storage)])
        storage.save_file(f"{layout.INCLUDED}/{FLOW}/{'0' * 40}", payload_of(b"forgotten"))
    path = os.path.join(folder, DB)
    rows(path, "UPDATE held SET since = 1.0 RETURNING 1")
    rows(path, "INSERT INTO flow(name) VALUES ('EmptyFlow') RETURNING 1")


def _dies(storage: Any) -> Any:
    """Return a payload during which its writer seems to die: its chunks stay."""
    from sqlitestore.chunk_stream import ChunkStream

    def write_to(file: Any) -> None:
        file.write(incompressible(900_000, 31))
        file._stream.finish_chunks()
        ChunkStream.undo = lambda self: None  # type: ignore[method-assign]
        raise ZeroDivisionError

    return write_to


def compacting(folder: str, **options: Any) -> Steps:
    """Give all space back."""
    with opened(folder) as flow:
        compact(flow, empty_trash=True, grace=0, **options)
        yield {
            trashed("1"): None,
            trashed("2"): None,
            (DB, "file", f"{layout.INCLUDED}/{FLOW}/{'0' * 40}"): None,
        }


def nothing_is_free(folder: str) -> None:
    """No page of the file is free."""
    nothing_is_left_over(folder)
    assert rows(os.path.join(folder, DB), "PRAGMA freelist_count") == [(0,)]
    assert rows(os.path.join(folder, DB), "SELECT count(*) FROM held") == [(0,)]


# Files that are made and brought in


def exporting(folder: str) -> Steps:
    """Export all into a file of its own."""
    with opened(folder) as flow:
        out = os.path.join(folder, OUT)
        with suppress(FileExists):  # done again: it is there
            export(flow, out)
        yield {
            (OUT, "attempt", FLOW, "1", "a", "1", 0): {"shared": LARGE, "own": own("1"), "text": "1 1"},
            (OUT, "schema"): NEWEST_FORMAT,
        }


def two_archives(folder: str) -> None:
    """Make a file with a run, an archive of four others, and an archive of two of them without what is large."""
    with opened(folder, OTHER) as other:
        fill(other, "4", "5", "6")
        save_task(other, "7", far=FAR)
        other.save_data([b"data"])
        other._storage_impl.save_file("cards/1.html", payload_of(b"<html>"))
        export(other, os.path.join(folder, ARCHIVE))
        export(other, os.path.join(folder, "stubs.db"), [f"{FLOW}/4", f"{FLOW}/7"], max_artifact_size=1000)
    with opened(folder) as flow:
        fill(flow, "1")


def importing(folder: str) -> Steps:
    """Import an archive without large artifacts, then the whole one, which completes it; then nothing new."""
    with opened(folder, trust=True) as flow:
        merge(flow, [os.path.join(folder, "stubs.db")])
        yield {attempt("4", "a", "1"): ..., attempt("7", "a", "1"): (True, True, (("far", f"left out {_far()}"),))}
        merge(flow, [os.path.join(folder, ARCHIVE)])
        yield {
            attempt("4", "a", "3"): {"shared": LARGE, "own": own("4"), "text": "4 3"},
            attempt("6", "a", "1"): {"shared": LARGE, "own": own("6"), "text": "6 1"},
            attempt("7", "a", "1"): {"far": FAR},
            (DB, "data", FLOW, _key(b"data")): "there",
            (DB, "file", "cards/1.html"): ...,
        }
        merge(flow, [os.path.join(folder, ARCHIVE), os.path.join(folder, "stubs.db")])
        yield {}


def _far() -> str:
    import pickle

    return _key(pickle.dumps(FAR, protocol=5))


def salvaging(folder: str) -> Steps:
    """Save what is whole out of a file."""
    out = os.path.join(folder, OUT)
    with suppress(FileExists):
        salvage(os.path.join(folder, DB), out)
    yield {(OUT, "attempt", FLOW, "3", "a", "1", 0): {"shared": LARGE, "own": own("3"), "text": "3 1"}}


def same_as_before(folder: str) -> None:
    """What was salvaged out of a file that is whole is all of it."""
    from crash_states import state_of

    state: State = state_of(folder)
    saved = {unit[1:]: value for unit, value in state.items() if unit[0] == OUT}
    assert saved == {unit[1:]: value for unit, value in state.items() if unit[0] == DB}


# Old formats


def old_file(number: int) -> Any:
    """Return what puts the golden file of a format into the folder."""
    return lambda folder: shutil.copy(GOLDEN / f"format-{number}.db", os.path.join(folder, DB))


def migrating(folder: str) -> Steps:
    """Open a file of an old format, which brings it to today's."""
    with FlowDataStore("GoldenFlow", ds_root=os.path.join(folder, DB)):
        yield {(DB, "schema"): NEWEST_FORMAT}


def golden(folder: str) -> None:
    """Everything that the golden file was made with is read."""
    from golden_content import check  # with numpy

    check(os.path.join(folder, DB))


_MIGRATION = ("migration-step-done", "migration-versioned", "migration-committed", "migration-tables-made")

UPKEEP = (
    Scenario(
        "prune",
        pruning,
        (
            "trash-noted", "trash-files-copied", "trash-files-hidden", "trash-run-hidden", "prune-run-trashed",
            "prune-data-dropped", "prune-data-gone", "unneeded-chunks-noted",
        ),
        three_runs,
    ),
    Scenario(
        "restore",
        restoring,
        ("restored-run-shown", "restored-files-shown", "restored-files-moved", "restore-run-back"),
        two_in_the_trash,
        by_file,
    ),
    Scenario(
        "purge",
        purging,
        (
            "purge-marked", "purge-attempts-gone", "purge-files-gone", "purge-tasks-gone", "purge-run-gone",
            "purge-file-rows-deleted", "purge-run-row-deleted", "purge-attempt-rows-deleted", "unneeded-chunks-noted",
            "garbage-chunk-deleted", "garbage-batch-gone",
        ),
        two_in_the_trash,
        between=is_purging,
        final=nothing_is_left_over,
    ),
    Scenario(
        "compact",
        compacting,
        (
            "compact-trash-emptied", "compact-swept", "sweep-holds-forgotten", "sweep-begun", "sweep-blobs-gone",
            "sweep-chunks-noted", "sweep-included-file-gone", "compact-pages-moved", "compact-pages-cut-off",
            "compact-log-moved", "purge-marked", "garbage-chunk-deleted",
        ),
        leftovers,
        between=is_purging,
        final=nothing_is_free,
    ),
    Scenario(
        "compact --full",
        lambda folder: compacting(folder, full=True),
        ("before-rebuild", "after-rebuild", "rebuild-log-moved"),
        leftovers,
        between=is_purging,
        final=nothing_is_free,
    ),
    Scenario(
        "export",
        exporting,
        (
            "new-file-made", "new-file-locked", "new-file-filled", "new-file-synced", "new-file-named",
            "new-file-folder-synced", "new-file-unlinked", "archive-made", "archive-blobs-copied", "archive-data-kept",
            "archive-runs-written", "archive-finished", "copied-attempt-inserted", "tables-versioned",
        ),
        three_runs,
        by_file,
    ),
    Scenario(
        "import",
        importing,
        (
            "copied-attempt-inserted", "copied-artifacts-inserted", "run-attempts-written", "run-metadata-written",
            "run-logs-written", "run-registrations-written", "run-files-written", "run-data-kept", "merge-planned",
            "merge-data-kept", "merge-flows-brought", "merge-blobs-copied", "merge-run-brought", "merge-stubs-filled",
            "merge-run-completed",
        ),
        two_archives,
        by_run,
    ),
    Scenario(
        "salvage",
        salvaging,
        (
            "salvage-staged", "salvage-tables-made", "salvage-content-moved", "salvage-attempts-moved",
            "salvage-records-moved", "salvage-tidied", "new-file-filled", "new-file-named",
        ),
        three_runs,
        by_file,
        final=same_as_before,
    ),
    Scenario("migration of format 1", migrating, _MIGRATION, old_file(1), by_file, final=golden),
    Scenario("migration of format 2", migrating, _MIGRATION, old_file(2), by_file, final=golden),
)  # fmt: skip
