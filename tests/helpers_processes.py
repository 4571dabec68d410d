"""Runs functions of the test modules' helpers in processes of their own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))

_MAIN = """
import importlib, json, sys
import helpers_processes
module, name, unprivileged, arguments = json.loads(sys.argv[1])
if unprivileged:
    helpers_processes.give_up_privileges()
result = getattr(importlib.import_module(module), name)(*arguments)
print(json.dumps(result))
"""


def start(
    function: Callable[..., Any], *arguments: Any, unprivileged: bool = False, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``function(*arguments)`` in a new process; arguments and result are JSON values.

    Use the Popen in ``with``. ``unprivileged``: permissions hold for that process even if this one is root's.
    """
    of_function = os.path.dirname(os.path.abspath(function.__code__.co_filename))
    call = json.dumps([function.__module__, function.__name__, unprivileged, arguments])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _MAIN, call],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join({HERE: 0, of_function: 0}), **(environment or {})},
        start_new_session=True,  # so that children which hang can be ended with it
    )


def result_of(process: subprocess.Popen[str], timeout: float = 300) -> Any:
    """Wait for a process of ``start``; return what its function returned."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"the process hangs; until then it wrote:\n{out}\n{err}") from error
    if process.returncode:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return json.loads(out.splitlines()[-1])


def run(function: Callable[..., Any], *arguments: Any, timeout: float = 300, **options: Any) -> Any:
    """Call ``function(*arguments)`` in a new process and return its result."""
    with start(function, *arguments, **options) as process:
        return result_of(process, timeout)


def give_up_privileges() -> None:
    """Make permissions hold for this process: root without capabilities is a user like others."""
    if os.geteuid():
        return

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(Header(0x20080522, 0)), ctypes.byref((ctypes.c_uint32 * 6)())):
        raise OSError(ctypes.get_errno(), "capset")


def fork(function: Callable[..., Any], *arguments: Any) -> int:
    """Call ``function(*arguments)`` in a forked child that leaves by ``os._exit``; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(*pids: int) -> None:
    """Wait for children; raise if one failed."""
    failed = [pid for pid in pids if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(pids)} children failed")


def in_threads(functions: list[Callable[[], Any]]) -> None:
    """Call all at once, each in a thread; raise the first error."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
