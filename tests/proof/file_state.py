"""What a file says, by names and content alone: read with SQL of our own, sharing no code with the package."""

from __future__ import annotations

from typing import Any

from sqlite_oracle import bytes_of, connect

RUN = "JOIN run r ON r.id = {0}.run JOIN flow f ON f.id = r.flow LEFT JOIN trash t ON t.run = r.id"
NAMES = "f.name, COALESCE(t.name, r.name), t.run IS NOT NULL"

# Times, ids, digests over times, and what nothing references are left out: they differ between two files that say
# the same.
STATEMENTS = {
    "run": f"SELECT {NAMES}, t.purging FROM run r JOIN flow f ON f.id = r.flow LEFT JOIN trash t ON t.run = r.id",
    "attempt": f"SELECT {NAMES}, a.step, a.task, a.number, a.started IS NULL, a.done IS NULL FROM attempt a "
    + RUN.format("a"),
    "artifact": f"SELECT {NAMES}, a.step, a.task, a.number, x.name, x.position, b.key, x.size, x.type, x.encoding,"
    " x.serializer_info, x.preview FROM artifact x JOIN blob b ON b.id = x.blob JOIN attempt a ON a.id = x.attempt "
    + RUN.format("a"),
    "stub": f"SELECT {NAMES}, a.step, a.task, a.number, x.name, x.key, x.size FROM stub x"
    " JOIN attempt a ON a.id = x.attempt " + RUN.format("a"),
    "metadata": f"SELECT {NAMES}, m.step, m.task, m.attempt, m.name, m.value FROM task_metadata m " + RUN.format("m"),
    "data": "SELECT f.name, b.key FROM data d JOIN blob b ON b.id = d.blob JOIN flow f ON f.id = d.flow",
    "file": "SELECT p.path, b.key, p.size, p.metadata FROM file p JOIN blob b ON b.id = p.blob",
    "trashed file": f"SELECT {NAMES}, p.path, b.key, p.size, p.metadata FROM trashed_file p"
    " JOIN blob b ON b.id = p.blob " + RUN.format("p"),
    "untrusted": f"SELECT {NAMES} FROM untrusted u " + RUN.format("u"),
    "registered run": f"SELECT {NAMES}, x.tags, x.system_tags, x.task_ids FROM registered_run x " + RUN.format("x"),
    "registered step": f"SELECT {NAMES}, x.step FROM registered_step x " + RUN.format("x"),
    "registered task": f"SELECT {NAMES}, x.step, x.task FROM registered_task x " + RUN.format("x"),
    # DISTINCT: metadata that are registered again are there again, as in Metaflow.
    "registered metadata": f"SELECT DISTINCT {NAMES}, x.step, x.task, x.field_name, x.type, x.tags, x.value"
    " FROM registered_metadata x " + RUN.format("x"),
    "registered artifact": f"SELECT {NAMES}, x.step, x.task, x.attempt, x.name, x.sha FROM registered_artifact x "
    + RUN.format("x"),
}

LOGS = (
    f"SELECT {NAMES}, a.step, a.task, a.number, l.source, l.stream, b.id FROM log l JOIN blob b ON b.id = l.blob"
    " JOIN attempt a ON a.id = l.attempt " + RUN.format("a") + " ORDER BY l.attempt, l.source, l.stream, l.part"
)


def state_of(path: str) -> dict[str, Any]:
    """Return all that a file says, that nobody has open and nothing lies beside."""
    connection = connect(path)
    try:
        said: dict[str, Any] = {
            name: sorted(connection.execute(statement).fetchall(), key=repr) for name, statement in STATEMENTS.items()
        }
        said["log"] = _logs(connection)
    finally:
        connection.close()
    return said


def _logs(connection: Any) -> dict[tuple[Any, ...], bytes]:
    """Return the text of each log: into how many parts it was cut is nobody's concern."""
    texts: dict[tuple[Any, ...], bytes] = {}
    for *names, blob in connection.execute(LOGS).fetchall():
        texts[tuple(names)] = texts.get(tuple(names), b"") + bytes_of(connection, blob)
    return texts


def first_difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Return in words what is different in ``found``, "" if nothing is."""
    for name, rows in expected.items():
        there = found[name]
        if there == rows:
            continue
        ours, theirs = (
            {repr(row)[:300] for row in (each.items() if name == "log" else each)} for each in (rows, there)
        )
        return f"{name}: missing {sorted(ours - theirs)[:3]}, too many {sorted(theirs - ours)[:3]}"
    return ""
