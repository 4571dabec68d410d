"""The values that the layers hand to each other, the rules for names, and the forms of a pathspec.

Plain named tuples: immutable, and cheap enough to make one for each of 200,000 tasks in a listing. Their annotations
are no texts, which typing would compile, the first one in 2 ms of each import (see ``tests/test_house.py``).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

from sqlitestore.errors import InvalidKey, InvalidName, InvalidPathspec, InvalidType

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes in memory. (``collections.abc.Buffer`` came with Python 3.12.)"""

MAX_NAME_BYTES = 255
"""Longest name [bytes of UTF-8]: what a file name may have, so that every run can be copied to Metaflow's layout."""

# Control characters would let a name from a stranger's file write to the terminal that lists it.
_FORBIDDEN = r"[\x00-\x1f\x7f-\x9f/\u2028\u2029\ud800-\udfff]"  # hardly ever needed, and compiled in 0.7 ms
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}").fullmatch
_NUMBER = re.compile(r"[0-9]{1,10}").fullmatch
_KEY = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}").fullmatch


class TaskAddress(NamedTuple):
    """Where a task is: the names of its flow, run, step and task."""

    flow_name: str
    run_id: str
    step_name: str
    task_id: str

    @property
    def pathspec(self) -> str:
        """``Flow/run/step/task``, as the command line writes it."""
        return "/".join(map(str, self))  # in a damaged row a name may be a number


class Attempt(NamedTuple):
    """One attempt of a task.

    ``started`` and ``done`` are times [s since 1970, UTC]; None means that it was not started (only logs or metadata
    arrived) or is not done. ``python`` is the version that wrote it, None while it is not done. ``reference`` is the
    storage's own, by which it finds the attempt's artifacts faster. ``origin`` is None for a run that may be unpickled,
    else where it came from.
    """

    task: TaskAddress
    number: int
    started: float | None
    done: float | None
    python: str | None
    reference: Any = None
    origin: str | None = None


class Artifact(NamedTuple):
    """What the store knows of an artifact without loading it.

    ``key`` names the blob; ``size`` is that of the serialized bytes; ``type`` is ``str(type(obj))``; ``encoding`` names
    the serializer's format; ``serializer_info`` is what the serializer wants back; ``preview`` describes the value
    (see ``sqlitestore.preview``), empty where nothing is known.
    """

    key: str
    size: int
    type: str
    encoding: str
    serializer_info: Mapping[str, Any]
    preview: Mapping[str, Any]

    def to_info(self) -> dict[str, Any]:
        """Return Metaflow's form, an entry of ``ds_metadata["info"]``, with the preview beside it."""
        info: dict[str, Any] = {"size": self.size, "type": self.type, "encoding": self.encoding}
        if self.serializer_info:
            info["serializer_info"] = dict(self.serializer_info)
        if self.preview:
            info["preview"] = dict(self.preview)
        return info

    @classmethod
    def from_info(cls, key: str, info: Mapping[str, Any]) -> Self:
        """Return the artifact for an entry in Metaflow's form; what is missing there gets Metaflow's defaults."""
        return cls(
            key,
            info.get("size", 0),
            info.get("type", "object"),
            info.get("encoding", "gzip+pickle-v2"),
            info.get("serializer_info") or {},
            info.get("preview") or {},
        )


class StoredBlob(NamedTuple):
    """A blob in the store: its key and its size [bytes]."""

    key: str
    size: int


class MetaDatum(NamedTuple):
    """A metadatum for a metadata provider; the fields are those of Metaflow's class of this name."""

    field: str
    value: str
    type: str
    tags: list[str]


class DataArtifact(NamedTuple):
    """An artifact as a metadata provider registers it; the fields are those of Metaflow's class of this name."""

    name: str
    ds_type: str
    ds_root: str
    url: str | None
    type: str
    sha: str


