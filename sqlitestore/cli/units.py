"""Sizes and durations as people write them: ``500MB``, ``1.5 GiB``, ``30d``. Types of options."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import click

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE).fullmatch
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhdwy]?)\s*", re.IGNORECASE).fullmatch
_SECONDS = {"": 86400, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


LARGEST_SIZE = 2**63
"""[bytes] What SQLite can compare with must be smaller."""


def size(text: str) -> int:
    """Return a size [bytes]; a unit is a power of 1000, or with an "i" of 1024."""
    found = _SIZE(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write it as 500MB, 1.5GB or 2GiB.")
    factor = (1024 if found[3] else 1000) ** " kmgtp".index(found[2].lower() or " ")
    amount = int(Fraction(found[1]) * factor)
    if amount >= LARGEST_SIZE:
        raise click.BadParameter(f"{text[:40]!r} is larger than any file.")
    return amount


def duration(text: str) -> float:
    """Return a time span [s]: of "90s", "15m", "12h", "30d", "8w", "1y"; a number alone means days."""
    found = _DURATION(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; write it as 12h, 30d or 8w.")
    span = float(found[1]) * _SECONDS[found[2].lower()]
    if not math.isfinite(span):
        raise click.BadParameter(f"{text[:40]!r} is longer than time itself.")
    return span
