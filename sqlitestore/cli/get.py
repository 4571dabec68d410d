"""``sqlitestore get``: the one command that may unpickle, and only with ``--print``."""

from __future__ import annotations

import os
import pprint
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sqlitestore.cli.common import attempt_option, json_option, opened, pathspec_argument

if TYPE_CHECKING:
    from sqlitestore.model import Artifact, Attempt
    from sqlitestore.storage import SQLiteStorage

BLOCK = 2**20
"""[bytes] Copied at a time: an artifact of gigabytes needs no more memory than a small one."""


@click.command()
@pathspec_argument(required=True, metavar="PATHSPEC/ARTIFACT")
@click.option("-o", "--output", "target", metavar="FILE", help="Write to FILE (default, and '-': stdout).")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--print", "show_value", is_flag=True, help="Unpickle the artifact, and print its value.")
@click.option("--trust", is_flag=True, help="Unpickle it though its run came from somebody else, this time.")
@attempt_option
@json_option
def get(
    pathspec: str,
    target: str | None,
    force: bool,
    show_value: bool,
    trust: bool,
    attempt: int | None,
    as_json: bool,
) -> None:
    """Get an artifact: its serialized bytes (as a rule a pickle), checked while they are read.

    With --print the artifact is unpickled and its value printed. Unpickling runs whatever code the pickle names: do
    that only with files from people you trust. Nothing else here unpickles.

    \b
    Examples:
      sqlitestore get TrainFlow/12/train/40/model -o model.pickle
      sqlitestore get TrainFlow/12/end/41/auc --print
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output

    if target == "-":
        target = None
    _check_usage(target, show_value=show_value, as_json=as_json)
    with opened() as storage:
        place = lookup.find(storage, pathspec, ("artifact",))
        found, artifact = lookup.artifact_of(storage, place, attempt)
        answer = {
            "pathspec": place.pathspec,
            "attempt": found.number,
            "key": artifact.key,
            "size": artifact.size,
            "type": artifact.type,
            "encoding": artifact.encoding,
        }
        if show_value:
            value = _value(storage, found, place.names[4], trust=trust)
        elif target is None:
            _copy(storage, place.names[0], artifact, output.binary_stdout())
        else:
            _write(storage, place.names[0], artifact, target, force=force)
    if show_value:
        _print_value(value, answer if as_json else None)
    elif as_json:
        output.print_json(answer | {"output": target})


def _check_usage(target: str | None, *, show_value: bool, as_json: bool) -> None:
    """Refuse options that contradict each other, and bytes on a terminal."""
    from sqlitestore.cli import output

    if show_value and target is not None:
        raise click.UsageError("--print prints the value; -o is for the bytes. Give one of them.")
    if as_json and not show_value and target is None:
        raise click.UsageError("--json tells what was written: give -o FILE too (or --print, for the value).")
    if not show_value and target is None and output.on_terminal():
        raise click.UsageError(
            "The bytes of an artifact are no text for a terminal: give -o FILE, pipe them, or use --print."
        )


def _copy(storage: SQLiteStorage, flow_name: str, artifact: Artifact, file: BinaryIO) -> None:
    """Copy an artifact's bytes to a file, block by block."""
    from sqlitestore.cli.output import write_all
    from sqlitestore.cli.progress import TerminalProgress

    progress = TerminalProgress()
    with storage.open_blob(flow_name, artifact.key) as source:
        progress.start("Copying", artifact.size, "bytes")
        try:
            while block := source.read(BLOCK):
                write_all(file, block)
                progress.advance(len(block))
        finally:
            progress.finish()
    file.flush()


def _write(storage: SQLiteStorage, flow_name: str, artifact: Artifact, target: str, *, force: bool) -> None:
    """Write an artifact's bytes to a new file, which has its name only when it is whole."""
    from sqlitestore.errors import FileExists
    from sqlitestore.new_file import new_file

    if os.path.isdir(target):
        raise click.ClickException(f"{target} is a folder; give the name of a file in it.")
    if os.path.lexists(target) and not force:
        raise _exists(target)
    store = storage.datastore_root
    if os.path.realpath(target) in {os.path.realpath(store + suffix) for suffix in ("", "-wal", "-shm", "-journal")}:
        raise click.ClickException(f"{target} belongs to the store itself; give another file.")
    try:
        with new_file(os.path.abspath(target), replace=force) as temporary, open(temporary, "wb") as file:
            _copy(storage, flow_name, artifact, file)
    except FileExists:
        raise _exists(target) from None


def _exists(target: str) -> click.ClickException:
    return click.ClickException(f"{target} is there already; --force replaces it.")


def _value(storage: SQLiteStorage, attempt: Attempt, name: str, *, trust: bool) -> Any:
    """Return the unpickled artifact; whatever its pickle raises becomes a message."""
    from sqlitestore.cli.text import clean
    from sqlitestore.errors import DataException
    from sqlitestore.flow_datastore import FlowDataStore

    root = storage.datastore_root
    flow = FlowDataStore(attempt.task.flow_name, storage_impl=lambda _: storage, ds_root=root, trust=trust)
    task = flow.get_task_datastore(*attempt.task[1:], attempt=attempt.number)
    try:
        return task[name]
    except DataException:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise click.ClickException(
            clean(f"Artifact {name!r} of {attempt.task.pathspec} cannot be unpickled here: {what}")
        ) from error


def _print_value(value: Any, answer: dict[str, Any] | None) -> None:
    """Print a value as text; with ``answer`` as JSON, where it has one ("value" is null otherwise)."""
    from sqlitestore.cli import output
    from sqlitestore.cli.text import clean, clean_lines, plain_value

    try:
        if isinstance(value, str) and answer is None:
            text = value
        else:
            text = pprint.pformat(value) if isinstance(value, list | tuple | dict | set) else str(value)
        exact = plain_value(value) if answer is not None and _is_plain(value) else None
    except Exception as error:
        raise click.ClickException(clean(f"The value cannot be shown: {type(error).__name__}: {error}")) from error
    if answer is not None:
        output.print_json(answer | {"value": exact, "text": text})
    else:
        click.echo(clean_lines(text) if output.on_terminal() else text)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the value back as it is."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in {str, int, float, bool}
