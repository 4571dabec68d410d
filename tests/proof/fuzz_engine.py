"""What every fuzzed parser shares: a target with seeds, mutation of bytes, and the limits of one input."""

from __future__ import annotations

import random
import signal
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlitestore import DataException

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 10
"""[s] The longest that one input may take; the slowest known one takes a tenth of that."""

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 100, 127, 128, 255)


class Target(NamedTuple):
    """A parser to be fuzzed.

    ``check`` takes the input and returns what happened in a word, one of ``outcomes``; it raises AssertionError if an
    invariant is hurt. Whatever else it raises is a violation too. ``seeds`` makes inputs beside those of the corpus.
    ``words`` are pieces that mutation inserts. ``weight`` is how many of a hundred executions are its.
    """

    name: str
    check: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    outcomes: frozenset[str]
    weight: int
    words: tuple[bytes, ...] = ()
    mutate: Callable[[bytes, random.Random], bytes] | None = None


class TooLongError(BaseException):
    """An input took more than SECONDS; no ``except Exception`` of a parser may swallow it."""


def corpus_of(name: str) -> list[Path]:
    """Return the files that are kept for a target: seeds, and every input that once found a fault."""
    return sorted((CORPUS / name).glob("*"))


def execute(target: Target, data: bytes) -> str:
    """Run one input and return what happened. Raises AssertionError that shows the input."""
    try:
        with limited_time(SECONDS):
            outcome = target.check(data)
    except TooLongError:
        problem = f"takes more than {SECONDS} s"
    except AssertionError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__} came out: {str(error)[:300]}"
    else:
        assert outcome in target.outcomes, f"{target.name}: unknown outcome {outcome}"
        return outcome
    raise AssertionError(f"{target.name}: {problem}; the input was bytes.fromhex({data.hex()!r})")


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise TooLongError in the block after so much processor time [s]; in the main thread only, as signals are.

    Not by the clock: on a machine with other work that says little.
    """

    def stop(number: int, frame: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(target: Target, amount: int, seed: int) -> Counter[str]:
    """Run ``amount`` inputs made from the seed; return how often each outcome came."""
    seeds = [path.read_bytes() for path in corpus_of(target.name)] + target.seeds()
    assert seeds, f"{target.name} has no seeds"
    found: Counter[str] = Counter()
    change = target.mutate or (lambda data, choice: mutated(data, choice, target.words, seeds))
    as_they_are = min(len(seeds), amount // 4)
    for number in range(amount):
        choice = random.Random(f"{target.name} {seed} {number}")
        data = choice.choice(seeds)
        data = change(data, choice) if number >= as_they_are else seeds[number]
        try:
            found[execute(target, data)] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, execution {number}: {error}") from error
    return found


def mutated(
    data: bytes, choice: random.Random, words: tuple[bytes, ...] = (), others: list[bytes] | None = None
) -> bytes:
    """Return the bytes with one to eight changes, most often few."""
    changed = bytearray(data)
    for _ in range(min(8, 1 + int(choice.expovariate(0.7)))):
        _change(changed, choice, words, others or [data])
    return bytes(changed)


def _change(data: bytearray, choice: random.Random, words: tuple[bytes, ...], others: list[bytes]) -> None:
    place = choice.randrange(len(data) + 1)
    length = min(len(data) - place, int(choice.expovariate(0.15)))
    kind = choice.randrange(9 if words else 8)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << choice.randrange(8)
    elif kind == 1 and place < len(data):
        data[place] = choice.choice(INTERESTING)
    elif kind == 2:
        size = choice.choice((2, 4, 8))
        value = choice.choice((0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), choice.getrandbits(31)))
        order: Any = choice.choice(("little", "big"))
        data[place : place + size] = (value % 2 ** (8 * size)).to_bytes(size, order)
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = choice.randbytes(length)
    elif kind == 5:
        data[place:place] = data[place : place + length] * choice.choice((1, 1, 2, 50))
    elif kind == 6:
        del data[place:]
    elif kind == 7:
        other = choice.choice(others)
        start = choice.randrange(len(other) + 1)
        data[place : place + length] = other[start : start + max(1, length)]
    elif kind == 8:
        data[place : place + choice.choice((0, length))] = choice.choice(words)


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """Return what ``work`` returns, or the DataException that it raises, and the memory that it took [bytes].

    What Python allocates is counted when it is asked for, also where no page of it is touched.
    """
    tracemalloc.start()
    try:
        try:
            answer = work()
        except DataException as error:
            answer = error
        return answer, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def within(seconds: float) -> Callable[[], None]:
    """Return what raises AssertionError once so much processor time of this process has passed [s]."""
    start = time.process_time()

    def check() -> None:
        took = time.process_time() - start
        assert took <= seconds, f"took {took:.1f} s"

    return check
