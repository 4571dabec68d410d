"""Different bytes of one digest are never shared: with broken hashes, by every way in, each collision is an error.

What collides is known from what the hashes were asked (see ``broken_hashes``) and from what SQL finds in the file. So
both are noticed: a collision that goes unseen, and an error where nothing collided.
"""

from __future__ import annotations

import os
import random
from collections import Counter

from broken_hashes import BrokenHashes, Seen
from collision_oracle import Oracle
from collision_ways import Attempt, Ways
from helpers_store import FLOW, roots

from sqlitestore import Damaged, FlowDataStore

UNIT = "collisions"
LONG = 2000
IN_MEMORY = True

PER_STORE = 14
"""Collisions until the next store is begun: a full one takes nothing new any more."""

BROKEN = [(8, 8), (8, 128), (128, 4), (8, 11)]
"""[bits] What is left of the digests of blobs and of chunks."""


def prove(amount: int, seed: int, folder: str) -> dict[str, int | float]:
    """Save random contents until so many collided, in stores of ``PER_STORE`` each; return what happened."""
    figures: Counter[str] = Counter()
    store = 0
    while figures["collisions"] < amount:
        chance = random.Random(f"{seed} {store}")
        wanted = min(PER_STORE, amount - figures["collisions"])
        path = os.path.join(folder, f"collisions-{seed}-{store}.db")
        try:
            figures += _in_one_store(path, BrokenHashes(*BROKEN[store % len(BROKEN)]), chance, wanted)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, store {store}: {error}") from error
        os.unlink(path)
        store += 1
    figures["stores"] = store
    return dict(figures)


def _in_one_store(path: str, broken: BrokenHashes, chance: random.Random, wanted: int) -> Counter[str]:
    figures: Counter[str] = Counter()
    oracle = Oracle()
    with broken.in_use(), FlowDataStore(FLOW, ds_root=path) as flow:
        ways = Ways(flow, broken, chance, os.path.dirname(path))
        held: Seen = Seen(set)
        for _ in range(wanted * 30):
            name = chance.choice(list(ways.by_name))
            collided, held = _one(flow, ways.by_name[name](), name, broken, oracle, held)
            figures[f"saved without a collision by {name}"] += not collided
            for kind in collided:
                figures[f"collisions of a {kind} by {name}"] += 1
            figures["collisions"] += bool(collided)
            if figures["collisions"] == wanted:
                break
        else:
            raise AssertionError(f"only {figures['collisions']} collisions in {wanted * 30} calls")
        assert oracle.data, "nothing was saved"
        _check_by_the_product(flow, oracle)
    left = sorted(set(os.listdir(os.path.dirname(path))) - {os.path.basename(path)})
    assert left == [], f"{left} are left"
    oracle.check(path, broken, closed=True)
    return figures


def _one(
    flow: FlowDataStore, attempt: Attempt, name: str, broken: BrokenHashes, oracle: Oracle, held: Seen
) -> tuple[set[str], Seen]:
    """Save something by one way into a store that holds ``held``, all collisions noticed.

    Returns of what there were some ("key", "chunk"), and what the store holds now.
    """
    path = flow.datastore_root
    before = roots(path)
    broken.seen.clear()
    error = _error_of(attempt)
    for digest, contents in held.items():
        if digest in broken.seen:
            broken.seen[digest] |= contents
    collided = broken.collided()
    _judge(name, collided, error)
    if error is None or name in PARTLY:
        attempt.saved(oracle)
    held = oracle.check(path, broken)
    after = roots(path)
    assert after["held"] == [], f"{name}: {after['held']} are held for ever"
    assert error is None or name in PARTLY or before == after, f"{name}: something was changed"
    return {kind for kind, _ in collided}, held


def _error_of(attempt: Attempt) -> Damaged | None:
    try:
        attempt.save()
    except Damaged as error:
        return error
    return None


def _judge(name: str, collided: set[tuple[str, bytes]], error: Damaged | None) -> None:
    if not collided:
        assert error is None, f"{name}: nothing collided, but {error}"
        return
    assert error is not None, f"{name}: {sorted(collided)} have two contents each, and nobody noticed"
    named = any(digest.hex() in str(error) for _, digest in collided)
    assert named, f"{name}: the error does not name what collided: {error}"
    assert "verify the store" in str(error), f"{name}: the error does not say what to do: {error}"


PARTLY = {"logs", "plug-in", "race, small", "race, large"}
"""Ways of several calls, or several writers: what the earlier ones saved is there, and the oracle is told of it."""


def _check_by_the_product(flow: FlowDataStore, oracle: Oracle) -> None:
    """Read all again by the public calls."""
    keys = {key.hex(): data for key, data in oracle.data.items()}
    assert dict(flow.load_data(keys)) == keys
    for (run, task, name), value in oracle.artifacts.items():
        assert flow.get_task_datastore(run, "a", task)[name] == value
    for (run, task), text in oracle.logs.items():
        reader = flow.get_task_datastore(run, "a", task, allow_not_done=True)
        assert reader.load_logs(["task"], "stdout") == [("task", text)]
