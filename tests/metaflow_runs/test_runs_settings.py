"""What a run is told from outside (configuration, project, variables), and where its store is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import SQLITE, TYPE, Once, Place, Scene

CONFIG = {"depth": 9, "soup": {"salt": "none"}}
NOT_CONFIGURED = dict.fromkeys(
    ("METAFLOW_DEFAULT_DATASTORE", "METAFLOW_DEFAULT_METADATA", "METAFLOW_DATASTORE_SYSROOT_SQLITE"), ""
)
if not SQLITE:
    NOT_CONFIGURED["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = ""


def look(*run_ids: str) -> list[Any]:
    """Return what runs of SettingsFlow were told."""
    from metaflow import Run, namespace

    namespace(None)
    seen = []
    for run in (Run(f"SettingsFlow/{run_id}") for run_id in run_ids):
        start, end = run["start"].task.data, run.data
        tags = sorted(tag for tag in run.system_tags if tag.startswith("project"))
        seen.append([start.flavour, end.flavour, end.depth, dict(end.settings), end.project, tags])
    return seen


def look_at(stores: list[str]) -> list[Any]:
    """Return what each of some stores, opened one after the other by one process, has of ShortFlow."""
    from metaflow import Flow, Metaflow, get_metadata, metadata

    seen = []
    for store in stores:
        if store:
            metadata(store)
        run = Flow("ShortFlow").latest_run
        seen.append(
            {
                "store": get_metadata(),
                "flows": [flow.id for flow in Metaflow()],
                "runs": [each.id for each in Flow("ShortFlow")],
                "data": run.data.handed_on,
                "stdout": run["start"].task.stdout,
                "size": run["start"].task["taken"].size,
            }
        )
    return seen


@pytest.fixture(scope="module")
def told(once: Once) -> Any:
    """Three runs: nothing is told, a configuration by value, one by file for a project's branch; the second resumed."""

    def make(place: Place) -> Any:
        by_file = place.outside / "config.json"
        by_file.write_text(json.dumps(CONFIG | {"depth": 3}), encoding="utf-8")
        runs = [
            place.run("settings_flow.py"),
            place.run("settings_flow.py", top=("--config-value", "settings", json.dumps(CONFIG))),
            place.run("settings_flow.py", top=("--config", "settings", str(by_file), "--branch", "try")),
        ]
        runs.append(place.flow("settings_flow.py", "resume", "end", "--origin-run-id", runs[1].run_id))
        return place.client(look, *(run.run_id for run in runs))

    return once("settings", make).facts


def test_configuration_and_variables_by_default(told: Any) -> None:
    """A step sees the default configuration, and the variable that is set for it and for no other step."""
    assert told[0][:4] == ["much", None, 2, {"depth": 2, "soup": {"salt": "much"}}]


def test_configuration_by_value(told: Any) -> None:
    """A configuration of the command line replaces the default."""
    assert told[1][:4] == ["none", None, 9, CONFIG]


def test_configuration_by_file(told: Any) -> None:
    """So does one from a file."""
    assert told[2][:4] == ["none", None, 3, CONFIG | {"depth": 3}]


def test_configuration_is_resumed(told: Any) -> None:
    """A resumed run has the configuration of the run that it resumes."""
    assert told[3] == told[1]


def test_project(told: Any) -> None:
    """A project tags its runs with name and branch, and tells them."""
    assert told[0][4:] == [
        {
            "project_name": "kitchen",
            "branch_name": "user.tester",
            "is_user_branch": True,
            "is_production": False,
            "project_flow_name": "kitchen.user.tester.SettingsFlow",
        },
        ["project:kitchen", "project_branch:user.tester"],
    ]
    assert told[2][4]["branch_name"] == "test.try"
    assert told[2][5] == ["project:kitchen", "project_branch:test.try"]


def store_in(folder: Path) -> tuple[str, str]:
    """Return the root of a datastore in a folder, and what ``metadata`` takes for it."""
    root = str(folder / ("runs.db" if SQLITE else ".metaflow"))
    return root, f"{TYPE}@{root if SQLITE else folder}"


