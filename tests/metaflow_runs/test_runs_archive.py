"""Runs of real flows on their way through an archive: Metaflow's client says the same of them, once trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import looks
import pytest
import scenes
from runs import BIN, Once, Place, Scene, sqlite_only
from sqlite_oracle import check_file

pytestmark = sqlite_only
LOOKS = {
    "linear": (looks.at_linear, ()),
    "cards": (looks.at_cards, ()),
    "retried": (looks.at_attempts, ("RetryFlow",)),
    "failed": (looks.at_attempts, ("RetryFlow",)),
    "foreach": (looks.at_attempts, ("ForeachFlow",)),
}
FLOW_OF = {
    "linear": "LinearFlow",
    "cards": "CardsFlow",
    "retried": "RetryFlow",
    "failed": "RetryFlow",
    "foreach": "ForeachFlow",
}


def command(place: Place, file: Path, *arguments: str, code: int = 0) -> Any:
    """Call our command line on a file."""
    return place.command(str(BIN / "sqlitestore"), "--file", str(file), *arguments, code=code)


def at(place: Place, file: Path) -> dict[str, str]:
    """Return what makes Metaflow use a file, with a cache of its own."""
    return {"METAFLOW_DATASTORE_SYSROOT_SQLITE": str(file)} | place.fresh_cache()


def untrusted_look(run_id: str) -> dict[str, Any]:
    """Return what the client says of a run of LinearFlow that is not trusted."""
    from metaflow import Run

    run = Run(f"LinearFlow/{run_id}")
    start = run["start"].task

    def error(load: Any) -> str:
        try:
            load()
        except Exception as caught:
            return str(caught)
        return ""

    return {
        "lists": [
            sorted(artifact.id for artifact in start),
            [step.id for step in run],
            start.stdout,
            start.metadata_dict["ds-type"],
            sorted(run.user_tags),
            start["text"].sha != "",
            len(run.code.flowspec) > 0 if run.code else None,
        ],
        "errors": [
            error(lambda: start.data.text),
            error(lambda: start["text"].data),
            error(lambda: run.data.number),
            error(lambda: run["end"].task.artifacts.text.data),
        ],
    }


def send(place: Place) -> dict[str, Any]:
    """Make runs, export them, look at the archive and at what was imported before and after it is trusted."""
    ids = {"linear": scenes.linear(place)["id"], "cards": place.run("cards_flow.py").run_id}
    ids["foreach"] = place.run("foreach_flow.py").run_id
    retried = scenes.retried(place)
    ids |= {"retried": retried["done"], "failed": retried["failed"]}
    facts: dict[str, Any] = {"ids": ids, "before": {}, "archive": {}, "merged": {}}
    for name, (look, arguments) in LOOKS.items():
        facts["before"][name] = place.client(look, *arguments, ids[name])
    home = place.root / "elsewhere"
    home.mkdir()
    archive, merged = home / "archive.db", home / "merged.db"
    pathspecs = [f"{FLOW_OF[name]}/{run}" for name, run in ids.items()]
    command(place, place.file, "export", *pathspecs, "-o", str(archive))
    command(place, merged, "import", str(archive))
    facts["again"] = json.loads(command(place, merged, "import", str(archive), "--json").out)
    facts["difference"] = command(place, place.file, "diff", str(place.file), str(merged), "--details").out
    facts["untrusted"] = place.client(untrusted_look, ids["linear"], env=at(place, merged))
    flow = ("linear_flow.py", "dump", f"{ids['linear']}/start", "--include", "text")
    facts["dump"] = place.flow(*flow, code=1, env=at(place, merged)).err
    resume = ("retry_flow.py", "resume", "--origin-run-id", ids["failed"])
    facts["resume"] = place.flow(*resume, code=1, env=at(place, merged)).err
    for kind, file in (("archive", archive), ("merged", merged)):
        command(place, file, "trust")
        for name, (look, arguments) in LOOKS.items():
            facts[kind][name] = place.client(look, *arguments, ids[name], env=at(place, file))
    facts["dump trusted"] = place.flow(*flow, env=at(place, merged)).out
    resumed = place.flow("retry_flow.py", "resume", "--origin-run-id", ids["retried"], env=at(place, merged))
    facts["resumed"] = resumed.run_id
    facts["files"] = {"archive": str(archive), "merged": str(merged)}
    facts["old"] = str(place.file)
    return facts


@pytest.fixture(scope="module")
def sent(once: Once) -> Scene:
    """Runs that went through an archive."""
    return once("sent", send)


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("kind", ["archive", "merged"])
def test_the_client_says_the_same(sent: Scene, kind: str, name: str) -> None:
    """Artifacts, included files, logs, sizes, metadata, code, tags, attempts and cards, of an archive and an import."""
    before, after = sent.facts["before"][name], sent.facts[kind][name]
    here = json.loads(json.dumps(before).replace(sent.facts["old"], sent.facts["files"][kind]))
    for what, said in here.items():
        if what not in {"flows", "latest"}:  # what else is in the file
            assert after[what] == said, what


def test_nothing_differs_and_nothing_comes_twice(sent: Scene) -> None:
    """``diff --details`` of the two files finds nothing in the runs; the second import skips all."""
    assert sent.facts["difference"] == ""
    assert (sent.facts["again"]["added"], len(sent.facts["again"]["skipped"])) == ([], 5)
    for file in sent.facts["files"].values():
        assert [name for name in os.listdir(Path(file).parent) if name.startswith(Path(file).name)] == [Path(file).name]
        check_file(file)


def test_before_trust_the_client_lists_and_loads_nothing(sent: Scene) -> None:
    """Names, logs, metadata, tags and code are there; each way to the data says how it opens."""
    names, steps, stdout, kind, tags, has_sha, code = sent.facts["untrusted"]["lists"]
    assert {"text", "number"} <= set(names)
    assert steps == ["end", "middle", "start"]
    assert "Grüße" in stdout
    assert (kind, tags, has_sha, code) == ("sqlite", ["first"], True, True)
    run = f"LinearFlow/{sent.facts['ids']['linear']}"
    for error in sent.facts["untrusted"]["errors"]:
        assert "may run any code" in error
        assert f"trust {run}" in error


def test_before_trust_metaflows_commands_refuse(sent: Scene) -> None:
    """``dump`` and ``resume`` say how; once the run is trusted they work."""
    assert "may run any code" in sent.facts["dump"], sent.facts["dump"][-800:]
    assert f"trust LinearFlow/{sent.facts['ids']['linear']}" in sent.facts["dump"]
    assert f"trust RetryFlow/{sent.facts['ids']['failed']}" in sent.facts["resume"], sent.facts["resume"][-800:]
    assert "text [size: 27 type: <class 'str'>] = grüße ✓" in sent.facts["dump trusted"]
    assert sent.facts["resumed"]
