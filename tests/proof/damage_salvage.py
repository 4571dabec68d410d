"""What salvage must make of a damaged file, by what was in it and which pages are hurt."""

from __future__ import annotations

import os
from typing import Any

from helpers_inventory import BYTES, NEEDS, Items, hurt_tables, inventory, pages_of

from sqlitestore import DataException
from sqlitestore.maintenance.salvage import salvage
from sqlitestore.maintenance.verify import verify


class SalvageCheck:
    """Salvages damaged copies of one file; ``path`` is the whole one."""

    def __init__(self, path: str) -> None:
        self.items, self.stubs = inventory(path)
        self.pages = pages_of(path)
        self.unneeded = _unneeded(self.items, self.items)

    def check(self, path: str, out: str, hurt: set[int], *, earlier: bool) -> bool:
        """Salvage; False if there was nothing. With ``earlier``, what is hurt is of an earlier time: values may differ.

        What is saved verifies, equals what was there, and has all that lies on no hurt page.
        """
        try:
            report = salvage(path, out)
        except DataException as error:
            self._check_nothing(path, out, hurt, error)
            return False
        checked = verify(out)
        assert checked.ok, f"what was salvaged has problems: {checked.problems[:5]}"
        if earlier:
            return True
        items, stubs = inventory(out)
        tables = hurt_tables(self.pages, hurt)
        self._check_equal(items, tables)
        lost = [item for item in self.items if item not in items]
        told = [item for item in lost if not (item[0] == "data" and "data" in tables)]  # a row without a digest
        assert report.found or not told, f"salvage says nothing of {told[:5]}"
        if hurt <= self.pages.keys():
            trees = {self.pages[page][0] for page in hurt}
            unneeded_now = _unneeded(self.items, items) if "sqlite_schema" in trees else set()
            for item in lost:
                if item in unneeded_now:  # what needed it is lost, and nobody knows whether it was deleted
                    continue
                # Nobody knows whether it was deleted, or whether the row is one of ``chunk``, which looks the same.
                if item in self.unneeded and {"sqlite_schema", "blob", "chunk"} & trees:
                    continue
                assert NEEDS[item[0]] & tables, f"{item} is whole, and not there"
        for item in stubs - self.stubs:
            assert BYTES & tables or not hurt <= self.pages.keys(), f"{item} lost its bytes, which are whole"
        return True

    def _check_nothing(self, path: str, out: str, hurt: set[int], error: DataException) -> None:
        assert path in str(error), f"salvage does not name the file: {error}"
        assert len(hurt) > len(self.pages) / 3, f"there is something left: {error}"
        assert not os.path.exists(out), "salvage failed, and left a file"

    def _check_equal(self, items: Items, tables: set[str]) -> None:
        for item, value in items.items():
            wanted = self.items.get(item)
            if item[0] == "untrusted" or wanted == value:
                continue
            if wanted is None and item[0] == "data" and "data" in tables:
                continue  # a row without a digest has become another that is well-formed
            assert wanted is not None, f"{item} was never there"
            if item[0] == "attempt":  # its artifacts or its row are lost: it is not done any more
                assert value[1:] == (None, None), f"{item} is {value}, and was {wanted}"
            elif item[0] == "log":  # nothing tells any more that it went on
                assert {"log", "log_by_blob"} <= tables, f"{item} is short, and no page of it is hurt"
                assert wanted[: len(value)] == value, f"{item} is {value}, and was {wanted}"
            elif item[0] == "trash":  # it has no digest
                assert "trash" in tables, f"{item} is {value}, and was {wanted}"
            elif item[0] == "registered_run":
                assert (value[0], value[2:4]) == (None, ("[]", "[]")), f"{item} is {value}, and was {wanted}"
            elif item[0] == "registered_metadata":
                rest: Any = iter(wanted)
                assert all(each in rest for each in value), f"{item} is {value}, and was {wanted}"
            else:
                raise AssertionError(f"{item} is {value}, and was {wanted}")
        for item in self.items:
            if item[0] == "untrusted" and ("run", *item[1:]) in items:
                assert item in items, f"{item} is trusted now"


def _unneeded(items: Items, by: Items) -> set[Any]:
    """Return the blobs of ``items`` that nothing of ``by`` refers to."""
    needed = {part for item, value in by.items() if item[0] != "blob" for part in (*item, *value)}
    return {item for item in items if item[0] == "blob" and item[1] not in needed}
