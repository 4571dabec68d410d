"""Metadata accept what JSON accepts, and give back what JSON would."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_store import FLOW
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlitestore import FlowDataStore


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowDataStore]:
    """One store for all examples."""
    with FlowDataStore(FLOW, ds_root=tmp_path_factory.mktemp("metadata") / "runs.db") as opened:
        yield opened


class Text(str):
    """A subclass, as JSON accepts them."""

    __slots__ = ()


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.text(),
    st.text(st.characters()), st.text(st.sampled_from("\ud800\udfff\0\x1b\u2028'\"\\é🎉")), st.text().map(Text),
)  # fmt: skip
_keys = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none())
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_keys, inner), max_leaves=20
)


@settings(deadline=None, max_examples=150)
@given(_json)
def test_metadata_gives_back_what_json_would(flow: FlowDataStore, value: Any) -> None:
    """Whatever ``json.dumps`` takes: integers of any length, NaN, surrogates, keys that are no text."""
    writer = flow.get_task_datastore("1", "a", "1", attempt=0, mode="w")
    writer.init_task()
    writer.save_metadata({"value": value, "again": [value]})
    reader = flow.get_task_datastore("1", "a", "1", attempt=0, allow_not_done=True)
    expected = json.loads(json.dumps(value))
    loaded = reader.load_metadata(["value", "again", "missing"])
    assert repr(loaded) == repr({"value": expected, "again": [expected], "missing": None})


def test_metadata_floats_are_exact(flow: FlowDataStore) -> None:
    """The smallest, the largest, and what is no number."""
    values = [5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0, math.inf, -math.inf]
    writer = flow.get_task_datastore("2", "a", "1", attempt=0, mode="w")
    writer.init_task()
    writer.save_metadata({"values": values})
    reader = flow.get_task_datastore("2", "a", "1", attempt=0, allow_not_done=True)
    assert reader.load_metadata(["values"]) == {"values": values}
