"""Damaged files: every answer is right or an error; and the campaign that says so catches deliberate bugs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage_kinds
import pytest
from proof_damage import Campaign, prove

from sqlitestore import blob_reader, blobs, files, registrations, task_records, tasks
from sqlitestore.errors import Damaged
from sqlitestore.maintenance import salvage_attempts, salvage_content, salvage_names, salvage_records, verify
from sqlitestore.maintenance.verification import Findings
from sqlitestore.maintenance.verify_attempts import AttemptCheck
from sqlitestore.maintenance.verify_content import ContentCheck
from sqlitestore.maintenance.verify_records import RecordCheck
from sqlitestore.storage import SQLiteStorage


def test_damage_by_chance(tmp_path: Path) -> None:
    """Three of every kind: nothing wrong is answered, verify tells what is missing, and salvage gets what is whole."""
    figures = prove(51, 1, str(tmp_path))
    assert figures["files salvaged"] > 25
    assert figures["errors"] > 500


class Anything(bytes):
    """A digest that is equal to every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


class AnyHash:
    """A hasher whose digests are equal to every key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def update(self, data: bytes) -> None:
        """Take bytes."""

    def digest(self) -> bytes:
        """Return what is equal to the key."""
        return Anything(self._key)

    def hexdigest(self) -> str:
        """Return the key."""
        return self._key.hex()


def no_digest(*_: Any) -> bytes:
    return Anything()


def believe(*_: Any) -> bool:
    return True


def nothing(*_: Any, **__: Any) -> None:
    return None


def _load_or_none(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(*arguments: Any) -> Any:
        try:
            return original(*arguments)
        except Damaged:
            return None

    return load


def _part_alone(self: Any, task: Any, attempt: int, rows: Any) -> list[Any]:
    return [task_records._Part._make(row) for row in rows]


# What is replaced, by what; damage of which table finds it soonest; and the words of the violation.
Seeded = tuple[list[tuple[Any, str, Any]], tuple[str, ...], str]
UNCHECKED_BLOB: list[tuple[Any, str, Any]] = [
    (blobs, "hasher_for", AnyHash), (blobs, "hexdigest_for", lambda key, _: key),
]  # fmt: skip
UNCHECKED_CHUNK: list[tuple[Any, str, Any]] = [(blob_reader, "xxh3_128_digest", no_digest)]
WRONG, UNNOTICED, NAMELESS = " is ", "verify says nothing of", "verify does not name"
SWALLOWED = "is answered with nothing, and verify reads it"
BUGS: dict[str, Seeded] = {
    "a blob in its row is not hashed": (UNCHECKED_BLOB, ("blob",), WRONG),
    "neither chunks nor the whole are hashed": ([*UNCHECKED_CHUNK, *UNCHECKED_BLOB], ("chunk",), WRONG),
    "attempts and artifacts are not hashed": ([(tasks, "digest_of", no_digest)], ("attempt", "artifact"), WRONG),
    "metadata are not hashed": ([(task_records.TaskMetadata, "_check", nothing)], ("task_metadata",), WRONG),
    "log rows are not hashed": ([(task_records.Logs, "_checked", _part_alone)], ("log",), ""),
    "file rows are not hashed": ([(files, "digest_of", no_digest)], ("file",), WRONG),
    "registrations are not hashed": (
        [(registrations, "digest_of", no_digest)], ("registered_metadata", "registered_task", "registered_run"), WRONG,
    ),
    "a damaged log is none": (
        [(SQLiteStorage, "load_log", _load_or_none(SQLiteStorage.load_log))], ("log",), SWALLOWED,
    ),
    "a damaged file is none": (
        [(SQLiteStorage, "find_file", _load_or_none(SQLiteStorage.find_file))], ("file",), SWALLOWED,
    ),
    "verify does not ask SQLite": (
        [(verify, "_check_integrity", nothing)], ("sqlite_autoindex_run_1", "sqlite_autoindex_blob_1", "task_metadata"),
        UNNOTICED,
    ),
    "verify skips content": ([(ContentCheck, "run", nothing)], ("chunk",), UNNOTICED),
    "verify skips attempts": ([(AttemptCheck, "_check", nothing)], ("attempt", "artifact"), UNNOTICED),
    "verify skips records": ([(RecordCheck, "_check_records", nothing)], ("task_metadata",), UNNOTICED),
    "verify skips files": ([(RecordCheck, "_check_file", nothing)], ("file",), UNNOTICED),
    "verify names nothing": (
        [(Findings, "add", lambda self, kind, message, **_: setattr(self, "found", self.found + 1))],
        ("chunk",), NAMELESS,
    ),
    "salvage does not hash content": (
        [(salvage_content, "hasher_for", AnyHash), (salvage_content, "xxh3_128_digest", no_digest)],
        ("chunk", "blob"), "",
    ),
    "salvage does not hash rows": (
        [(salvage_records, "is_digest", believe), (salvage_names, "is_digest", believe),
         (salvage_attempts, "is_digest", believe)], ("task_metadata", "registered_task", "log"), "",
    ),
}  # fmt: skip
ROUNDS = 150
"""In which each must be caught."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Return a campaign over whole files, made without bugs."""
    return Campaign(str(tmp_path_factory.mktemp("damage")))


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught(campaign: Campaign, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign fails with bits flipped in the tables that the bug concerns; and passes the same without it."""
    replaced, trees, words = BUGS[bug]
    monkeypatch.setattr(damage_kinds.Damage, "some_page", lambda damage: _page_of(damage, trees))
    monkeypatch.setattr("proof_damage.BESIDE", ())
    monkeypatch.setattr("proof_damage.KINDS", {"1 bit": damage_kinds.KINDS["1 bit"], "bit in rows": _flip_in_rows})
    with monkeypatch.context() as seeded:
        for owner, name, value in replaced:
            seeded.setattr(owner, name, value)
        failed = next((seed for seed in range(ROUNDS) if _fails(campaign, seed, words)), None)
    assert failed is not None, f"not caught in {ROUNDS} rounds"
    campaign.round(failed)


def _fails(campaign: Campaign, seed: int, words: str) -> bool:
    message = ""
    try:
        campaign.round(seed)
    except AssertionError as error:
        message = str(error)
    assert not message or f"seed {seed} " in message
    return bool(message) and words in message


def _page_of(damage: damage_kinds.Damage, trees: tuple[str, ...]) -> int:
    tree = damage.chance.choice(trees)
    return damage.chance.choice([page for page, (name, _) in damage.whole.pages.items() if name == tree])


def _flip_in_rows(damage: damage_kinds.Damage) -> None:
    """Flip one bit near the end of a page, where the rows of a page that is not full are."""
    page = damage.some_page()
    damage.hurt.add(page)
    size = damage.whole.page_size
    place = page * size - 1 - damage.chance.randrange(min(size // 4, 400))
    damage.data[place] ^= 1 << damage.chance.randrange(8)
