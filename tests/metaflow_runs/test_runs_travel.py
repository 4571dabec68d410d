"""push and pull: runs of real Metaflow go to a file, a folder and a bucket, and its client sees no difference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers_servers import S3Server
from runs import WITH_CODE, Once, Place, Scene, sqlite_only

pytestmark = sqlite_only


def look(provider: str) -> dict[str, Any]:
    """Return all that Metaflow's client says of the flow's runs."""
    import hashlib

    from metaflow import Flow, metadata, namespace
    from metaflow.cards import get_cards
    from metaflow.plugins.cards.exception import CardNotPresentException

    metadata(provider)
    namespace(None)
    places = {"ds-root", "ds-type", "code-package"}

    def cards(task: Any) -> list[str]:
        try:
            return [each.get() for each in get_cards(task)]
        except CardNotPresentException:  # Metaflow's local storage has no folder for none
            return []

    def artifacts(task: Any) -> dict[str, Any]:
        return {
            each.id: [
                each.sha if each.id != "note" else "",
                each.size if each.id != "note" else 0,
                hashlib.sha1(repr(each.data).encode()).hexdigest(),
                each.created_at.timestamp(),
            ]
            for each in task
        }

    return {
        run.id: {
            "run": [run.successful, run.finished, run.created_at.timestamp(), str(run.finished_at)],
            "origin": run.origin_pathspec,
            "tags": [sorted(run.user_tags), sorted(run.system_tags)],
            "code": run.code.flowspec.decode() if run.code else None,
            "steps": {
                step.id: {
                    "created": step.created_at.timestamp(),
                    "parents": [each.id for each in step.parent_steps],
                    "tasks": {
                        task.id: {
                            "said": [
                                task.successful,
                                task.finished,
                                task.current_attempt,
                                task.index,
                                str(task.exception),
                            ],
                            "created": task.created_at.timestamp(),
                            "artifacts": artifacts(task),
                            "logs": [task.stdout, task.stderr],
                            "metadata": sorted(
                                [each.name, str(each.value), each.type, each.created_at]
                                for each in task.metadata
                                if each.name not in places
                            ),
                            "attempts": [
                                [
                                    [each.stdout, sorted(artifact.id for artifact in each)]
                                    for each in [type(task)(task.pathspec, attempt=number)]
                                ]
                                for number in range(task.current_attempt + 1)
                            ],
                            "cards": cards(task),
                        }
                        for task in step
                    },
                }
                for step in run
            },
        }
        for run in Flow("TravelFlow")
    }


LOCAL = {"METAFLOW_DEFAULT_DATASTORE": "local", "METAFLOW_DEFAULT_METADATA": "local"}


def at(place: Place) -> dict[str, str]:
    """Return the variables with which Metaflow's local storage is in the work folder."""
    return LOCAL | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(place.work)}


def travellers(place: Place) -> Any:
    """Make runs with Metaflow's own storage and provider; return what its client says of them."""
    note = place.outside / "note.txt"
    note.write_text("a note of several lines\n" * 1000)
    env = at(place) | WITH_CODE | {"NOTE": str(note)}
    failed = place.run("travel_flow.py", "--tag", "first", env=env | {"FAIL_AT_END": "1"}, code=1).run_id
    resumed = place.flow("travel_flow.py", "resume", "--origin-run-id", failed, "--tag", "again", env=env).run_id
    tried = place.run("travel_flow.py", "--width", "2", env=env).run_id
    place.flow("travel_flow.py", "tag", "add", "--run-id", tried, "later", env=env)
    said = place.client(look, f"local@{place.work}", env=env | place.fresh_cache())
    (place.work / "metaflow.db").unlink(missing_ok=True)
    return {"runs": [failed, resumed, tried], "said": said}


@pytest.fixture(scope="module")
def made(once: Once) -> Scene:
    """Runs in a folder .metaflow."""
    return once("travellers", travellers)


def transfer(place: Place, command: str, *arguments: str, code: int = 0, **env: str) -> Any:
    """Push or pull; return the report."""
    line = ("sqlitestore", "--file", str(place.file), command, *arguments, "--json")
    done = place.command(*line, code=code, env=env)
    assert "Traceback" not in done.err
    return json.loads(done.out)


def test_a_whole_folder_comes_and_goes_back(made: Scene, place: Place) -> None:
    """One command imports all runs of a folder; the client says the same of the file, and of a folder pushed to."""
    report = transfer(place, "pull", str(made.place.work))
    assert (report["runs"], report["problems"]) == (3, [])
    said = place.client(look, f"sqlite@{place.file}", env=place.fresh_cache())
    assert said == made.facts["said"]
    again = transfer(place, "pull", str(made.place.work / ".metaflow"))
    assert (again["tasks"], again["blobs"], again["files"], again["bytes"]) == (0, 0, 0, 0)

    fresh = place.outside / "fresh"
    fresh.mkdir()
    sent = transfer(place, "push", str(fresh))
    assert (sent["runs"], sent["tasks"], sent["problems"]) == (3, report["tasks"], [])
    assert sent["blobs"] == report["blobs"]
    env = LOCAL | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(fresh)}
    assert place.client(look, f"local@{fresh}", env=env | place.fresh_cache()) == made.facts["said"]
    more = transfer(place, "push", str(fresh))
    assert (more["tasks"], more["blobs"], more["files"], more["bytes"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("runs", [1, pytest.param(3, marks=pytest.mark.long)])  # the client takes its time in a bucket
def test_a_laptops_file_goes_to_a_bucket(made: Scene, place: Place, s3_server: S3Server, runs: int) -> None:
    """One command pushes a file to S3; the client reads it there, and it comes back into another file."""
    chosen = [f"TravelFlow/{run_id}" for run_id in made.facts["runs"][-runs:]]
    expected = {run_id: said for run_id, said in made.facts["said"].items() if f"TravelFlow/{run_id}" in chosen}
    transfer(place, "pull", str(made.place.work), *chosen)
    bucket = s3_server.bucket()
    root = f"s3://{bucket}/team/metaflow"
    provider = place.outside / "provider"
    provider.mkdir()
    env = s3_server.environment
    sent = transfer(place, "push", root, "--metadata", str(provider), **env)
    assert (sent["runs"], sent["problems"]) == (runs, [])
    client = env | {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_DATASTORE_SYSROOT_S3": root,
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(provider),
    }
    assert place.client(look, f"local@{provider}", env=client | place.fresh_cache()) == expected
    place.file.unlink()
    back = transfer(place, "pull", root, **env)
    assert (back["runs"], back["blobs"], back["problems"]) == (runs, sent["blobs"], [])
    assert place.client(look, f"sqlite@{place.file}", env=place.fresh_cache()) == expected
