"""scripts/bench: it measures, draws, and does not take a wrong answer for a fast one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks import crowd, peers, workloads  # noqa: E402
from benchmarks.groups import GROUPS, NAMES  # noqa: E402
from benchmarks.measure import Measured  # noqa: E402
from benchmarks.report import line_of  # noqa: E402
from benchmarks.rows import rows  # noqa: E402
from benchmarks.scale import SCALES  # noqa: E402

TINY = SCALES["tiny"]
OF_METAFLOW = {"client", "flights"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its processes are forked")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """Run all of it that needs no Metaflow processes, with tiny sizes; return the JSON, the SVG and the table."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks", "--scale", "tiny", "--without", *sorted(OF_METAFLOW)]
    done = subprocess.run(
        [*command, "--folder", str(folder), "--json", str(folder / "a.json"), "--svg", str(folder / "a.svg")],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert sorted(each.name for each in folder.iterdir()) == ["a.json", "a.svg"]
    return json.loads((folder / "a.json").read_text()), (folder / "a.svg").read_text(), done.stdout


def test_every_line_is_measured(measured: tuple[dict[str, Any], str, str]) -> None:
    """The JSON has each line of the table with a figure, and ratios to all that can do the same."""
    result, _, table = measured
    lines = {(line["group"], line["step"], line["cost"], line["label"]): line for line in result["lines"]}
    expected = [row for row in rows(TINY) if row.group not in OF_METAFLOW]
    assert list(lines) == [(row.group, row.step, row.cost, row.label) for row in expected]
    for row in expected:
        line = lines[row.group, row.step, row.cost, row.label]
        assert row.label in table
        assert row.cost == "peak" or line["figures"][row.ours] > 0
        assert line["met"] is None or row.bar is not None
        if row.bar is not None and row.bar.ratio is not None:
            assert line["ratios"][row.bar.peer] > 0
    saved = lines["noise", "save", "closed", "1 MB of float64 noise: saved, store closed"]
    assert set(saved["ratios"]) == set(peers.PEERS) - {peers.OURS, peers.JOURNAL}
    assert result["durability"].keys() == peers.PEERS.keys()
    assert "apsw" in result["imports"]["import sqlitestore"]


def test_the_chart_is_xml_with_every_ratio(measured: tuple[dict[str, Any], str, str]) -> None:
    """Each line that has ratios is drawn, with a mark for each."""
    result, svg, _ = measured
    root = ET.fromstring(svg)  # noqa: S314 - it is ours
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    with_ratios = [line for line in result["lines"] if line["ratios"]]
    assert {line["label"] for line in with_ratios} <= texts
    hints = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(hints) == 1 + sum(len(line["ratios"]) for line in with_ratios)


class ForgetsATask(peers.PickleFilesUnsynced):
    """Finds one task too few."""

    def find_run(self) -> Any:
        return super().find_run()[1:]


class LoadsOthers(peers.PickleFilesUnsynced):
    """Loads something else, of the right type."""

    def value(self, found: Any, name: str) -> Any:
        value = super().value(found, name)
        if isinstance(value, str):
            return value + " "
        value[0] = -1
        return value

    def load_data(self, keys: Any) -> Any:
        return [b"", *list(super().load_data(keys))[1:]]


class LosesTasks(peers.PickleFilesUnsynced):
    """Does not save what the second process writes."""

    def save_task(self, task_id: str, artifacts: Any) -> None:
        if task_id != "1000000":
            super().save_task(task_id, artifacts)


@pytest.mark.parametrize(
    ("double", "save", "ask"),
    [
        (ForgetsATask, workloads.save_tasks, lambda call: workloads.look_up(call, "run")),
        (LoadsOthers, workloads.save_tasks, workloads.load_each),
        (LoadsOthers, workloads.save_data, workloads.load_data),
        (
            LoadsOthers,
            lambda call: workloads.save_object(call, "noise"),
            lambda call: workloads.load_object(call, "noise"),
        ),
        (LosesTasks, lambda _: None, lambda call: crowd.crowd(call, "tasks")),
    ],
)
def test_a_fast_wrong_answer_is_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    double: type[peers.Peer],
    save: Callable[[workloads.Call], object],
    ask: Callable[[workloads.Call], object],
) -> None:
    """What a store returns is compared with what was saved, and the benchmark stops; a right one passes."""
    for peer, fails in ((peers.PickleFilesUnsynced, False), (double, True)):
        monkeypatch.setitem(peers.PEERS, "double", peer)
        place = tmp_path / peer.__name__
        place.mkdir()
        call = workloads.Call("double", place, TINY)
        save(call)
        if fails:
            with pytest.raises(workloads.WrongAnswer):
                ask(call)
        else:
            ask(call)


def test_ratios_are_medians_of_the_rounds_ratios() -> None:
    """Not ratios of medians; and a bar is met or not."""
    [row] = [row for row in rows(TINY) if (row.group, row.step, row.cost) == ("tasks", "save", "seconds")]
    ours, theirs = ([{"amount": 1, "seconds": float(second)} for second in each] for each in ([1, 2, 4], [9, 2, 20]))
    line = line_of(row, Measured({("tasks", "save"): {peers.OURS: ours, peers.METAFLOW: theirs}}))
    assert line is not None
    assert (line.ratios, line.figures[peers.OURS], line.met) == ({peers.METAFLOW: 5.0}, 0.5, True)


def test_every_group_has_a_line() -> None:
    """Nothing is measured that the table does not show."""
    assert {row.group for row in rows(TINY)} == {group.name for group in GROUPS}
    assert len(set(NAMES)) == len(GROUPS)
