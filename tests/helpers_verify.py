"""What test_verify does in processes of their own: others that write, prune and delete; memory that is measured."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from helpers_memory import peak_above
from helpers_store import FLOW, incompressible, save_task

from sqlitestore import FlowDataStore
from sqlitestore.maintenance.purge import purge
from sqlitestore.maintenance.salvage import salvage
from sqlitestore.maintenance.verify import verify
from sqlitestore.trash import Trash


def work(path: str, worker: int, seconds: float) -> int:
    """Save tasks, prune runs and empty the trash for so long; return how many runs came and went."""
    end = time.monotonic() + seconds
    count = 0
    with FlowDataStore(FLOW, ds_root=path) as flow:
        database: Any = flow._storage_impl.database  # type: ignore[attr-defined]
        while time.monotonic() < end:
            run = f"{worker}-{count}"
            for task in range(3):
                save_task(flow, run, task=str(task), own=incompressible(300_000, worker * 10_000 + count), text=run)
            writer = flow.get_task_datastore(run, "a", "0", attempt=1, mode="w")
            writer.init_task()
            writer.save_logs("task", {"stdout": b"log of " + run.encode()})
            Trash(database).put(FLOW, run)
            if worker == 0 and count % 3 == 2:
                purge(database)
            count += 1
    return count


def memory(path: str, size: int) -> dict[str, Any]:
    """Return the memory that verify and salvage take for a blob of ``size`` bytes."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "0", warm=incompressible(3_000_000))
        save_task(flow, "1", large=np.random.default_rng(1).bytes(size))
    verify(path)
    results: list[Any] = []
    verifying = peak_above(lambda: results.append(verify(path)))
    salvaging = peak_above(lambda: results.append(salvage(path, path + ".out")))
    return {"verifying": verifying, "salvaging": salvaging, "ok": results[0].ok and results[1].whole}
