"""Completion in the shell. A completion never fails, prints or makes a file: what goes wrong means no proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from sqlitestore.storage import DataStoreStorage

MOST = 200
"""Proposals; of runs the latest."""


def complete_file(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell propose files."""
    del ctx, parameter
    return [CompletionItem(incomplete, type="file")]


def complete_pathspec(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose the flows, runs, steps, tasks or artifacts that continue ``incomplete``, from the store's file."""
    del parameter
    try:
        return [CompletionItem(value) for value in _proposals(ctx.find_root().params.get("file"), incomplete)]
    except Exception:  # noqa: BLE001 - see the module
        return []


def _proposals(file: str | None, incomplete: str) -> list[str]:
    from sqlitestore.storage import SQLiteStorage

    storage = SQLiteStorage(file, create=False)
    try:
        *above, begun = incomplete.split("/")
        proposals = _below(storage, above, begun)
        if len(proposals) == 1 and len(above) < 4:  # noqa: PLR2004 - an artifact is the last level
            # A single proposal would be taken with a space behind it; with the next level beside it, it is not.
            proposals += _below(storage, proposals[0].split("/"), "")
        return proposals
    finally:
        storage.close()


def _below(storage: DataStoreStorage, above: list[str], begun: str) -> list[str]:
    from sqlitestore.cli.text import clean

    names = [name for name in _children(storage, above) if name.startswith(begun) and name == clean(name)]
    return ["/".join([*above, name]) for name in names[:MOST]]


def _children(storage: DataStoreStorage, above: list[str]) -> list[str]:
    """Return the names below a flow, run, step or task (all flows for none)."""
    from sqlitestore.cli.lookup import artifacts_of, attempt_of
    from sqlitestore.model import TaskAddress

    match above:
        case []:
            return storage.flows()
        case [flow]:
            return storage.runs(flow)[::-1]
        case [flow, run]:
            return list(dict.fromkeys(each.task.step_name for each in storage.find_run(flow, run, None)))
        case [flow, run, step]:
            return list(dict.fromkeys(each.task.task_id for each in storage.find_run(flow, run, [step])))
        case [flow, run, step, task]:
            attempt, _ = attempt_of(storage, TaskAddress(flow, run, step, task), None)
            return list(artifacts_of(storage, attempt))
        case _:
            return []
