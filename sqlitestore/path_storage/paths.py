"""A storage object of Metaflow's kind, with its answers in one form and its errors as ours.

Metaflow's classes answer in whichever order, each list or load of more than ten paths may start processes of its own
(S3), and errors are of as many kinds as there are vendors. What is above this module sees none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, TypeVar

from sqlitestore.errors import DataException, StoreReadOnly, StoreUnavailable

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")

METHODS = ("save_bytes", "load_bytes", "is_file", "list_content", "size_file")
"""By which an object of Metaflow's kind is known."""

TOGETHER = 500
"""Paths of a call: enough to make its fixed costs small, few enough to say how far the work is."""


SLICE, THREADS = 10, 8
"""Up to ten paths of a call Metaflow's S3 storage takes itself, one after the other; for more it starts processes, up
to 64, which costs more than a second. So they go in slices, side by side: 20 small tasks were pushed in half the time.
"""


class Entry(NamedTuple):
    """What stands below a folder: its path, and whether it is a file."""

    path: str
    is_file: bool


class Opened(NamedTuple):
    """A file that was fetched: where it can be opened, and the metadata that were saved with it."""

    file: str
    metadata: dict[str, Any] | None


class Item(NamedTuple):
    """A file to save. What takes it may close ``file``."""

    path: str
    file: BinaryIO
    metadata: dict[str, Any] | None = None


def is_path_storage(storage: object) -> bool:
    """Return whether an object is a storage of Metaflow's kind."""
    return all(callable(getattr(storage, name, None)) for name in METHODS) and isinstance(
        getattr(storage, "TYPE", None), str
    )


class Paths:
    """A storage of Metaflow's kind. Whatever it raises comes as StoreUnavailable, or StoreReadOnly."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.type = str(storage.TYPE)
        self.root = str(storage.datastore_root).rstrip("/")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except DataException:
            raise
        except PermissionError as error:
            raise StoreReadOnly(f"{self.root} ({self.type}) cannot be written or read: {error}.") from error
        except Exception as error:
            said = " ".join(str(error).split())[:500] or type(error).__name__
            raise StoreUnavailable(f"{self.root} ({self.type}) does not do what it should: {said}") from error

    def have(self, paths: Iterable[str]) -> dict[str, bool]:
        """Return for each path whether a file stands there."""
        asked = list(dict.fromkeys(paths))

        def look(some: list[str]) -> dict[str, bool]:
            return dict(zip(some, map(bool, self.storage.is_file(some)), strict=True))

        found: dict[str, bool] = {}
        for some in batches(asked):
            with self._asked():
                for each in self._side_by_side(look, self._slices(some)):
                    found |= each
        return found

    def have_whole(self, paths: Iterable[str]) -> dict[str, bool]:
        """Return for each path, at all of which files with metadata belong, whether one stands there with them.

        In a folder Metaflow writes the metadata after the file, to another one: a process that is killed in between
        leaves a blob that nobody can load.
        """
        found = self.have(paths)
        if self.type == "local":
            with self._asked():
                for path in [path for path, there in found.items() if there]:
                    found[path] = self.storage.info_file(path)[1] is not None
        return found

    def _slices(self, paths: list[T]) -> list[list[T]]:
        """Return what goes into one call each."""
        return list(batches(paths, SLICE)) if self.type == "s3" else [paths]

    def _side_by_side(self, call: Callable[[U], V], slices: Sequence[U]) -> list[V]:
        if len(slices) == 1:
            return [call(slices[0])]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(call, slices))

    def size(self, path: str) -> int | None:
        """Return the size [bytes] of a file as it is kept; None if there is none."""
        with self._asked():
            size = self.storage.size_file(path)
        return None if size is None else int(size)

    def below(self, folders: Iterable[str]) -> list[Entry]:
        """Return what stands one level below the folders; nothing for one that is not there."""
        asked = list(dict.fromkeys(folders))
        found: list[Entry] = []
        for some in batches(asked):
            with self._asked():
                found += [
                    Entry(str(each.path).strip("/"), bool(each.is_file)) for each in self.storage.list_content(some)
                ]
        return found

    @contextmanager
    def opened(self, paths: Sequence[str]) -> Iterator[dict[str, Opened]]:
        """Fetch the files that are there, by path; they can be opened until the end of the block."""
        asked = list(dict.fromkeys(paths))
        with ExitStack() as loaded:

            def load(some: list[str]) -> dict[str, Opened]:
                return _fetched(loaded.enter_context(self.storage.load_bytes(some)))

            found: dict[str, Opened] = {}
            with self._asked():
                for each in self._side_by_side(load, self._slices(asked)) if asked else ():
                    found |= each
            yield found

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of small files, by path; one that is not there is left out."""
        found: dict[str, bytes] = {}
        for some in batches(list(dict.fromkeys(paths))):
            with self.opened(some) as files:
                for path, opened in files.items():
                    with open(opened.file, "rb") as file:
                        found[path] = file.read()
        return found

    def save(self, items: Iterable[Item], count: int) -> None:
        """Save files over whatever is there; ``count`` is about how many they are."""
        with self._asked():
            if self.type != "s3" or count <= SLICE:
                self.storage.save_bytes(_given(items), overwrite=True, len_hint=count)
                return

            def save(some: list[Item]) -> None:
                self.storage.save_bytes(_given(some), overwrite=True, len_hint=len(some))

            waiting = iter(items)
            while some := list(islice(waiting, SLICE * THREADS)):
                self._side_by_side(save, self._slices(some))


def _given(items: Iterable[Item]) -> Iterator[tuple[str, Any]]:
    for path, file, metadata in items:
        with file:
            yield path, file if metadata is None else (file, metadata)


def _fetched(loaded: Iterable[tuple[str, str | None, dict[str, Any] | None]]) -> dict[str, Opened]:
    return {path: Opened(file, metadata) for path, file, metadata in loaded if file is not None}


def batches(paths: Sequence[T], size: int = TOGETHER) -> Iterator[list[T]]:
    """Yield the paths (or other things), some at a time."""
    for start in range(0, len(paths), size):
        yield list(paths[start : start + size])
