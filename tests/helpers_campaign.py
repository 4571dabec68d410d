"""Damage by chance, and what verify and salvage must make of it; nothing here shares code with them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from helpers_store import FLOW
from sqlite_oracle import connect

from sqlitestore import DataException
from sqlitestore.maintenance.salvage import salvage
from sqlitestore.maintenance.verify import verify
from sqlitestore.model import TaskAddress
from sqlitestore.registrations import Registrations
from sqlitestore.storage import SQLiteStorage
from sqlitestore.trash import Trash

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


# Which tables an item is made of: if none of their pages is hurt, salvage must have it.
NAMED = {"run", "flow", "trash"}
BYTES = {"blob", "chunk", "blob_chunk"}
NEEDS = {
    "attempt": NAMED | {"attempt", "artifact", "stub", "blob"},
    "artifact": NAMED | {"attempt", "artifact", "stub", "blob"},
    "log": NAMED | BYTES | {"attempt", "log"},
    "file": BYTES | {"file"},
    "trashed_file": NAMED | BYTES | {"trashed_file"},
    "data": BYTES | {"data", "flow", "run"},
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


def damage(content: bytes, pages: dict[int, tuple[str, bool]], chance: random.Random) -> tuple[bytes, set[int], str]:
    """Return the content damaged, which pages are, and what was done."""
    data = bytearray(content)
    count = len(data) // PAGE
    trees = [page for page, (name, _) in pages.items() if name != "chunk"] + [1, 2]

    def some_page() -> int:
        return chance.choice(trees) if chance.random() < 0.8 else chance.randrange(1, count + 1)

    kind = chance.choice(["flip", "flip", "flip", "zero", "swap", "cut", "noise", "copy", "header", "two"])
    hurt = set()
    if kind in {"flip", "two"}:
        for _ in range(2 if kind == "two" else 1):
            page = some_page()
            hurt.add(page)
            begin = (page - 1) * PAGE
            near = chance.random() < 0.3  # the beginning of a page is its most delicate part
            for _ in range(chance.choice([1, 1, 2, 30])):
                place = begin + chance.randrange(40 if near else PAGE)
                data[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        keep = chance.randrange(1000, len(data))
        hurt = set(range(keep // PAGE + 1, count + 1))
        del data[keep:]
    elif kind == "header":
        hurt = {1}
        data[:PAGE] = bytes(PAGE) if chance.random() < 0.5 else chance.randbytes(PAGE)
    else:
        one, two = some_page(), some_page()
        hurt = {one, two} if kind == "swap" else {one}
        first, second = data[(one - 1) * PAGE : one * PAGE], data[(two - 1) * PAGE : two * PAGE]
        if kind == "swap":
            data[(two - 1) * PAGE : two * PAGE] = first
        data[(one - 1) * PAGE : one * PAGE] = {
            "swap": second, "copy": second, "zero": bytes(PAGE), "noise": chance.randbytes(PAGE),
        }[kind]  # fmt: skip
    return bytes(data), hurt, kind


class Campaign:
    """Damages copies of one file, and checks what verify and salvage make of each."""

    def __init__(self, path: str) -> None:
        self.content = Path(path).read_bytes()
        self.items, self.stubs = inventory(path)
        self.pages = pages_of(path)
        self.folder = os.path.dirname(path)
        assert wrong_answers(path, self.items) == []
        self.counts = {"harmless": 0, "reported": 0, "unreadable": 0}

    def round(self, seed: int) -> None:
        """Damage, read, verify, salvage, compare."""
        data, hurt, kind = damage(self.content, self.pages, random.Random(seed))
        path, out = os.path.join(self.folder, "damaged.db"), os.path.join(self.folder, "saved.db")
        for name in (path, path + "-wal", path + "-shm", out):
            if os.path.exists(name):
                os.unlink(name)
        Path(path).write_bytes(data)
        try:
            self._salvage(path, out, hurt)
            assert Path(path).read_bytes() == data, "salvage wrote"
            self._read(path)
        except Exception as error:
            error.add_note(f"seed {seed}, {kind}, pages {sorted(hurt)[:5]}: {[self.pages.get(p) for p in hurt][:5]}")
            raise

    def _read(self, path: str) -> None:
        found = verify(path)
        try:
            missing = wrong_answers(path, self.items)
        except DataException:
            missing = ["everything"]
        if missing:
            assert not found.ok, f"verify says nothing of {missing[:5]}"
            self.counts["unreadable"] += 1
        else:
            self.counts["harmless" if found.ok else "reported"] += 1

    def _salvage(self, path: str, out: str, hurt: set[int]) -> None:
        try:
            report = salvage(path, out)
        except DataException:
            assert len(hurt) > len(self.pages) / 3, "there is something left"
            assert not os.path.exists(out)
            return
        checked = verify(out)
        assert checked.ok, checked.problems[:5]
        items, stubs = inventory(out)
        tables = hurt_tables(self.pages, hurt)
        self._check_equal(items, tables)
        lost = [item for item in self.items if item not in items]
        assert report.found or not lost, f"salvage says nothing of {lost[:5]}"
        if not hurt - {page for page in hurt if page in self.pages}:
            for item in lost:
                assert NEEDS[item[0]] & tables, f"{item} is whole, and not there"
        for item in stubs - self.stubs:
            assert BYTES & tables, f"{item} lost its bytes, which are whole"

    def _check_equal(self, items: Items, tables: set[str]) -> None:
        for item, value in items.items():
            expected = self.items.get(item)
            if item[0] == "untrusted":
                continue
            if expected == value:
                continue
            assert expected is not None, f"{item} was never there"
            if item[0] == "attempt":  # its artifacts or its row are lost: it is not done any more
                assert value[1:] == (None, None)
            elif item[0] == "log":  # nothing tells any more that it went on
                assert {"log", "log_by_blob"} <= tables
                assert expected[: len(value)] == value
            elif item[0] == "registered_run":
                assert (value[0], value[2:4]) == (None, ("[]", "[]"))
            elif item[0] == "registered_metadata":
                rest = iter(expected)
                assert all(each in rest for each in value)
            else:
                raise AssertionError(f"{item} is {value}, and was {expected}")
        for item in self.items:
            if item[0] == "untrusted" and ("run", *item[1:]) in items:
                assert item in items, f"{item} is trusted now"


def wrong_answers(path: str, items: Items) -> list[Any]:
    """Read all items through our own classes; return those that are missing or an error. None may be wrong."""
    missing = []
    storage = SQLiteStorage(path, create=False)
    try:
        trashed = {item[1:3] for item in items if item[0] == "trash"}
        attempts = _attempts(storage, {item[1:3] for item in items if item[0] == "attempt"} - trashed)
        for item, value in items.items():
            if item[1:3] in trashed:
                continue
            try:
                found = _read(storage, item, value, attempts)
            except (DataException, TypeError):  # a position that is text cannot be sorted: no answer, at least
                missing.append(item)
                continue
            if found is None or found == ():
                missing.append(item)
            else:
                assert found is True, f"{item} is read as {found!r:.200}, and was {value!r:.200}"
        try:
            missing.extend(trashed - {(run.flow_name, run.run_id) for run in Trash(storage.database).runs()})
        except DataException:
            missing.append("trash")
    finally:
        storage.close()
    return missing


def _attempts(storage: SQLiteStorage, runs: set[Any]) -> Items:
    found: Items = {}
    for flow, run in runs:
        try:
            for attempt in storage.find_run(flow, run, None):
                found[*attempt.task, attempt.number] = attempt
        except DataException:
            pass
    return found


def _read(storage: SQLiteStorage, item: tuple[Any, ...], value: Any, attempts: Items) -> Any:  # noqa: PLR0911
    """Return True if the item is read as it was, None if it is missing, else what was read instead."""
    kind, *key = item
    registrations = Registrations(storage.database)
    if kind == "attempt":
        attempt = attempts.get(tuple(key))
        return attempt and (attempt[2:5] == value or attempt)
    if kind == "artifact":
        attempt = attempts.get(tuple(key[:5]))
        if attempt is None:
            return None
        artifact = storage.load_artifacts_of([attempt])[0].get(key[5])
        return artifact and ((bytes.fromhex(artifact.key), artifact.size) == (value[0], value[2]) or artifact)
    if kind == "log":
        task = TaskAddress(*key[:4])
        log = storage.load_log(task, key[4], key[5], key[6])
        return None if log is None else log.startswith(b"line") and len(value) == 2
    if kind == "task_metadata":
        number = None if key[4] == -1 else key[4]
        text = storage.load_metadata(TaskAddress(*key[:4]), number).get(key[5])
        return text and (text == value[0] or text)
    if kind == "registered_run":
        run = registrations.run(*key[:2])
        return run and (run.ts_epoch == value[1] or run)
    if kind == "registered_metadata":
        return tuple(registrations.metadata(*key[:2], [tuple(key[2:])])) and True
    if kind == "file":
        file = storage.find_file(key[0])
        return file and (bytes.fromhex(file[0]) == value[0] or file)
    if kind == "blob":
        from sqlite_oracle import key_of

        with storage.open_blob(FLOW, key[0].hex()) as file:
            data = file.read()
        return key_of(data, key[0]) == key[0] and len(data) == value[0]
    return True


def campaign(path: str, first: int, seconds: float) -> dict[str, Any]:
    """Go on from a seed for so long; return how many rounds there were, and what came of them."""
    import time

    subject = Campaign(path)
    end = time.monotonic() + seconds
    seed = first
    while time.monotonic() < end:
        subject.round(seed)
        seed += 1
    return {"rounds": seed - first, **subject.counts}
