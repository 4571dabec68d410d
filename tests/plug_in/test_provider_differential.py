"""Random histories: the plug-in's metadata provider answers like Metaflow's local one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from metaflow.plugins.datastores.local_storage import LocalStorage
from provider_machine import Providers

_COMMON = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.generate],  # what fails is short enough; shrinking it takes minutes
)


@pytest.fixture(autouse=True)
def _no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStorage, "datastore_root", None)


def run(folder: Path, how: settings) -> None:
    """Run the machine with its files in ``folder``."""
    run_state_machine_as_test(type("ProvidersHere", (Providers,), {"folder": folder}), settings=how)


def test_random_histories_give_the_same_answers(tmp_path: Path) -> None:
    """Runs, tasks, metadata, artifacts and tags, asked for at every level: both say the same."""
    run(tmp_path, settings(_COMMON, max_examples=40, stateful_step_count=25))


@pytest.mark.long
def test_many_random_histories_give_the_same_answers(tmp_path: Path) -> None:
    """The same for a thousand histories that nobody saw before."""
    run(tmp_path, settings(_COMMON, derandomize=False, max_examples=1000, stateful_step_count=50, print_blob=True))
