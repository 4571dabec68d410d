"""JSON texts that stand in rows: a stranger's file may hold any text there, under a digest that is right."""

from __future__ import annotations

import json
from typing import Any

from sqlitestore.errors import Damaged


def loaded(text: Any, what: str) -> Any:
    """Return the value of a JSON text. Raises Damaged, naming ``what`` it is, for one that cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{what} is damaged: it is no JSON that can be read ({type(error).__name__}).") from error


def loaded_texts(text: Any, what: str) -> frozenset[str]:
    """Return the texts in a JSON array. Raises Damaged, naming ``what`` it is, for anything else."""
    texts = loaded(text, what)
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise Damaged(f"{what} is damaged: it is no list of texts.")
    return frozenset(texts)
