"""The database: one file, that can be moved and made read-only without anybody noticing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import looks
import pytest
import scenes
from runs import Once, Place, Scene, sqlite_only
from sqlite_oracle import check_file

pytestmark = sqlite_only
LOOKS = {"linear": looks.at_linear, "cards": looks.at_cards, "retried": looks.at_attempts, "failed": looks.at_attempts}


def names(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("name", ["linear", "retried"])
def test_a_run_leaves_one_file(once: Once, name: str) -> None:
    """After a run, good or bad, and a client's look at it, the work folder has the database and nothing else."""
    scene = once(name, getattr(scenes, name))
    assert names(scene.place.work) == ["metaflow.db"]
    check_file(scene.place.file)


def test_nothing_stays_in_the_temporary_folder(once: Once) -> None:
    """What was handed out as files is removed."""
    scene = once("linear", scenes.linear)
    assert names(scene.place.outside / "tmp") == []


def move(place: Place) -> dict[str, Any]:
    """Make runs, look at them, then move the file, remove its folder, make the file read-only, and look again."""
    ids = {"linear": scenes.linear(place)["id"], "cards": place.run("cards_flow.py").run_id}
    retried = scenes.retried(place)
    ids |= {"retried": retried["done"], "failed": retried["failed"]}
    flows = {"retried": ("RetryFlow",), "failed": ("RetryFlow",)}
    facts: dict[str, Any] = {"ids": ids, "before": {}, "after": {}}
    for name, look in LOOKS.items():
        facts["before"][name] = place.client(look, *flows.get(name, ()), ids[name])
    home = place.root / "elsewhere"
    home.mkdir()
    moved = home / "moved away.sqlite"
    place.file.rename(moved)
    shutil.rmtree(place.work)
    place.work.mkdir()  # processes start here
    moved.chmod(0o444)
    home.chmod(0o555)
    env = {"METAFLOW_DATASTORE_SYSROOT_SQLITE": str(moved)} | place.fresh_cache()
    for name, look in LOOKS.items():
        facts["after"][name] = place.client(look, *flows.get(name, ()), ids[name], env=env, unprivileged=True)
    facts["moved"] = str(moved)
    return facts


@pytest.fixture(scope="module")
def moved(once: Once) -> Scene:
    """Runs whose file was moved and made read-only."""
    return once("moved", move)


@pytest.mark.parametrize("name", LOOKS)
def test_a_file_that_was_moved_says_the_same(moved: Scene, name: str) -> None:
    """Artifacts, included files, logs, sizes, metadata, code and cards are read from where the file is now."""
    before, after = (moved.facts[when][name] for when in ("before", "after"))
    old, new = str(moved.place.file), moved.facts["moved"]
    here = json.loads(json.dumps(before).replace(old, new))
    assert list(after) == list(here)
    for what, said in here.items():
        assert after[what] == said, what


def test_a_look_leaves_no_file(moved: Scene) -> None:
    """Neither where the file was nor where it is does anything appear."""
    assert names(moved.place.work) == []
    assert names(Path(moved.facts["moved"]).parent) == ["moved away.sqlite"]
    check_file(moved.facts["moved"])


def command(flow: str, *arguments: str) -> list[str]:
    """Call a flow's command in this process, which is not allowed to write; return what it prints."""
    import contextlib
    import io
    import os
    import runpy
    import sys

    import linear_flow

    printed, complained = io.StringIO(), io.StringIO()
    sys.argv = [os.path.join(os.path.dirname(linear_flow.__file__), flow), "--no-pylint", *arguments]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained), contextlib.suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    return [printed.getvalue(), complained.getvalue()]


def test_commands_on_a_file_that_was_moved(moved: Scene) -> None:
    """``dump``, ``logs``, ``card list`` and ``tag list`` read from a file of which nothing may be written."""
    ids = moved.facts["ids"]

    def call(*arguments: str) -> list[str]:
        env = {"METAFLOW_DATASTORE_SYSROOT_SQLITE": moved.facts["moved"]} | moved.place.fresh_cache()
        return moved.place.client(command, *arguments, env=env, unprivileged=True)

    out, _ = call("linear_flow.py", "dump", f"{ids['linear']}/start", "--include", "text,blob")
    assert "text [size: 27 type: <class 'str'>] = grüße ✓" in out
    assert "blob [size: 10240 type: <class 'metaflow.includefile.IncludedFile'>]" in out
    out, _ = call("retry_flow.py", "logs", f"{ids['failed']}/start", "--stdout", "--attempt", "1")
    assert out == "attempt 1\n"
    out, _ = call("cards_flow.py", "card", "list", f"{ids['cards']}/two", "--as-json")
    assert len(json.loads(out)["cards"]) == 2
    out, err = call("linear_flow.py", "--quiet", "tag", "list", "--run-id", ids["linear"])
    assert (out + err).endswith(" ; first\n")
    assert names(moved.place.work) == []
    assert names(Path(moved.facts["moved"]).parent) == ["moved away.sqlite"]


