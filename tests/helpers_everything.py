"""A store with a row in every table, for the tests of verify and salvage."""

from __future__ import annotations

import io
import os
from typing import Any

import apsw
from golden_content import register
from helpers_store import FLOW, incompressible, save_task

from sqlitestore import FlowDataStore
from sqlitestore.blobs import payload_of
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import Registrations
from sqlitestore.trash import Trash

LOG = b"line\n" * 20_000

# A stub, a run that is not trusted, a hold, a chunk to be deleted, and a named file in the trash: by SQL.
MORE = """
INSERT INTO stub SELECT x.attempt, x.name, x.position, b.key, x.size, x.type, x.encoding, x.serializer_info, x.preview
  FROM artifact x JOIN blob b ON b.id = x.blob JOIN attempt a ON a.id = x.attempt JOIN run r ON r.id = a.run
  WHERE r.name = '2' AND a.task = '0' AND x.name = 'own';
DELETE FROM artifact WHERE (attempt, name) IN (SELECT attempt, name FROM stub);
INSERT INTO untrusted SELECT id, 'elsewhere' FROM run WHERE name = '2';
INSERT INTO held VALUES (x'00112233445566778899aabbccddeeff', x'01', 1, 1.0);
INSERT INTO garbage VALUES (1);
INSERT INTO trashed_file SELECT t.run, f.path, f.blob, f.size, f.metadata, f.digest FROM trash t, file f
  WHERE f.path LIKE '%card.html';
DELETE FROM file WHERE path LIKE '%card.html';
"""


def make(path: str | os.PathLike[str], tasks: int = 3, size: int = 300_000) -> str:
    """Make the file; runs "1" (kept), "2" (untrusted, with a stub) and "3" (in the trash)."""
    path = os.fspath(path)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        storage: Any = flow._storage_impl
        for run in ("1", "2", "3"):
            for task in range(tasks):
                _save(flow, run, str(task), size)
        flow.get_task_datastore("1", "a", "open", attempt=0, mode="w").init_task()
        keys = [key for _, key in flow.save_data([b"data", incompressible(size, 77)])]
        storage._data.keep("OtherFlow", keys[:1])
        storage.save_file("kept/card.html", payload_of(b"<html>3"), "{}")
        storage.save_file("cards/1.html", payload_of(b"<html>"), '{"made": 1}')
        register(Registrations(storage.database))
        Registrations(storage.database).add_run(FLOW, "1", "ada", 1_700_000_000_000, {"good"}, {"sys"})
        Trash(storage.database).put(FLOW, "3")
    connection = apsw.Connection(path)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(MORE)
    connection.close()
    return path


def _save(flow: FlowDataStore, run: str, task: str, size: int) -> None:
    own_size = size if int(task) < 3 else 2000
    own, shared = incompressible(own_size, int(run) * 1000 + int(task)), incompressible(size, 5)
    save_task(flow, run, "a", task, small=f"text {run} {task} " * 20, own=own, shared=shared, number=int(task))
    storage: Any = flow._storage_impl
    address = TaskAddress(FLOW, run, "a", task)
    storage.save_metadata(address, 0, {"note": f'"of {run} {task}"'}, overwrite=True)
    for log in (LOG, LOG + f"end of {run} {task}".encode()):
        storage.save_log(address, 0, "task", "stdout", io.BytesIO(log))
