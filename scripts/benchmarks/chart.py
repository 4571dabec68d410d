"""The ratios as an SVG: a bar for Metaflow's, a mark for each other store's, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from benchmarks.growth import SMALL
from benchmarks.peers import METAFLOW, PLAIN, UNSYNCED, USERS
from benchmarks.report import Line

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 470, 30, 96, 20, 1060
"""Of the labels, the margin, the head, a line and the whole [pixels]."""

COLOURS = dict(
    zip(
        (METAFLOW, PLAIN, *USERS, UNSYNCED, SMALL),
        ("#7aa6d8", "#d1495b", "#e8a33d", "#6a994e", "#9b5de5", "#00a6a6", "#b08968", "#888888"),
        strict=True,
    )
)
STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}
.small{font-size:11px;fill:#59636e} .title{font-size:15px;font-weight:600} .page{fill:#ffffff}
.grid{stroke:#d1d9e0} .one{stroke:#59636e} .goal{stroke:#1f2328;stroke-width:2.5}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.page{fill:#0d1117}
.grid{stroke:#30363d}.one{stroke:#9198a1}.goal{stroke:#e6edf3}}
"""


def svg_of(lines: Iterable[Line], title: str, subtitle: str) -> str:
    """Return the chart of all lines that have ratios."""
    shown = [line for line in lines if line.ratios]
    values = [ratio for line in shown for ratio in line.ratios.values() if ratio > 0]
    low = math.floor(math.log10(min([*values, 0.5])))
    high = math.ceil(math.log10(max([*values, 2.0])))

    def place(ratio: float) -> float:
        share = (math.log10(max(ratio, 10.0**low)) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    bottom = TOP + HEIGHT * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{bottom + 34}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text class="small" x="16" y="46">{escape(subtitle)}</text>',
        *_legend(line for line in shown),
        *_axis(low, high, bottom, place),
    ]
    for number, line in enumerate(shown):
        parts += _line(line, TOP + HEIGHT * number + HEIGHT / 2, place)
    return "\n".join([*parts, "</svg>", ""])


def _legend(lines: Iterable[Line]) -> list[str]:
    there = {peer for line in lines for peer in line.ratios}
    parts, x = [], 16.0
    for peer, colour in COLOURS.items():
        if peer in there:
            label = f"÷ {peer}"
            parts.append(f'<rect x="{x}" y="60" width="10" height="10" rx="5" fill="{colour}"/>')
            parts.append(f'<text class="small" x="{x + 15}" y="69">{escape(label)}</text>')
            x += 30 + 6.4 * len(label)
    parts.append(f'<line class="goal" x1="{x + 4}" x2="{x + 4}" y1="58" y2="72"/>')
    parts.append(f'<text class="small" x="{x + 12}" y="69">the bar to reach</text>')
    return parts


def _axis(low: int, high: int, bottom: float, place) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = place(10.0**power)
        kind = "grid" if power else "one"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
    return parts


def _line(line: Line, y: float, place) -> list[str]:
    parts = [f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(line.label)}</text>']
    for peer, ratio in line.ratios.items():
        x, hint = place(ratio), f"<title>{escape(line.label)}: {ratio:.2f} ({escape(peer)})</title>"
        if peer == METAFLOW:
            left, right = sorted((place(1), x))
            size = f'x="{left:.1f}" y="{y - 6:.1f}" width="{max(right - left, 1):.1f}" height="12"'
            parts.append(f'<rect {size} rx="2" fill="{COLOURS[peer]}">{hint}</rect>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[peer]}">{hint}</circle>')
    if line.bar and line.bar["ratio"] is not None:
        x = place(line.bar["ratio"])
        parts.append(f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>')
    return parts
