"""``sqlitestore du``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sqlitestore.cli.common import json_option, opened, pathspec_argument

if TYPE_CHECKING:
    from sqlitestore.maintenance.usage import Usage, User


@click.command()
@pathspec_argument(required=False)
@json_option
def du(pathspec: str | None, as_json: bool) -> None:
    """Show what uses the file's bytes: each run's own and shared ones, and what is saved.

    Own bytes are stored for that run alone; shared ones are needed by others too. Logical bytes count every artifact
    and log in full, as if nothing were shared or compressed. PATHSPEC (a flow or a run) limits the list of runs; the
    totals are always those of the whole file.

    \b
    Examples:
      sqlitestore du
      sqlitestore du TrainFlow --json
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import lookup, output
    from sqlitestore.cli.progress import TerminalProgress
    from sqlitestore.maintenance.usage import usage

    with opened() as storage:
        place = lookup.find(storage, pathspec, ("store", "flow", "run"))
        found = usage(storage.database, TerminalProgress())
        path = storage.datastore_root
    users = [*found.runs, *found.trash, *found.data, *([found.files] if found.files else [])]
    rows = [_row(user, trashed=user in found.trash) for user in users if _inside(user, place.names)]
    totals = _totals(found)
    if as_json:
        output.print_json({"file": path, "pathspec": place.pathspec, "users": rows, "totals": totals})
        return
    columns = (
        output.Column("flow"),
        output.Column("run"),
        output.Column("artifacts", "count"),
        output.Column("logical", "size"),
        output.Column("own", "size"),
        output.Column("shared", "size"),
    )
    output.print_table(columns, rows)
    output.print_heading("The whole file")
    output.print_facts([_column(key) for key in totals], totals)


def _inside(user: User, names: tuple[str, ...]) -> bool:
    return (user.flow_name, user.run_id)[: len(names)] == names


def _row(user: User, *, trashed: bool) -> dict[str, Any]:
    kind = "run" if user.run_id is not None else "data" if user.flow_name is not None else "files"
    kind = "trash" if trashed else kind
    return {
        "kind": kind,
        "flow": user.flow_name or "",
        "run": _NAMES[kind].format(user.run_id),
        "artifacts": user.artifacts,
        "logical": user.logical,
        "own": user.own,
        "shared": user.shared,
    }


_NAMES = {"run": "{}", "trash": "{} (trash)", "data": "(save_data)", "files": "(named files)"}

_TITLES = {
    "logical": "logical: all in full",
    "unique": "unique: each piece once",
    "stored": "stored: compressed",
    "saved_by_dedup": "saved by dedup",
    "saved_by_compression": "saved by compression",
    "trash": "trash: prune --purge frees it",
    "unreferenced": "unreferenced: compact frees it",
    "records": "records and indexes",
    "free": "free pages",
    "comes_back": "comes back by compact",
    "comes_back_with_trash": "by compact --purge",
    "file_size": "file",
}


def _totals(found: Usage) -> dict[str, int]:
    return {
        "logical": found.logical,
        "unique": found.unique,
        "stored": found.stored,
        "saved_by_dedup": found.logical - found.unique,
        "saved_by_compression": found.unique - found.stored,
        "trash": found.trashed,
        "unreferenced": found.unreferenced,
        "records": found.records,
        "free": found.free,
        "comes_back": found.comes_back,
        "comes_back_with_trash": found.comes_back + found.trashed,
        "file_size": found.file,
    }


def _column(key: str) -> Any:
    from sqlitestore.cli.output import Column

    return Column(key, "size", _TITLES[key])
