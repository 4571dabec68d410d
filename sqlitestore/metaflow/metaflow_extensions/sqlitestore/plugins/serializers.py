"""Artifacts on their way into our datastore: plain pickles as Metaflow's, but stored without its gzip.

Metaflow packs what it stores, unless it is stored already. So a large artifact is stored as soon as it is pickled,
and Metaflow, which asks for it under its key just after, has nothing to pack: of saving a pickle of 46 MB that is two
thirds of the time. Whatever comes another way (small ones, other serializers) is unpacked when it arrives. Metaflow
asks for serializers without side effects, since it may call them again, or for nothing: this one has none that shows.
A blob is found under its content however often it is stored, and one that nothing needs is harmless.

Of tables and tensors a preview goes with the artifact, since later there is only the pickle. What simpler values are is
read off that (see ``sqlitestore.pickle_preview``).
"""

from __future__ import annotations

import sys
from hashlib import sha1
from typing import Any

from metaflow.datastore.artifacts.serializer import SerializationFormat, SerializationMetadata, SerializedBlob
from metaflow.datastore.exceptions import UnpicklableArtifactException
from metaflow.plugins.datastores.serializers.pickle_serializer import PickleSerializer

from .problems import as_metaflow

PROTOCOL = 4
"""As Metaflow's own."""

LIBRARIES = {"pandas", "polars", "pyarrow", "torch"}
"""Whose values are described here."""


class SQLitePickleSerializer(PickleSerializer):
    """Claims what no other serializer claims while this process writes a task to our datastore.

    The encoding is Metaflow's, whose own serializer reads what was written.
    """

    TYPE = "sqlitestore-pickle"
    PRIORITY = PickleSerializer.PRIORITY - 1

    @classmethod
    def can_serialize(cls, obj: Any) -> bool:
        """Return whether a task is being written to our datastore."""
        del obj
        return _store_of_task() is not None

    @classmethod
    def can_deserialize(cls, metadata: Any) -> bool:
        """Return False: Metaflow's own serializer reads what it wrote."""
        del metadata
        return False

    @classmethod
    def serialize(cls, obj: Any, format: Any = "storage") -> Any:  # noqa: A002 - Metaflow's name
        """Return what Metaflow's serializer does, arrays of strings in fewer pieces; a large pickle is stored."""
        if format != SerializationFormat.STORAGE:
            return super().serialize(obj, format)
        from sqlitestore.pickling import dumps

        try:
            blob = dumps(obj, PROTOCOL)
        except TypeError as error:
            raise UnpicklableArtifactException from error
        with as_metaflow():
            _store(blob)
            info = _information(obj)
        metadata = SerializationMetadata(str(type(obj)), len(blob), f"pickle-v{PROTOCOL}", info)
        return [SerializedBlob(blob, is_reference=False)], metadata


def _store_of_task() -> Any:
    stores = sys.modules.get("sqlitestore.paths.stores")  # loaded, if a task was started
    return None if stores is None else stores.store_of_task()


def _store(blob: bytes) -> None:
    """Store a pickle under its key, if it is worth it and not there."""
    from sqlitestore.blobs import INLINE, payload_of

    store = _store_of_task()
    if len(blob) > INLINE and store is not None:
        key = sha1(blob, usedforsecurity=False).hexdigest()
        if not store.blobs.has([key])[0]:
            store.blobs.put([payload_of(blob)], [key])


def _information(obj: Any) -> dict[str, Any]:
    """Return what goes with the artifact: who wrote it, and of tables and tensors the preview."""
    if str(type(obj).__module__).partition(".")[0] in LIBRARIES:
        from sqlitestore import layout, preview

        if described := preview.describe(obj):
            return {"source": layout.PREVIEWER, "preview": described}
    return {"source": "metaflow"}


class UntrustedDeserializer(PickleSerializer):
    """Claims the artifacts of runs that came from somebody else, and refuses to unpickle them.

    ``sqlitestore.layout`` gives them the encoding by which they are known.
    """

    TYPE = "sqlitestore-untrusted"
    PRIORITY = PickleSerializer.PRIORITY - 2

    @classmethod
    def can_serialize(cls, obj: Any) -> bool:
        """Return False: nothing is written so."""
        del obj
        return False

    @classmethod
    def can_deserialize(cls, metadata: Any) -> bool:
        """Return whether the artifact belongs to an untrusted run."""
        return str(metadata.encoding).startswith("untrusted run ")

    @classmethod
    def deserialize(cls, data: Any, metadata: Any = None, format: Any = "storage") -> Any:  # noqa: A002 - Metaflow's name
        """Raise an error that says how to trust the run."""
        del data, format
        with as_metaflow():
            from sqlitestore import layout
            from sqlitestore.errors import Untrusted

            raise Untrusted(layout.how_to_trust("The artifact", str(metadata.encoding)))
