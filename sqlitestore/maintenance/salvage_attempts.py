"""Attempts out of a damaged file: with their artifacts and logs, each proven by the digests of its rows.

An attempt of which a row is lost that its digest covers cannot be proven done. It stays, as started, so that its logs
do; a task like that is run again. An artifact whose bytes alone are lost becomes a stub: the attempt stays done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

import apsw

from sqlitestore.maintenance.carving import UNCERTAIN
from sqlitestore.maintenance.records import is_digest, is_legal, is_map
from sqlitestore.maintenance.salvage_content import ContentSalvage
from sqlitestore.maintenance.salvage_names import RunName, RunNames
from sqlitestore.maintenance.salvage_staging import Staging
from sqlitestore.maintenance.verification import Findings, pathspec_of
from sqlitestore.progress import Progress
from sqlitestore.tasks import digest_of

INSERT_ATTEMPT = "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_ARTIFACT = "INSERT INTO artifact VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_STUB = "INSERT INTO stub VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_LOG = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)"
HAS_ATTEMPT = "SELECT 1 FROM attempt WHERE run = ? AND step = ? AND task = ? AND number = ?"
COUNT_IDS = "SELECT COUNT(DISTINCT c0) FROM attempt"
SELECT_STRAYS = "SELECT DISTINCT c0 FROM {} WHERE rank < ? AND c0 NOT IN (SELECT c0 FROM attempt)"
COMMIT_EVERY = 1000
"""Attempts between two commits."""
MANY_COMBINATIONS = 256
"""Of keys that an attempt's artifacts may have, where table and index say different ones; its digest decides."""

Fields = tuple[Any, ...]


