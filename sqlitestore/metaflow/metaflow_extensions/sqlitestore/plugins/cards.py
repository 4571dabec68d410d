"""The group of commands ``card``: Metaflow's own, which however refuses a datastore that it does not know.

For the datastore ``sqlite`` the cards are the files below ``mf.cards`` in the database file; for all others Metaflow's
group does what it does.
"""

from __future__ import annotations

from typing import Any

from metaflow._vendor import click
from metaflow.metaflow_config import CARD_SUFFIX
from metaflow.plugins.cards import card_cli as theirs

from .storage import TYPE, SQLiteDatastoreStorage


@click.group()
def cli() -> None:
    """Metaflow takes a group that has one command."""


@cli.group(help=theirs.card.help)
@click.pass_context
def card(ctx: Any) -> None:
    """Say where cards are, and which metadata provider the client shall ask."""
    storage = ctx.obj.flow_datastore._storage_impl
    if storage.TYPE != TYPE:
        theirs.card.callback()
        return
    from metaflow import metadata

    provider = ctx.obj.metadata
    metadata(f"{provider.TYPE}@{provider.default_info()}")
    # Metaflow's group sets the root on this instance too.
    storage.datastore_root = f"{SQLiteDatastoreStorage(storage.datastore_root).datastore_root}/{CARD_SUFFIX}"


for name, command in theirs.card.commands.items():
    card.add_command(command, name)
