"""Runs that are resumed: what is cloned, what is run again, and where it came from."""

from __future__ import annotations

import re
from typing import Any

import pytest
from runs import Once, Place, Process, Scene, sqlite_only

STEPS = ("start", "work", "join", "end")


def look(*run_ids: str) -> dict[str, Any]:
    """Return what the client says about runs of ResumeFlow, in which run each step was run among it."""
    from metaflow import Flow, Run

    def facts(run: Run) -> dict[str, Any]:
        tasks = [task for step in run for task in step]
        ran_in = run.data.ran_in if run.data else {}
        return {
            "run": [run.successful, run.finished, run.origin_pathspec],
            "tags": sorted(run.user_tags),
            "steps": sorted(step.id for step in run),
            "ran_in": ran_in,
            "origins": {step.id: sorted(str(task.origin_pathspec) for task in step) for step in run},
            "pathspecs": {step.id: sorted(task.pathspec for task in step) for step in run},
            "attempts": [task.current_attempt for task in tasks],
            "squares": sorted(task.data.square for task in run["work"]),
            "indices": sorted(task.index for task in run["work"]),
            "stdout": sorted(task.stdout for task in run["work"]),
            "parents": len(list(run["join"].task.parent_tasks)),
            "result": run.data.result if run.data else None,
            "origin": getattr(run["join"].task.data, "origin", None) if run.data else None,
            "seed": run["start"].task.data.seed,
            "metadata": sorted({task.metadata_dict.get("origin-run-id") for task in tasks}),
        }

    return {
        "latest": Flow("ResumeFlow").latest_run.id,
        "runs": {run_id: facts(Run(f"ResumeFlow/{run_id}")) for run_id in run_ids},
    }


@pytest.fixture(scope="module")
def resumed(once: Once) -> Any:
    """A run that failed in its join, one that resumes it, and one from each step by name that resumes the latter."""

    def make(place: Place) -> Any:
        failed = place.run("resume_flow.py", "--seed", "3", "--tag", "old", env={"FAIL_IN": "join"}, code=1)
        ids = {"failed": failed.run_id, "resumed": place.flow("resume_flow.py", "resume", "--tag", "new").run_id}
        for step in STEPS:
            done = place.flow("resume_flow.py", "resume", step, "--origin-run-id", ids["resumed"])
            ids[step] = done.run_id
        return {"ids": ids, **place.client(look, *ids.values())}

    return once("resumed", make).facts


def seen(resumed: Any, name: str) -> Any:
    """Return what is seen of a run, by its name."""
    return resumed["runs"][resumed["ids"][name]]


def test_the_run_that_failed(resumed: Any) -> None:
    """It has the tasks up to the failed one."""
    failed = seen(resumed, "failed")
    assert failed["run"] == [False, False, "ResumeFlow/None"]
    assert failed["steps"] == ["join", "start", "work"]
    assert failed["squares"] == [9, 16]
    assert failed["stdout"] == ["square 16\n", "square 9\n"]


def test_resume_runs_what_had_failed(resumed: Any) -> None:
    """All that was done is cloned from the latest run, what failed and what follows is run, with the old parameters."""
    ids, run = resumed["ids"], seen(resumed, "resumed")
    assert run["run"] == [True, True, f"ResumeFlow/{ids['failed']}"]
    assert run["ran_in"] == dict.fromkeys(("start", "work"), ids["failed"]) | dict.fromkeys(
        ("join", "end"), ids["resumed"]
    )
    assert (run["result"], run["seed"], run["squares"], run["indices"]) == (250, 3, [9, 16], [0, 1])
    assert run["tags"] == ["new"]
    assert set(run["attempts"]) == {0}


def test_cloned_tasks_know_their_origin(resumed: Any) -> None:
    """A cloned task leads to the one that it was cloned from; one that was run here to none."""
    old, run = seen(resumed, "failed"), seen(resumed, "resumed")
    assert run["origins"]["work"] == old["pathspecs"]["work"]
    assert run["origins"]["start"] == old["pathspecs"]["start"]
    assert run["origins"]["join"] == run["origins"]["end"] == ["None"]
    assert run["metadata"] == [resumed["ids"]["failed"]]
    assert run["origin"] == resumed["ids"]["failed"]


def test_cloned_tasks_have_no_logs(resumed: Any) -> None:
    """Logs are not cloned, and the client finds parents among the clones."""
    run = seen(resumed, "resumed")
    assert run["stdout"] == ["", ""]
    assert run["parents"] == 2


