"""Damage by chance: every answer is right or an error, verify finds what a reader would miss, salvage gets the rest.

A round damages a copy of a file, asks it for everything through our own classes, and compares with what SQL of our own
found in the file before; then verify and salvage are held to what is hurt. The seed of a violation is in its message.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

from damage_answers import Answers, Asking, Item, is_right, lacks_rows
from damage_commands import check_commands, outputs
from damage_files import PAGE_SIZES, Beside, Subject, clear, copied, lay, make_journal, make_log, make_subject
from damage_kinds import KINDS, LOST_WRITES, Damage, hurt_beside
from damage_naming import check_error, check_not_swallowed, names_it
from damage_salvage import SalvageCheck
from helpers_inventory import Items
from helpers_memory import peak_above

from sqlitestore import DataException, NotFound
from sqlitestore.maintenance.verification import Verification
from sqlitestore.maintenance.verify import verify

UNIT = "damaged files"
LONG = 10_000
IN_MEMORY = True

WITHOUT_DIGEST = {"data", "trash", "untrusted"}
"""Kinds whose rows have neither digest nor index: a bit that is flipped there can make a well-formed other row.

FORMAT.md says so. What is wrong or missing of these alone is counted, and is no violation if all pages are well-formed.
"""

MISDIRECTED = {"swapped pages", "copied page"}
"""A whole page of another table may then stand in the place of theirs: verify finds what that one lacks, not them."""

BESIDE = ("log", "journal")
ROUND = 30.0
"""[s] Of computing, more than any round may take: a hundred times what it does."""
MEMORY = 256 * 2**20
"""[bytes] More than any round may take: what a damaged size claims must not be taken for granted."""


class Campaign:
    """Damages copies of files in a folder, one a round, and counts what came of it."""

    def __init__(self, folder: str) -> None:
        self._subjects = [make_subject(folder, page_size) for page_size in PAGE_SIZES]
        self._beside: dict[str, Beside] = {"log": make_log(folder), "journal": make_journal(folder)}
        self._path = os.path.join(folder, "damaged.db")
        self._out = os.path.join(folder, "saved.db")
        self._salvage = [SalvageCheck(os.path.join(folder, f"made-{size}.db")) for size in PAGE_SIZES]
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.peak = 0
        self._errors: dict[Item, DataException] = {}
        self._outputs = [self._check_whole(subject) for subject in self._subjects]

    def _check_whole(self, subject: Subject) -> dict[str, str]:
        """Check that of the whole file everything is answered as expected, and nothing else."""
        self._lay(subject.whole.content)
        assert self._judge(subject, subject.answers, earlier=()) == [], "the whole file"
        assert verify(self._path).ok
        return outputs(self._path)

    def _lay(self, content: bytes) -> None:
        clear(self._path)
        clear(self._out)
        Path(self._path).write_bytes(content)

    def round(self, seed: int) -> None:
        """Damage, ask, verify, salvage, compare."""
        chance = random.Random(seed)
        kinds = [*KINDS, *BESIDE]
        kind = kinds[seed % len(kinds)]
        begin = time.process_time()  # others may keep the machine busy
        try:
            if kind in self._beside:
                peak = peak_above(lambda: self._round_beside(kind, chance))
            else:
                peak = peak_above(lambda: self._round_at_rest(kind, chance, seed))
        except Exception as error:
            message = f"seed {seed} ({kind}): {type(error).__name__}: {error}"
            raise AssertionError(message) from error
        self.counts[f"files with {kind}"] += 1
        seconds = time.process_time() - begin
        assert seconds < ROUND, f"seed {seed} ({kind}) took {seconds:.0f} s"
        self.longest = max(self.longest, seconds)
        assert peak < MEMORY, f"seed {seed} ({kind}) took {peak:,} bytes of memory"
        self.peak = max(self.peak, peak)

    def _round_at_rest(self, kind: str, chance: random.Random, seed: int) -> None:
        which = chance.randrange(len(self._subjects))
        subject = self._subjects[which]
        damage = Damage(subject.whole, chance)
        KINDS[kind](damage)
        data = bytes(damage.data)
        self._lay(data)
        lost = kind == LOST_WRITES
        missing = self._judge(subject, subject.answers, earlier=subject.earlier if lost else ())
        found = verify(self._path)
        for item in set(missing) - self._errors.keys():
            check_not_swallowed(found, item)
        self._count(missing, found)
        if missing and found.ok:
            self._not_found(missing, lost=lost)
        elif not lost:
            for item in missing:
                untold = kind in MISDIRECTED and item[0] in WITHOUT_DIGEST
                assert untold or names_it(subject.whole, found, item), (
                    f"verify does not name {item}, which is missing: {found.problems[:5]}"
                )
        if seed % 4 == 0:
            check_commands(self._path, {} if lost else self._outputs[which], found)
            self.counts["files for the command line"] += 1
        if not lost or not found.ok:
            saved = self._salvage[which].check(self._path, self._out, damage.hurt, earlier=lost)
            self.counts["files salvaged" if saved else "files of which nothing could be salvaged"] += 1
        assert _is_untouched(data, Path(self._path).read_bytes()), "somebody wrote to the file"

    def _not_found(self, missing: list[Item], *, lost: bool) -> None:
        """Take what verify says nothing of: only what the format has no second witness for may be."""
        if lost:
            self.counts["lost writes that left a well-formed older state, which verify cannot know"] += 1
            return
        strict = [item for item in missing if item[0] not in WITHOUT_DIGEST]
        assert not strict, f"verify says nothing of {strict[:5]}"
        self.counts["rows without a digest that became others, unnoticed"] += 1

    def _count(self, missing: list[Item], found: Verification) -> None:
        if missing:
            self.counts["files of which something was not readable"] += 1
        else:
            self.counts["files that were harmless" if found.ok else "files that verify alone found hurt"] += 1

    def _judge(self, subject: Subject, wanted: Items, earlier: tuple[Items, ...]) -> list[Item]:
        """Ask for everything; return what is missing, an error, or of an earlier time. Nothing may be wrong."""
        asked = {item for answers in (wanted, *earlier) for item in answers}
        answers = Asking(self._path, asked).ask()
        self._errors = answers.errors
        self.counts["answers"] += len(answers.found)
        missing = []
        for item, answer in answers.found.items():
            if item in wanted and is_right(answer, wanted[item]):
                continue
            missing.append(item)
            states = [state[item] for state in (wanted, *earlier) if item in state]
            fine = any(is_right(answer, state) or lacks_rows(item, answer, state) for state in states)
            if not fine and item[0] in WITHOUT_DIGEST:
                continue
            assert fine, f"{item} is {answer!r:.200}, and was {states!r:.200}"
        return missing + self._unanswered(answers, wanted)

    def _unanswered(self, answers: Answers, wanted: Items) -> list[Item]:
        for item, error in answers.errors.items():
            check_error(self._path, item, error)
            self.counts["errors"] += 1
        return [item for item in wanted if item not in answers.found]

    def _round_beside(self, kind: str, chance: random.Random) -> None:
        """Damage what lies beside a file: SQLite drops it from where it is hurt on, or rolls damage back into the file.

        A log has checksums: what is left is the state after one of its transactions, whole. A journal has hardly any:
        what it brings back is the state before, damage, or an error.
        """
        beside = self._beside[kind]
        clear(self._path)
        lay(beside, self._path, hurt_beside(beside.beside, chance))
        if chance.random() < 0.2 and kind == "log":
            Path(self._path + "-shm").write_bytes(chance.randbytes(32768))
        found = verify(copied(self._path, self._out))
        clear(self._out)
        asked = {item for state in beside.states for item in state}
        answers = Asking(self._path, asked).ask()
        self.counts["answers"] += len(answers.found)
        for item, error in answers.errors.items():
            check_error(self._path, item, error)
        for item, answer in answers.found.items():
            states = [state[item] for state in beside.states if item in state]
            fine = any(is_right(answer, state) or lacks_rows(item, answer, state) for state in states)
            assert fine or item[0] in WITHOUT_DIGEST, f"{item} is {answer!r:.200}, and was {states!r:.200}"
        same = [number for number, state in enumerate(beside.states) if _is_state(answers, state)]
        assert same or not found.ok, (
            f"verify says nothing, and the answers are of no state ({len(answers.errors)} errors)"
        )
        if same:
            last = same[-1] == len(beside.states) - 1
            self.counts[f"files with {kind}: {'all' if last else 'an earlier transaction'}"] += 1
        else:
            self.counts[f"files with {kind}: an error"] += 1
        assert same or kind == "journal", "a log that is hurt is dropped from there on, and nothing else"


def _is_untouched(before: bytes, now: bytes) -> bool:
    """Whether nobody wrote to a file; but that it has a log again is said in the header of one that lost that mark.

    SQLite counts that as a change, in two places (https://www.sqlite.org/fileformat.html, "The Database Header").
    """
    if before[18:20] != b"\2\2":
        before, now = (b"".join((each[:18], each[20:24], each[28:92], each[100:])) for each in (before, now))
    return before == now


def _is_state(answers: Answers, state: Items) -> bool:
    return (
        all(isinstance(error, NotFound) for error in answers.errors.values())
        and answers.found.keys() == state.keys()
        and all(is_right(answer, state[item]) for item, answer in answers.found.items())
    )


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Damage that many files; see the module."""
    begin = time.monotonic()
    campaign = Campaign(folder)
    for number in range(amount):
        campaign.round(seed * 1_000_000 + number)
    counts = campaign.counts
    assert counts["answers"] > amount
    if amount >= 3 * len([*KINDS, *BESIDE]):
        for needed in ("of which something was not readable", "that verify alone found hurt", "that were harmless"):
            assert counts[f"files {needed}"], f"no file {needed}"
        for kind in (*KINDS, *BESIDE):
            assert counts[f"files with {kind}"], f"no file with {kind}"
    figures: dict[str, int | float] = dict(sorted(counts.items()))
    figures["longest round [s]"] = round(campaign.longest, 2)
    figures["peak memory of a round [MiB]"] = campaign.peak // 2**20
    figures["seconds"] = round(time.monotonic() - begin, 1)
    return figures
