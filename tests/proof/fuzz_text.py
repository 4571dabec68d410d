"""Fuzzed parsers of text: pathspecs, paths of Metaflow's layout, sizes and durations, Metaflow's log lines."""

from __future__ import annotations

import json
import re
from decimal import Decimal, localcontext
from itertools import pairwise

import click
from fuzz_engine import Target

from sqlitestore import DataException, layout, mflog, model
from sqlitestore.cli import text as cli_text
from sqlitestore.cli import units
from sqlitestore.errors import InvalidInput

NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\u2028\u2029\ud800-\udfff]+")
"""What FORMAT.md and README.md say of names, in a form of our own."""


def _may_be_name(part: str) -> bool:
    return bool(NAME.fullmatch(part)) and part not in {".", ".."} and len(part.encode()) <= 255


def check_pathspec(data: bytes) -> str:
    """A pathspec is refused, or its parts are names and print back to it; and which it is, the names decide."""
    text = data.decode("utf-8", "surrogateescape")
    given = text.rstrip("/")
    parts = given.split("/")
    outcomes = []
    names: tuple[str, ...] | None
    try:
        names = model.parse_full_pathspec(text)
    except InvalidInput:
        names = None
    good = 1 <= len(parts) <= 5 and all(map(_may_be_name, parts))
    assert (names is not None) == good, f"{text!r} gives {names!r}"
    if names is not None:
        assert "/".join(names) == given
        outcomes.append("names")
    try:
        task, attempt = model.parse_pathspec("Flow", text)
    except InvalidInput:
        good = len(parts) == 3 and all(map(_may_be_name, parts))
        good |= len(parts) == 4 and all(map(_may_be_name, parts[:3])) and bool(re.fullmatch("[0-9]{1,9}", parts[3]))
        assert not good, f"{text!r} was refused"
    else:
        back = "/".join(task[1:]) + ("" if attempt is None else "/" + parts[3])
        assert back == given, f"{text!r} gives {task!r}"
        assert all(map(_may_be_name, task))
        assert attempt is None or attempt == int(parts[3])
        outcomes.append("task")
    return " and ".join(outcomes) or "refused"


def check_layout(data: bytes) -> str:
    """A path of Metaflow's layout means something that has the same path, or is a file; documents never raise."""
    text = data.decode("utf-8", "surrogateescape")
    place = layout.place_of(text)
    layout.task_of_path(text)
    assert layout.is_of_a_run(text) or place is None
    if place is None:
        return "file"
    assert layout.path_of(place) == text, f"{text!r} means {place!r}"
    names = place[:1] if isinstance(place, layout.BlobPlace) else place.task
    assert all(map(_may_be_name, names)), f"{text!r} means {place!r}"
    return type(place).__name__


KEYS = {"0" * 40: "1" * 40}


