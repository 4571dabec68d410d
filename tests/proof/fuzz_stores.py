"""Fuzzed files, documents of a datastore of Metaflow's, and command lines: each input has a file of its own."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

from click.testing import CliRunner
from fuzz_engine import Target, mutated
from helpers_store import incompressible, save_task
from sqlite_oracle import check_file

from sqlitestore import DataException, FlowDataStore, salvage
from sqlitestore.cli.app import COMMANDS, application
from sqlitestore.maintenance.verify import verify as verify_file
from sqlitestore.remote.pull import pull
from sqlitestore.remote.push import push
from sqlitestore.storage import SQLiteStorage

MEMORY, PROCESSOR = 512 * 2**20, 30
"""[bytes] and [s] that a child may take beyond what it had, with a file of a third of a MiB."""

FLOW = "F"


def artifacts(task: str) -> dict[str, Any]:
    """Return what each task of the small file holds."""
    return {"small": f"text {task}", "large": incompressible(150_000, int(task)), "shared": [1, 2.5, None]}


@cache
def small_file() -> bytes:
    """Return a file with two runs, logs, metadata and what a provider registers."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "small.db")
        with FlowDataStore(FLOW, ds_root=path) as flow:
            for run in ("1", "2"):
                save_task(flow, run, "a", run, **artifacts(run))
                writer = flow.get_task_datastore(run, "a", "9", attempt=0, mode="w")
                writer.init_task()
                writer.save_logs("task", {"stdout": b"a log\n"})
                writer.save_metadata({"note": {"run": run}})
            registrations = flow._storage_impl.tables.registrations
            registrations.add_run(FLOW, "1", "ada", 1_700_000_000_000, {"mine"}, {"user:ada"})
            registrations.add_task(FLOW, "1", "a", "1", "ada", 1_700_000_000_000)
        with open(path, "rb") as file:
            return file.read()


def change_recipe(data: bytes, choice: random.Random) -> bytes:
    """Return a recipe of changes to the small file: most often in the header, the heads of pages, and their cells."""
    recipe = json.loads(data)
    size = len(small_file())
    for _ in range(choice.choice((1, 1, 2, 5))):
        page = 8192 * choice.randrange(size // 8192)
        place = choice.choice(
            (choice.randrange(100), page + choice.randrange(12), page + choice.randrange(300), choice.randrange(size))
        )
        recipe["edits"].append([place, choice.randbytes(choice.choice((1, 1, 2, 4))).hex()])
    if choice.random() < 0.1:
        recipe["cut"] = choice.randrange(size)
    return json.dumps(recipe).encode()


def made(recipe: bytes) -> bytes:
    """Return the small file with the changes of a recipe; what is no recipe changes nothing."""
    said = json.loads(recipe)
    changed = bytearray(small_file())
    for place, text in said["edits"]:
        changed[place : place + len(text) // 2] = bytes.fromhex(text)
    return bytes(changed[: said.get("cut")])


def check_store(data: bytes) -> str:
    """A changed file gives right answers or DataException, never a crash; what salvage makes of it is sound."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file.db")
        with open(path, "wb") as file:
            file.write(made(data))
        return in_child(lambda: _use(path))


def _use(path: str) -> str:
    outcomes = set()
    try:
        with FlowDataStore(FLOW, ds_root=path) as flow:
            for run in ("1", "2"):
                for task in flow.get_latest_task_datastores(run):
                    outcomes.add(_compare(task, run))
    except DataException:
        outcomes.add("refused")
    try:
        if verify_file(path).ok and outcomes != {"right"}:
            raise AssertionError("verify finds a file sound that does not give its artifacts")
    except DataException:
        outcomes.add("refused")
    try:
        salvage(path, path + ".saved")
    except DataException:
        outcomes.add("refused")
    else:
        check_file(path + ".saved")
    return "right" if outcomes == {"right"} else "refused"


def _compare(task: Any, run: str) -> str:
    try:
        for name, value in artifacts(run).items():
            assert task[name] == value, f"{name} of run {run} came back as another"
    except DataException:
        return "refused"
    return "right"


def in_child(work: Callable[[], str]) -> str:
    """Return what ``work`` returns in a forked child with limits. Raises AssertionError if it fails, dies, or hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            _limit()
            said = b"=" + work().encode()
        except BaseException:
            said = traceback.format_exc()[-1500:].encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        said = report.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child was ended by signal {os.waitstatus_to_exitcode(status)}"
    assert said[:1] == b"=", said.decode(errors="replace")
    return said[1:].decode()


def _limit() -> None:
    with open("/proc/self/statm", encoding="ascii") as pages:
        now = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + PROCESSOR, used + PROCESSOR))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# Documents


@cache
def pushed() -> tuple[str, dict[str, bytes]]:
    """Return a folder that push made (it goes with the process), and its documents by path."""
    folder = tempfile.mkdtemp(prefix="fuzz-pushed-")
    path = os.path.join(folder, "small.db")
    with open(path, "wb") as file:
        file.write(small_file())
    os.mkdir(os.path.join(folder, ".metaflow"))
    store = SQLiteStorage(path, create=False)
    try:
        push(store, folder)
    finally:
        store.close()
    documents = {}
    for place, _, names in os.walk(os.path.join(folder, ".metaflow")):
        for name in names:
            whole = os.path.join(place, name)
            with open(whole, "rb") as file:
                documents[os.path.relpath(whole, folder)] = file.read()
    return folder, documents