@pytest.mark.parametrize("step", STEPS)
def test_resume_from_a_step(resumed: Any, step: str) -> None:
    """The named step and all that follow are run again, those before are cloned."""
    ids, run, old = resumed["ids"], seen(resumed, step), seen(resumed, "resumed")
    again = STEPS[STEPS.index(step) :]
    assert run["run"] == [True, True, f"ResumeFlow/{ids['resumed']}"]
    assert run["steps"] == sorted(STEPS)
    assert run["ran_in"] == {name: ids[step] if name in again else old["ran_in"][name] for name in STEPS}
    for name in STEPS:
        assert run["origins"][name] == (
            ["None"] * len(run["pathspecs"][name]) if name in again else old["pathspecs"][name]
        )
    assert (run["result"], run["seed"]) == (250, 3)


def test_a_resumed_run_is_the_latest(resumed: Any) -> None:
    """The client's latest run is the one that was made last."""
    assert resumed["latest"] == resumed["ids"]["end"]


def test_resume_of_nothing(place: Place) -> None:
    """Without an earlier run, with an unknown one or with an unknown step, resume fails and says why."""
    assert "A previous run id was not found" in place.flow("resume_flow.py", "resume", code=1).err
    unknown = place.flow("resume_flow.py", "resume", "--origin-run-id", "12345", code=1)
    assert "12345" in unknown.err
    wrong = place.flow("resume_flow.py", "resume", "nowhere", "--origin-run-id", "12345", code=1)
    assert "invalid step name nowhere" in wrong.err


def test_the_file_of_the_run_id(place: Place) -> None:
    """``--run-id-file`` has the id that is printed, of a run and of a resumed one, also if it fails."""
    for arguments, env, code in (
        (("run",), {"FAIL_IN": "start"}, 1),
        (("resume",), {"FAIL_IN": "start"}, 1),
    ):
        target = place.outside / "the_id"
        done = place.flow("resume_flow.py", *arguments, "--run-id-file", str(target), env=env, code=code)
        [printed] = re.findall(r"Workflow starting \(run-id (\d+)\)", done.out)
        assert target.read_text(encoding="utf-8") == printed


def start_clone(place: Place, old: str, number: int) -> Process:
    """Start to clone a run into the run ``named-run``, as one of many, as remote schedulers do."""
    options = ("--origin-run-id", old, "--run-id", "named-run", "--reentrant", "--clone-only")
    return place.start_flow("resume_flow.py", "resume", *options, "--resume-identifier", f"start-{number}")


LEADS = "Selected as the reentrant clone leader"


@pytest.fixture(scope="module")
def together(once: Once) -> Scene:
    """Three processes that clone one run into one new run, the first of which is done before the others begin."""

    def make(place: Place) -> Any:
        old = place.run("resume_flow.py", env={"FAIL_IN": "join"}, code=1).run_id
        said = [start_clone(place, old, 0).finish().out]
        others = [start_clone(place, old, number) for number in (1, 2)]
        return {"old": old, "said": said + [process.finish().out for process in others]}

    return once("together", make)


def test_one_leads_a_resume(together: Scene) -> None:
    """The first clones, the others see that it is done."""
    first, *others = together.facts["said"]
    assert LEADS in first
    assert first.count("Cloning task from") == 3
    for said in others:
        assert "Resume leader is start-0." in said
        assert "Resume already complete" in said
        assert "Cloning task from" not in said


@sqlite_only  # Metaflow's local provider was seen to elect two
@pytest.mark.long  # who has to wait for the leader sleeps for a minute
def test_one_leads_a_resume_at_once(place: Place) -> None:
    """Of many that begin at once exactly one clones; others may be told that its first task is not done yet."""
    old = place.run("resume_flow.py", env={"FAIL_IN": "join"}, code=1).run_id
    done = [process.finish(code=None, seconds=300) for process in [start_clone(place, old, n) for n in range(6)]]
    assert [each.code for each in done if LEADS in each.out] == [0]
    assert sum(each.out.count("Cloning task from") for each in done) == 3
    for each in done:
        assert each.code == 0 or "No completed attempts of the task was found" in each.err


@sqlite_only  # Metaflow's local provider does not register tasks whose ids it has not made
def test_tasks_of_a_led_resume_are_seen(together: Scene) -> None:
    """The tasks that the leader cloned, under their old numbers, are seen by the client."""

    def tasks(run_id: str) -> list[str]:
        from metaflow import Run

        return sorted(task.pathspec for step in Run(f"ResumeFlow/{run_id}") for task in step)

    old = together.place.client(tasks, together.facts["old"])
    new = together.place.client(tasks, "named-run")
    assert new == [path.replace(together.facts["old"], "named-run") for path in old if "/join/" not in path]