@pytest.fixture(scope="module")
def two_stores(once: Once) -> Scene:
    """Two stores, each named on the command line only, with a run in each; seen by one client."""

    def make(place: Place) -> Any:
        stores, runs = [], []
        for note in ("left", "right"):
            folder = place.outside / note
            folder.mkdir()
            root, store = store_in(folder)
            top = (f"--datastore={TYPE}", f"--metadata={TYPE}", f"--datastore-root={root}")
            runs.append(place.run("short_flow.py", "--note", note, top=top, env=NOT_CONFIGURED).run_id)
            stores.append(store)
        seen = place.client(look_at, [*stores, stores[0]], env=NOT_CONFIGURED)
        return {
            "runs": runs,
            "stores": stores,
            "seen": seen,
            "left_in_work": [each.name for each in place.work.iterdir()],
        }

    return once("two-stores", make)


@pytest.mark.parametrize(("turn", "which", "note"), [(0, 0, "left"), (1, 1, "right"), (2, 0, "left")])
def test_stores_are_read_one_after_the_other(two_stores: Scene, turn: int, which: int, note: str) -> None:
    """``metadata("type@path")`` switches to a store, and back; each has its own run, and nothing of the other."""
    facts = two_stores.facts
    assert facts["seen"][turn] == {
        "store": facts["stores"][which],
        "flows": ["ShortFlow"],
        "runs": [facts["runs"][which]],
        "data": f"{note}!",
        "stdout": f"note: {note}\n",
        "size": 15 + len(note),
    }


def test_a_root_on_the_command_line_leaves_the_work_folder_alone(two_stores: Scene) -> None:
    """With ``--datastore-root`` nothing is stored in the folder where the flow runs."""
    assert two_stores.facts["left_in_work"] == []


def test_a_profile(place: Place) -> None:
    """A profile names datastore, metadata provider and place, for runs and clients alike."""
    (place.outside / "elsewhere").mkdir()
    root, store = store_in(place.outside / "elsewhere")
    settings = {"METAFLOW_DEFAULT_DATASTORE": TYPE, "METAFLOW_DEFAULT_METADATA": TYPE}
    settings[f"METAFLOW_DATASTORE_SYSROOT_{TYPE.upper()}"] = root if SQLITE else str(place.outside / "elsewhere")
    folder = place.outside / "home" / ".metaflowconfig"
    folder.mkdir()
    (folder / "config_mine.json").write_text(json.dumps(settings), encoding="utf-8")
    env = NOT_CONFIGURED | {"METAFLOW_PROFILE": "mine"}
    run = place.run("short_flow.py", "--note", "by profile", env=env)
    [seen] = place.client(look_at, [""], env=env)
    assert (seen["store"], seen["runs"], seen["data"]) == (store, [run.run_id], "by profile!")
    assert Path(root).exists()
    assert list(place.work.iterdir()) == []


def test_nothing_configured(place: Place) -> None:
    """Without any place named the store is in the folder where the flow runs."""
    types = dict.fromkeys(("METAFLOW_DEFAULT_DATASTORE", "METAFLOW_DEFAULT_METADATA"), TYPE)
    run = place.run("short_flow.py", env=NOT_CONFIGURED | types)
    [seen] = place.client(look_at, [""], env=NOT_CONFIGURED | types)
    assert seen["store"] == f"{TYPE}@{place.file if SQLITE else place.work}"
    assert seen["runs"] == [run.run_id]
    assert [each.name for each in place.work.iterdir() if SQLITE or each.name == ".metaflow"] == [
        "metaflow.db" if SQLITE else ".metaflow"
    ]


def test_an_unknown_store(place: Place) -> None:
    """A store that is not there cannot be switched to."""

    def switch(store: str) -> str:
        from metaflow import metadata

        try:
            return metadata(store)
        except ValueError as error:
            return f"ValueError: {error}"

    missing = place.outside / "missing" / "runs.db"
    said = place.client(switch, f"{TYPE}@{missing}")
    assert said.startswith("ValueError: ")
    assert str(missing) in said
    assert not missing.parent.exists()
