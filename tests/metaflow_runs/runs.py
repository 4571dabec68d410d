"""Runs flows of ``flows/`` in processes of their own, each in a place where nothing of the outer environment counts.

    place = Place.made(tmp_path)
    run = place.run("linear_flow.py", "--count", "7")
    answer = place.client(look, run.run_id)     # look(run_id) is called in a new process; it may import metaflow

Which datastore and metadata provider the flows use says the variable RUNS_TYPE: ``sqlite`` (the default) or ``local``,
Metaflow's own, of which everything has to be true too.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TYPE = os.environ.get("RUNS_TYPE", "sqlite")
SQLITE = TYPE == "sqlite"
sqlite_only = pytest.mark.skipif(not SQLITE, reason="is about the database file")
FLOWS = Path(__file__).parent / "flows"
TESTS = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SECONDS = 120
"""After which a process of a test is taken for hanging; an idle machine needs a twentieth."""

WITH_CODE = {"METAFLOW_FEAT_ALWAYS_UPLOAD_CODE_PACKAGE": "1"}
"""Lets a run that is all on this machine store a code package, which costs half a second."""

_numbers = itertools.count()

_CLIENT = """\
from __future__ import annotations

import json
import sys

{source}

with open(sys.argv[2], "w", encoding="utf-8") as answer:
    json.dump({name}(*json.loads(sys.argv[1])), answer)
