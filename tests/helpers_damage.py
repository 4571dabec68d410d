"""What test_damage does in processes of their own: there memory can be measured."""

from __future__ import annotations

from typing import Any

from helpers_memory import peak_above
from helpers_store import FLOW, incompressible, save_task, tampering

from sqlitestore import DataException, FlowDataStore
from sqlitestore.codecs import RAW, ZSTD, zstd

GIB = 2**30


def load_bomb(path: str, kind: str) -> dict[str, Any]:
    """Put hostile bytes into a store, load what they belong to; return the errors' kinds and the memory's growth."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        save_task(flow, large=incompressible(900_000), small=incompressible(1000))
        [(_, key), (_, large)] = flow.save_data([incompressible(1000), incompressible(900_000)])
    updates = hostile_bytes(kind)
    with tampering(path) as connection:
        for statement, bindings in updates:
            connection.execute(statement, bindings)
    del updates
    errors = []
    with FlowDataStore(FLOW, ds_root=path) as flow:
        task = flow.get_task_datastore("1", "a", "1")
        list(task)

        def load() -> None:
            for read in (
                lambda: task["large"],
                lambda: task["small"],
                lambda: list(flow.load_data([key])),
                lambda: list(flow.load_data([large])),
                lambda: flow.save_data([incompressible(900_000)]),
            ):
                try:
                    read()
                except DataException as error:
                    errors.append(error.kind)

        grown = peak_above(load)
    return {"errors": errors, "grown": grown}


def hostile_bytes(kind: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return statements, with their bindings, that make the bytes of chunks and blobs an attack on memory."""
    chunk, blob = (
        "UPDATE chunk SET codec = ?, bytes = ?, size = ?",
        "UPDATE blob SET codec = ?, bytes = ?, size = ? WHERE codec IS NOT NULL",
    )
    if kind in {"bomb", "bomb small"}:
        bomb = _frame_of_zeros(GIB)
        size = 900_000 if kind == "bomb" else 5
        return [(chunk, (ZSTD, bomb, size)), (blob, (ZSTD, bomb, size))]
    if kind == "endless":
        bomb = _frame_of_zeros(GIB)[:-20]
        return [(chunk, (ZSTD, bomb, 16 * 2**20)), (blob, (ZSTD, bomb, 2**20))]
    if kind == "window":
        options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
        compressor = zstd.ZstdCompressor(options=options)
        frame = compressor.compress(bytes(900_000)) + compressor.flush()
        return [(chunk, (ZSTD, frame, 900_000)), (blob, (ZSTD, frame, 900_000))]
    if kind == "huge row":
        rows = bytes(300_000_000)
        return [(chunk + " WHERE id = 1", (RAW, rows, 900_000)), (blob + " AND id <= 2", (RAW, rows, 1000))]
    assert kind == "claims"
    return [
        ("UPDATE blob SET size = 9000000000", ()),
        ("UPDATE chunk SET size = 9000000000", ()),
        ("UPDATE blob_chunk SET chunk = 1", ()),
    ]


def _frame_of_zeros(size: int) -> bytes:
    compressor = zstd.ZstdCompressor()
    block = bytes(2**20)
    return b"".join(compressor.compress(block) for _ in range(size // 2**20)) + compressor.flush()
