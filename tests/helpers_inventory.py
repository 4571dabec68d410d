"""What is in a file and on which pages, told by SQL of our own: an oracle that shares no code with what is tested."""

from __future__ import annotations

from typing import Any

from sqlite_oracle import connect, decoded

PAGE = 8192
Items = dict[tuple[Any, ...], Any]

OF = "JOIN run r ON r.id = {0}.run JOIN flow f ON f.id = r.flow LEFT JOIN trash t ON t.run = r.id"
NAMES = "f.name, coalesce(t.name, r.name)"
ATTEMPT = f"JOIN attempt a ON a.id = x.attempt {OF.format('a')}"
RECORDS = {
    "task_metadata": ("x.step, x.task, x.attempt, x.name", "x.value"),
    "registered_run": ("NULL", "x.user_name, x.ts_epoch, x.tags, x.system_tags, x.task_ids"),
    "registered_step": ("x.step", "x.user_name, x.ts_epoch"),
    "registered_task": ("x.step, x.task", "x.user_name, x.ts_epoch"),
    "registered_artifact": ("x.step, x.task, x.attempt, x.name", "x.content_type, x.sha, x.ds_type, x.location"),
}


def inventory(path: str) -> tuple[Items, set[tuple[Any, ...]]]:
    """Return everything in a file by what it is, with keys in place of ids; and which artifacts are stubs."""
    connection = connect(path)
    items: Items = {}
    stubs = set()

    def add(kind: str, keys: int, statement: str) -> None:
        for row in connection.execute(statement):
            items[kind, *row[:keys]] = row[keys:]

    add(
        "attempt", 5,
        f"SELECT {NAMES}, a.step, a.task, a.number, a.started, a.done, a.python FROM attempt a {OF.format('a')}",
    )  # fmt: skip
    for table, key, join in (("artifact", "b.key", "JOIN blob b ON b.id = x.blob"), ("stub", "x.key", "")):
        before = set(items)
        add(
            "artifact", 6,
            f"SELECT {NAMES}, a.step, a.task, a.number, x.name, {key}, x.position, x.size, x.type, x.encoding,"
            f" x.serializer_info, x.preview FROM {table} x {ATTEMPT} {join}",
        )  # fmt: skip
        if table == "stub":
            stubs = set(items) - before
    for row in connection.execute(
        f"SELECT {NAMES}, a.step, a.task, a.number, x.source, x.stream, b.key FROM log x {ATTEMPT}"
        " JOIN blob b ON b.id = x.blob ORDER BY x.attempt, x.source, x.stream, x.part"
    ):
        items["log", *row[:7]] = (*items.get(("log", *row[:7]), ()), row[7])
    for table, (keys, values) in RECORDS.items():
        add(table, 3 + keys.count(","), f"SELECT {NAMES}, {keys}, {values} FROM {table} x {OF.format('x')}")
    for *key, field, value, stamp in connection.execute(
        f"SELECT {NAMES}, x.step, x.task, x.field_name, x.value, x.ts_epoch FROM registered_metadata x {OF.format('x')}"
        " ORDER BY x.run, x.step, x.task, x.position"
    ):
        whole = ("registered_metadata", *key)
        items[whole] = (*items.get(whole, ()), (field, value, stamp))
    add("file", 1, "SELECT x.path, b.key, x.size, x.metadata FROM file x JOIN blob b ON b.id = x.blob")
    add(
        "trashed_file", 3,
        f"SELECT {NAMES}, x.path, b.key, x.size, x.metadata FROM trashed_file x {OF.format('x')}"
        " JOIN blob b ON b.id = x.blob",
    )  # fmt: skip
    add("data", 2, "SELECT f.name, b.key FROM data x JOIN blob b ON b.id = x.blob JOIN flow f ON f.id = x.flow")
    add("trash", 2, f"SELECT {NAMES}, x.trashed, x.purging FROM trash x {OF.format('x')}")
    add("untrusted", 2, f"SELECT {NAMES} FROM untrusted x {OF.format('x')}")
    add("run", 2, f"SELECT {NAMES} FROM run r JOIN flow f ON f.id = r.flow LEFT JOIN trash t ON t.run = r.id")
    add("blob", 1, "SELECT key, size FROM blob")
    connection.close()
    return items, stubs


def contents(path: str) -> dict[bytes, bytes]:
    """Return the bytes of every blob of a whole file by key."""
    connection = connect(path)
    found = {}
    for blob, key, size, codec, stored in connection.execute("SELECT id, key, size, codec, bytes FROM blob").fetchall():
        parts = connection.execute(
            "SELECT c.codec, c.bytes, c.size FROM blob_chunk l JOIN chunk c ON c.id = l.chunk WHERE l.blob = ?"
            " ORDER BY l.position",
            (blob,),
        )
        found[key] = b"".join(decoded(*part) for part in parts) if codec is None else decoded(codec, stored, size)
    connection.close()
    return found


# Which tables an item is made of: if none of their pages is hurt, salvage must have it.
NAMED = {"run", "flow", "trash"}
BYTES = {"blob", "chunk", "blob_chunk"}
NEEDS = {
    "attempt": NAMED | {"attempt", "artifact", "stub", "blob"},
    "artifact": NAMED | {"attempt", "artifact", "stub", "blob"},
    "log": NAMED | BYTES | {"attempt", "log"},
    "file": BYTES | {"file"},
    "trashed_file": NAMED | BYTES | {"trashed_file"},
    # A flow that has no run is proven by its table and its index alone: if these differ, nobody knows which is right.
    "data": BYTES | {"data", "flow", "run", "sqlite_autoindex_flow_1"},
    "trash": NAMED,
    "untrusted": NAMED | {"untrusted"},
    "run": NAMED | {"attempt", "registered_run"},
    "blob": BYTES | {"artifact", "log", "data", "file", "trashed_file"},
    **{table: NAMED | {table} for table in (*RECORDS, "registered_metadata")},
}
INNER_DO_NOT_MATTER = {
    "store", "blob", "chunk", "flow", "run", "attempt", "registered_run", "trash", "garbage", "untrusted",
}  # fmt: skip
"""Tables whose inner pages hold no rows."""


def pages_of(path: str) -> dict[int, tuple[str, bool]]:
    """Return for each page in a tree its table or index, and whether it is an inner one."""
    connection = connect(path)
    rows = connection.execute("SELECT pageno, name, pagetype FROM dbstat").fetchall()
    connection.close()
    return {page: (name, kind == "internal") for page, name, kind in rows}


def hurt_tables(pages: dict[int, tuple[str, bool]], hurt: set[int]) -> set[str]:
    """Return the tables of which pages with rows are hurt."""
    found = {pages[page] for page in hurt if page in pages}
    return {name for name, inner in found if not (inner and name in INNER_DO_NOT_MATTER)}
