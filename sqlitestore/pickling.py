"""Objects <-> bytes: the serializer protocol, the registry, and the pickle serializer that takes what no other claims.

A serializer writes to a file-like object and reads from one, so neither side ever needs the whole in memory. Large
buffers given to ``write`` are taken as they are, uncopied.

The pickle is a standard one of protocol 5 that any Python reads (PEP 574). CPython's pickler hands payloads of 64 KiB
and more to ``write`` as the object that owns them, and its unpickler asks ``readinto`` to fill the new object's own
buffer: an array of gigabytes passes without a copy. (A NumPy array that is not contiguous is the exception: NumPy
itself copies it before pickle sees it.)
"""

from __future__ import annotations

import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from sqlitestore.errors import InvalidType, SerializerNotFound
from sqlitestore.forking import unforked
from sqlitestore.model import Buffer
from sqlitestore.text_arrays import dispatch_table

ENTRY_POINT_GROUP = "sqlitestore.serializers"
"""A distribution offers serializers here: each entry names a Serializer class (no arguments) or instance."""


class WriteFile(Protocol):
    """What a serializer writes to."""

    def write(self, data: Buffer | pickle.PickleBuffer, /) -> int:
        """Take ``data``, which may change again after the call; return its size [bytes]."""


class ReadFile(Protocol):
    """What a serializer reads from: the bytes that were written, from the beginning."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes (all that are left if negative); fewer only at the end."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, or as much of it as is left; return how much [bytes]."""

    def readline(self, size: int = -1, /) -> bytes:
        """Return bytes up to and with the next newline."""


class Serializer(ABC):
    """How objects of some kind become bytes and back. The idea, and the order of asking, are Metaflow's.

    ``encoding`` is stored with each artifact and finds the serializer again: give every format that you ever write its
    own (``"arrow-v1"``), and never reuse one. ``also_reads`` names older ones that ``deserialize`` understands.
    """

    encoding: ClassVar[str]
    also_reads: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def can_serialize(self, obj: Any) -> bool:
        """Return True to claim ``obj``. Asked of the last registered first; keep it cheap."""

    @abstractmethod
    def serialize(self, obj: Any, file: WriteFile) -> Mapping[str, Any] | None:
        """Write ``obj`` to ``file``; return what ``deserialize`` wants to know (JSON values), or None.

        May be called again for the same object, and must not have side effects. Do not compress: the store does.
        """

    @abstractmethod
    def deserialize(self, file: ReadFile, info: Mapping[str, Any]) -> Any:
        """Return the object written as ``file``; ``info`` is what ``serialize`` returned, and "source" (who wrote)."""


def dump(obj: Any, file: WriteFile, protocol: int) -> None:
    """Write a plain pickle, arrays of strings in fewer pieces (see ``text_arrays``); raises what pickling raises."""
    pickler = pickle.Pickler(file, protocol)
    pickler.dispatch_table = dispatch_table(protocol)
    pickler.dump(obj)


def dumps(obj: Any, protocol: int) -> bytes:
    """Return what ``dump`` writes; with protocol 5 its large buffers are copied."""
    pieces = _Pieces()
    dump(obj, pieces, protocol)
    return b"".join(pieces)


class _Pieces(list[Any]):
    """A file that keeps what is written, to be joined once: as fast as ``pickle.dumps``, which BytesIO is not."""

    def write(self, data: Buffer | pickle.PickleBuffer, /) -> int:
        self.append(data)
        return memoryview(data).nbytes


class PickleSerializer(Serializer):
    """Pickle, protocol 5: takes everything, asked last."""

    encoding = "pickle-v5"
    also_reads = frozenset({"pickle-v2", "pickle-v4", "gzip+pickle-v2", "gzip+pickle-v4"})
    """Metaflow's names; its gzip is taken off before the bytes come here."""

    def can_serialize(self, obj: Any) -> bool:
        """Claim everything."""
        del obj
        return True

    def serialize(self, obj: Any, file: WriteFile) -> None:
        """Write a pickle; raises whatever the object's own pickling raises."""
        dump(obj, file, 5)

    def deserialize(self, file: ReadFile, info: Mapping[str, Any]) -> Any:
        """Unpickle, which runs whatever code the pickle names."""
        del info
        return pickle.Unpickler(file).load()


class SerializerRegistry:
    """The serializers in order of asking: registered last is asked first, those of entry points after, pickle last."""

    def __init__(self) -> None:
        self._registered: list[tuple[Serializer, str]] = []
        self._found: list[tuple[Serializer, str]] | None = None
        self._ordered: list[tuple[Serializer, str]] = []

    def register(self, serializer: Serializer, source: str = "") -> None:
        """Add ``serializer``; ``source`` tells readers who lack it what to install (default: its top-level package)."""
        if not isinstance(serializer, Serializer):
            raise InvalidType(f"register_serializer takes an instance of Serializer, not {serializer!r:.80}.")
        if not isinstance(getattr(serializer, "encoding", None), str) or not serializer.encoding:
            raise InvalidType(f"{type(serializer).__name__} has no 'encoding', the name of the format that it writes.")
        with unforked():
            self._registered.insert(0, (serializer, source or type(serializer).__module__.partition(".")[0]))
            self._ordered = []

    def unregister(self, serializer: Serializer) -> None:
        """Take ``serializer`` out again; nothing happens if it is not in."""
        with unforked():
            self._registered = [entry for entry in self._registered if entry[0] is not serializer]
            self._ordered = []

    def for_object(self, obj: Any) -> tuple[Serializer, str]:
        """Return the serializer that claims ``obj``, and its source ("" for pickle).

        One whose claim raises is passed over with a RuntimeWarning: somebody else's fault must not lose the artifact.
        """
        for serializer, source in self._in_order():
            try:
                if serializer.can_serialize(obj):
                    return serializer, source
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises
                warnings.warn(
                    f"Serializer {type(serializer).__name__} raised {type(error).__name__} when asked for a "
                    f"{type(obj).__name__} and was skipped: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        raise AssertionError("pickle claims everything")

    def for_encoding(self, encoding: str, info: Mapping[str, Any]) -> Serializer:
        """Return the serializer that reads ``encoding``. Raises SerializerNotFound that says what to install."""
        for serializer, _ in self._in_order():
            if encoding == serializer.encoding or encoding in serializer.also_reads:
                return serializer
        source = info.get("source")
        hint = f"install {source!r}, which wrote it" if source else "register the serializer that wrote it"
        raise SerializerNotFound(f"No serializer reads the encoding {encoding!r}; {hint}.")

    def _in_order(self) -> list[tuple[Serializer, str]]:
        ordered = self._ordered
        if not ordered:
            with unforked():
                if self._found is None:
                    self._found = _installed()
                ordered = self._ordered = [*self._registered, *self._found, (PICKLE, "")]
        return ordered


def _installed() -> list[tuple[Serializer, str]]:
    """Return the serializers that installed distributions offer; one that does not load is skipped with a warning."""
    from importlib.metadata import entry_points  # 15 ms, and only needed at the first artifact

    found = []
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
            serializer = loaded() if isinstance(loaded, type) else loaded
            if not isinstance(serializer, Serializer) or not serializer.encoding:
                raise InvalidType(f"{entry.value} is not a Serializer with an encoding")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises
            warnings.warn(
                f"Serializer {entry.name!r} was skipped: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2
            )
            continue
        found.append((serializer, entry.dist.name if entry.dist else entry.value.partition(".")[0]))
    return found


PICKLE = PickleSerializer()
SERIALIZERS = SerializerRegistry()
"""The process's registry; ``register_serializer`` of the package adds to it."""
