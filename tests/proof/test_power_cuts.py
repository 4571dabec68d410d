"""Power cuts: what a disk could hold, at any point of any work, is a state between two transactions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import proof_power_cuts
import pytest
from power_cut_workloads import JOURNAL, WAL_FULL, WAL_NORMAL, WORKLOADS, Mode

from sqlitestore import schema, tasks
from sqlitestore.testing import power_cuts
from sqlitestore.testing.power_cuts import Disk
from sqlitestore.testing.recording import Name, Recorder, Sync, SyncNames, Truncate, Write
from sqlitestore.testing.watched_vfs import Call

PATCH = pytest.MonkeyPatch


def test_no_image_of_a_disk_is_torn(tmp_path: Path) -> None:
    """A few images of each workload; ``scripts/prove power_cuts`` judges tens of thousands."""
    amount = 6 * proof_power_cuts.SLICES
    figures = proof_power_cuts.prove(amount, 3, str(tmp_path))
    assert figures["distinct images"] > amount * 0.7
    assert figures["states between transactions"] > 300
    assert figures["points at which the power was cut"] > amount * 0.7


def _always(patch: PATCH, pragma: str, value: str) -> None:
    """Set a pragma of each connection to this, whatever it should be."""
    patch.setattr(f"sqlitestore.database_file.set_{pragma}", lambda connection, _: connection.pragma(pragma, value))


def no_sync(patch: PATCH) -> None:
    """Have SQLite never sync."""
    _always(patch, "synchronous", "off")


def journal_removed_without_sync(patch: PATCH) -> None:
    """Leave out the sync of the folder, as this package did until these tests were made."""
    _always(patch, "synchronous", "full")


def normal_in_place_of_full(patch: PATCH) -> None:
    """Take no notice of what the user asked for."""
    _always(patch, "synchronous", "normal")


def no_journal(patch: PATCH) -> None:
    """Keep the journal in memory."""
    _always(patch, "journal_mode", "memory")


def done_marker_by_itself(patch: PATCH) -> None:
    """Commit that an attempt is done before its artifacts."""
    finish = tasks.Tasks.finish

    def in_two(self: Any, task: Any, number: int, artifacts: Any, done: float, pending: Any) -> None:
        if artifacts:
            self._blobs.put_what_waits(pending)
            finish(self, task, number, {}, done)
            finished = tasks.Finished(artifacts, done, "3.11.7")
            self.rewrite(task, number, 1.0, finished)

    patch.setattr(tasks.Tasks, "finish", in_two)


def artifacts_by_themselves(patch: PATCH) -> None:
    """Commit an attempt's artifact rows before its done marker."""
    finish = tasks.Tasks._finish

    def in_two(self: Any, connection: apsw.Connection, task: Any, number: int, attempt: int, *rest: Any) -> None:
        finish(self, connection, task, number, attempt, *rest)
        select = "SELECT done, python, artifacts_digest, digest FROM attempt WHERE id = ?"
        [row] = connection.execute(select, (attempt,))
        undone = None, None, None, tasks.digest_of(*task, number, rest[0], None, None, None)
        connection.execute(tasks.FINISH_ATTEMPT, (*undone, attempt))
        connection.execute("COMMIT; BEGIN IMMEDIATE")
        connection.execute(tasks.FINISH_ATTEMPT, (*row, attempt))

    patch.setattr(tasks.Tasks, "_finish", in_two)


def migration_in_two(patch: PATCH) -> None:
    """Commit the version of a migrated file before its tables."""
    migrate = schema.migrate

    def in_two(connection: apsw.Connection, found: int) -> None:
        connection.pragma("user_version", schema.NEWEST_FORMAT)
        connection.execute("COMMIT; BEGIN EXCLUSIVE")
        migrate(connection, found)

    patch.setattr(schema, "migrate", in_two)


def export_not_synced(patch: PATCH) -> None:
    """Name a new file without having it on the disk."""
    patch.setattr("sqlitestore.new_file._sync", lambda path: None)


SEEDED: list[tuple[Callable[[PATCH], None], str, Mode]] = [
    (no_sync, "save", WAL_NORMAL),
    (no_sync, "save huge", WAL_FULL),
    (no_sync, "come and go", JOURNAL),
    (journal_removed_without_sync, "save", JOURNAL),
    (normal_in_place_of_full, "save", WAL_FULL),
    (no_journal, "save", WAL_NORMAL),
    (done_marker_by_itself, "save", WAL_NORMAL),
    (artifacts_by_themselves, "save", JOURNAL),
    (migration_in_two, "migrate format 1", WAL_NORMAL),
    (migration_in_two, "migrate format 2", JOURNAL),
    (export_not_synced, "bring together", WAL_NORMAL),
]


