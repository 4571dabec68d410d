"""Tables and tensors are pickled as Metaflow does, with a preview of them beside: later there is only the pickle.

What simpler values are is read off the pickle itself (see ``sqlitestore.pickle_preview``).
"""

from __future__ import annotations

from typing import Any

from metaflow.plugins.datastores.serializers.pickle_serializer import PickleSerializer

from .storage import SQLiteDatastoreStorage

LIBRARIES = {"pandas", "polars", "pyarrow", "torch"}


class PreviewedPickleSerializer(PickleSerializer):
    """Claims values of LIBRARIES where the datastore is ``sqlite``; the encoding is Metaflow's, who reads it too."""

    TYPE = "sqlitestore-previewed-pickle"
    PRIORITY = PickleSerializer.PRIORITY - 1

    @classmethod
    def can_serialize(cls, obj: Any) -> bool:
        """Return whether ``obj`` is one that pickle_preview does not know, on its way into our datastore."""
        if SQLiteDatastoreStorage.datastore_root is None:
            return False
        return str(type(obj).__module__).partition(".")[0] in LIBRARIES

    @classmethod
    def can_deserialize(cls, metadata: Any) -> bool:
        """Return False: Metaflow's own serializer reads what it wrote."""
        del metadata
        return False

    @classmethod
    def serialize(cls, obj: Any, format: Any = "storage") -> Any:  # noqa: A002 - Metaflow's name
        """Return what Metaflow's serializer does, with the preview in the information about it."""
        from sqlitestore import layout, preview

        blobs, metadata = super().serialize(obj, format)
        described = preview.describe(obj)
        if not described:
            return blobs, metadata
        return blobs, metadata._replace(serializer_info={"source": layout.PREVIEWER, "preview": described})
