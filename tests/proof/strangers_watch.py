"""The process that looks at hostile files: watched for what Python and SQLite do, and bounded in memory and time."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
from helpers_memory import peak_above
from helpers_processes import fork
from hostile_base import FLOW, VICTIM, Places
from hostile_places import BESIDE_REFUSED, BESIDE_TOLERATED
from hostile_rows import ROWS
from hostile_schemas import REFUSED, TOLERATED, Maker
from strangers_looks import LOOKS, Answer, Look, Wrong

HOSTILE: dict[str, Maker] = {**REFUSED, **BESIDE_REFUSED, **TOLERATED, **BESIDE_TOLERATED, **ROWS}
MOST_SECONDS = 60
"""[s] Of the clock, for a look at a file of a megabyte: generous, for others use the machine."""
SECONDS_A_BYTE = 5e-6
"""That it may last besides: salvage reads 20,000 rows a second, which may have 10 bytes."""
MOST_MEMORY = 400 * 2**20
"""[bytes] Of resident memory that a look may take: rows may have 48 MiB, and be there in several forms."""
MEMORY_A_BYTE = 10
"""That it may take besides, for each byte of the file: a row of 10 bytes is one of a list of numbers in Python."""
ADDRESS_SPACE = 2**30
"""[bytes] That a look may reserve, above what there was before."""
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
RUNNING = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen",
           "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen"}  # fmt: skip
CHANGING = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
CONFIGURED = {
    "SQLITE_DBCONFIG_DEFENSIVE": 1, "SQLITE_DBCONFIG_TRUSTED_SCHEMA": 0, "SQLITE_DBCONFIG_ENABLE_TRIGGER": 0,
    "SQLITE_DBCONFIG_ENABLE_VIEW": 0, "SQLITE_DBCONFIG_DQS_DML": 0, "SQLITE_DBCONFIG_DQS_DDL": 0,
}  # fmt: skip
LIMITED = {
    "LENGTH": 48 * 2**20, "SQL_LENGTH": 100_000, "COLUMN": 100, "EXPR_DEPTH": 100, "COMPOUND_SELECT": 20,
    "VDBE_OP": 25_000, "FUNCTION_ARG": 8, "ATTACHED": 1, "LIKE_PATTERN_LENGTH": 50, "VARIABLE_NUMBER": 100,
    "TRIGGER_DEPTH": 10,
}  # fmt: skip


class Watch:
    """Sees what this process does from now on; ``seen`` are the violations of the present look."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        self.active = False
        self.seen: list[str] = []
        self.counts: Counter[str] = Counter()
        self._checked: set[int] = set()
        sys.addaudithook(self._audit)
        apsw.connection_hooks.append(self._connected)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in RUNNING:
            self.seen.append(f"{event}{arguments!r:.200}")
        elif event == "exec" and getattr(arguments[0], "co_filename", "") == "<string>":
            self.seen.append("exec of a text")
        elif (
            event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ) or (event in CHANGING and isinstance(arguments[0], str)):
            self._check_place(event, arguments[0])

    def _check_place(self, event: str, path: str) -> None:
        real = os.path.realpath(os.path.dirname(path)) + os.sep
        nameless = path == tempfile.gettempdir()  # a temporary file without a name
        if not real.startswith(self.folder) and path != os.devnull and not nameless:
            self.seen.append(f"{event} of {path!r:.200}")

    def _connected(self, connection: apsw.Connection) -> None:
        self.counts["connections"] += self.active
        connection.set_exec_trace(self._statement)

    def _statement(self, cursor: Any, statement: str, _: Any) -> bool:
        connection = getattr(cursor, "connection", cursor)
        if not self.active or statement.lstrip().upper().startswith("PRAGMA"):
            return True
        if "ATTACH" in statement.upper():
            self.seen.append(f"the statement {statement[:100]}")
        self.counts["statements"] += 1
        wrong = [name for name, value in CONFIGURED.items() if connection.config(getattr(apsw, name), -1) != value]
        wrong += [name for name, most in LIMITED.items()
                  if connection.limit(getattr(apsw, f"SQLITE_LIMIT_{name}")) > most]  # fmt: skip
        if not connection.in_transaction and connection.filename != "":
            wrong += [name for name, value in (("cell_size_check", 1), ("mmap_size", 0))
                      if connection.pragma(name) != value]  # fmt: skip
        if wrong:
            self.seen.append(f"a statement while {', '.join(wrong)} is not as it should be: {statement[:60]}")
        return True


def look_at(folder: str, order: list[list[str]], places: list[str]) -> dict[str, Any]:
    """Do looks, given as [maker, look]; return counts, and all that is wrong in "wrong"."""
    warm_up(folder, Places(*places))
    return _looks(folder, order, Places(*places))


