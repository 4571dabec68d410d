"""NumPy's arrays of strings, as pandas keeps columns of text in, pickled in a fraction of the time.

Such an array refers to a ``str`` for each item, and pickle writes these, and makes them anew, one by one: nearly all of
the time that a table takes. Here an array whose strings repeat is reduced to ``operator.getitem(different, places)``,
each different string once and an array of numbers, and one whose strings differ to its usual state, whose list is
``str.split(all of them joined)``. A plain pickle can say either, so whoever has NumPy reads it. The first is what
columnar formats call dictionary encoding (Parquet, Arrow) and pandas ``factorize``.

What comes back has equal items of the same types. Equal strings may be one object then, which only ``is`` can tell. And
what comes back is pickled to the same bytes again: a table that each step of a flow loads and saves is stored once.
"""

from __future__ import annotations

import copyreg
import operator
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

FEWEST = 1024
"""Arrays of fewer items are left to pickle, which takes less than a millisecond for them."""

BLOCK = 8192
"""Items that are looked at together, and so stay in the processor's cache from one look to the next; also how many the
sample has that decides."""

REPEATED = 0.75
"""If at most this part of the sample differs (as of any 8,192 out of 13,000 strings), each different one is written
once. A million out of 5,000, 20,000 and 100,000 are dumped so in 140, 300 and 800 ms, and loaded in 10, 15 and 75,
because the different ones leave the processor's cache; joined in 110 to 140, and loaded in 100 to 120."""

LONGEST = 32
"""[characters] of a string on average, up to which strings are joined: that takes memory beside them, less than they do
themselves (unless a few have wide characters). Longer ones take pickle less time for each character."""

SEPARATOR = "\0"

Reduced: TypeAlias = tuple[Any, ...]
"""What ``__reduce__`` returns."""


def dispatch_table(protocol: int) -> dict[type, Callable[[Any], Any]]:
    """Return how a pickler is to reduce objects: as ``copyreg`` says, and NumPy's arrays (if it is loaded) as here."""
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    return copyreg.dispatch_table if array is None else {array: partial(_reduced, protocol)} | copyreg.dispatch_table


def _reduced(protocol: int, array: Array) -> Reduced | str:
    if array.dtype.char == "O" and array.size >= FEWEST:
        reduced = _reduced_text(array)
        if reduced is not None:
            return reduced
    return array.__reduce_ex__(protocol)


def _reduced_text(array: Array) -> Reduced | None:
    """Return the array reduced as text; None if it holds other things, or pickle's own way is better."""
    if array.flags.fnc:  # what is picked by places would lie in memory the other way round
        return None
    items = array.ravel()
    sample = _sample(items)
    if not _are_text(sample):
        return None
    different = len(set(sample))
    picked = _picked(items, array.shape) if different <= REPEATED * len(sample) else None
    # What is split comes back as an object for each item. Where equal strings are one object, that would be many more.
    is_shared = different < len(sample) and len(set(map(id, sample))) == different
    return picked or (None if is_shared else _joined(array))


def _sample(items: Array) -> list[Any]:
    """Return up to BLOCK items: the first, where what is sorted repeats, and some of all over, where cycles do."""
    half = BLOCK // 2
    return [*items[:half].tolist(), *items[half :: max(1, (len(items) - half) // half)][:half].tolist()]


def _are_text(items: list[Any]) -> bool:
    """Return whether all are exactly ``str``, None or ``float`` (as which a missing string may be NaN)."""
    return _are_strings(items) or {str, type(None), float}.issuperset(map(type, items))


def _are_strings(items: list[Any]) -> bool:
    return operator.countOf(map(type, items), str) == len(items)


def _picked(items: Array, shape: tuple[int, ...]) -> Reduced | None:
    """Reduce to the different items, and the place of each among them; None if too many differ, or are no text."""
    import numpy as np

    different = _Places()
    places = np.empty(len(items), np.uint32)
    for begin in range(0, len(items), BLOCK):
        block = items[begin : begin + BLOCK].tolist()
        if not _are_text(block):
            return None
        places[begin : begin + BLOCK] = np.frombuffer(b"".join(map(different.__getitem__, block)), np.uint32)
        if len(different) * 2 > len(items):
            return None
    if any(item == item for item in different if type(item) is float):  # noqa: PLR0124 - not NaN; 0.0 == -0.0
        return None
    texts = np.empty(len(different), items.dtype)
    texts[:] = list(different)
    return operator.getitem, (texts, places.astype(np.min_scalar_type(len(different) - 1)).reshape(shape))


class _Places(dict[Any, bytes]):
    """Numbers what is looked up in the order of its first appearance: as bytes of a uint32, which are joined fast."""

    def __missing__(self, item: Any) -> bytes:
        self[item] = place = len(self).to_bytes(4, sys.byteorder)
        return place


def _joined(array: Array) -> Reduced | None:
    """Return NumPy's reduced array with one string instead of a list of them; None if they are no strings, or long."""
    called, arguments, (*state, items) = cast("Reduced", array.__reduce__())
    if not _are_strings(items) or sum(map(len, items)) > LONGEST * len(items):
        return None
    text = SEPARATOR.join(items)
    if text.count(SEPARATOR) >= len(items):
        return None
    return called, arguments, (*state, _Split(text))


class _Split:
    """In a pickle: the list of strings into which ``text`` is split."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> Reduced:
        return str.split, (self._text, SEPARATOR)
