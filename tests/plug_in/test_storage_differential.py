"""Random operations: the plug-in's storage answers like Metaflow's local one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from storage_machine import Storages

_COMMON = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.generate],  # what fails is short enough; shrinking it takes minutes
)


def run(folder: Path, how: settings) -> None:
    """Run the machine with its files in ``folder``."""
    run_state_machine_as_test(type("StoragesHere", (Storages,), {"folder": folder}), settings=how)


def test_random_operations_give_the_same_answers(tmp_path: Path) -> None:
    """Whatever is saved where, overwritten or not: the same paths, bytes, metadata, sizes and listings."""
    run(tmp_path, settings(_COMMON, max_examples=60, stateful_step_count=25))


@pytest.mark.long
def test_many_random_operations_give_the_same_answers(tmp_path: Path) -> None:
    """The same for two thousand histories that nobody saw before."""
    run(tmp_path, settings(_COMMON, derandomize=False, max_examples=2000, stateful_step_count=50, print_blob=True))
