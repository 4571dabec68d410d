"""How many tasks the runs of a store have and in which state, without looking at each of them on its own.

``DataStoreStorage.find_run`` gives the attempts of one run, checked; for a list of a thousand runs, or for the sizes
of all tasks of one, asking it (or ``load_artifacts``) again and again would take minutes where one pass takes seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlitestore import preview
from sqlitestore.database import Database

SELECT_RUN_IDS = """SELECT f.name, r.id, r.name FROM flow AS f LEFT JOIN run AS r ON r.flow = f.id
 AND r.name NOT GLOB '*/*' WHERE ?1 IS NULL OR f.name = ?1 ORDER BY f.name, r.id"""
SELECT_TIMES = "SELECT MIN(started), MAX(done) FROM attempt WHERE run = ?"
# With max() alone, the other columns are those of the row that has it (https://www.sqlite.org/lang_select.html,
# "Bare columns in an aggregate query"): the latest attempt that started.
SELECT_STATES = """SELECT COUNT(DISTINCT step), COUNT(1), COALESCE(SUM(done IS NOT NULL AND NOT failed), 0),
 COALESCE(SUM(latest >= 0 AND done IS NULL), 0), COALESCE(SUM(done IS NOT NULL AND failed), 0)
 FROM (SELECT t.step, t.done, t.latest, EXISTS (
     SELECT 1 FROM artifact AS x WHERE x.attempt = t.id AND x.name = ?2 AND x.preview = ?3) AS failed
   FROM (SELECT a.step, a.id, a.done, max(iif(a.started IS NULL, -1, a.number)) AS latest
     FROM attempt AS a WHERE a.run = ?1 GROUP BY a.step, a.task) AS t)"""
SELECT_SIZES = """SELECT a.step, a.task, a.number, COUNT(x.name), COALESCE(SUM(x.size), 0),
 COALESCE(MAX(x.name = ?4 AND x.preview = ?5), 0)
 FROM flow AS f CROSS JOIN run AS r ON r.flow = f.id CROSS JOIN attempt AS a ON a.run = r.id
 LEFT JOIN artifact AS x ON x.attempt = a.id
 WHERE f.name = ?1 AND r.name = ?2 AND (?3 IS NULL OR a.step = ?3) GROUP BY a.step, a.task, a.number"""

TASK_OK = "_task_ok"
"""Metaflow's artifact that tells whether the task's code ended well; a task that failed is done all the same."""

FALSE = preview.pack(preview.describe(False))  # noqa: FBT003 - the value itself
"""The preview of False as it stands in the file."""


class RunSummary(NamedTuple):
    """A run's tasks by state, each by its latest attempt that started.

    ``done``: finished well; ``running``: started and not done (a crash looks the same); ``failed``: done, but its
    artifact ``_task_ok`` is False. ``started`` is the first start, ``finished`` the last end [s since 1970].
    """

    flow_name: str
    run_id: str
    steps: int
    tasks: int
    done: int
    running: int
    failed: int
    started: float | None
    finished: float | None


class AttemptSize(NamedTuple):
    """How many artifacts an attempt has, their bytes when serialized, and whether its ``_task_ok`` is False."""

    artifacts: int
    size: int
    failed: bool


def run_summaries(database: Database, flow_name: str | None = None) -> dict[str, list[RunSummary]]:
    """Return the runs, oldest first, of each flow (or of one) by name; a flow without runs has an empty list."""
    flows: dict[str, list[RunSummary]] = {}
    with database.read() as connection:
        rows: list[Any] = connection.execute(SELECT_RUN_IDS, (flow_name,)).fetchall()
        for flow, run, name in rows:
            runs = flows.setdefault(flow, [])
            if run is None:
                continue
            counts: Any = connection.execute(SELECT_STATES, (run, TASK_OK, FALSE)).fetchall()[0]
            times: Any = connection.execute(SELECT_TIMES, (run,)).fetchall()[0]
            runs.append(RunSummary(flow, name, *counts, *times))
    return flows


def attempt_sizes(
    database: Database, flow_name: str, run_id: str, step_name: str | None = None
) -> dict[tuple[str, str, int], AttemptSize]:
    """Return the size of each attempt of a run (of one step) by step, task and number."""
    rows = database.query(SELECT_SIZES, (flow_name, run_id, step_name, TASK_OK, FALSE))
    return {
        (step, task, number): AttemptSize(artifacts, size, bool(failed))
        for step, task, number, artifacts, size, failed in rows
    }
