"""Fixtures of the tests that run flows: places, and what is made once and looked at by many tests."""

from __future__ import annotations

import fcntl
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Once, Place, Scene


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for one test."""
    return Place.made(tmp_path)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)`` gives a place and what ``make(place)`` returned for it, which must be JSON values.

    It is made by the first who asks, in whichever of xdist's workers; the others wait, and share it. So nobody may
    change anything there.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Place], Any]) -> Scene:
        folder = shared / f"scene-{name}"
        folder.mkdir(exist_ok=True)
        place = Place.made(folder)
        answer = folder / "facts.json"
        with open(folder / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not answer.exists():
                try:
                    made = {"facts": make(place)}
                except BaseException:
                    answer.write_text(json.dumps({"failed": traceback.format_exc()}), encoding="utf-8")
                    raise
                answer.write_text(json.dumps(made), encoding="utf-8")
        told = json.loads(answer.read_text(encoding="utf-8"))
        if "failed" in told:
            pytest.fail(f"Could not be made: {told['failed']}")
        return Scene(place, told["facts"])

    return get