def documents() -> list[bytes]:
    """Return each document of the folder, behind a line with its path."""
    seeds = [path.encode() + b"\n" + content for path, content in sorted(pushed()[1].items()) if len(content) < 3000]
    assert any(seed.startswith(b".metaflow/F/1/_meta/_self.json") for seed in seeds)
    return seeds


def change_document(data: bytes, choice: random.Random) -> bytes:
    """Exchange a value somewhere in the JSON, or bytes."""
    path, _, content = data.partition(b"\n")
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if isinstance(document, dict) and document and choice.random() < 0.7:
        place = document
        while True:
            name = choice.choice(sorted(place))
            if not (isinstance(place[name], dict) and place[name] and choice.random() < 0.7):
                break
            place = place[name]
        values = (
            None,
            [],
            {},
            [[]],
            {"a": 1},
            "",
            "\ud800",
            -1,
            2**63,
            10**400,
            float("inf"),
            float("nan"),
            True,
            "0" * 40,
            "text",
        )
        place[name] = choice.choice(values)
        if choice.random() < 0.2:
            del place[name]
        return path + b"\n" + json.dumps(document).encode()
    return path + b"\n" + mutated(content, choice, (b"null", b"[]", b"{}", b'"\\udc00"', b"1e999"))


def check_pull(data: bytes) -> str:
    """A datastore with a changed document is pulled, or said to be damaged with the run named; the file stays sound."""
    path, _, content = data.partition(b"\n")
    source, there = pushed()
    name = path.decode()
    if name not in there:
        return "other"
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(source, name), "wb") as file:
            file.write(content)
        into = os.path.join(folder, "into.db")
        try:
            return _pull(into, source)
        finally:
            with open(os.path.join(source, name), "wb") as file:
                file.write(there[name])


def _pull(into: str, source: str) -> str:
    store = SQLiteStorage(into)
    try:
        report = pull(store, source)
    except DataException:
        outcome = "refused"
    else:
        assert all(problem.startswith(("F/1: ", "F/2: ")) for problem in report.problems), report.problems
        outcome = "told" if report.problems else "pulled"
    finally:
        store.close()
    check_file(into)
    return outcome


# Command lines

WORDS = (
    *(str(command.name) for command in COMMANDS),
    "F",
    "F/1",
    "F/1/a/1",
    "F/1/a/1/small",
    "F/9",
    "a//b",
    "..",
    "",
    "-",
    "--",
    "--json",
    "--yes",
    "--dry-run",
    "--keep-last",
    "--older-than",
    "--max-size",
    "--attempt",
    "--max-artifact-size",
    "-o",
    "--output",
    "--add",
    "--remove",
    "--purge",
    "--data",
    "--quick",
    "--print",
    "--raw",
    "--timestamps",
    "--help",
    "10",
    "-1",
    "99999999999999999999999",
    "30d",
    "10MB",
    "9" * 400,
    "1e9",
    "\udcff",
    "\x1b[31m",
    "new.db",
    "small.db",
    "/",
    "grün",
    "x" * 300,
    "file://",
    "s3://",
    "F/1/a/1/large",
)


def change_arguments(data: bytes, choice: random.Random) -> bytes:
    """Return a command with arguments, each in a line."""
    words = [choice.choice(COMMANDS).name, *(choice.choice(WORDS) for _ in range(choice.randrange(6)))]
    if choice.random() < 0.2:
        words[-1] = (
            mutated(str(words[-1]).encode("utf-8", "surrogateescape"), choice)
            .replace(b"\0", b"")
            .decode("utf-8", "surrogateescape")
        )
    return "\n".join(map(str, words)).encode("utf-8", "surrogateescape")


def check_arguments(data: bytes) -> str:
    """Any command line ends with 0, 1 or 2 and no traceback, and the file is sound afterwards."""
    arguments = data.decode("utf-8", "surrogateescape").split("\n")
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "small.db")
        with open(path, "wb") as file:
            file.write(small_file())
        os.chdir(folder)
        try:
            result = CliRunner().invoke(application, ["--file", path, *arguments], prog_name="sqlitestore")
        finally:
            os.chdir(before)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            told = "".join(traceback.format_exception(result.exception))[-600:]
            raise AssertionError(f"{arguments!r:.300} ends in a traceback: {told}")
        assert result.exit_code in {0, 1, 2}, f"{arguments!r:.300} ends with {result.exit_code}"
        assert "Traceback" not in result.output
        shutil.move(path, os.path.join(folder, "alone"))
        if not [name for name in os.listdir(folder) if name.startswith("small.db")]:
            check_file(os.path.join(folder, "alone"))
    return ("fine", "cannot", "usage")[result.exit_code]


TARGETS = (
    Target("stores", check_store, lambda: [b'{"edits": []}'], frozenset({"right", "refused"}), 2, (), change_recipe),
    Target("pulls", check_pull, documents, frozenset({"pulled", "told", "refused", "other"}), 2, (), change_document),
    Target(
        "arguments",
        check_arguments,
        lambda: [b"ls", b"show\nF/1/a/1"],
        frozenset({"fine", "cannot", "usage"}),
        4,
        (),
        change_arguments,
    ),
)