"""


class Done(NamedTuple):
    """A process that ended. ``run_id`` is that of the run which it started, "" if it started none."""

    code: int
    out: str
    err: str
    run_id: str


@dataclass(frozen=True)
class Place:
    """A work folder and what belongs to it. ``work`` is where flows run and the database is, and nothing else may be.

    ``outside`` is for all the rest: HOME, temporary files, the client's cache, what Metaflow's local storage keeps.
    """

    root: Path

    @classmethod
    def made(cls, root: Path) -> Place:
        """Make the folders."""
        place = cls(root)
        for folder in (place.work, place.outside / "home", place.outside / "tmp", place.local):
            folder.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def work(self) -> Path:
        """Where flows run."""
        return self.root / "work"

    @property
    def outside(self) -> Path:
        """Where everything else is."""
        return self.root / "outside"

    @property
    def file(self) -> Path:
        """The database."""
        return self.work / "metaflow.db"

    @property
    def store(self) -> Path:
        """What ``metadata("type@store")`` takes."""
        return self.file if SQLITE else self.local

    @property
    def local(self) -> Path:
        """Where Metaflow's local storage is; for the type local where flows run: elsewhere it does not find cards."""
        return self.outside / "local" if SQLITE else self.work

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a process here; an empty value takes one away."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "PYTEST_"))}
        here = {
            "HOME": str(self.outside / "home"),
            "TMPDIR": str(self.outside / "tmp"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # @parallel starts "python"
            "PYTHONDONTWRITEBYTECODE": "1",
            "METAFLOW_USER": "tester",
            "METAFLOW_CLIENT_CACHE_PATH": str(self.outside / "cache"),
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.local),
            "METAFLOW_DATASTORE_SYSROOT_SPIN": str(self.outside / "spin"),
            "METAFLOW_DATASTORE_SYSROOT_SQLITE": str(self.file),
            "METAFLOW_DEFAULT_DATASTORE": TYPE,
            "METAFLOW_DEFAULT_METADATA": TYPE,
        }
        return {name: value for name, value in {**kept, **here, **more}.items() if value}

    def start(self, *command: str, env: dict[str, str] | None = None, run_id_file: str = "") -> Process:
        """Start a command in the work folder."""
        log = self._new_file("process")
        with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
            popen = subprocess.Popen(
                command,
                cwd=self.work,
                env=self.environment(**(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # so that all of a run can be ended at once
            )
        return Process(popen, log, run_id_file)

    def start_flow(self, flow: str, *arguments: str, top: tuple[str, ...] = (), **options: Any) -> Process:
        """Start ``flow.py [top] arguments``; the id of the run that it starts becomes known."""
        run_id_file = ""
        if arguments[0] in {"run", "resume"} and "--run-id-file" not in arguments:
            run_id_file = self._new_file("run_id")
            arguments = (arguments[0], "--run-id-file", run_id_file, *arguments[1:])
        command = (sys.executable, str(FLOWS / flow), "--no-pylint", *top, *arguments)
        return self.start(*command, run_id_file=run_id_file, **options)

    def flow(self, flow: str, *arguments: str, code: int = 0, **options: Any) -> Done:
        """Call a command of a flow and wait for its end, which must have the exit code."""
        return self.start_flow(flow, *arguments, **options).finish(code)

    def run(self, flow: str, *arguments: str, **options: Any) -> Done:
        """Run a flow."""
        return self.flow(flow, "run", *arguments, **options)

    def command(self, *command: str, code: int = 0, **options: Any) -> Done:
        """Call any command and wait for its end."""
        return self.start(*command, **options).finish(code)

    def client(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        env: dict[str, str] | None = None,
        unprivileged: bool = False,
    ) -> Any:
        """Return ``function(*arguments)``, called in a new process here. Arguments and answer are JSON values.

        The function must stand on its own: what it needs it imports itself. Modules of ``flows/`` can be imported.
        ``unprivileged``: permissions hold for that process even if this one is root's.
        """
        script, answer = Path(f"{self._new_file('client')}.py"), self._new_file("answer")
        source = textwrap.dedent(inspect.getsource(function))
        if unprivileged:
            source = "import helpers_processes\n\nhelpers_processes.give_up_privileges()\n\n" + source
        script.write_text(_CLIENT.format(source=source, name=function.__name__), encoding="utf-8")
        env = {"PYTHONPATH": f"{FLOWS}{os.pathsep}{TESTS}", **(env or {})}
        self.command(sys.executable, str(script), json.dumps(arguments), answer, env=env)
        return json.loads(Path(answer).read_text(encoding="utf-8"))

    def fresh_cache(self) -> dict[str, str]:
        """Return the variable that gives a client a cache of its own, so that what it reads comes from the store."""
        return {"METAFLOW_CLIENT_CACHE_PATH": self._new_file("cache")}

    def _new_file(self, kind: str) -> str:
        """Return a path that no other test or process of this session was given."""
        return str(self.outside / f"{kind}-{os.getpid()}-{next(_numbers)}")


class Process:
    """A process that was started at a place, with all that it starts itself."""

    def __init__(self, popen: subprocess.Popen[bytes], log: str, run_id_file: str) -> None:
        self.popen = popen
        self._log = log
        self._run_id_file = run_id_file

    @property
    def pid(self) -> int:
        """Its id."""
        return self.popen.pid

    def finish(self, code: int | None = 0, seconds: float = SECONDS) -> Done:
        """Wait for the end; fail if it comes too late or has another exit code (None: whichever)."""
        try:
            found = self.popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"{self.popen.args} hangs; until then it wrote:\n{self._written()}") from error
        out, err = self._written()
        assert code in {None, found}, f"exit code {found} of {self.popen.args}\n{out}\n{err}"
        return Done(found, out, err, _read(self._run_id_file))

    def kill(self) -> None:
        """End the process and all of its session, at once; they can do nothing about it."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(SECONDS)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds; return its value. Fails if the process ends before, or it takes too long."""

        def holds() -> Any:
            ended = self.popen.poll() is not None
            found = condition()
            assert found or not ended, f"{self.popen.args} has ended:\n{self._written()}"
            return found

        return until(holds)

    def run_id(self) -> str:
        """Wait for the id of the run and return it."""
        return str(self.until(lambda: _read(self._run_id_file)))

    def _written(self) -> tuple[str, str]:
        return _read(f"{self._log}.out"), _read(f"{self._log}.err")


class Scene(NamedTuple):
    """A place where flows have run, and what is known of it."""

    place: Place
    facts: Any


Once = Callable[[str, Callable[[Place], Any]], Scene]
"""The fixture ``once``."""


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait until the condition holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{inspect.getsource(condition)} did not come true"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process, which is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
    except FileNotFoundError:
        return ""