def check_name(kind: str, name: object) -> str:
    """Return ``name`` if it may name a ``kind`` ("run", "artifact", ...).

    Allowed: 1 to 255 bytes of UTF-8 text without "/" and control characters, but not "." or "..". Spaces and every
    script are fine. Raises InvalidType for other types than str, and InvalidName.
    """
    if not isinstance(name, str):
        raise InvalidType(f"A {kind} name is text, not {type(name).__name__}: {name!r:.80}")
    if _PLAIN(name):
        return name
    if not name:
        raise InvalidName(f"A {kind} name is empty; give it 1 to {MAX_NAME_BYTES} bytes of text.")
    if found := re.search(_FORBIDDEN, name):
        raise InvalidName(
            f"The {kind} name {name[:80]!r} has {found.group()!r} in it; names have no '/' and no control characters."
        )
    if name in {".", ".."}:
        raise InvalidName(f"{name!r} cannot name a {kind}: it means a folder wherever runs are kept as files.")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidName(
            f"The {kind} name {name[:40]!r}... has {len(name.encode())} bytes; the most is {MAX_NAME_BYTES}."
        )
    return name


def check_attempt(attempt: object) -> int:
    """Return ``attempt`` if it is an attempt number: an int from 0. Raises InvalidType and InvalidName."""
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        raise InvalidType(f"An attempt is a number from 0, not {type(attempt).__name__}: {attempt!r:.80}")
    if not 0 <= attempt < 2**31:
        raise InvalidName(f"An attempt is a number from 0, not {attempt}.")
    return attempt


def check_iterable(what: str, values: Any) -> Iterable[Any]:
    """Return ``values`` if it can be iterated and is no text, which would be taken apart. Raises InvalidType."""
    if isinstance(values, str | Buffer) or not isinstance(values, Iterable):
        raise InvalidType(f"Give {what} as a list (or another iterable), not {type(values).__name__}: {values!r:.80}")
    return values


def check_key(key: object) -> str:
    """Return ``key`` if it has the form of a blob key: 32 or 40 lower-case hexadecimal digits."""
    if not isinstance(key, str):
        raise InvalidType(f"A key is text, not {type(key).__name__}: {key!r:.80}")
    if not _KEY(key):
        raise InvalidKey(f"{key[:80]!r} is not a key: keys are 32 or 40 lower-case hexadecimal digits.")
    return key


def check_task(flow_name: object, run_id: object, step_name: object, task_id: object) -> TaskAddress:
    """Return the address of a task after checking its names."""
    return TaskAddress(
        check_name("flow", flow_name),
        check_name("run", run_id),
        check_name("step", step_name),
        check_name("task", task_id),
    )


def parse_pathspec(flow_name: str, pathspec: object) -> tuple[TaskAddress, int | None]:
    """Return the task and attempt that ``run_id/step_name/task_id[/attempt]`` names; without attempt, None.

    A slash at the end is ignored, as Metaflow does. Raises InvalidPathspec (or InvalidType) that shows the form.
    """
    if not isinstance(pathspec, str):
        raise InvalidType(f"A pathspec is text, not {type(pathspec).__name__}: {pathspec!r:.80}")
    parts = pathspec.rstrip("/").split("/")
    names, rest = parts[:3], parts[3:]
    if len(names) < 3 or len(rest) > 1 or not all(_NUMBER(part) for part in rest):  # noqa: PLR2004
        raise InvalidPathspec(f"{pathspec[:200]!r} is not a pathspec of the form run_id/step_name/task_id[/attempt].")
    try:
        return check_task(flow_name, *names), check_attempt(int(rest[0])) if rest else None
    except InvalidName as error:
        raise InvalidPathspec(f"{pathspec[:200]!r} is not a pathspec: {error}") from error


def parse_full_pathspec(pathspec: str) -> tuple[str, ...]:
    """Return the 1 to 5 names of ``Flow[/run[/step[/task[/artifact]]]]``, the form that the command line takes."""
    parts = pathspec.rstrip("/").split("/")
    kinds = ("flow", "run", "step", "task", "artifact")
    if len(parts) > len(kinds):
        raise InvalidPathspec(f"{pathspec[:200]!r} has more parts than Flow/run/step/task/artifact.")
    try:
        return tuple(check_name(kind, part) for kind, part in zip(kinds, parts, strict=False))
    except InvalidName as error:
        raise InvalidPathspec(f"{pathspec[:200]!r} is not a pathspec: {error}") from error
