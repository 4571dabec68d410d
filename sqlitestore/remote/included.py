"""Files of Metaflow's ``IncludeFile``: the artifact names a URL, which is another one wherever the run goes.

Such an artifact is a small pickle with a dictionary in it. The URL is exchanged in the pickle itself, which is never
unpickled, in the form that Python's pickler would give it: there and back again gives the same bytes.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterable, Mapping

from sqlitestore import layout
from sqlitestore.blobs import hasher_for, key_of

DATATOOLS = "data"
"""The folder in Metaflow's own datastores."""

_URL = re.compile(r"[a-z0-9]+://(?:.*/)?([^/]+/[0-9a-f]{40})", re.DOTALL).fullmatch
_UNICODE = {"SHORT_BINUNICODE", "BINUNICODE"}
_SHORT = 256
_HAS_SHORT = 4
"""The protocol that brought frames, and short forms of short texts."""


class Included:
    """The included files that artifacts name, on their way to another place.

    ``load`` returns blobs by key; ``url`` makes the URL there of ``<flow>/<sha1>``. After ``translate``, ``blobs`` are
    the new artifacts by key and ``files`` what they name.
    """

    def __init__(self, load: Callable[[list[str]], Mapping[str, bytes]], url: Callable[[str], str]) -> None:
        self._load = load
        self._url = url
        self._keys: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, str] = {}
        """The URL here by ``<flow>/<sha1>``."""

    def translate(self, documents: Iterable[bytes]) -> dict[str, str]:
        """Return the new keys of the artifacts in ``data.json``s that name included files, by the old ones."""
        asked = {
            key
            for document in documents
            for key, kind in layout.objects_in_data_document(document).values()
            if kind == layout.INCLUDED_FILE
        }
        new = sorted(asked - set(self._keys))
        for key, blob in self._load(new).items() if new else ():
            self._keys[key] = self._translated(key, blob) if len(blob) <= layout.LARGEST_DESCRIPTOR else key
        return {key: self._keys[key] for key in asked if self._keys.get(key, key) != key}

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes [bytes] of the new artifacts by key."""
        return {key: len(blob) for key, blob in self.blobs.items()}

    def _translated(self, key: str, blob: bytes) -> str:
        made = with_urls(blob, self._changed)
        if made == blob:
            return key
        hasher = hasher_for(key_of(key))
        hasher.update(made)
        new = str(hasher.hexdigest())
        self.blobs[new] = made
        return new

    def _changed(self, text: str) -> str:
        found = _URL(text)
        if found is None:
            return text
        self.files[found[1]] = text
        return self._url(found[1])


def with_urls(data: bytes, change: Callable[[str], str]) -> bytes:
    """Return a pickle with its texts changed; one that is not understood as it is.

    >>> import pickle
    >>> pickle.loads(with_urls(pickle.dumps({"url": "s3://b/F/x"}, 4), lambda text: text.replace("s3://b", "local://c")))
    {'url': 'local://c/F/x'}
    """
    try:
        ops = [(op.name, arg, position) for op, arg, position in pickletools.genops(data)]
    except ValueError:
        return data
    ends = [position for _, _, position in ops[1:]] + [len(data)]
    protocol = next((int(str(arg)) for name, arg, _ in ops if name == "PROTO"), 0)
    frames = [position for name, _, position in ops if name == "FRAME"]
    parts: list[bytes] = []
    is_same = True
    for (name, arg, position), end in zip(ops, ends, strict=True):
        changed = change(str(arg)) if name in _UNICODE else None
        if name == "FRAME":
            continue
        keeps = changed in {None, arg}
        is_same &= keeps
        parts.append(data[position:end] if keeps else _unicode(str(changed), protocol))
    if is_same:
        return data  # with its frames, however they are cut
    body = b"".join(parts)
    if frames == [2]:  # all in one frame after the opcode that names the protocol, as of any small pickle
        return body[:2] + b"\x95" + (len(body) - 2).to_bytes(8, "little") + body[2:]
    return body


def _unicode(text: str, protocol: int) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) < _SHORT and protocol >= _HAS_SHORT:
        return b"\x8c" + len(raw).to_bytes(1, "little") + raw
    return b"X" + len(raw).to_bytes(4, "little") + raw
