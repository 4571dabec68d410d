"""What was measured, as lines with ratios, as text and for JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.growth import SMALL
from benchmarks.measure import Measured
from benchmarks.peers import METAFLOW, PLAIN, USERS
from benchmarks.rows import COLUMNS, Bar, Row
from benchmarks.why import WHY
from benchmarks.workloads import Costs

MIB = 2**20


@dataclass(slots=True)
class Line:
    """One line: figures by store (medians, in ``unit``), ratios (above 1: we are ahead), and whether the bar is met."""

    group: str
    step: str
    cost: str
    label: str
    unit: str
    ours: str
    rounds: int
    figures: dict[str, float]
    ratios: dict[str, float]
    disk: float | None
    """Added by our step [bytes]."""
    peak: float | None
    """Our peak memory beyond the object [bytes]."""
    bar: dict[str, Any] | None
    met: bool | None
    behind: dict[str, str] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)
    costs: dict[str, list[Costs]] = field(default_factory=dict)


def line_of(row: Row, measured: Measured) -> Line | None:
    """Return the line of a row; None if it was not measured."""
    costs = measured.costs.get((row.group, row.step), {})
    if row.ours not in costs:
        return None
    known = {peer: each for peer, each in costs.items() if row.cost in each[0]}
    figures = {peer: statistics.median(_figure(row, cost) for cost in each) for peer, each in known.items()}
    ratios = {
        peer: statistics.median(_ratio(row, a, b) for a, b in zip(known[row.ours], each, strict=True))
        for peer, each in known.items()
        if peer in {*row.against, SMALL} and peer != row.ours
    }
    return Line(
        row.group, row.step, row.cost, row.label, row.unit, row.ours, len(known[row.ours]), figures, ratios,
        disk=_median(costs[row.ours], "added"), peak=_median(costs[row.ours], "peak"),
        bar=asdict(row.bar) if row.bar else None, met=_met(row.bar, figures[row.ours], ratios),
        behind={peer: _why(row) for peer in USERS if ratios.get(peer, 1) < 1 and row.cost != "peak"},
        cannot={peer: why for (group, peer), why in measured.cannot.items() if group == row.group},
        costs=known,
    )  # fmt: skip


def _figure(row: Row, costs: Costs) -> float:
    cost, amount = costs[row.cost], costs["amount"]
    return {
        "MB/s": lambda: amount / cost, "/s": lambda: amount / cost, "ms": lambda: cost / amount * 1e3,
        "s": lambda: cost, "MiB": lambda: cost / MIB, "MB": lambda: cost / 1e6,
    }[row.unit]()  # fmt: skip


def _ratio(row: Row, ours: Costs, theirs: Costs) -> float:
    """Return how much less we need; memory below a MiB counts as one."""
    floor = MIB if row.unit == "MiB" else 0
    return (max(theirs[row.cost], floor) / theirs["amount"]) / (max(ours[row.cost], floor) / ours["amount"])


def _median(costs: list[Costs], name: str) -> float | None:
    return statistics.median(each[name] for each in costs) if name in costs[0] else None


def _met(bar: Bar | None, figure: float, ratios: dict[str, float]) -> bool | None:
    if bar is None:
        return None
    if bar.figure is not None:
        return figure <= bar.figure
    return None if bar.peer not in ratios or bar.ratio is None else ratios[bar.peer] >= bar.ratio


def _why(row: Row) -> str:
    return WHY.get((row.group, row.step, row.cost), "")


def text_of(lines: list[Line]) -> str:
    """Return the table, and below it what is behind and why."""
    head = [
        "workload",
        "ours",
        "unit",
        "Metaflow",
        "bar",
        "met",
        "disk MB",
        "peak MiB",
        *(f"÷ {c}" for c in COLUMNS[1:]),
    ]
    table = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    text = "\n".join(
        "  ".join(cell.ljust(width) if column in {0, 2, 4} else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in table
    )  # fmt: skip
    notes = [_behind(line) for line in lines if line.behind]
    notes += sorted({f"  {peer} cannot do {line.group}: {why}" for line in lines for peer, why in line.cannot.items()})
    return text + ("\n\n" + "\n".join(notes) if notes else "")


def _behind(line: Line) -> str:
    """Return who is ahead of us in a line, and why."""
    who = ", ".join(f"{peer} ({line.ratios[peer]:.2f})" for peer in line.behind)
    why = " ".join(sorted(set(line.behind.values()))).strip()
    return f"  behind {who}: {line.label}. {why or 'See BENCHMARKS.md.'}"


def _cells(line: Line) -> list[str]:
    bar = line.bar
    ours = line.figures[line.ours]
    return [
        line.label,
        f"{ours:,.0f}" if ours >= 100 else f"{ours:.3g}",
        line.unit,
        _number(line.ratios.get(METAFLOW)),
        bar_text(line),
        {None: "", True: "yes", False: "NO"}[line.met]
        + (
            f" ({line.ratios[bar['peer']]:.2f})"
            if bar and bar["peer"] in {PLAIN, SMALL} and bar["peer"] in line.ratios
            else ""
        ),
        _number(line.disk and line.disk / 1e6),
        _number(line.peak if line.peak is None else line.peak / MIB),
        *(_number(line.ratios.get(peer)) for peer in COLUMNS[1:]),
    ]


def bar_text(line: Line) -> str:
    """Return what is asked of a line."""
    bar = line.bar
    if bar is None:
        return ""
    if bar["text"]:
        return bar["text"]
    if bar["figure"] is not None:
        return f"≤ {bar['figure']:g} {line.unit}"
    return f"{bar['ratio']:g}" + ("" if bar["peer"] == METAFLOW else f" of {bar['peer']}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
