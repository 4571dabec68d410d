"""The names of flows and runs, which the digests of all rows cover: what they may be, and what they prove to be.

Names stand in few rows, and twice: in a table and in the index of its unique columns. Where these differ, a name is a
guess until the digest of any row of the run proves it. Where they agree, or one of the two is damaged and the other
has one name, that is taken though no row of the run is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlitestore.maintenance.records import is_digest, is_legal
from sqlitestore.maintenance.salvage_staging import Staging
from sqlitestore.maintenance.verification import Findings, pathspec_of

MAX_FLOWS = 100
"""Flows that are tried for a run in the trash whose row is lost."""


class RunName(NamedTuple):
    """What a run may be called; ``trashed`` and ``purging`` are those of the trash, None if it is not there."""

    flow: str
    run: str
    trashed: float | None
    purging: int | None


class RunNames:
    """Knows, for the ids of runs, the names that they may have, and those that were proven."""

    def __init__(self, staging: Staging, hurt: set[str]) -> None:
        self._hurt = hurt
        self._flows: dict[int, list[str]] = {}
        self._agreed: set[Any] = set()
        self._alone: set[int] = set()  # runs whose name stands in one place only
        self._runs: dict[int, list[RunName]] = {}
        self.proven: dict[int, RunName] = {}
        self._contradicted: set[Any] = set()
        self._taken: dict[tuple[str, str], int] = {}
        for flow in staging.firsts("flow"):
            found = staging.find("flow", flow)
            # A page of ``untrusted`` has rows of the same shape, which only the index of flows does not know.
            doubtful = {origin for _, _, origin in staging.find("untrusted", flow)}
            agreed = {name for _, _, name in self._agreed_rows("flow", found, doubtful) if is_legal(name)}
            names = {name: None for _, _, name in found if is_legal(name)}
            self._flows[flow] = [
                *(name for name in names if name in agreed),
                *(name for name in names if name not in agreed),
            ]
            self._agreed.update(agreed)
        for table in ("run", "trash"):
            for run in staging.firsts(table):
                if run > 0 and run not in self._runs:
                    self._runs[run] = self._candidates(staging, run)

    def _candidates(self, staging: Staging, run: int) -> list[RunName]:
        rows, trash = staging.find("run", run), staging.find("trash", run)
        hidden = f"trash/{run}"
        found: list[RunName] = []
        for _, _, flow, name in rows:
            for flow_name in self._flows.get(flow, []):
                if name == hidden:
                    found.extend(RunName(flow_name, real, *rest) for _, _, real, *rest in trash)
                else:
                    found.append(RunName(flow_name, name, None, None))
        if not rows:
            flows = [name for names in self._flows.values() for name in names][:MAX_FLOWS]
            found.extend(RunName(flow, real, *rest) for flow in flows for _, _, real, *rest in trash)
        found = [name for name in dict.fromkeys(found) if is_legal(name.run)]
        agreed = self._agreed_rows("run", rows, set())
        if len(found) == len(agreed) == 1 and found[0].flow in self._agreed:
            self._agreed.add(run)
            if len(rows) == 1:
                self._alone.add(run)
        return found

    def _agreed_rows(self, table: str, rows: list[tuple[Any, ...]], doubtful: set[Any]) -> set[tuple[Any, ...]]:
        """Return (NULL, id, ...) of the rows that table and index both have, or one of them if the other is damaged.

        A name that is ``doubtful`` counts only if both have it.
        """
        tables, indexes = ({(None, *row[1:]) for row in rows if row[0] % 2 == part} for part in (0, 1))
        if tables and indexes:
            return tables & indexes
        only, other = (tables, f"sqlite_autoindex_{table}_1") if tables else (indexes, table)
        sure = {row for row in only if row[-1] not in doubtful}
        return sure if len(only) == 1 and self._hurt & {other, "sqlite_schema"} else set()

    def candidates(self, run: Any) -> list[RunName]:
        """Return the names that a run may have; one if it is proven, none if nothing is known."""
        if run in self.proven:
            return [self.proven[run]]
        return self._runs.get(run, [])

    def verified(self, run: Any, digest: Any, *fields: Any) -> RunName | None:
        """Return the names under which the digest is that of the fields, and take them for proven; else None."""
        for name in self.candidates(run):
            if is_digest(digest, name.flow, name.run, *fields):
                if run not in self.proven and not self._take(run, name):
                    continue
                return name
        self._contradicted.add(run)
        return None

    def settle(self, findings: Findings) -> None:
        """Take for proven what table and index agree on, though no row of the run is left; report the others."""
        for run, names in self._runs.items():
            if run in self.proven:
                continue
            # A name that stands in one place only, as in the trash: rows that it does not fit speak against it.
            alone = run in self._alone or any(name.trashed is not None for name in names)
            doubtful = run in self._contradicted and alone
            if run in self._agreed and not doubtful and self._take(run, names[0]):
                continue
            where = pathspec_of(names[0][:2]) if names else f"?/? (id {run})"
            findings.add("run", "nothing proves its name, so it is left out", pathspec=where)

    def place(self, run: Any) -> list[Any]:
        """Return what flow and run are called, for a report; None for what is not known."""
        return list((self.candidates(run) or [RunName("?", "?", None, None)])[0][:2])

    def flow_names(self, flow: Any) -> list[str]:
        """Return the names that a flow may have."""
        return self._flows.get(flow, [])

    def is_flow_known(self, name: str) -> bool:
        """Whether a flow's name is proven by a run of it, or table and index agree on it."""
        return name in self._agreed or any(proven.flow == name for proven in self.proven.values())

    def _take(self, run: int, name: RunName) -> bool:
        if name.trashed is None and self._taken.setdefault(name[:2], run) != run:
            return False
        self.proven[run] = name
        return True
