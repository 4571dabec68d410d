"""The group of commands, and what holds for all of them: exit codes, interrupts, pipes that close early."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from sqlitestore.cli.compact import compact
from sqlitestore.cli.completion import complete_file
from sqlitestore.cli.diff import diff
from sqlitestore.cli.du import du
from sqlitestore.cli.export import export
from sqlitestore.cli.get import get
from sqlitestore.cli.info import info
from sqlitestore.cli.logs import logs
from sqlitestore.cli.ls import ls
from sqlitestore.cli.merge import import_
from sqlitestore.cli.prune import prune, restore
from sqlitestore.cli.salvage import salvage
from sqlitestore.cli.show import show
from sqlitestore.cli.tag import tag
from sqlitestore.cli.text import clean
from sqlitestore.cli.transfer import pull, push
from sqlitestore.cli.trust import trust
from sqlitestore.cli.verify import verify
from sqlitestore.errors import DataException

INTERRUPTED = 130
"""Exit code after Ctrl-C: what a shell reports for SIGINT."""

PIPE_CLOSED = 141
"""Exit code when the reader of our output has gone: what a shell reports for SIGPIPE."""


class Application(click.Group):
    """Turns what commands raise into messages and exit codes: 1 for a DataException, never a traceback for one."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except DataException as error:
            raise click.ClickException(clean(str(error))) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                _give_up_stdout()
                ctx.exit(PIPE_CLOSED)
            raise click.ClickException(clean(str(error))) from error
        return result


def _give_up_stdout() -> None:
    """Point stdout to nowhere: what is still buffered would raise again when Python flushes it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    del parameter
    if asked and not ctx.resilient_parsing:
        from sqlitestore.schema import writer

        click.echo(writer())
        ctx.exit()


@click.group(
    cls=Application,
    epilog="FILE, if not given, is what METAFLOW_DATASTORE_SYSROOT_SQLITE names (a file, or a folder that holds "
    "metaflow.db), else the nearest metaflow.db in this folder or above it. Exit codes: 0 fine, 1 the store cannot "
    "give what was asked, 2 wrong usage, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-f", "--file", metavar="FILE", shell_complete=complete_file, help="The store's database file.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show versions.")
def application(file: str | None) -> None:
    """Look into a sqlitestore file: its flows, runs, tasks, artifacts and logs.

    A PATHSPEC is Flow[/run[/step[/task[/artifact]]]]. In a pipe the output is tab-separated text, with sizes in bytes
    and times in UTC; --json gives JSON.

    \b
    Example:
      sqlitestore --file runs.db ls TrainFlow
    """  # noqa: D301 - click's mark for text that is not wrapped
    del file  # the commands open it


COMMANDS = (
    *(ls, show, get, logs, du, info, diff),
    *(export, import_, trust, tag, prune, restore, compact),
    *(verify, salvage, push, pull),
)
for command in COMMANDS:
    application.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. ``arguments`` None: those of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 must not end in a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        application.main(arguments, prog_name="sqlitestore")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
