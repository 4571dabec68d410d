"""Metaflow's layout of a datastore: which path means what, and the documents that stand at the paths of an attempt.

::

    TrainFlow/data/3b/3b0c...                 a blob under its key
    TrainFlow/12/train/40/0.attempt.json      attempt 0 of the task started:      {"time": 1718000000.5}
    TrainFlow/12/train/40/0.data.json         its artifacts, as keys and infos    {"datastore": ..., "objects": ...}
    TrainFlow/12/train/40/0.DONE.lock         it is done:                         ""
    TrainFlow/12/train/40/0.task_stdout.log   the log of a source and stream
    TrainFlow/12/train/40/0.anything          metadata of the attempt, JSON
    TrainFlow/12/train/40/anything            metadata of the task, JSON

and, beside these, what a metadata provider keeps in files (see ``metadata_path``) in folders ``_meta``.

Everything else is a file. Pure: no tables, no storage; whoever has paths on one side and our tables on the other uses
this module, and nobody else knows the layout.
"""

import json
import re
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

from sqlitestore.errors import InvalidInput, Untrusted
from sqlitestore.model import Artifact, TaskAddress, check_key, check_name

ATTEMPT, DATA, DONE = "attempt.json", "data.json", "DONE.lock"
MARKERS = (ATTEMPT, DATA, DONE)
"""The documents of an attempt, in the order in which Metaflow writes them."""

PICKLE, METAFLOW_PICKLE = "pickle-v5", "pickle-v4"
"""Our name for a plain pickle, and the one under which Metaflow reads any plain pickle, whatever its protocol."""

PREVIEWER = "sqlitestore"
"""The "source" of what our serializer for Metaflow wrote: its information has the preview, which has a place here."""

UNTRUSTED = "untrusted run "
"""Begins the encoding under which Metaflow sees the artifacts of a run that may not be unpickled; then the run."""

DATA_FOLDER, METADATA_FOLDER = "data", "_meta"
"""Beside the runs of a flow, the blobs; at each level, what a metadata provider keeps in files."""

OURS = "sqlitestore"
"""In a document of an attempt: what Metaflow's has no place for, and does not look at."""

CARDS, INCLUDED = "mf.cards", "mf.datatools"
"""The folders of cards and of included files, beside those of the flows."""

