"""What test_export_kill does in processes of their own: exports and imports that wait in the middle."""

from __future__ import annotations

import sys

from helpers_archive import FLOW

from sqlitestore import DataException, FlowDataStore
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge


class Waiting:
    """Says "ready" once so many bytes are copied, and waits until standard input ends."""

    def __init__(self, after: int) -> None:
        self._left = after
        self._stage = ""

    def start(self, label: str, *_: object) -> None:
        self._stage = label

    def advance(self, amount: int) -> None:
        if self._stage == "Comparing":
            return
        self._left -= amount
        if self._left <= 0 < self._left + amount:
            print("ready", flush=True)
            sys.stdin.read()

    def finish(self) -> None:
        pass


def export_and_wait(source: str, out: str, after: int) -> str:
    """Export all; return the kind of error that it ended with."""
    with FlowDataStore(FLOW, ds_root=source) as flow:
        try:
            export(flow, out, progress=Waiting(after))
        except DataException as error:
            return error.kind
    return ""


def import_and_wait(target: str, archive: str, after: int) -> str:
    """Import all."""
    with FlowDataStore(FLOW, ds_root=target) as flow:
        merge(flow, [archive], progress=Waiting(after))
    return ""