def check_documents(data: bytes) -> str:
    """Documents of attempts are understood or nothing; what is understood is written again with the same meaning."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    started = layout.read_attempt_document(data)
    assert started is None or json.loads(data) == {"time": started}
    assert layout.keys_in_data_document(data) == [key for key, _ in layout.objects_in_data_document(data).values()]
    objects = document.get("objects") if isinstance(document, dict) else None
    for name, (key, _) in layout.objects_in_data_document(data).items():
        assert objects[name] == key
        assert re.fullmatch("[0-9a-f]{32}|[0-9a-f]{40}", key)
    layout.moved_data_document(data, "sqlite", KEYS, {"1" * 40: 5})
    distrusted = layout.distrusted_document(data, "F/1")
    try:
        again, _ = layout.read_data_document(distrusted, 0, "local", dict.fromkeys(KEYS, 5))
    except DataException:
        again = None
    assert again is None or not again.artifacts, "artifacts that are not trusted came out of a document"
    try:
        read, whole = layout.read_data_document(data, 0, "local", dict.fromkeys(KEYS, 5))
    except DataException:
        return "refused"
    if read is None:
        return "time" if started is not None else "object" if isinstance(document, dict) else "nothing"
    assert all(objects[name] == artifact.key for name, artifact in read.artifacts.items())
    if whole:
        written = json.loads(layout.data_document(0, read, "local"))
        assert {**written, "info": None} == {**document, "info": None}
    return "whole" if whole else "part"


AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def check_units(data: bytes) -> str:
    """A size or duration is refused as click refuses, or is what exact decimal arithmetic says."""
    text = data.decode("utf-8", "surrogateescape")
    outcomes = []
    for name, parse in (("size", units.size), ("duration", units.duration)):
        try:
            value = parse(text)
        except click.BadParameter:
            continue
        except ValueError:  # of 5,000 digits; click itself turns it into a message
            continue
        found = AMOUNT.fullmatch(text)
        assert found is not None, f"{text!r} is {value}"
        with localcontext() as context:
            context.prec = 5000
            exact = Decimal(found[1]) * _factor(name, found[2].lower())
            right = value == int(exact) if name == "size" else abs(Decimal(value) - exact) <= exact / 10**12
            assert right, f"{text!r} is {value}"
        assert 0 <= value < (2**63 if name == "size" else float("inf")), f"{text!r} is {value}"
        outcomes.append(name)
    return " and ".join(outcomes) or "refused"


def _factor(name: str, unit: str) -> int:
    if name == "duration":
        return {"": 86400, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}[unit]
    power = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}[unit.rstrip("b").rstrip("i")]
    return int((1024 if "i" in unit else 1000) ** power)


def check_mflog(data: bytes) -> str:
    """No line of a log is lost or made up, times ascend, and a text without prefixes stays as it is."""
    logs = data.split(b"\0")
    lines = mflog.merged(logs)
    times = [line.time for line in lines if line.time is not None]
    assert times == sorted(times)
    expected = sorted(line.rstrip(b"\n") for log in logs for line in _lines(log))
    plain = sorted(mflog.without_prefix(line).rstrip(b"\n") for log in logs for line in _lines(log))
    assert sorted(line.text.rstrip(b"\n") for line in lines) == plain
    assert all(any(whole.endswith(text) for whole in expected) for text in plain)
    assert any(map(mflog.is_mflog, logs)) == bool(times)
    if not times:
        assert b"".join(line.text for line in lines) == b"".join(logs)
    shown = [cli_text.clean_lines(line.text.decode(errors="replace")) for line in lines]
    assert not any(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text) for text in shown)
    assert all(before <= after for before, after in pairwise(times))
    return "times" if times else "plain"


def _lines(log: bytes) -> list[bytes]:
    lines = log.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


PATHS = b"F F/1 F/1/a F/1/a/2 F/1/a/2/x 1/a/2 1/a/2/0 1/a/2/0004 gr\xc3\xbc\xc3\x9f/1 a//b ./.. F/1/ F/./1".split(b" ")
PLACES = b"F/data/00/" + b"0" * 40 + b" F/1/a/2/0.data.json F/1/a/2/0.task_stdout.log F/1/a/2/1.stdout.log F/1/a/2/x"
KINDS = frozenset({"BlobPlace", "MarkerPlace", "LogPlace", "MetadataPlace", "file"})
UNITS = b"30d 10MB 1.5GiB 12h 8w 1y 90s 500 0 1kb 7PiB 9007199254740993 0.1".split(b" ")
LOGS = [
    b"[MFLOG|0|2024-01-02T03:04:05.678901Z|task|id]hello\nplain\n",
    b"[![MFLOG|0|2024-01-02T03:04:05Z|runtime]x\0no prefix\n[MFLOG|0|2024-13-02T03:04:05Z|task|id]y",
]

TARGETS = (
    Target(
        "pathspecs",
        check_pathspec,
        PATHS.copy,
        frozenset({"names", "task", "refused", "names and task"}),
        12,
        (b"/", b"..", b"\xff"),
    ),
    Target("layout", check_layout, lambda: PLACES.split(b" "), KINDS, 8, (b"/", b"0.", b".log", b"_", b"_meta")),
    Target(
        "documents",
        check_documents,
        list,
        frozenset({"refused", "nothing", "object", "time", "part", "whole"}),
        10,
        (b"null", b"[]", b"{}", b"1e999", b'"\\ud800"', b"0" * 40, b'"objects"', b'"info"', b"NaN", b"9" * 30),
    ),
    Target(
        "units",
        check_units,
        UNITS.copy,
        frozenset({"size", "duration", "size and duration", "refused"}),
        8,
        (b"9" * 400, b"GiB", b"p", b".", b"d", b" ", b"\xd9\xa1", b"e9"),
    ),
    Target(
        "mflog",
        check_mflog,
        LOGS.copy,
        frozenset({"times", "plain"}),
        8,
        (b"[MFLOG|0|", b"Z|", b"]", b"\n", b"\0", b"\r\n", b"9999-12-31T23:59:59Z"),
    ),
)
