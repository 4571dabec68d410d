"""Every way in by which content comes to a store: each saves something, and says what the store must hold then.

A way returns what is to be called once (it raises, or all is saved) and what tells the oracle of it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

from broken_hashes import BrokenHashes
from collision_oracle import Oracle
from helpers_store import FLOW

from sqlitestore import Damaged, FlowDataStore, merge
from sqlitestore.blobs import payload_of
from sqlitestore.layout import BlobPlace, path_of
from sqlitestore.paths.writing import PathWriter
from sqlitestore.tables import tables_of

SMALL, LARGE = 200, 150_000
"""[bytes] At most, of contents that stand in a row, and of those that are cut into chunks."""

SEGMENT = 200_000
"""[bytes] Enough that a single write begins a chunk of its own."""

SMALLEST_CHUNKED = 66_000
"""[bytes] Larger than what stands in a row."""


class Attempt(NamedTuple):
    """One thing to save: ``save`` does it, ``saved`` tells the oracle when it went well."""

    save: Callable[[], object]
    saved: Callable[[Oracle], object]


class Ways:
    """The ways into one store, with contents by a random number generator."""

    def __init__(self, flow: FlowDataStore, broken: BrokenHashes, chance: random.Random, folder: str) -> None:
        self._flow = flow
        self._broken = broken
        self._chance = chance
        self._folder = folder
        self._path = flow.datastore_root
        self._number = 0
        self._old: list[bytes] = []
        self.by_name: dict[str, Callable[[], Attempt]] = {
            "save_data": self._data,
            "artifacts": self._artifacts,
            "logs": self._log,
            "files": self._file,
            "keys given": self._keys_given,
            "plug-in": self._plug_in,
            "merge": self._merge,
            "two segments": self._two_segments,
            "race, small": self._race_of_small,
            "race, large": self._race_of_large,
        }

    def _content(self, length: int = 16) -> bytes:
        """Return bytes, small or large: new, earlier ones with or without more, or with the key of earlier ones."""
        chance = self._chance
        if self._old and chance.random() < 0.15:
            old, how = chance.choice(self._old), chance.randrange(3)
            return [old, old + chance.randbytes(chance.randint(1, SMALL)), self._twin(old, length)][how]
        if chance.random() < 0.6:
            data = chance.randbytes(chance.randint(0, SMALL))
        else:
            data = chance.randbytes(chance.randint(SMALLEST_CHUNKED, LARGE))
        self._old.append(data)
        return data

    def _contents(self, length: int = 16) -> list[bytes]:
        return [self._content(length) for _ in range(self._chance.randint(1, 3))]

    def _next(self) -> str:
        self._number += 1
        return str(self._number)

    def _task(self, run: str, task: str) -> Any:
        writer = self._flow.get_task_datastore(run, "a", task, attempt=0, mode="w")
        writer.init_task()
        return writer

    def _data(self) -> Attempt:
        contents = self._contents()
        return Attempt(lambda: self._flow.save_data(contents), lambda oracle: self._kept(oracle, contents))

    def _kept(self, oracle: Oracle, contents: list[bytes], length: int = 16) -> None:
        oracle.data |= {self._broken.key(data, length): data for data in contents}

    def _artifacts(self) -> Attempt:
        values = {f"name{number}": data for number, data in enumerate(self._contents())}
        task = self._next()
        writer = self._task("1", task)

        def save() -> None:
            writer.save_artifacts(values.items())
            try:
                writer.done()
            except Damaged:
                # Held until the writer, with something else in the place of what collided, is done after all.
                tables_of(self._flow).blobs.release(key.hex() for key in writer._in_progress._pending.held.elements())
                raise

        return Attempt(
            save, lambda oracle: oracle.artifacts.update({("1", task, name): each for name, each in values.items()})
        )

    def _log(self) -> Attempt:
        """A log that grows: its parts are blobs of their own."""
        task = self._next()
        writer = self._task("2", task)
        parts = self._contents()
        written: dict[tuple[str, str], bytes] = {}

        def save() -> None:
            for end in range(1, len(parts) + 1):
                writer.save_logs("task", {"stdout": b"".join(parts[:end])})
                written["2", task] = b"".join(parts[:end])

        return Attempt(save, lambda oracle: oracle.logs.update(written))

    def _file(self) -> Attempt:
        path, data = f"cards/{self._next()}", self._content()
        storage: Any = self._flow._storage_impl
        return Attempt(
            lambda: storage.save_file(path, payload_of(data), None), lambda oracle: oracle.files.update({path: data})
        )

    def _keys_given(self) -> Attempt:
        """Keys of Metaflow's kind (SHA-1) or ours come with the contents."""
        length = self._chance.choice([16, 20])
        contents = self._contents(length)
        items = [(self._broken.key(data, length).hex(), data, {}) for data in contents]
        return Attempt(
            lambda: self._flow.ca_store.save_blobs(iter(items), raw=True, is_transfer=True),
            lambda oracle: self._kept(oracle, contents, length),
        )

    def _plug_in(self) -> Attempt:
        """As Metaflow's own content-addressed store saves at its paths."""
        contents = self._contents(20)
        items = [
            (path_of(BlobPlace(FLOW, self._broken.key(data, 20).hex())),
             (BytesIO(data), {"cas_raw": True, "cas_version": 1}))
            for data in contents
        ]  # fmt: skip
        writer = PathWriter(tables_of(self._flow), "", overwrite=True)
        done: list[bytes] = []

        def save() -> None:
            for item, data in zip(items, contents, strict=True):
                writer.save([item])
                done.append(data)

        return Attempt(save, lambda oracle: self._kept(oracle, done, 20))

    def _merge(self) -> Attempt:
        """A run of another file, whose own contents do not collide."""
        run = f"merged {self._next()}"
        other = os.path.join(self._folder, f"{run}.db")
        values: dict[str, bytes] = {}
        while not values:
            contents = {f"name{number}": data for number, data in enumerate(self._contents())}
            with FlowDataStore(FLOW, ds_root=other) as source:
                writer = source.get_task_datastore(run, "a", "1", attempt=0, mode="w")
                writer.init_task()
                try:
                    writer.save_artifacts(contents.items())
                    writer.done()
                except Damaged:
                    continue
                values = contents
        self._broken.seen.clear()  # what collided while the other file was made

        def save() -> None:
            try:
                merge(self._flow, [other], trust=True)
            finally:
                os.unlink(other)

        return Attempt(
            save, lambda oracle: oracle.artifacts.update({(run, "1", name): each for name, each in values.items()})
        )

    # Another writer puts the same digest between our look and our transaction.

    def _other_saves(self, data: bytes, done: list[bytes]) -> None:
        with FlowDataStore(FLOW, ds_root=self._path) as other:
            other.save_data([data])
        done.append(data)

    def _twin(self, data: bytes, length: int = 16) -> bytes:
        """Return other bytes of the same size and key, if the hash is broken enough; else the same."""
        key, kept = self._broken.key(data, length), data[:-4]
        for _ in range(2000 if key.endswith(bytes(8)) else 0):
            twin = kept + self._chance.randbytes(4)
            if self._broken.key(twin, length) == key and twin != data:
                return twin
        return data

    def _race_of_small(self) -> Attempt:
        mine = self._chance.randbytes(20)
        theirs, done = self._twin(mine), []

        def contents() -> Iterator[bytes]:
            yield mine
            self._other_saves(theirs, done)

        def save() -> None:
            self._flow.save_data(contents())
            done.append(mine)

        return Attempt(save, lambda oracle: self._kept(oracle, done))

    def _segments(self) -> list[bytes]:
        """Return two that become a chunk each, of one digest if the hash is broken enough; else the same twice.

        Zeros have no place at which they are cut.
        """
        one = self._chance.randbytes(8) + bytes(SEGMENT)
        digest = self._broken.chunk(one)
        for _ in range(10_000 if digest.endswith(bytes(8)) else 0):
            other = self._chance.randbytes(8) + bytes(SEGMENT)
            if self._broken.chunk(other) == digest:
                return [one, other]
        return [one, one]

    def _two_segments(self) -> Attempt:
        """A large blob that collides with itself."""
        storage: Any = self._flow._storage_impl
        segments = self._segments()

        def payload(file: Any) -> None:
            for segment in segments:
                file.write(segment)

        return Attempt(
            lambda: storage.put_blobs(FLOW, [payload], keep=True),
            lambda oracle: self._kept(oracle, [b"".join(segments)]),
        )

    def _race_of_large(self) -> Attempt:
        (mine, theirs), done = self._segments(), []
        storage: Any = self._flow._storage_impl

        def payload(file: Any) -> None:
            file.write(mine)
            self._other_saves(theirs, done)

        def save() -> None:
            storage.put_blobs(FLOW, [payload], keep=True)
            done.append(mine)

        return Attempt(save, lambda oracle: self._kept(oracle, done))
