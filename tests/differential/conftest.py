"""Fixtures of the differential tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from differential_pair import Pair, open_pair


@pytest.fixture
def flows(tmp_path: Path) -> Iterator[Pair]:
    """Flow datastores of Metaflow and of ours, both empty."""
    pair = open_pair(tmp_path)
    yield pair
    pair.ours.close()