@pytest.mark.parametrize(("plant", "name", "mode"), SEEDED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_planted_fault_is_noticed(
    tmp_path: Path, plant: Callable[[PATCH], None], name: str, mode: Mode, monkeypatch: PATCH
) -> None:
    """Each fault makes an image that is judged to be wrong; without it the same images are right."""
    number = proof_power_cuts.SUBJECTS.index((name, mode))
    record = proof_power_cuts.record

    def record_with_it(*arguments: Any) -> Recorder:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            return record(*arguments)

    monkeypatch.setattr(proof_power_cuts, "record", record_with_it)
    with pytest.raises(Exception, match=r".") as caught:  # noqa: PT012 - until one is found
        for seed in range(20):
            proof_power_cuts.prove_slice(number, 150, seed, str(tmp_path))
    assert caught.value.__notes__[-1].startswith(f"{name}, {mode}, seed"), "the work failed, not an image"


def test_of_a_write_that_was_not_synced_any_sector_may_be_there(tmp_path: Path) -> None:
    """The disk knows what must be there, what may be, and what was there before."""
    (tmp_path / "a").write_bytes(b"x" * 2048)
    recorder = Recorder(str(tmp_path))
    disk = Disk(recorder)
    disk.apply(Write(1, 256, b"y" * 1536))
    images = [power_cuts.by_chance(disk, Random(seed)) for seed in range(1000)]
    found = {image[str(tmp_path / "a")] for image in images}
    pieces = ((256, 512), (512, 1024), (1024, 1536), (1536, 1792))
    assert all(content[:256] == b"x" * 256 and content[1792:] == b"x" * 256 for content in found)
    assert all(len(set(content[begin:end])) == 1 for content in found for begin, end in pieces)
    assert len(found) == 16
    disk.apply(Sync(1))
    assert power_cuts.nothing(disk) == power_cuts.everything(disk)
    disk.apply(Truncate(1, 100))
    disk.apply(Write(1, 600, b"z"))
    sizes = {len(power_cuts.by_chance(disk, Random(seed))[str(tmp_path / "a")]) for seed in range(100)}
    assert sizes == {100, 601, 2048}
    assert power_cuts.lengths_only(disk, b"?")[str(tmp_path / "a")] == b"x" * 100 + b"?" * 501


def test_names_last_when_the_folder_is_synced(tmp_path: Path) -> None:
    """Until then a file that was renamed is under either name, both or none, whatever becomes of its bytes."""
    recorder = Recorder(str(tmp_path))
    disk = Disk(recorder)
    for step in (Name("a", 1), Write(1, 0, b"1"), SyncNames(), Name("b", 1), Name("a", None)):
        disk.apply(step)
    found = {tuple(sorted(power_cuts.by_chance(disk, Random(seed)).items())) for seed in range(200)}
    assert {tuple(name for name, _ in image) for image in found} == {(), ("a",), ("b",), ("a", "b")}
    contents = {content for image in found for _, content in image}
    assert {b"", b"1"} < contents  # and a byte that stood on the disk before
    assert all(len(content) <= 1 for content in contents)
    disk.apply(SyncNames())
    assert power_cuts.nothing(disk) == {"b": b""}


def test_every_change_of_the_files_is_recorded(tmp_path: Path) -> None:
    """What a recording says is there at its end is what is there, byte for byte, for each workload."""
    for number, (name, mode) in enumerate(proof_power_cuts.SUBJECTS):
        folder = tmp_path / str(number)
        recorder = proof_power_cuts.record(WORKLOADS[name], mode, str(folder))
        disk = Disk(recorder)
        for step in recorder.steps:
            disk.apply(step)
        expected = {str(path): path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert power_cuts.everything(disk) == expected, name
        assert len(recorder.steps) > 50


def test_a_failed_call_changes_nothing(tmp_path: Path) -> None:
    """Only what was done is recorded."""
    recorder = Recorder(str(tmp_path))
    path = str(tmp_path / "a")
    recorder.around(Call("xOpen", path, 1, (apsw.SQLITE_OPEN_MAIN_DB,)), lambda: None)
    with pytest.raises(apsw.FullError):
        recorder.around(Call("xWrite", path, 1, (b"x", 0)), lambda: (_ for _ in ()).throw(apsw.FullError()))
    assert recorder.steps == [Name(path, 1)]
