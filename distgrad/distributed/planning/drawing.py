"""Draw predictions: as lines of text, and as one page of HTML that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from distgrad.distributed.planning.prediction import Prediction

_WIDTH, _HEIGHT, _MARGIN = 720, 340, 56
_CELLS = 40


def bars(predictions: Sequence[Prediction]) -> list[str]:
    """Return a line for each number of ranks: what share of a step is what."""
    lines = []
    for each in predictions:
        computing = round(_CELLS * each.efficiency)
        waiting = round(_CELLS * each.waiting / each.seconds)
        exposed = max(_CELLS - computing - waiting, 0)
        bar = "█" * computing + "▒" * waiting + "░" * exposed
        lines.append(f"{each.ranks:>8,}  {bar}  {100 * each.efficiency:5.1f} %")
    return lines


def page(title: str, predictions: Sequence[Prediction], facts: Sequence[str]) -> str:
    """Return a page with the curve of efficiency over ranks, a table and some sentences."""
    rows = "".join(
        f"<tr><td>{each.ranks:,}<td>{1e3 * each.seconds:.2f}<td>{100 * each.efficiency:.1f}"
        f"<td>{1e3 * each.exposed:.2f}<td>{1e3 * each.waiting:.2f}<td>{html.escape(each.algorithm)}"
        for each in predictions
    )
    sentences = "".join(f"<li>{html.escape(fact)}" for fact in facts)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:780px;margin:2em auto;color:#222}}
td,th{{text-align:right;padding:2px 12px}} table{{border-collapse:collapse}}
tr:nth-child(even){{background:#f3f3f3}}</style>
<h1>{html.escape(title)}</h1>
{curve(predictions)}
<p>Predictions, not measurements: what was measured, and how well it is predicted, stands below.</p>
<table><tr><th>ranks<th>step, ms<th>efficiency, %<th>exposed, ms<th>waiting, ms<th>algorithm
{rows}</table>
<ul>{sentences}</ul>
</html>
"""


def curve(predictions: Sequence[Prediction]) -> str:
    """Return an SVG picture of the efficiency over the number of ranks, which is logarithmic."""
    most = max(each.ranks for each in predictions)
    decades = max(math.log10(most), 1e-9)

    def place(ranks: float, efficiency: float) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * math.log10(max(ranks, 1)) / decades
        return x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * efficiency

    parts = []
    for percent in range(0, 101, 25):
        x, y = place(1, percent / 100)
        right = _WIDTH - _MARGIN
        parts.append(f'<line x1="{x}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>')
    for power in range(int(decades + 1e-9) + 1):
        x, y = place(10**power, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 20}" text-anchor="middle">{10**power:,}</text>')
    points = [place(each.ranks, each.efficiency) for each in predictions]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#1868b7" stroke-width="2.5"/>')
    for (x, y), each in zip(points, predictions, strict=True):
        label = f"{each.ranks:,} ranks: {100 * each.efficiency:.1f} %, {1e3 * each.seconds:.2f} ms"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1868b7">'
            f"<title>{label}</title></circle>"
        )
    middle = _WIDTH / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">ranks</text>')
    parts.append(f'<text x="{middle}" y="24" text-anchor="middle">efficiency</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="13">\n{body}\n</svg>'
    )
