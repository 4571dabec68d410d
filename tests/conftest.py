"""Fixtures that many tests share."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_servers import azure_server, s3_server

__all__ = ["azure_server", "s3_server"]

NOBODY = 65534

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a script's background job. Processes that tests start would ignore it, too, and some are to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[Callable[[], object]], None]:
    """Run a function in a forked child as a user who can write nowhere in ``tmp_path``; its failure is the test's.

    Tests often run as root, for whom permissions do not count.
    """

    def run(function: Callable[[], object]) -> None:
        if os.getuid() == 0:
            for folder in (tmp_path, *tmp_path.parents):
                if folder.owner() == "root" and str(folder) not in {"/", "/tmp"}:  # noqa: S108
                    folder.chmod(0o755)
        else:
            tmp_path.chmod(0o555)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setresuid(NOBODY, NOBODY, NOBODY)
                function()
                os._exit(0)
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-4000:])
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as report:
            said = report.read().decode()
        _, status = os.waitpid(child, 0)
        if os.getuid() != 0:
            tmp_path.chmod(0o755)
        assert status == 0, said

    return run
