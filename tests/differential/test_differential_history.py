"""Random histories, told to Metaflow's local datastore and to ours: every answer is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from differential_machine import History
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

_COMMON = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)


def test_a_random_history_gives_the_same_answers(tmp_path: Path) -> None:
    """Runs, retries, unfinished attempts, records, logs and data: asked at any moment, both say the same."""
    run_state_machine_as_test(
        lambda: History(tmp_path), settings=settings(_COMMON, max_examples=40, stateful_step_count=20)
    )


@pytest.mark.long
def test_many_long_random_histories_give_the_same_answers(tmp_path: Path) -> None:
    """The same for a thousand histories that nobody saw before."""
    many = settings(_COMMON, derandomize=False, max_examples=1000, stateful_step_count=50, print_blob=True)
    run_state_machine_as_test(lambda: History(tmp_path), settings=many)
