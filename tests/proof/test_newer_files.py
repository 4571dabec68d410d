"""Files of formats that this version does not know are refused, with a message that names both versions."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import helpers_cli
import pytest
from helpers_store import FLOW, beside, dump, make_store
from metaflow.exception import MetaflowException
from metaflow_extensions.sqlitestore.plugins.provider import SQLiteMetadataProvider
from metaflow_extensions.sqlitestore.plugins.storage import SQLiteDatastoreStorage
from old_files import GOLDEN, NEWEST

from sqlitestore import FlowDataStore, NewerFormat, StoreUnavailable, merge, salvage


def _with_format(path: Path, number: int) -> str:
    """Make a file that says of itself that it has a format, and has nothing beside it."""
    shutil.copy(GOLDEN / f"format-{NEWEST}.db", path)
    with path.open("r+b") as file:
        file.seek(60)
        file.write(struct.pack(">i", number))
    return str(path)


WAYS_TO_OPEN: dict[str, Callable[[FlowDataStore, str], object]] = {
    "open": lambda flow, path: FlowDataStore(FLOW, ds_root=path),
    "import": lambda flow, path: merge(flow, [path]),
}


@pytest.mark.parametrize("number", [NEWEST + 1, 2**31 - 1])
@pytest.mark.parametrize("way", WAYS_TO_OPEN)
def test_a_newer_file_is_refused_with_both_versions(tmp_path: Path, number: int, way: str) -> None:
    """By every function that opens a file; neither file changes."""
    path, mine = _with_format(tmp_path / "newer.db", number), make_store(tmp_path / "mine.db")
    before = Path(path).read_bytes(), dump(mine)
    with (
        FlowDataStore(FLOW, ds_root=mine) as flow,
        pytest.raises(NewerFormat, match=rf"format {number};.* to {NEWEST}\. Install a newer sqlitestore"),
    ):
        WAYS_TO_OPEN[way](flow, path)
    assert (Path(path).read_bytes(), dump(mine)) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.db", "newer.db"]


def test_salvage_says_that_it_does_not_know_a_newer_format(tmp_path: Path) -> None:
    """It takes what it knows, for damage may have made the number; but never says that this is all."""
    report = salvage(_with_format(tmp_path / "newer.db", NEWEST + 1), tmp_path / "saved.db")
    assert not report.whole
    assert [problem.message.split(",")[0] for problem in report.problems] == [
        f"it has format {NEWEST + 1}; this sqlitestore knows formats 1 to {NEWEST}"
    ]
    with FlowDataStore("GoldenFlow", ds_root=tmp_path / "saved.db") as flow:
        assert len(flow.get_latest_task_datastores("17")) == 2


@pytest.mark.parametrize("number", [0, -1, -(2**31)])
def test_a_format_that_never_was_is_refused(tmp_path: Path, number: int) -> None:
    """With its number and those that are read; the file stays as it is."""
    path = _with_format(tmp_path / "runs.db", number)
    before = Path(path).read_bytes()
    with pytest.raises(StoreUnavailable, match=rf"format {number};.*1 to {NEWEST}"):
        FlowDataStore(FLOW, ds_root=path)
    assert Path(path).read_bytes() == before


COMMANDS = [
    ("ls",), ("show", f"{FLOW}/1"), ("verify",), ("verify", "--quick"), ("info",), ("du",), ("compact",),
    ("prune", f"{FLOW}/1", "--yes"), ("export", FLOW, "-o", "{out}"), ("salvage", "-o", "{out}"),
    ("diff", f"{FLOW}/1", f"{FLOW}/2"), ("tag", f"{FLOW}/1", "--add", "x"), ("trust", f"{FLOW}/1"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_refuse_a_newer_file(tmp_path: Path, command: tuple[str, ...]) -> None:
    """With a message that names both versions, an exit code that is not 0, and no traceback."""
    path = _with_format(tmp_path / "newer.db", NEWEST + 1)
    outcome = helpers_cli.run(path, *(part.format(out=tmp_path / "out.db") for part in command))
    assert outcome.exit_code not in {0, None}
    said = " ".join((outcome.output + outcome.stderr).split())
    assert f"format {NEWEST + 1}" in said
    assert f"1 to {NEWEST}" in said
    assert "Traceback" not in said
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
    assert beside(tmp_path / "out.db") == (["out.db"] if command[0] == "salvage" else [])


@pytest.mark.parametrize(
    "command", [("import", "{newer}"), ("diff", "{mine}", "{newer}"), ("diff", "{newer}", "{mine}")]
)
def test_commands_refuse_a_newer_file_beside_ours(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Where it is another than the file of the command."""
    newer, mine = _with_format(tmp_path / "newer.db", NEWEST + 1), make_store(tmp_path / "mine.db")
    before = dump(mine)
    outcome = helpers_cli.run(mine, *(part.format(newer=newer, mine=mine) for part in command))
    assert outcome.exit_code not in {0, None}
    assert f"format {NEWEST + 1}; this sqlitestore reads formats 1 to {NEWEST}" in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.stderr
    assert dump(mine) == before


def test_the_plug_in_refuses_a_newer_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metaflow's storage class and its client get an error of Metaflow's kind, with both versions."""
    path = _with_format(tmp_path / "newer.db", NEWEST + 1)
    monkeypatch.setattr(SQLiteDatastoreStorage, "datastore_root", path)
    refused = rf"format {NEWEST + 1};.*1 to {NEWEST}"
    with pytest.raises(MetaflowException, match=refused):
        SQLiteDatastoreStorage(path).is_file(["TestFlow/1"])
    with pytest.raises(MetaflowException, match=refused):
        SQLiteMetadataProvider.get_object("root", "flow", None, None)
