"""What test_memory does in processes of their own, and how memory is measured."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from helpers_store import FLOW, save_task

from sqlitestore import FlowDataStore

MIB = 2**20


def peak_above(work: Callable[[], object]) -> int:
    """Return how much resident memory ``work`` needed at its peak [bytes], above what there was before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but is kept for later would hide what is needed
    with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
        reset.write("5")  # sets the peak back: man 5 proc
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _array(size: int, kind: str) -> Any:
    """Return an array of ``size`` bytes, half noise and half compressible, or all of one."""
    rng = np.random.default_rng(1)
    array = np.empty(size // 8, dtype=np.float64)
    step = MIB
    for start in range(0, len(array), step):
        part = array[start : start + step]
        if kind == "noise" or (kind == "mixed" and start // step % 2):
            rng.random(out=part)
        else:
            part[:] = np.arange(len(part)) + start
    return array.view(np.uint8) if kind == "mixed" else array


def _object(size: int, kind: str) -> Any:
    if kind == "bytes":
        return _array(size, "noise").tobytes()
    if kind == "list of arrays":
        return [{"part": part} for part in np.array_split(_array(size, "noise"), 40)]
    if kind == "deep list":
        return [
            {"name": f"item {number}", "values": [number, number / 7, str(number)]} for number in range(size // 400)
        ]
    if kind == "frame":
        import pandas as pd

        return pd.DataFrame(_array(size, "noise").reshape(-1, 8), columns=list("abcdefgh"))
    return _array(size, kind)


def artifact(path: str, size: int, kind: str) -> dict[str, Any]:
    """Save an object of about ``size`` bytes and load it; return the memory that both took beyond the object."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, "0", warm=np.arange(200_000), frame=_object(80_000, "frame"))
        flow.get_task_datastore("0", "a", "1").to_dict()
        things: list[Any] = []
        made = peak_above(lambda: things.append(_object(size, kind)))
        saving = peak_above(lambda: save_task(flow, "1", thing=things[0]))
        again = peak_above(lambda: save_task(flow, "2", thing=things[0]))
        expected = _digest(things.pop())
        reader = flow.get_task_datastore("1", "a", "1")
        loading = peak_above(lambda: things.append(reader["thing"]))
        same = _digest(things[0]) == expected
    return {
        "saving": saving,
        "again": again,
        "loading": loading - (made if kind == "deep list" else size),
        "same": same,
    }


def _digest(thing: Any) -> str:
    """Return a digest of an object's content, whatever it is, without a copy of it."""
    import pickle

    import xxhash

    hasher = xxhash.xxh3_128()

    class Sink:
        def write(self, data: Any) -> int:
            hasher.update(data)
            return len(memoryview(data))

    if isinstance(thing, np.ndarray):
        hasher.update(memoryview(thing).cast("B"))
        hasher.update(f"{thing.shape} {thing.dtype}".encode())
    else:
        pickle.Pickler(Sink(), 5).dump(thing)
    return hasher.hexdigest()


def data(path: str, size: int) -> dict[str, Any]:
    """Save bytes by ``save_data`` and load them; return the memory that both took beyond them."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        dict(flow.load_data([key for _, key in flow.save_data([bytes(1_000_000)])]))
        blobs: list[bytes] = [_object(size, "bytes")]
        saved: list[tuple[str, str]] = []
        saving = peak_above(lambda: saved.extend(flow.save_data(blobs)))
        expected = _digest(blobs.pop())
        loading = peak_above(lambda: blobs.extend(found for _, found in flow.load_data([key for _, key in saved])))
        same = _digest(blobs[0]) == expected
    return {"saving": saving, "loading": loading - size, "same": same}


def many_blobs(path: str, count: int) -> dict[str, Any]:
    """Save a stream of blobs of 1 MiB and load it; return the memory that both took."""
    rng = np.random.default_rng(2)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        saved: list[tuple[str, str]] = []

        def stream() -> Iterator[bytes]:
            for _ in range(count):
                yield rng.bytes(MIB)

        saving = peak_above(lambda: saved.extend(flow.save_data(stream())))
        sizes: list[int] = []
        loading = peak_above(lambda: sizes.extend(len(blob) for _, blob in flow.load_data(key for _, key in saved)))
    return {"saving": saving, "loading": loading, "same": sum(sizes) == count * MIB}


def log(path: str, size: int) -> dict[str, Any]:
    """Save a log from a file of ``size`` bytes; return the memory that took."""
    from pathlib import Path

    file = Path(path + ".log")
    with file.open("wb") as out:
        for number in range(size // 100):
            out.write(b"%099d\n" % number)
    with FlowDataStore(FLOW, ds_root=path) as flow:
        writer = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
        writer.init_task()
        writer.save_logs("task", {"warm": b"x" * 200_000})
        saving = peak_above(lambda: writer.save_logs("task", {"stdout": file}))
        again = peak_above(lambda: writer.save_logs("task", {"stdout": file}))
        reader = flow.get_task_datastore("1", "a", "1", attempt=0, allow_not_done=True)
        same = reader.get_log_size(["task"], "stdout") == size // 100 * 100
    file.unlink()
    return {"saving": saving, "again": again, "same": same}
