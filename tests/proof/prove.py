"""``scripts/prove``: the proofs of this folder, for minutes to an hour; see its ``--help``.

A proof is a module ``proof_<name>.py`` here. It says what it counts (``UNIT``) and how much the long run does
(``LONG``), and its ``prove(amount, seed, folder)`` returns figures, or raises at the first violation. An amount is done
in slices, each in a process of its own, so that a crash is noticed and some run side by side.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

HERE = Path(__file__).parent
SLICES = 10
"""In how many slices an amount is done, unless the proof says ``SLICES``."""

MEMORY = "/dev/shm"  # noqa: S108
"""Where a proof works that says ``IN_MEMORY``: one of very many small files, for which a disk would only cost time."""

Figures = dict[str, int | float]


class Slice(NamedTuple):
    """A part of a proof, done by one process."""

    proof: str
    number: int
    amount: int
    seed: int


def names() -> list[str]:
    """Return the names of all proofs."""
    return sorted(path.stem.removeprefix("proof_") for path in HERE.glob("proof_*.py"))


def load(name: str) -> Any:
    """Return the module of a proof."""
    for folder in (HERE.parent, HERE):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f"proof_{name}")


def slices(name: str, amount: int, seed: int) -> Iterator[Slice]:
    """Cut an amount into slices with seeds of their own, far apart: some proofs count on from theirs."""
    proof = load(name)
    count = 1 if getattr(proof, "PROCESSES", None) == 1 else min(amount, getattr(proof, "SLICES", SLICES))
    for number in range(count):
        share = amount * (number + 1) // count - amount * number // count
        yield Slice(name, number, share, seed * 10**9 + number * 10**6)


def work(part: Slice) -> Figures:
    """Do a slice, in this process."""
    proof = load(part.proof)
    place = MEMORY if getattr(proof, "IN_MEMORY", False) and os.path.isdir(MEMORY) else None
    with TemporaryDirectory(dir=place) as folder:
        if hasattr(proof, "prove_slice"):
            figures: Figures = proof.prove_slice(part.number, part.amount, part.seed, folder)
        else:
            figures = proof.prove(part.amount, part.seed, folder)
    return figures


def work_elsewhere(part: Slice) -> Figures:
    """Do a slice in a process of its own; raise RuntimeError with all that it said if it fails or crashes."""
    command = [sys.executable, __file__, "--slice", json.dumps(part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{part}: exit code {done.returncode}\n{done.stderr[-6000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def together(figures: Figures, more: Figures) -> None:
    """Add the figures of a slice: sums, and the largest of what is a longest or a peak."""
    for name, value in more.items():
        if name.startswith(("longest", "peak", "largest")):
            figures[name] = max(figures.get(name, 0), value)
        else:
            figures[name] = figures.get(name, 0) + value


def run(name: str, amount: int, seed: int, processes: int, show: Any) -> Figures:
    """Do a proof; stop at the first violation."""
    figures: Figures = {}
    parts = list(slices(name, amount, seed))
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(work_elsewhere, part): part for part in parts}
        try:
            for future in as_completed(futures):
                together(figures, future.result())
                show(futures[future].amount)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return figures


def main() -> int:
    """Do what the command line asks for; 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="scripts/prove", description="Prove what the design promises, for long.")
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help=f"which: {', '.join(names())}; all if none is named")
    parser.add_argument("--share", type=float, default=1.0, help="of the long run's amount, for instance 0.1")
    parser.add_argument("--amount", type=int, help="how much instead, of each proof named")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other images, moments, bytes")
    parser.add_argument("--processes", type=int, default=2, help="how many slices at once")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--slice", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.slice:
        print(json.dumps(work(Slice(*json.loads(given.slice)))))
        return 0
    unknown = sorted(set(given.proofs) - set(names()))
    if unknown:
        parser.error(f"There is no proof {', '.join(unknown)}; there are {', '.join(names())}.")
    return prove_all(given)


def prove_all(given: argparse.Namespace) -> int:
    """Do the proofs one after the other, and print the figures of each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    report, failed = {}, False
    for name in given.proofs or names():
        proof = load(name)
        amount = given.amount or max(1, int(proof.LONG * given.share))
        start = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(f"{name}, {proof.UNIT}", total=amount)
            try:
                figures = run(name, amount, given.seed, given.processes, lambda done: bar.advance(task, done))  # noqa: B023
            except RuntimeError as error:
                print(f"{name}: VIOLATED\n{error}", flush=True)
                failed = True
                continue
        seconds = round(time.monotonic() - start)
        report[name] = {"amount": amount, "unit": proof.UNIT, "seed": given.seed, "seconds": seconds, **figures}
        print(f"{name}: {amount:,} {proof.UNIT} in {seconds} s, no violation", flush=True)
        for what, value in figures.items():
            print(f"    {what}: {value:,.10g}", flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=1) + os.linesep, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