def look_with_bugs(folder: str, cases: list[list[str]], places: list[str]) -> list[list[str]]:
    """Do a look for each [bug, maker, look], in a forked child with the bug ("": none); return what each found."""
    from strangers_bugs import BUGS

    warm_up(folder, Places(*places))
    found: list[list[str]] = []
    report = Path(folder, "report")

    def with_bug(bug: str, pair: list[str]) -> None:
        if bug:
            BUGS[bug]()
        report.write_text(json.dumps(_looks(folder, [pair], Places(*places))["wrong"]), encoding="utf-8")

    for bug, *pair in cases:
        report.write_text('["the process ended"]', encoding="utf-8")
        os.waitpid(fork(with_bug, bug, pair), 0)
        found.append(json.loads(report.read_text(encoding="utf-8")))
        _tidy(Places(*places))
    return found


def _tidy(places: Places) -> None:
    """Undo what was done outside, so that the next look is not blamed for it."""
    for name in os.listdir(places.outside):
        os.unlink(os.path.join(places.outside, name))
    Path(places.victim).write_bytes(VICTIM)


def _looks(folder: str, order: list[list[str]], given: Places) -> dict[str, Any]:
    watch = Watch(folder)
    counts: Counter[str] = watch.counts
    wrong: list[str] = []
    peak = 0
    for maker, name in order:
        Path(folder, "now").write_text(f"{name!r} at a file with {maker!r}", encoding="utf-8")
        try:
            answer, grown = _one(watch, folder, given, maker, LOOKS[name])
        except Wrong as error:
            wrong.append(f"{name!r} at a file with {maker!r}: {error}")
            _tidy(given)
            continue
        peak = max(peak, grown)
        counts["looks"] += 1
        counts["errors"] += answer.failed
    return {"wrong": wrong, "peak memory of a look [MiB]": peak >> 20, **counts}


def warm_up(folder: str, places: Places) -> None:
    """Look at the good file in every way, so that all modules are imported; what must work does."""
    for name, look in LOOKS.items():
        path, out = _fresh(folder, places)
        answer = look.run(path, places, out)
        assert not answer.failed or name in {"get and print", "push"}, f"{name}: {answer}"


def _fresh(folder: str, places: Places) -> tuple[str, str]:
    work = os.path.join(folder, "work")
    if os.path.exists(work):
        shutil.rmtree(work)
    out = os.path.join(work, "out")
    os.makedirs(os.path.join(out, "bucket"))
    path = os.path.join(work, "stranger.db")
    shutil.copy(places.base, path)
    return path, out


@contextmanager
def _bounded() -> Iterator[None]:
    """Let this process reserve ADDRESS_SPACE more than it has, and no more; what makes hostile files may need it."""
    with open("/proc/self/statm", encoding="ascii") as sizes:
        now = int(sizes.read().split()[0]) * resource.getpagesize()
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESS_SPACE, highest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, highest))


def _one(watch: Watch, folder: str, places: Places, maker: str, look: Look) -> tuple[Answer, int]:
    path, out = _fresh(folder, places)
    HOSTILE[maker](path, places)
    before = _content(path)
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    answers: list[Answer] = []
    watch.seen = []

    def work_watched() -> None:
        with _bounded():
            watch.active = True
            try:
                answers.append(look.run(path, places, out))
            finally:
                watch.active = False

    faulthandler.dump_traceback_later(MOST_SECONDS + SECONDS_A_BYTE * size, exit=True)
    try:
        grown = peak_above(work_watched)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"an error that is not ours: {error!r:.300}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    [answer] = answers
    _check(watch, places, answer, grown - MEMORY_A_BYTE * size)
    if look.opens and not answer.failed and maker in {**REFUSED, **BESIDE_REFUSED}:
        raise Wrong("the file was not refused")
    if not look.changes and maker not in {**BESIDE_TOLERATED, **TOLERATED} and _content(path) != before:
        raise Wrong("the file was changed")
    return answer, grown


def _check(watch: Watch, places: Places, answer: Answer, grown: int) -> None:
    if watch.seen:
        raise Wrong("; ".join(watch.seen[:3]))
    if sorted(os.listdir(places.outside)) != ["victim"] or Path(places.victim).read_bytes() != VICTIM:
        raise Wrong(f"something was run, or done to a file outside: there are {sorted(os.listdir(places.outside))}")
    if grown > MOST_MEMORY:
        raise Wrong(f"{grown >> 20} MiB of memory")
    if found := CONTROLS.search(answer.shown):
        raise Wrong(f"a control character is printed: {answer.shown[max(0, found.start() - 40) : found.end() + 20]!r}")
    if (
        answer.failed
        and answer.error
        and not re.search(f"stranger\\.db|{FLOW}|Blob |Usage|/dev/|mine\\.db", answer.error)
    ):
        raise Wrong(f"an error that names nothing: {answer.error[:300]!r}")


def _content(path: str) -> str:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
    except OSError:
        return "gone"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
