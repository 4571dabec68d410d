"""The good stores from which hostile files are made: everything in them is a trap for who unpickles it."""

from __future__ import annotations

import os
import pickle
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from helpers_store import incompressible, save_task

from sqlitestore import FlowDataStore, plan_prune, prune
from sqlitestore.archive.export import export
from sqlitestore.archive.merge import merge
from sqlitestore.blobs import payload_of
from sqlitestore.registrations import RegisteredArtifact, RegisteredMetadatum
from sqlitestore.tables import tables_of

FLOW, RUN, TASK = "StrangeFlow", "1", "StrangeFlow/1/train/1"
CARD = f"mf.cards/{FLOW}/runs/{{}}/steps/train/tasks/1/cards/default-{'0' * 40}.html"
VICTIM = b"mine, and to stay as it is\n"


class Places(NamedTuple):
    """``base`` is a store whose runs came from a stranger; ``mine`` an ordinary one, into which files are imported.

    ``outside`` is a folder that nothing may change: there lies the file ``victim``, and there the canary would appear.
    """

    base: str
    mine: str
    outside: str

    @property
    def canary(self) -> str:
        """Return the path of what appears when anything is run."""
        return os.path.join(self.outside, "canary")

    @property
    def victim(self) -> str:
        """Return the path of a file of the user's."""
        return os.path.join(self.outside, "victim")


class Trap:
    """Unpickling it runs a command that makes the canary."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


def make_places(folder: str) -> Places:
    """Make the stores in an empty folder."""
    outside = os.path.join(folder, "outside")
    os.mkdir(outside)
    places = Places(os.path.join(folder, "base.db"), os.path.join(folder, "mine.db"), outside)
    Path(places.victim).write_bytes(VICTIM)
    theirs, archive = os.path.join(folder, "theirs.db"), os.path.join(folder, "archive.db")
    trap = Trap(places.canary)
    with FlowDataStore(FLOW, ds_root=theirs) as flow:
        for run in ("1", "2"):
            _write_run(flow, run, trap)
        export(flow, archive, max_artifact_size=400_000)
    for path in (places.base, places.mine):
        with FlowDataStore(FLOW, ds_root=path) as flow:
            if path == places.base:
                merge(flow, [archive])  # first, so that the first rows of all tables are those that are looked at
            save_task(flow, "mine", x=path)
            if path == places.base:
                save_task(flow, "pruned", trap=trap)
                flow._storage_impl.save_file(CARD.format("pruned"), payload_of(pickle.dumps(trap)))
                prune(flow, plan_prune(flow, [f"{FLOW}/pruned", f"{FLOW}/mine"]))
                flow.save_data([pickle.dumps(trap), b"kept"])
    for path in (theirs, archive):
        os.unlink(path)
    return places


def _write_run(flow: FlowDataStore, run: str, trap: Trap) -> None:
    """Write a run with a failed attempt, two artifacts that are traps, a card, logs, metadata and registrations."""
    failed = flow.get_task_datastore(run, "train", "1", attempt=0, mode="w")
    failed.init_task()
    task = flow.get_task_datastore(run, "train", "1", attempt=1, mode="w")
    task.init_task()
    large = incompressible(300_000, int(run))
    task.save_artifacts(
        [("trap", trap), ("traps", [trap] * 200), ("large", large), ("number", 5), ("left_out", large * 2)]
    )
    task.save_metadata({"note": f"of {run}"})
    task.save_metadata({"of the task": 1}, add_attempt=False)
    task.save_logs("task", {"stdout": b"a line\n" * 20, "stderr": b""})
    task.done()
    save_task(flow, run, "end", "2", trap=trap, number=6)
    content = pickle.dumps(trap)
    [(_, package)] = flow.save_data([content])
    flow._storage_impl.save_file(CARD.format(run), payload_of(content), '{"x": 1}')
    flow._storage_impl.save_file(f"{FLOW}/{run}/train/1/other", payload_of(content))
    registrations = tables_of(flow).registrations
    registrations.add_run(FLOW, run, "ada", 1_700_000_000_000, {"a", run}, {"user:ada"})
    registrations.add_task(FLOW, run, "train", "1", None, 1_700_000_000_001)
    packed = f'{{"sha": "{package}", "ds_type": "sqlite", "location": ""}}'
    metadata = [
        RegisteredMetadatum("train", "1", name, value, name, ("attempt_id:1",), "ada", 1_700_000_000_123)
        for name, value in (("list", ["a", 2**70]), ("code-package", packed), ("attempt_ok", "True"))
    ]
    registrations.add_metadata(FLOW, run, metadata)
    far = RegisteredArtifact(1, "far", "pickle-v4", "0" * 40, "s3", ":root:s3://b", None, 1_700_000_000_123)
    registrations.add_artifacts(FLOW, run, "train", "1", [far])


def key_of_a_trap(path: str) -> str:
    """Return the key of what ``save_data`` keeps in a store."""
    import apsw

    with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return str(connection.execute("SELECT lower(hex(key)) FROM blob JOIN data ON blob = id LIMIT 1").get)
