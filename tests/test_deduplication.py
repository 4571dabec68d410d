"""Nothing is stored twice: what the file grows by when something like it is in the store already."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sqlitestore import FlowDataStore

SIZE = 40_000_000
"""[bytes] The issue's figures are for 200 MB; the shares are the same. `--long` runs them at full size."""


def size_after(path: Path, work: Callable[[FlowDataStore], object]) -> int:
    """Do ``work`` on the store and return the size [bytes] of the file at rest."""
    with FlowDataStore("GrowFlow", ds_root=path) as flow:
        work(flow)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return os.path.getsize(path)


def save_array(task_id: str, array: Any, run_id: str = "1") -> Callable[[FlowDataStore], None]:
    def work(flow: FlowDataStore) -> None:
        task = flow.get_task_datastore(run_id, "step", task_id, attempt=0, mode="w")
        task.init_task()
        task.save_artifacts([("array", array)])
        task.done()

    return work


def changes(array: np.ndarray) -> dict[str, np.ndarray]:
    one_changed = array.copy()
    one_changed[len(array) // 3] += 1
    return {
        "again": array,
        "one element changed": one_changed,
        "1 % appended": np.concatenate([array, array[: len(array) // 100][::-1] + 1]),
        "one element inserted at the front": np.concatenate([array[:1] + 1, array]),
    }


def check_growth(path: Path, size: int) -> dict[str, float]:
    noise = np.random.default_rng(0).random(size // 8)
    before = size_after(path, save_array("0", noise))
    assert before > size * 0.9  # noise does not shrink, so the growth below is measured against all of it
    shares = {}
    for number, (what, array) in enumerate(changes(noise).items(), start=1):
        after = size_after(path, save_array(str(number), array))
        shares[what] = (after - before) / size
        before = after
    with FlowDataStore("GrowFlow", ds_root=path) as flow:
        for number, array in enumerate(changes(noise).values(), start=1):
            assert np.array_equal(flow.get_task_datastore("1", "step", str(number))["array"], array)
    return shares


def lines(kind: str, size: int) -> bytes:
    numbers = np.random.default_rng(1).random(size // 30)
    if kind == "csv":
        return b"".join(b"%d,%.15f,row\n" % (index, number) for index, number in enumerate(numbers.tolist()))
    return b"".join(json.dumps({"row": index, "x": x}).encode() + b"\n" for index, x in enumerate(numbers.tolist()))


def check_data_growth(path: Path, kind: str, size: int) -> dict[str, float]:
    text = lines(kind, size)
    before = size_after(path, lambda flow: flow.save_data([text]))
    first, middle = text.index(b"\n") + 1, text.index(b"\n", len(text) // 2) + 1
    shares = {}
    for what, changed in {
        "again": text,
        "one line at the front": b"new" + text[:first] + text,
        "one line changed": text[:middle] + b"other\n" + text[text.index(b"\n", middle) + 1 :],
        "1 % appended": text + lines(kind, size // 100)[::-1],
    }.items():
        after = size_after(path, lambda flow, changed=changed: flow.save_data([changed]))
        shares[what] = (after - before) / len(text)
        before = after
    return shares


def test_an_array_saved_again_costs_only_its_change(tmp_path: Path) -> None:
    """One element changed, 1 % appended or one inserted at the front: the file grows by less than 2 %."""
    shares = check_growth(tmp_path / "runs.db", SIZE)
    assert shares["again"] <= 0.001
    # At a fifth of the size a chunk weighs five times as much.
    assert max(shares.values()) < 0.05, shares


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_lines_saved_again_cost_only_their_change(tmp_path: Path, kind: str) -> None:
    """CSV and JSON lines through save_data: the same."""
    shares = check_data_growth(tmp_path / "runs.db", kind, SIZE // 2)
    assert shares["again"] <= 0.001
    assert max(shares.values()) < 0.07, shares


@pytest.mark.long
def test_200_mb_saved_again_grow_the_file_by_less_than_2_percent(tmp_path: Path) -> None:
    """The figures of the issue, at its size."""
    (tmp_path / "array").mkdir()
    shares = check_growth(tmp_path / "array" / "runs.db", 200_000_000)
    (tmp_path / "csv").mkdir()
    for what, share in check_data_growth(tmp_path / "csv" / "runs.db", "csv", 200_000_000).items():
        shares[f"csv: {what}"] = share
    print({what: f"{share:.2%}" for what, share in shares.items()})
    assert max(shares.values()) < 0.02, shares


def test_equal_arrays_are_stored_once_wherever_they_are(tmp_path: Path) -> None:
    """The same array in two artifacts, tasks, runs and flows, alone or inside other objects, is there once."""
    array = np.random.default_rng(2).random(1_000_000)
    path = tmp_path / "runs.db"
    before = size_after(path, save_array("1", array))

    def everywhere(flow: FlowDataStore) -> None:
        save_array("2", array.copy())(flow)
        save_array("3", {"inside": [array, "something else"]}, run_id="2")(flow)
        flow.save_data([array.tobytes()])
        other = FlowDataStore("OtherFlow", ds_root=path)
        save_array("1", array)(other)
        other.close()

    assert size_after(path, everywhere) - before < array.nbytes * 0.02


def test_equal_chunks_inside_one_array_are_stored_once(tmp_path: Path) -> None:
    """A repeating array takes the space of its period."""
    array = np.tile(np.random.default_rng(3).random(131_072), 40)
    assert size_after(tmp_path / "runs.db", save_array("1", array)) < array.nbytes / 5


def test_a_growing_log_costs_only_what_was_added(tmp_path: Path) -> None:
    """A log that is saved whole again and again while it grows takes about its own size, and reads as last saved."""
    noise = os.urandom(2_000_000)
    path = tmp_path / "runs.db"

    def grow(flow: FlowDataStore) -> None:
        task = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        task.init_task()
        for end in range(10_000, len(noise) + 1, 10_000):
            task.save_logs("task", {"stdout": noise[:end]})
        reader = flow.get_task_datastore("1", "step", "1", allow_not_done=True)
        assert reader.load_logs(["task"], "stdout") == [("task", noise)]
        assert reader.get_log_size(["task"], "stdout") == len(noise)

    assert size_after(path, grow) < len(noise) * 1.3


def test_a_log_that_changed_is_replaced(tmp_path: Path) -> None:
    """A log that does not continue the saved one takes its place whole, also when it is shorter or empty."""
    with FlowDataStore("GrowFlow", ds_root=tmp_path / "runs.db") as flow:
        task = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        task.init_task()
        for log in (b"one\n", b"one\ntwo\n", b"one\nTWO\nthree\n", b"one", b"", b"", b"again"):
            task.save_logs("task", {"stdout": log})
            reader = flow.get_task_datastore("1", "step", "1", allow_not_done=True)
            assert reader.load_logs(["task"], "stdout") == [("task", log)]
            assert reader.get_log_size(["task"], "stdout") == len(log)


def test_a_scrubbed_log_is_gone_from_the_file(tmp_path: Path) -> None:
    """After scrubbing, the old text is nowhere in the file, not even in freed pages."""
    path = tmp_path / "runs.db"
    secret = b"password=" + os.urandom(20).hex().encode()
    with FlowDataStore("GrowFlow", ds_root=path) as flow:
        task = flow.get_task_datastore("1", "step", "1", attempt=0, mode="w")
        task.init_task()
        task.save_logs("task", {"stdout": secret})
        task.save_logs("task", {"stdout": secret + b" and more"})
        task.done()
    assert secret in path.read_bytes()
    with FlowDataStore("GrowFlow", ds_root=path) as flow:
        flow.get_task_datastore("1", "step", "1", mode="d").scrub_logs(["task", "runtime"], "stdout")
        assert flow.get_task_datastore("1", "step", "1").load_logs(["task", "runtime"], "stdout") == [
            ("task", b"[REDACTED task stdout]"),
            ("runtime", b""),
        ]
    assert secret not in path.read_bytes()