class AttemptSalvage:
    """Moves attempts, artifacts, stubs and logs."""

    def __init__(
        self,
        staging: Staging,
        out: apsw.Connection,
        names: RunNames,
        content: ContentSalvage,
        findings: Findings,
        progress: Progress,
    ) -> None:
        self._staging = staging
        self._out = out
        self._names = names
        self._content = content
        self._findings = findings
        self._progress = progress

    def run(self) -> None:
        """Move everything that is whole, and say what is not."""
        self._progress.start("Saving attempts", self._staging.query(COUNT_IDS)[0][0], "attempts")
        self._out.execute("BEGIN")
        try:
            for count, attempt in enumerate(self._staging.firsts("attempt")):
                self._save(attempt)
                self._progress.advance(1)
                if count % COMMIT_EVERY == COMMIT_EVERY - 1:
                    self._out.execute("COMMIT; BEGIN")
            self._report_strays()
            self._out.execute("COMMIT")
        finally:
            self._progress.finish()

    def _save(self, attempt: int) -> None:
        rows = self._staging.find("attempt", attempt)
        for _, _, run, step, task, number, started, done, python, artifacts_digest, digest in rows:
            of = (step, task, number)
            if digest is None or attempt <= 0 or not _is_attempt(number, started, done, python):
                continue
            name = self._names.verified(run, digest, *of, started, done, python, artifacts_digest)
            if name is None or not is_legal(*of[:2]) or self._is_there(run, of):
                continue
            self._save_whole(attempt, run, name, of, (started, done, python, artifacts_digest, digest))
            return
        for rank, _, run, *more in rows:
            of = (more[0], more[1], more[2])
            if rank < UNCERTAIN and attempt > 0:
                self._save_logs_alone(attempt, run, of)
                return

    def _is_there(self, run: int, of: Fields) -> bool:
        return self._out.execute(HAS_ATTEMPT, (run, *of)).fetchone() is not None

    def _save_whole(self, attempt: int, run: int, name: RunName, of: Fields, values: Fields) -> None:
        """Save an attempt whose row is proven; as not done if its artifact rows are not."""
        started, done, python, artifacts_digest, digest = values
        artifacts: list[Fields] | None = []
        if done is not None:
            artifacts = self._artifacts(attempt, artifacts_digest)
        place = {"pathspec": pathspec_of([name.flow, name.run, *of[:2]]), "attempt": of[2]}
        if artifacts is None:
            self._report_unproven(attempt, place)
            digest = digest_of(name.flow, name.run, *of, started, None, None, None)
            done = python = artifacts_digest = None
        row = (attempt, run, *of, started, done, python, artifacts_digest, digest)
        self._out.execute(INSERT_ATTEMPT, row)
        self._findings.count("attempts")
        for position, (artifact, key, *rest) in enumerate(artifacts or ()):
            saved = self._content.saved(key)
            if saved is None:
                self._out.execute(INSERT_STUB, (attempt, artifact, position, key, *rest))
                self._findings.count("stubs")
                if not self._was_stub(attempt, artifact):
                    message = f"its bytes are lost (blob {key.hex()}); it is a stub now"
                    self._findings.add("artifact", message, name=artifact, **place)
            elif self._was_stub(attempt, artifact):
                self._out.execute(INSERT_STUB, (attempt, artifact, position, key, *rest))
                self._findings.count("stubs")
            else:
                self._out.execute(INSERT_ARTIFACT, (attempt, artifact, position, saved[0], *rest))
                self._findings.count("artifacts")
        for log in self._logs(attempt, name, of, place):
            self._out.execute(INSERT_LOG, (attempt, *log))

    def _was_stub(self, attempt: int, artifact: str) -> bool:
        return any(row[2] == artifact for row in self._staging.find("stub", attempt))

    def _artifacts(self, attempt: int, digest: Any) -> list[Fields] | None:
        """Return the artifacts that the digest is of, by position, with keys; None if they are not all there."""
        rows = [*self._staging.find("artifact", attempt), *self._staging.find("stub", attempt)]
        for chosen in _choices(rows):
            keys: list[list[Any]] = [
                [row[4]] if isinstance(row[4], bytes) else self._content.keys_of(row[4]) or [None] for row in chosen
            ]
            for combination in islice(product(*keys), MANY_COMBINATIONS):
                fields: list[Fields] = [(row[2], key, *row[5:]) for row, key in zip(chosen, combination, strict=True)]
                if is_digest(digest, *fields) and all(map(_is_sane, fields)):
                    return fields
        return None

    def _report_unproven(self, attempt: int, place: dict[str, Any]) -> None:
        """Say which artifacts are left of an attempt that is not done any more, and under which keys."""
        rows = [*self._staging.find("artifact", attempt), *self._staging.find("stub", attempt)]
        left = []
        for _, _, name, _, blob, *_ in rows[:20]:
            keys = [blob] if isinstance(blob, bytes) else self._content.keys_of(blob)
            saved = [key.hex() for key in keys if self._content.saved(key)]
            left.append(f"{name!r:.80} ({saved[0] if saved else 'lost'})")
        message = "its artifact rows are damaged, so it is not done any more"
        if left:
            message += f"; left, by their keys, unproven: {', '.join(left)}"
        self._findings.add("attempt", message, **place)

    def _save_logs_alone(self, attempt: int, run: int, of: Fields) -> None:
        """Save the logs of an attempt whose row is lost, if their digests prove whose they are."""
        place = {"pathspec": pathspec_of([*self._names.place(run), *of[:2]]), "attempt": of[2]}
        if self._is_there(run, of):
            return
        self._findings.add("attempt", "its row is lost or damaged", **place)
        for name in self._names.candidates(run):
            logs = self._logs(attempt, name, of, None)
            if not logs or not is_legal(*of[:2]):
                continue
            source, stream, part, _, size, digest = logs[0]
            key = self._key_of_log(attempt, logs[0])
            if self._names.verified(run, digest, *of, source, stream, part, key, size) is None:
                continue
            digest = digest_of(name.flow, name.run, *of, None, None, None, None)
            self._out.execute(INSERT_ATTEMPT, (attempt, run, *of, None, None, None, None, digest))
            self._findings.count("attempts")
            for log in logs:
                self._out.execute(INSERT_LOG, (attempt, *log))
            return

    def _key_of_log(self, attempt: int, log: Fields) -> bytes | None:
        for _, _, *row in self._staging.find("log", attempt):
            if row[0] == log[0] and row[1] == log[1] and row[2] == log[2]:
                for key in self._content.keys_of(row[3]):
                    saved = self._content.saved(key)
                    if saved and saved[0] == log[3]:
                        return key
        return None

    def _logs(self, attempt: int, name: RunName, of: Fields, place: dict[str, Any] | None) -> list[Fields]:
        """Return the rows of the logs that are whole: source, stream, part, blob, size, digest."""
        parts: dict[tuple[str, str], dict[int, Fields | None]] = {}
        for _, _, source, stream, part, blob, size, digest in self._staging.find("log", attempt):
            known = parts.setdefault((source, stream), {})
            known.setdefault(part, None)
            for key in self._content.keys_of(blob):
                saved = self._content.saved(key)
                fields = (name.flow, name.run, *of, source, stream, part, key, size)
                if known[part] is None and saved and saved[1] == size and is_digest(digest, *fields):
                    known[part] = (source, stream, part, saved[0], size, digest)
        whole: list[Fields] = []
        for (source, stream), known in sorted(parts.items()):
            rows = [known.get(part) for part in range(len(known))]
            found = [row for row in rows if row is not None]
            if len(found) == len(rows) and is_legal(source, stream):
                whole.extend(found)
                self._findings.count("logs")
            elif place is not None:
                lost = [str(part) for part, row in enumerate(rows) if row is None]
                message = f"it is left out, because part {', '.join(lost[:20])} is lost or damaged"
                self._findings.add("log", message, name=f"{source}/{stream}", **place)
        return whole

    def _report_strays(self) -> None:
        """Say that there are artifacts and logs of attempts of which nothing else is left."""
        for table in ("artifact", "stub", "log"):
            for (attempt,) in self._staging.query(SELECT_STRAYS.format(table), (UNCERTAIN,)):
                names = [row[2] for row in self._staging.find(table, attempt)]
                message = (
                    f"of the attempt with the id {attempt} nothing else is left: {', '.join(map(str, names[:20]))}"
                )
                self._findings.add(table if table == "log" else "artifact", message)


def _choices(rows: Sequence[Fields]) -> Iterator[list[Fields]]:
    """Yield the lists of rows (rank, attempt, name, position, ...) that may be the attempt's, the likeliest first."""
    seen = []
    for some in (
        rows,
        [row for row in rows if row[0] == 0],
        list(reversed(rows)),
        [row for row in rows if row[0] < UNCERTAIN],
    ):
        by_name: dict[Any, Fields] = {}
        for row in sorted(some, key=lambda row: row[0]) if some is rows else some:
            by_name.setdefault(row[2], row)
        chosen = sorted(by_name.values(), key=lambda row: (row[3], row[0]))
        if [row[3] for row in chosen] == list(range(len(chosen))) and chosen not in seen:
            seen.append(chosen)
            yield chosen


def _is_sane(field: Fields) -> bool:
    """Whether an artifact's row has values that ours have: whoever forges a row can sign it, too."""
    name, key, size, kind, encoding, info, preview = field
    fits = _is_count(size) and isinstance(kind, str) and isinstance(encoding, str)
    return is_legal(name) and key is not None and fits and is_map(info) and is_map(preview)


def _is_attempt(number: Any, started: Any, done: Any, python: Any) -> bool:
    """Whether an attempt's row has values that ours have."""
    times = {type(started), type(done)} <= {float, type(None)}
    return _is_count(number) and times and (python is None or isinstance(python, str))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
