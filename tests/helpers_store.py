"""What several tests need of a store: making one, looking at its tables past our own code, and damaging it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from sqlitestore import FlowDataStore

FLOW = "TestFlow"

READ_ONLY, WRITABLE = 0o555, 0o755
"""Permissions of a folder."""


def save_task(
    flow: FlowDataStore, run: str = "1", step: str = "a", task: str = "1", attempt: int = 0, **artifacts: Any
) -> None:
    """Save a done task."""
    writer = flow.get_task_datastore(run, step, task, attempt=attempt, mode="w")
    writer.init_task()
    writer.save_artifacts(artifacts.items())
    writer.done()


def make_store(path: str | os.PathLike[str], tasks: int = 2) -> str:
    """Make a file of a few done tasks, one of them with a blob in chunks; return its path."""
    with FlowDataStore(FLOW, ds_root=path) as flow:
        for task in range(tasks):
            save_task(flow, task=str(task), text=f"value {task}")
        save_task(flow, step="b", large=incompressible(700_000))
    return os.fspath(path)


def incompressible(size: int, seed: int = 1) -> bytes:
    """Return the same bytes of noise for the same ``seed``."""
    import random

    return random.Random(seed).randbytes(size)


def dump(path: str | os.PathLike[str], without: frozenset[str] = frozenset()) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all our tables but ``without``, by a connection that is not ours."""
    connection = apsw.Connection(os.fspath(path))
    try:
        connection.set_busy_timeout(60_000)
        with connection:
            names = [
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
                )
            ]
            return {name: sorted(_rows_of(connection, name), key=repr) for name in sorted(set(names) - without)}
    finally:
        connection.close()


def _rows_of(connection: apsw.Connection, table: str) -> list[tuple[Any, ...]]:
    # As bytes where it is text: damage can make text that is no Unicode.
    columns = [
        f'iif(typeof("{row[1]}") = \'text\', CAST("{row[1]}" AS BLOB), "{row[1]}")' for row in _info(connection, table)
    ]
    return connection.execute(f'SELECT {", ".join(columns)} FROM "{table}"').fetchall()


def _info(connection: apsw.Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f'PRAGMA table_info("{table}")').fetchall()


def rows(path: str | os.PathLike[str], statement: str, bindings: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of one SELECT, by a connection that is not ours."""
    connection = apsw.Connection(os.fspath(path))
    try:
        connection.set_busy_timeout(60_000)
        return connection.execute(statement, bindings).fetchall()
    finally:
        connection.close()


def roots(path: str | os.PathLike[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of the tables that say what there is: all but those of blobs, which may be unreferenced."""
    return dump(path, frozenset(["blob", "chunk", "blob_chunk"]))


def loose_chunks(path: str | os.PathLike[str]) -> int:
    """Return how many chunks no blob references."""
    return int(rows(path, "SELECT COUNT(*) FROM chunk WHERE id NOT IN (SELECT chunk FROM blob_chunk)")[0][0])


def assert_sound(path: str | os.PathLike[str]) -> None:
    """Check what a stock SQLite can: integrity, foreign keys, and one file at rest."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []


def beside(path: str | os.PathLike[str]) -> list[str]:
    """Return what lies in the file's folder under a name that begins with the file's."""
    folder, name = os.path.split(os.fspath(path))
    return sorted(found for found in os.listdir(folder) if found.startswith(name))


@contextmanager
def tampering(path: str | os.PathLike[str]) -> Iterator[apsw.Connection]:
    """Give a connection for which the file has no constraints, types or foreign keys, until the end.

    So a row can take any form that a damaged page could give it.
    """
    connection = apsw.Connection(os.fspath(path))
    try:
        connection.set_busy_timeout(60_000)
        schema = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        loose = [(_without_constraints(sql), name) for name, sql in schema]
        _put_schema(connection, loose)
        connection.execute("PRAGMA ignore_check_constraints=ON")
        yield connection
        _put_schema(connection, [(sql, name) for name, sql in schema])
    finally:
        connection.close()


def _without_constraints(sql: str) -> str:
    for word in (") STRICT, WITHOUT", ") STRICT", " NOT NULL"):
        sql = sql.replace(word, ") WITHOUT" if "WITHOUT" in word else ")" if "STRICT" in word else "")
    return sql


def _put_schema(connection: apsw.Connection, statements: list[tuple[str, str]]) -> None:
    connection.execute("PRAGMA writable_schema=ON")
    connection.executemany("UPDATE sqlite_schema SET sql = ? WHERE name = ?", statements)
    connection.execute("PRAGMA writable_schema=RESET")