_OF_AN_ATTEMPT = re.compile(r"(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL).fullmatch
_IN_A_TASK = 5
_BLOB = 4


class BlobPlace(NamedTuple):
    """``flow/data/xx/key``."""

    flow_name: str
    key: str


class MarkerPlace(NamedTuple):
    """One of the three MARKERS of an attempt."""

    task: TaskAddress
    attempt: int
    name: str


class LogPlace(NamedTuple):
    """A log; the source is "" for logs of Metaflow before 2.2.6, which had none."""

    task: TaskAddress
    attempt: int
    source: str
    stream: str


class MetadataPlace(NamedTuple):
    """Metadata of an attempt, or (``attempt`` None) of a task."""

    task: TaskAddress
    attempt: int | None
    name: str


Place: TypeAlias = BlobPlace | MarkerPlace | LogPlace | MetadataPlace
"""What a path means, if it is not just a file."""


def place_of(path: str) -> Place | None:
    """Return what ``path`` means; None for a file.

    >>> place_of("TrainFlow/12/train/40/0.task_stdout.log").stream
    'stdout'
    """
    parts = path.split("/")
    if parts[0] in {CARDS, INCLUDED}:
        return None
    try:
        if len(parts) == _BLOB and parts[1] == "data" and parts[2] == parts[3][:2]:
            return BlobPlace(check_name("flow", parts[0]), check_key(parts[3]))
        if len(parts) == _IN_A_TASK:
            names = zip(("flow", "run", "step", "task"), parts, strict=False)
            return _in_task(TaskAddress(*(check_name(kind, name) for kind, name in names)), parts[4])
    except InvalidInput:
        pass  # names that no run of ours has
    return None


def _in_task(task: TaskAddress, name: str) -> Place:
    check_name("metadata", name)
    found = _OF_AN_ATTEMPT(name)
    if found is None:
        return MetadataPlace(task, None, name)
    attempt, name = int(found[1]), found[2]
    if name in MARKERS:
        return MarkerPlace(task, attempt, name)
    if name.endswith(".log"):
        source, _, stream = name.removesuffix(".log").rpartition("_")
        if stream and (source or "_" not in name):
            return LogPlace(task, attempt, source, stream)
    return MetadataPlace(task, attempt, name)


def path_of(place: Place) -> str:
    """Return the path of a place: the inverse of ``place_of``."""
    if isinstance(place, BlobPlace):
        return f"{place.flow_name}/data/{place.key[:2]}/{place.key}"
    if isinstance(place, LogPlace):
        name = f"{place.source}_{place.stream}.log" if place.source else f"{place.stream}.log"
        return f"{place.task.pathspec}/{place.attempt}.{name}"
    name = place.name if place.attempt is None else f"{place.attempt}.{place.name}"
    return f"{place.task.pathspec}/{name}"


# Files. Metaflow's cards have a folder of their own, in which a run's lie in one folder.

_CARDS_OF_A_RUN = re.compile(rf"{re.escape(CARDS)}/[^/]+/runs/[^/]+/").match
_CARDS_OF = re.compile(rf"{re.escape(CARDS)}/[^/]+/runs/[^/]+/(?:steps/([^/]+)/)?tasks/([^/]+)/").match


INCLUDED_FILE = "<class 'metaflow.includefile.IncludedFile'>"
LARGEST_DESCRIPTOR = 64 * 1024
DESCRIPTORS = (INCLUDED_FILE, LARGEST_DESCRIPTOR)
"""The type of an artifact that names an included file, and the largest size [bytes] of one that is looked at."""

_INCLUDED_PATH = re.compile(rf"{re.escape(INCLUDED)}/[^\x00-\x1f/\\]{{1,255}}/[0-9a-f]{{40}}".encode())


def included_paths(descriptor: bytes) -> list[str]:
    """Return the paths of included files that the pickle of an IncludedFile names, without unpickling it."""
    return [path.decode("utf-8", "replace") for path in _INCLUDED_PATH.findall(descriptor)]


CODE_PACKAGE = "code-package"
"""The metadatum that says where a task's code is: JSON with ``ds_type``, ``sha`` (its key) and ``location``."""


def code_package(value: object) -> dict[str, Any]:
    """Return what a ``code-package`` says, {} if it is none."""
    found = _json(value) if isinstance(value, str) else None
    return found if isinstance(found, dict) else {}


def folders_of_run(flow_name: str, run_id: str) -> list[str]:
    """Return the folders that the files of a run are in."""
    return [f"{flow_name}/{run_id}", f"{CARDS}/{flow_name}/runs/{run_id}"]


def folders_of_flow(flow_name: str) -> list[str]:
    """Return the folders that the files of a flow are in, those of its runs included."""
    return [flow_name, f"{CARDS}/{flow_name}", f"{INCLUDED}/{flow_name}"]


def task_of_path(path: str) -> tuple[str | None, str | None]:
    """Return the step and task that a file in a folder of a run belongs to; None and None if to no task."""
    if found := _CARDS_OF(path):
        return found[1], found[2] if found[1] else None
    parts = path.split("/")
    return (parts[2], parts[3]) if len(parts) >= _IN_A_TASK and parts[0] != CARDS else (None, None)


def is_of_a_run(path: str) -> bool:
    """Return whether a path says something of a run, whichever that is, or is that of a blob."""
    return place_of(path) is not None or _CARDS_OF_A_RUN(path) is not None


def moved_path(path: str, flow_name: str, run_id: str, new_run_id: str) -> str:
    """Return the path of a file of a run, were that called ``new_run_id``; any other path as it is."""
    for folder, new in zip(folders_of_run(flow_name, run_id), folders_of_run(flow_name, new_run_id), strict=True):
        if path.startswith(folder + "/"):
            return new + path[len(folder) :]
    return path


# Documents. What is read as one is written again with the same meaning; anything else the caller keeps as it is.


class DataDocument(NamedTuple):
    """``data.json``: an attempt's artifacts in the order saved, and the text of ``sys.version`` that wrote them."""

    artifacts: Mapping[str, Artifact]
    python: str


def attempt_document(started: float) -> bytes:
    """Return the text of ``attempt.json``; ``started`` is a time [s since 1970]."""
    return json.dumps({"time": started}).encode()


def read_attempt_document(document: bytes) -> float | None:
    """Return the time in an ``attempt.json``; None if it is anything but what ``attempt_document`` returns."""
    found = _json(document)
    started = found.get("time") if isinstance(found, dict) else None
    if type(started) is float and isfinite(started) and attempt_document(started) == document:
        return started
    return None


def with_ours(document: bytes, ours: Mapping[str, Any]) -> bytes:
    """Return a document that also says what Metaflow's has no place for."""
    return json.dumps({**json.loads(document), OURS: ours}).encode()


def without_ours(document: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return a document as Metaflow writes it, and what ``with_ours`` put into it."""
    found = _json(document)
    if not isinstance(found, dict) or not isinstance(found.get(OURS), dict):
        return document, {}
    ours = found.pop(OURS)
    return json.dumps(found).encode(), ours


DONE_DOCUMENT = b'""'
"""The text of ``DONE.lock``."""


def data_document(number: int, data: DataDocument, datastore: str, untrusted: str | None = None) -> bytes:
    """Return the text of ``data.json``, as Metaflow's class writes it; ``untrusted`` is an untrusted run."""
    return json.dumps(
        {
            "datastore": datastore,
            "version": "1.0",
            "attempt": number,
            "python_version": data.python,
            "objects": {name: artifact.key for name, artifact in data.artifacts.items()},
            "info": {name: _info(artifact, untrusted) for name, artifact in data.artifacts.items()},
        }
    ).encode()


def distrusted_document(document: bytes, run: str) -> bytes:
    """Return a ``data.json`` that somebody else made, with encodings under which Metaflow unpickles nothing.

    Whatever else it says stays. What is no such document is returned as it is: nothing is found in it.
    """
    found = _json(document)
    objects = found.get("objects") if isinstance(found, dict) else None
    if not isinstance(objects, dict):
        return document
    given = found.get("info")
    infos = given if isinstance(given, dict) else {}
    for name in objects:
        info = infos.get(name)
        info = dict(info) if isinstance(info, dict) else {}
        infos[name] = info | {"encoding": encoding_for_metaflow(str(info.get("encoding")), run)}
    return json.dumps(found | {"info": infos}).encode()


def read_data_document(
    document: bytes, number: int, datastore: str, sizes: Mapping[str, int]
) -> tuple[DataDocument | None, bool]:
    """Return what a ``data.json`` says (None for another document), and whether ``data_document`` says all of it.

    ``sizes`` are those of the blobs by key [bytes]: every artifact's must be there, and is its size. Raises Untrusted
    if artifacts of an untrusted run shall become those of another: they would be unpickled there.
    """
    found = _json(document)
    _refuse_untrusted(found)
    try:
        objects, infos, python = found["objects"], found["info"], found["python_version"]
        artifacts = {
            check_name("artifact", name): _artifact(key, infos[name], sizes[key]) for name, key in objects.items()
        }
        read = DataDocument(artifacts, python)
        for name, key in objects.items():
            infos[name]["size"] = sizes[key]
        if not all(_is_plain(artifact) for artifact in artifacts.values()) or not _is_text(python):
            return None, False
        return read, json.loads(data_document(number, read, datastore)) == found
    except (KeyError, TypeError, AttributeError, ValueError):
        return None, False


def _refuse_untrusted(found: Any) -> None:
    infos = found.get("info") if isinstance(found, dict) else None
    for name, info in infos.items() if isinstance(infos, dict) else ():
        encoding = info.get("encoding") if isinstance(info, dict) else None
        if isinstance(encoding, str) and encoding.startswith(UNTRUSTED):
            raise Untrusted(how_to_trust(f"Artifact {name!r}", encoding))


def how_to_trust(what: str, encoding: str, file: str = "FILE") -> str:
    """Return what to say when ``what`` has the encoding of an artifact in an untrusted run."""
    run = encoding.removeprefix(UNTRUSTED).partition(":")[0]
    return (
        f"{what} belongs to run {run}, which came from somebody else: loading it may run any code. If you trust who "
        f"made it: `sqlitestore --file {file} trust {run}`."
    )


def _artifact(key: str, info: Mapping[str, Any], size: int) -> Artifact:
    artifact = Artifact.from_info(key, info)._replace(size=size, preview={})
    told = artifact.serializer_info
    if told.get("source") == PREVIEWER and isinstance(told.get("preview"), dict):
        rest = {name: value for name, value in told.items() if name != "preview"}
        artifact = artifact._replace(serializer_info=rest, preview=told["preview"])
    return artifact


def _is_plain(artifact: Artifact) -> bool:
    """Return whether the fields have the types that rows take; integers in the information have 64 bits there."""
    return (
        _is_text(artifact.type)
        and _is_text(artifact.encoding)
        and isinstance(artifact.serializer_info, dict)
        and not any(isinstance(value, int) and value.bit_length() > 63 for value in artifact.serializer_info.values())  # noqa: PLR2004
    )


def _is_text(value: object) -> bool:
    """Return whether a value is text as rows take it: half a character, which JSON can spell, is none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def moved_data_document(
    document: bytes, datastore: str, keys: Mapping[str, str], sizes: Mapping[str, int]
) -> tuple[bytes, dict[str, Any]]:
    """Return a ``data.json`` as one of another datastore, and what ``with_ours`` had put into it.

    ``keys`` are the new keys of blobs that are others there, by the old ones; ``sizes`` [bytes] theirs by the new ones.
    """
    document, ours = without_ours(document)
    found = _json(document)
    if not isinstance(found, dict) or not isinstance(found.get("objects"), dict):
        return document, ours
    found["datastore"] = datastore
    for name, key in found["objects"].items():
        if isinstance(key, str) and key in keys and isinstance(found.get("info"), dict):
            found["objects"][name] = keys[key]
            info = found["info"].get(name)
            if isinstance(info, dict):
                info["size"] = sizes[keys[key]]
    return json.dumps(found).encode(), ours


def objects_in_data_document(document: bytes) -> dict[str, tuple[str, str]]:
    """Return key and type of each artifact that a ``data.json`` names, by name; none for another document."""
    found = _json(document)
    objects, infos = (found.get("objects"), found.get("info")) if isinstance(found, dict) else (None, None)
    if not isinstance(objects, dict):
        return {}
    infos = infos if isinstance(infos, dict) else {}
    return {name: (key, _type_in(infos.get(name))) for name, key in objects.items() if _is_key(key)}


def _type_in(info: Any) -> str:
    return str(info.get("type")) if isinstance(info, dict) else str(None)


def metadata_path(names: Iterable[str], name: str) -> str:
    """Return where a provider that keeps files has one of what ``names`` (flow, run, step, task) name."""
    return "/".join([*names, METADATA_FOLDER, f"{name}.json"])


def keys_in_data_document(document: bytes) -> list[str]:
    """Return the keys that a ``data.json`` names; none for another document."""
    found = _json(document)
    objects = found.get("objects") if isinstance(found, dict) else None
    return [key for key in objects.values() if _is_key(key)] if isinstance(objects, dict) else []


def encoding_for_metaflow(encoding: str, untrusted: str | None = None) -> str:
    """Return the name under which Metaflow reads an encoding of ours.

    That of an artifact in a run that is ``untrusted`` is one that only our deserializer claims, and refuses.
    """
    name = METAFLOW_PICKLE if encoding == PICKLE else encoding
    return name if untrusted is None or name.startswith(UNTRUSTED) else f"{UNTRUSTED}{untrusted}: {name}"


def _info(artifact: Artifact, untrusted: str | None) -> dict[str, Any]:
    info = artifact._replace(preview={}).to_info()
    info["encoding"] = encoding_for_metaflow(artifact.encoding, untrusted)
    if artifact.serializer_info.get("source") == PREVIEWER and artifact.preview:
        info["serializer_info"]["preview"] = dict(artifact.preview)
    return info


def _is_key(key: object) -> bool:
    try:
        check_key(key)
    except InvalidInput:
        return False
    return True


def _json(document: bytes | str) -> Any:
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None
