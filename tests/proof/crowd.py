"""A crowd of processes on one file: starts it, waits for its end, and looks whether all that it did is there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import crowd_bugs
import crowd_metaflow
import crowd_roles
import crowd_upkeep
from crowd_content import FLOW, PASSING, check_data, check_task
from crowd_member import PATIENCE, Member, Setting, live
from helpers_processes import HERE, fork, run
from sqlite_oracle import check_file

from sqlitestore import FlowDataStore, SQLiteStorage, tags_of, verify

ROLES: dict[str, Callable[[Member], None]] = {
    "writer": crowd_roles.writer,
    "passer": crowd_roles.passer,
    "reader": crowd_roles.reader,
    "keeper": crowd_roles.keeper,
    "tagger": crowd_roles.tagger,
    "opener": crowd_roles.opener,
    "threaded": crowd_roles.threaded,
    "forker": crowd_roles.forker,
    "pruner": crowd_upkeep.pruner,
    "compactor": crowd_upkeep.compactor,
    "verifier": crowd_upkeep.verifier,
    "exporter": crowd_upkeep.exporter,
    "importer": crowd_upkeep.importer,
    "plugged": crowd_metaflow.plugged,
}

LONGEST_WAIT = 60.0
"""[s] That nothing short may take. BUSY_TIMEOUT is 300 s; who comes near that is starved, not just one of many."""

JOBS = {"verified", "verified quickly", "live runs exported", "archives imported", "compacted", "trash emptied",
        "imported runs purged", "runs pruned"}  # fmt: skip
"""What looks at more than one thing: how long that lasts follows the size of the file and the share of a processor."""

FOLDERS = ("store", "said", "reports", "wrong", "archives")


class Crowd(NamedTuple):
    """How many of each role there are, for how long [s], and with which journal (None: the write-ahead log)."""

    roles: dict[str, int]
    seconds: float
    seed: int
    journal: str | None = None
    bug: str = ""

    @property
    def members(self) -> list[str]:
        """Return the names of all."""
        return [f"{role}{number}" for role, count in self.roles.items() for number in range(count)]


def gather(crowd: Crowd, folder: str) -> dict[str, int | float]:
    """Let a crowd loose in a fresh process and an empty folder; return figures. Raises AssertionError."""
    outcome = run(let_loose, folder, *crowd, timeout=crowd.seconds + 2 * PATIENCE, environment=environment())
    if outcome["wrong"]:
        shown = "\n".join(outcome["wrong"][:3])
        raise AssertionError(f"seed {crowd.seed}: {len(outcome['wrong'])} things went wrong:\n{shown}")
    return outcome["figures"]  # type: ignore[no-any-return]


def environment() -> dict[str, str]:
    """Return what a fresh process needs to find these modules; and who works there, since Metaflow asks."""
    here = os.path.dirname(os.path.abspath(__file__))
    return {"PYTHONPATH": os.pathsep.join([HERE, here]), "USERNAME": "tester"}


def let_loose(
    folder: str, roles: dict[str, int], seconds: float, seed: int, journal: str | None, bug: str
) -> dict[str, Any]:
    """Do what ``gather`` says in this process; what went wrong is a list in the outcome."""
    members = Crowd(roles, seconds, seed).members
    if "plugged" in roles:
        import metaflow  # noqa: F401 - once, rather than in each of its members
    for name in FOLDERS:
        os.mkdir(os.path.join(folder, name))
    setting = Setting(folder, seed, 0.0, journal, tuple(members))
    for name in members:
        if name.startswith("importer"):
            crowd_upkeep.prepare_archive(setting, name)
    with ExitStack() as bugs:
        if bug:
            bugs.enter_context(crowd_bugs.BUGS[bug]())
        setting = setting._replace(end=time.monotonic() + 0.02 * len(members) + seconds)
        children = {fork(live, setting, name, ROLES[name.rstrip("0123456789")]): name for name in members}
        log = _wait(setting, children)
    wrong = _what_went_wrong(setting)
    reports = [] if wrong else _reports(setting, wrong)
    if not wrong:
        for check in (_check_at_rest, _check_what_was_said, _check_at_rest):
            _note(wrong, check, setting)
    return {"wrong": wrong, "figures": {} if wrong else _figures(reports, log)}


def _note(wrong: list[str], check: Callable[[Setting], None], setting: Setting) -> None:
    try:
        check(setting)
    except Exception as error:
        wrong.append(f"at the end: {type(error).__name__}: {error}")


def _wait(setting: Setting, children: dict[int, str]) -> int:
    """Wait for all; end those that hang. Return the largest size that the log had [bytes]."""
    largest = 0
    stopped = 0.0
    while children:
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                name = children.pop(pid)
                if status and not any(each.split()[0] == name for each in os.listdir(setting.place("wrong"))):
                    _write_down(setting, name, f"ended with {os.waitstatus_to_exitcode(status)}")
        if os.path.exists(setting.place("stop")):
            stopped = stopped or time.monotonic()
            if time.monotonic() > stopped + 20:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
        if os.path.exists(f"{setting.path}-wal"):
            largest = max(largest, _size(f"{setting.path}-wal"))
        time.sleep(0.05)
    return largest


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _write_down(setting: Setting, name: str, what: str) -> None:
    with open(setting.place("wrong", name), "w", encoding="ascii") as file:
        file.write(what)
    with open(setting.place("stop"), "w", encoding="ascii"):
        pass


def _what_went_wrong(setting: Setting) -> list[str]:
    wrong = []
    for name in sorted(os.listdir(setting.place("wrong"))):
        with open(setting.place("wrong", name), encoding="utf-8") as file:
            wrong.append(f"{name}: {file.read()}")
    return wrong


def _reports(setting: Setting, wrong: list[str]) -> list[dict[str, Any]]:
    """Return what each member reports; nobody was passed over, and nothing short took long."""
    reports = []
    for name in setting.members:
        with open(setting.place("reports", name), encoding="ascii") as file:
            report = json.load(file) | {"role": name.rstrip("0123456789")}
        if report["rounds"] < 1 or not report["counts"]:
            wrong.append(f"{name} got nothing done")
        wrong += [
            f"{name} starved: {what} took {seconds:.1f} s"
            for what, seconds in report["longest"].items()
            if what not in JOBS and seconds > LONGEST_WAIT
        ]
        reports.append(report)
    return reports


def _figures(reports: list[dict[str, Any]], log: int) -> dict[str, int | float]:
    counts: Counter[str] = Counter()
    longest: dict[str, float] = {}
    for report in reports:
        counts.update(report["counts"])
        for what, seconds in report["longest"].items():
            key = f"longest {what}, {report['role']} [s]" if what == "wait to write" else f"longest of {what} [s]"
            longest[key] = max(longest.get(key, 0.0), round(seconds, 3))
    rounds = min(report["rounds"] for report in reports)
    return {
        "processes": len(reports), "fewest rounds of a process": rounds, **dict(sorted(counts.items())),
        **dict(sorted(longest.items())), "peak of the log [MiB]": log // 2**20,
    }  # fmt: skip


def _check_at_rest(setting: Setting) -> None:
    """Nothing lies beside the file, it is sound by the oracle that shares no code, and has the journal it should."""
    assert os.listdir(os.path.dirname(setting.path)) == ["runs.db"], os.listdir(os.path.dirname(setting.path))
    check_file(setting.path)
    with open(setting.path, "rb") as file:
        versions = file.read(20)[18:]
    assert versions == bytes([1 if setting.journal else 2] * 2), f"its journal has changed: {versions!r}"


def _check_what_was_said(setting: Setting) -> None:
    """All that was acknowledged is there, whole; what was pruned is not; and the file verifies."""
    how = partial(SQLiteStorage, journal_mode=setting.journal)
    with FlowDataStore(FLOW, ds_root=setting.path, storage_impl=how, trust=True) as flow:
        said = list(_said(setting))
        _check_tasks(flow, said)
        for kind, *words in said:
            if kind == "data":
                [(_, data)] = flow.load_data([words[1]])
                check_data(words[0], data)
            elif kind == "imported":
                crowd_upkeep.check_imported(flow, words[0])
        for run, tags in {words[1]: words[2] for words in said if words[0] == "tags"}.items():
            assert set(tags) <= set(tags_of(flow, run)[0].tags), f"of the tags {tags} some are lost"
        assert verify(flow).ok, verify(flow).problems[:5]
    _check_plugged(setting, said)


def _said(setting: Setting) -> Iterator[list[Any]]:
    for name in setting.members:
        with open(setting.place("said", name), encoding="ascii") as ledger:
            yield from map(json.loads, ledger)


def _check_tasks(flow: FlowDataStore, said: list[list[Any]]) -> None:
    gone: dict[str, bool] = {}
    for kind, *words in said:
        if kind in {"prunes", "restored"}:  # each run has one pruner: these are in order
            gone[words[0]] = kind == "prunes"
    pathspecs = [words[1] for words in said if words[0] == "task" and not words[1][0].isdigit()]
    found = {task.pathspec: task for task in flow.get_latest_task_datastores(pathspecs=pathspecs)}
    for pathspec in pathspecs:
        is_gone = pathspec.startswith(PASSING) and gone.get(pathspec.split("/")[0], False)
        assert (pathspec in found) is not is_gone, f"{pathspec} was {'pruned' if is_gone else 'done'}: not so"
        if not is_gone:
            check_task(found[pathspec], pathspec)


def _check_plugged(setting: Setting, said: list[list[Any]]) -> None:
    """What came through the plug-in is there, by our own API; no id was given out twice."""
    ids = [words[1] for words in said if words[0] == "id"]
    assert len(set(ids)) == len(ids), f"an id was given out twice: {sorted(ids)}"
    if ids:
        with FlowDataStore(crowd_metaflow.FLOW, ds_root=setting.path) as flow:
            pathspecs = [words[1] for words in said if words[0] == "task" and words[1][0].isdigit()]
            found = {task.pathspec: task for task in flow.get_latest_task_datastores(pathspecs=pathspecs)}
            for pathspec in pathspecs:
                assert pathspec in found, f"{pathspec} was done through the plug-in, and is not there"
                check_task(found[pathspec], pathspec)
            tags = {each.pathspec: each.tags for each in tags_of(flow, crowd_metaflow.FLOW)}
            for run in (words[1] for words in said if words[0] == "tagged"):
                assert tags[f"{crowd_metaflow.FLOW}/{run}"] == ("written",), f"run {run} has {tags}"
