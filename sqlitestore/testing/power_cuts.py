"""What a disk may hold when the power goes.

``Disk`` replays what a ``Recorder`` noted, up to any point, and builds images of the folder: what was synced is there;
of what was not, any part may be. The model is harsher than disks
are, within what SQLite asks of one (https://www.sqlite.org/atomiccommit.html, section 2):

- A write or a cut that was not synced may have happened or not, whatever came after it, in any file of the folder.
- A write may be torn: of each sector of 512 bytes that it touches, the old bytes or the new ones. Bytes that it does
  not touch stay ("powersafe overwrite", which SQLite assumes by default: https://www.sqlite.org/psow.html).
- A file may have got its new length, and not the bytes: there are zeros then, or whatever stood on the disk before.
- A name that was made, moved or removed is as it was at any moment since the folder was synced, each name by itself.

Not modelled: disks that say to have synced and have not, and bytes that go bad later (see the damage campaign).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from sqlitestore.testing.recording import Name, Recorder, Step, Sync, SyncNames, Truncate, Write

SECTOR = 512
"""[bytes]"""


@dataclass(slots=True)
class _File:
    synced: bytearray
    waiting: list[Write | Truncate] = field(default_factory=list)


Part = bool | Sequence[bool]
"""Of a change that waits: whether it happened; of a write, for each of its sectors."""

Chooser = Callable[[Write | Truncate, int, int], Part]
"""Decides on one change, given which it is of how many that wait in its file."""

NameChooser = Callable[[str, Sequence[int | None]], int | None]
"""Decides which of the files a path has named since the names were synced, oldest first, it names."""


class Disk:
    """The files of a recording after some of its steps. ``apply`` goes on; it never goes back."""

    def __init__(self, recorder: Recorder) -> None:
        self._files = {number: _File(bytearray(data)) for number, data in enumerate(recorder.start.values(), 1)}
        self._names: dict[str, list[int | None]] = {path: [number] for number, path in enumerate(recorder.start, 1)}

    def apply(self, step: Step) -> None:
        """Make one step more."""
        match step:
            case Write() | Truncate():
                self._files[step.file].waiting.append(step)
            case Sync():
                file = self._files[step.file]
                for change in file.waiting:
                    _change(file.synced, change, part=True, stale=b"")
                file.waiting.clear()
            case Name():
                if step.file is not None:
                    self._files.setdefault(step.file, _File(bytearray()))
                self._names.setdefault(step.path, [None]).append(step.file)
            case SyncNames():
                for versions in self._names.values():
                    del versions[:-1]

    @property
    def waiting(self) -> int:
        """How many changes are not synced."""
        named = {file for versions in self._names.values() for file in versions if file is not None}
        changes = sum(len(self._files[file].waiting) for file in named)
        return changes + sum(len(versions) - 1 for versions in self._names.values())

    def image(self, choose: Chooser, choose_name: NameChooser, stale: bytes = b"") -> dict[str, bytes]:
        """Return path and content of each file of one image; ``stale`` fills what a file got and nobody wrote."""
        image = {}
        for path, versions in self._names.items():
            number = versions[0] if len(versions) == 1 else choose_name(path, versions)
            if number is not None:
                file = self._files[number]
                content = bytearray(file.synced)
                for index, change in enumerate(file.waiting):
                    _change(content, change, choose(change, index, len(file.waiting)), stale)
                image[path] = bytes(content)
        return image


def _change(content: bytearray, change: Write | Truncate, part: Part, stale: bytes) -> None:
    if part is False:
        return
    if isinstance(change, Truncate):
        if change.size < len(content):
            del content[change.size :]
        else:
            _fill(content, change.size, stale)
        return
    end = change.offset + len(change.data)
    if part is True:
        _fill(content, change.offset, stale)
        content[change.offset : end] = change.data
        return
    _fill(content, end, stale)
    for (begin, stop), happened in zip(sectors(change), part, strict=True):
        if happened:
            content[begin:stop] = change.data[begin - change.offset : stop - change.offset]


def _fill(content: bytearray, size: int, stale: bytes) -> None:
    missing = size - len(content)
    if missing > 0:
        content += (stale * (missing // len(stale) + 1))[:missing] if stale else bytes(missing)


def sectors(write: Write) -> Iterator[tuple[int, int]]:
    """Yield begin and end [bytes] of what a write changes of each sector."""
    begin, end = write.offset, write.offset + len(write.data)
    while begin < end:
        stop = min(end, (begin // SECTOR + 1) * SECTOR)
        yield begin, stop
        begin = stop


def _happened(*_: object) -> bool:
    return True


def _lost(*_: object) -> bool:
    return False


def _newest(_: str, versions: Sequence[int | None]) -> int | None:
    return versions[-1]


def _oldest(_: str, versions: Sequence[int | None]) -> int | None:
    return versions[0]


def everything(disk: Disk) -> dict[str, bytes]:
    """Return the image of a disk on which all happened: what a killed process leaves."""
    return disk.image(_happened, _newest)


def nothing(disk: Disk) -> dict[str, bytes]:
    """Return the image of a disk on which nothing happened that was not synced."""
    return disk.image(_lost, _oldest)


def lengths_only(disk: Disk, stale: bytes) -> dict[str, bytes]:
    """Return the image in which all names and lengths are new, and no bytes."""

    def choose(change: Write | Truncate, *_: int) -> Part:
        return [False] * len(list(sectors(change))) if isinstance(change, Write) else True

    return disk.image(choose, _newest, stale)


_MANNERS: Sequence[Callable[[int, int], bool | None]] = (
    lambda *_: True,
    lambda *_: False,
    lambda index, chosen: index < chosen,
    lambda index, chosen: index >= chosen,
    lambda index, chosen: index != chosen,
    lambda index, chosen: index == chosen,
    lambda index, chosen: True if index < chosen else None if index == chosen else False,
    lambda *_: None,
)
"""How much of what waits in a file happened, given the number of a change and a number chosen; None: a part of it."""


def by_chance(disk: Disk, chance: Random) -> dict[str, bytes]:
    """Return any image: each file has lost all, nothing, its latest or first changes, one, any, or parts of any."""
    stale = chance.randbytes(SECTOR) if chance.randrange(2) else b""
    manners: dict[int, tuple[Callable[[int, int], bool | None], float]] = {}

    def choose(change: Write | Truncate, index: int, count: int) -> Part:
        manner, share = manners.setdefault(change.file, (chance.choice(_MANNERS), chance.random()))
        happened = manner(index, int(share * count))
        if happened is not None:
            return happened
        if isinstance(change, Truncate) or chance.randrange(2):
            return chance.random() < share
        return [chance.random() < share for _ in sectors(change)]

    return disk.image(choose, lambda _, versions: chance.choice(versions), stale)
