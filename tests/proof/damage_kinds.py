"""Ways in which disks, file systems, copying programs and cosmic rays hurt a file; each is repeatable from its seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

SECTOR = 512
"""[bytes] What a disk writes as a whole."""


class Whole(NamedTuple):
    """A file before it is damaged: its pages by number with their tree, and what it was in earlier times."""

    content: bytes
    page_size: int
    pages: dict[int, tuple[str, bool]]
    before: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self.content) // self.page_size


class Damage:
    """A copy of the content that is being damaged; ``hurt`` are the pages that differ, or may."""

    def __init__(self, whole: Whole, chance: random.Random) -> None:
        self.whole = whole
        self.data = bytearray(whole.content)
        self.chance = chance
        self.hurt: set[int] = set()

    def some_page(self) -> int:
        """Return a page: a tree first, then one of its pages, so that small tables are as likely as the content."""
        if self.chance.random() < 0.2:
            return self.chance.randrange(1, self.whole.count + 1)
        trees = sorted({name for name, _ in self.whole.pages.values()})
        tree = self.chance.choice(trees)
        return self.chance.choice([page for page, (name, _) in self.whole.pages.items() if name == tree])

    def page(self, number: int) -> bytes:
        """Return a page as it is now."""
        return bytes(self.data[(number - 1) * self.whole.page_size : number * self.whole.page_size])

    def put(self, number: int, content: bytes) -> None:
        """Put a page in the place of another."""
        self.hurt.add(number)
        self.data[(number - 1) * self.whole.page_size : number * self.whole.page_size] = content

    def flip(self, number: int, bits: int, within: int) -> None:
        """Flip bits among the first ``within`` bytes of a page."""
        self.hurt.add(number)
        for _ in range(bits):
            place = (number - 1) * self.whole.page_size + self.chance.randrange(within)
            self.data[place] ^= 1 << self.chance.randrange(8)


def flips(damage: Damage, bits: int) -> None:
    """Flip bits of one page; the beginning of a page is its most delicate part."""
    within = 40 if damage.chance.random() < 0.3 else damage.whole.page_size
    damage.flip(damage.some_page(), bits, within)


def two(damage: Damage) -> None:
    """Flip bits on two pages."""
    for _ in range(2):
        flips(damage, damage.chance.choice([1, 2, 30]))


def zero(damage: Damage) -> None:
    """Zero a page."""
    damage.put(damage.some_page(), bytes(damage.whole.page_size))


def noise(damage: Damage) -> None:
    """Fill a page with noise."""
    damage.put(damage.some_page(), damage.chance.randbytes(damage.whole.page_size))


def swap(damage: Damage) -> None:
    """Put two pages in each other's place: two misdirected writes."""
    one, other = damage.some_page(), damage.some_page()
    first = damage.page(one)
    damage.put(one, damage.page(other))
    damage.put(other, first)


def copy(damage: Damage) -> None:
    """Put a page over another as well: a misdirected write."""
    one, other = damage.some_page(), damage.some_page()
    if damage.page(one) != damage.page(other):
        damage.put(one, damage.page(other))


