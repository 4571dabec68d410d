"""Previews of artifacts that arrive as pickled bytes.

Of tables and tensors our serializer has told it with the artifact; else it is that of an artifact that has the same
bytes, or is read off the pickle.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlitestore import pickle_preview
from sqlitestore.layout import METAFLOW_PICKLE, PICKLE
from sqlitestore.model import Artifact
from sqlitestore.tables import Tables

HEAD = 2**20
"""[bytes] Of a pickle that are looked at."""

PICKLES = {PICKLE, METAFLOW_PICKLE, "pickle-v2"}


def with_previews(store: Tables, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return the artifacts with a preview each, where one can be had; nothing is unpickled."""
    known = store.tasks.previews({(artifact.key, artifact.type) for artifact in artifacts.values()})
    described: dict[str, Artifact] = {}
    for name, artifact in artifacts.items():
        same = (artifact.key, artifact.type)
        if artifact.preview:
            known[same] = artifact.preview
        if same not in known and artifact.encoding in PICKLES:
            known[same] = pickle_preview.describe(store.blobs.head(artifact.key, HEAD), artifact.size)
        described[name] = artifact._replace(preview=known.get(same, {}))
    return described
