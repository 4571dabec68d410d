"""A sample of the looks at hostile files, and the bugs that looking must find."""

from __future__ import annotations

from pathlib import Path

import strangers_watch
from helpers_processes import run
from hostile_base import make_places
from proof_strangers import ENVIRONMENT, prove
from strangers_bugs import BUGS

CAUGHT_BY = {
    # The bug: a hostile file, a look at it, and what is said.
    "trusts the file": ("trigger AFTER INSERT that delete", "ls", "is not as it should be"),
    "takes any schema": ("trigger under a reserved name", "ls", "not refused"),
    "trusts every run": ("statistics", "API: load", "was unpickled"),
    "decompresses all": ("bomb", "get to a file", ""),
    "unpacks anything": ("artifact.serializer_info is a huge array", "show task", ""),
    "prints names raw": ("attempt.step escape", "ls run", "control character"),
    "unpickles to compare": ("statistics", "API: diff", "find_class"),
    "opens whatever lies beside": ("journal that names another file", "ls", "not refused"),
    "follows trees for ever": ("tree of trash that repeats itself, 2 deep", "restore", "MiB of memory"),
    "trusts whom nothing is said of": ("untrusted.origin null", "get and print", "find_class"),
    "takes every value for ours": ("artifact.serializer_info 2**62", "import", "a traceback"),
}


def test_nothing_of_a_stranger_is_run_and_all_is_bounded(tmp_path: Path) -> None:
    """A sample of the matrix does nothing that it must not, and really opened files and met errors."""
    found = prove(60, 5, str(tmp_path))
    assert found["looks"] == 60
    assert min(found["errors"], found["connections"], found["statements"]) > 5


def test_each_bug_is_found_by_a_look_that_finds_nothing_without_it(tmp_path: Path) -> None:
    """The look at the hostile file says what is wrong with the bug, and nothing without."""
    assert CAUGHT_BY.keys() == BUGS.keys()
    cases = [[bug, *pair] for name, (*pair, _) in CAUGHT_BY.items() for bug in ("", name)]
    places = list(make_places(str(tmp_path)))
    found = run(strangers_watch.look_with_bugs, str(tmp_path), cases, places, environment=ENVIRONMENT)
    for (name, (*_, expected)), without, caught in zip(CAUGHT_BY.items(), found[::2], found[1::2], strict=True):
        assert without == [], name
        assert caught, name
        assert expected in caught[0], name
