"""Metaflow's "mflog" as text for people: ``[MFLOG|0|<UTC time>Z|<source>|<id>]`` before each line of a log.

A task's stream (stdout, stderr) is kept as a log for each source: 'runtime' is what the scheduler saw, 'task' what the
task wrote itself on another machine. Here they become one text. Pure functions; no bytes make them raise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

# The last parts may be missing: such a line still has its time. "[!" marks lines that a receiver is to keep.
_PREFIX = re.compile(
    rb"^(?:\[!)?\[MFLOG\|0\|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)Z(?:\|[^|\]\n]*){0,2}\]", re.MULTILINE
)
_NEVER = datetime.max.replace(tzinfo=UTC)


class Line(NamedTuple):
    """A line without its prefix, but with its line end; ``time`` is None if it had no prefix that tells one."""

    time: datetime | None
    text: bytes


def is_mflog(log: bytes) -> bool:
    """Whether any line begins with mflog's prefix."""
    return any(_time(match) for match in _PREFIX.finditer(log))


def merged(logs: Sequence[bytes]) -> list[Line]:
    """Return the lines of all logs by time; those of one moment in the order of ``logs``, and as they stood there.

    A line without prefix keeps its place behind the line before it (at the very beginning, before the first that has a
    time), so a traceback that was cut into is still readable: Metaflow itself puts such lines to the end, sorted by
    their text. A log that has no prefix at all comes last. Every line ends with a newline, which Metaflow often leaves
    out at the end of a log; but where no line has a prefix, all stays as it is.
    """
    keyed = [pair for log in logs for pair in _with_moments(_lines(log))]
    keyed.sort(key=lambda pair: pair[0])
    lines = [line for _, line in keyed]
    if not any(line.time for line in lines):  # a text of ours, to which not even a newline is added
        return lines
    return [line if line.text.endswith(b"\n") else Line(line.time, line.text + b"\n") for line in lines]


def without_prefix(line: bytes) -> bytes:
    """Return a line without its prefix, if it has one."""
    return _line(line).text


def _lines(log: bytes) -> list[Line]:
    """Take the prefixes off. Lines end at newlines only: a carriage return is a progress bar's."""
    texts = log.split(b"\n")
    lines = [_line(text + b"\n") for text in texts[:-1]]
    return [*lines, _line(texts[-1])] if texts[-1] else lines


def _line(text: bytes) -> Line:
    match = _PREFIX.match(text)
    time = _time(match) if match else None
    return Line(time, text[match.end() :] if match and time else text)


def _time(prefix: re.Match[bytes]) -> datetime | None:
    try:
        return datetime.fromisoformat(prefix[1].decode("ascii")).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the 31st of February
        return None


def _with_moments(lines: list[Line]) -> list[tuple[datetime, Line]]:
    """Return each line with the moment that it is sorted by."""
    moment = next((line.time for line in lines if line.time), _NEVER)
    pairs = []
    for line in lines:
        moment = line.time or moment
        pairs.append((moment, line))
    return pairs