def run_of_pages(damage: Damage) -> None:
    """Zero a range of bytes that begins and ends anywhere."""
    size = len(damage.data)
    begin = damage.chance.randrange(size)
    end = min(size, begin + damage.chance.randrange(1, 8 * damage.whole.page_size))
    damage.data[begin:end] = bytes(end - begin)
    damage.hurt |= set(range(begin // damage.whole.page_size + 1, (end - 1) // damage.whole.page_size + 2))


def cut(damage: Damage) -> None:
    """Cut the file off at any byte: more often in its last pages."""
    size = len(damage.data)
    first = 0 if damage.chance.random() < 0.5 else max(0, size - 8 * damage.whole.page_size)
    keep = damage.chance.randrange(first, size)
    damage.hurt |= set(range(keep // damage.whole.page_size + 1, damage.whole.count + 1))
    del damage.data[keep:]


def extend(damage: Damage) -> None:
    """Append noise, zeros, or pages of the file."""
    more = damage.chance.randrange(1, 4 * damage.whole.page_size)
    kind = damage.chance.randrange(3)
    tail = [damage.chance.randbytes(more), bytes(more), damage.page(damage.some_page())][kind]
    damage.data += tail
    damage.hurt.add(damage.whole.count + 1)


def sector(damage: Damage) -> None:
    """Zero a sector, or put one in the place of another."""
    begin = (damage.some_page() - 1) * damage.whole.page_size
    begin += damage.chance.randrange(damage.whole.page_size // SECTOR) * SECTOR
    content = bytes(SECTOR)
    if damage.chance.random() < 0.5:
        other = damage.chance.randrange(len(damage.data) // SECTOR) * SECTOR
        content = bytes(damage.data[other : other + SECTOR])
    damage.data[begin : begin + SECTOR] = content
    damage.hurt.add(begin // damage.whole.page_size + 1)


def header(damage: Damage) -> None:
    """Hurt the first 100 bytes, or zero or overwrite the whole first page."""
    kind = damage.chance.randrange(4)
    if kind < 2:
        damage.flip(1, damage.chance.choice([1, 2, 30]), 100)
    else:
        damage.put(1, [bytes(damage.whole.page_size), damage.chance.randbytes(damage.whole.page_size)][kind - 2])


def between(damage: Damage) -> None:
    """Hurt a page that belongs to no tree: of the list of free pages, or of the pointer map."""
    outside = [page for page in range(1, damage.whole.count + 1) if page not in damage.whole.pages]
    page = damage.chance.choice(outside)
    kind = damage.chance.randrange(3)
    if kind == 0:
        damage.flip(page, damage.chance.choice([1, 2, 30]), damage.chance.choice([8, 40, damage.whole.page_size]))
    else:
        damage.put(page, [bytes(damage.whole.page_size), damage.chance.randbytes(damage.whole.page_size)][kind - 1])


def lost_writes(damage: Damage) -> None:
    """Put one or some pages back to what they were at an earlier time: writes that never reached the disk."""
    earlier = damage.chance.choice(damage.whole.before)
    size = damage.whole.page_size
    changed = [
        page
        for page in range(1, len(earlier) // size + 1)
        if earlier[(page - 1) * size : page * size] != damage.page(page)
    ]
    for page in damage.chance.sample(changed, min(len(changed), damage.chance.choice([1, 1, 1, 2, 5]))):
        damage.put(page, earlier[(page - 1) * size : page * size])


LOST_WRITES = "lost writes"
KINDS: dict[str, Callable[[Damage], None]] = {
    "1 bit": lambda damage: flips(damage, 1),
    "2 bits": lambda damage: flips(damage, 2),
    "30 bits": lambda damage: flips(damage, 30),
    "bits of two pages": two,
    "zeroed page": zero,
    "zeroed range": run_of_pages,
    "noise": noise,
    "swapped pages": swap,
    "copied page": copy,
    "cut": cut,
    "extended": extend,
    "sector": sector,
    "header": header,
    "free page or pointer map": between,
    LOST_WRITES: lost_writes,
}
"""Damage of a file at rest."""


def hurt_beside(content: bytes, chance: random.Random) -> bytes:
    """Return the content of a file beside the store (a log or journal) damaged: flips, noise, zeros, cut."""
    data = bytearray(content)
    kind = chance.randrange(6)
    begin = chance.randrange(40 if chance.random() < 0.3 else len(data))
    if kind < 3:
        for _ in range((1, 2, 30)[kind]):
            data[min(len(data) - 1, begin + chance.randrange(40))] ^= 1 << chance.randrange(8)
    elif kind == 3:
        del data[begin:]
    else:
        size = min(len(data) - begin, chance.randrange(1, 4096))
        data[begin : begin + size] = bytes(size) if kind == 4 else chance.randbytes(size)
    return bytes(data)