def test_metadata_leads_to_a_file_that_was_moved(moved: Scene) -> None:
    """``metadata("sqlite@file")`` is enough, whatever file is configured."""

    def read(store: str, run_id: str) -> list[Any]:
        from metaflow import Run, metadata
        from metaflow.cards import get_cards

        metadata(store)
        task = Run(f"LinearFlow/{run_id}")["start"].task
        return [task.data.text, task.data.words[:4], len(task.data.blob), task.stderr, get_cards.__name__]

    answer = moved.place.client(
        read,
        f"sqlite@{moved.facts['moved']}",
        moved.facts["ids"]["linear"],
        env=moved.place.fresh_cache(),
        unprivileged=True,
    )
    assert answer[:4] == ["grüße ✓\n", "eins", 10240, "to stderr\n"]
    assert names(moved.place.work) == []


def test_a_file_that_was_moved_goes_on(place: Place) -> None:
    """A run that failed is resumed from the file's new place, and its old one stays empty."""
    failed = place.run("resume_flow.py", env={"FAIL_IN": "join"}, code=1).run_id
    home = place.root / "elsewhere"
    home.mkdir()
    place.file.rename(home / "runs.db")
    env = {"METAFLOW_DATASTORE_SYSROOT_SQLITE": str(home / "runs.db")} | place.fresh_cache()
    resumed = place.flow("resume_flow.py", "resume", "--origin-run-id", failed, env=env).run_id

    def read(run_id: str) -> list[Any]:
        from metaflow import Run

        run = Run(f"ResumeFlow/{run_id}")
        return [run.successful, run.data.result, run.origin_pathspec, len(list(run["join"].task.parent_tasks))]

    assert place.client(read, resumed, env=env) == [True, 50, f"ResumeFlow/{failed}", 2]
    assert names(place.work) == []
    assert names(home) == ["runs.db"]
    check_file(home / "runs.db")


def test_a_missing_file_is_empty(place: Place) -> None:
    """A client that looks for something in a file that is not there finds nothing, and makes no file."""

    def read() -> list[Any]:
        from metaflow import Flow, Metaflow, Run, Task, get_metadata
        from metaflow.cards import get_cards
        from metaflow.exception import MetaflowNotFound

        def error(function: Any, *arguments: str) -> str:
            try:
                return repr(function(*arguments))
            except MetaflowNotFound as error:
                return type(error).__name__

        path = "LinearFlow/1/start/1"
        found = [error(Flow, "LinearFlow"), error(Run, "LinearFlow/1"), error(Task, path), error(get_cards, path)]
        return [get_metadata(), list(Metaflow()), found]

    said = place.client(read)
    assert said == [f"sqlite@{place.file}", [], ["MetaflowNotFound"] * 4]
    assert names(place.work) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show",), 0),
        (("check",), 0),
        (("dump", "1/start"), 0),
        (("logs", "1/start"), 1),
        (("tag", "list", "--run-id", "1"), 1),
        (("card", "list", "1/start"), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands_make_no_file(place: Place, arguments: tuple[str, ...], code: int) -> None:
    """A command that only reads makes no file, and does not fail with a traceback."""
    done = place.flow("linear_flow.py", *arguments, code=code)
    assert "Traceback" not in done.err + done.out
    assert names(place.work) == []


@pytest.fixture(scope="module")
def large(once: Once) -> Scene:
    """A run with an artifact of 20 MB, which three names in two tasks have."""
    return once("large", scenes.large)


def test_a_large_artifact_is_stored_once(large: Scene) -> None:
    """The file is little larger than the artifact."""
    assert 20_000_000 < os.path.getsize(large.place.file) < 20_800_000
    assert names(large.place.work) == ["metaflow.db"]
    check_file(large.place.file)
