"""Curves and stacked areas as SVG text, to stand in a page of HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 30
_POINTS = 400  # of a curve: about one a pixel and a half
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def draw_curves(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], *, logarithmic: bool = False
) -> str:
    """Return an SVG picture of curves over the steps.

    Parameters
    ----------
    x : sequence of float
        The steps.
    curves : mapping of str to sequence of float
        As long as `x` each; NaN is a gap.
    logarithmic : bool
        Whether the ordinate is logarithmic; only where all numbers are positive.

    Notes
    -----
    A long curve is drawn by the means of its neighbouring points, with the span between the least
    and the largest of them behind it.
    """
    known = [y for ys in curves.values() for y in ys if math.isfinite(y)]
    if not known or not x:
        return "<p>Nothing was measured.</p>"
    logarithmic = logarithmic and min(known) > 0
    place = _Axes(x[0], x[-1], min(known), max(known), logarithmic)
    parts = [place.frame()]
    for colour, (_, ys) in zip(_cycle(len(curves)), curves.items(), strict=True):
        bins = _binned(x, ys)
        if any(low < high for _, _, low, high in bins):
            upper = [place(at, high) for at, _, _, high in bins]
            lower = [place(at, low) for at, _, low, _ in reversed(bins)]
            parts.append(
                f'<polygon points="{_points(upper + lower)}" fill="{colour}" opacity="0.2"/>'
            )
        line = [place(at, mean) for at, mean, _, _ in bins]
        if len(line) == 1:
            parts.append(f'<circle cx="{line[0][0]}" cy="{line[0][1]}" r="3" fill="{colour}"/>')
        parts.append(
            f'<polyline points="{_points(line)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
    return _picture(parts) + _legend(list(curves))


def draw_shares(x: Sequence[float], parts: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG picture of parts that add up to a whole, one on top of the other."""
    if not x or not parts:
        return "<p>Nothing was measured.</p>"
    binned = {
        name: _binned(x, [y if math.isfinite(y) else 0.0 for y in ys]) for name, ys in parts.items()
    }
    places = [at for at, *_ in next(iter(binned.values()))]
    base = [0.0] * len(places)
    tops: dict[str, tuple[list[float], list[float]]] = {}
    for name, bins in binned.items():
        top = [low + max(each[1], 0.0) for low, each in zip(base, bins, strict=True)]
        tops[name] = base, top
        base = top
    place = _Axes(x[0], x[-1], 0.0, max([*base, 1e-12]), False)
    drawn = [place.frame()]
    for colour, (low, high) in zip(_cycle(len(tops)), tops.values(), strict=True):
        upper = [place(at, y) for at, y in zip(places, high, strict=True)]
        lower = [place(at, y) for at, y in zip(reversed(places), reversed(low), strict=True)]
        drawn.append(f'<polygon points="{_points(upper + lower)}" fill="{colour}" opacity="0.8"/>')
    return _picture(drawn) + _legend(list(tops))


class _Axes:
    """Where a point of the data lies in the picture."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._x0, self._x1 = x0, max(x1, x0 + 1)
        self._y0, self._y1 = self._scale(y0), self._scale(y1)
        if self._y1 - self._y0 < 1e-12 * max(abs(self._y1), 1e-300):
            margin = abs(self._y1) or 1.0
            self._y0, self._y1 = self._y0 - margin / 2, self._y1 + margin / 2

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x0) / (self._x1 - self._x0)
        up = (self._scale(y) - self._y0) / (self._y1 - self._y0)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    def frame(self) -> str:
        """Return the lines and numbers of both axes."""
        parts = []
        for quarter in range(5):
            scaled = self._y0 + quarter / 4 * (self._y1 - self._y0)
            value = 10**scaled if self._logarithmic else scaled
            _, y = self(self._x0, value)
            parts.append(
                f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" class="grid"/>'
                f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
            )
            step = self._x0 + quarter / 4 * (self._x1 - self._x0)
            x = _LEFT + quarter / 4 * (WIDTH - _LEFT - _RIGHT)
            anchor = "end" if quarter == 4 else "middle"
            parts.append(
                f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="{anchor}">{step:.0f}</text>'
            )
        return "".join(parts)

    def _scale(self, y: float) -> float:
        return math.log10(max(y, 1e-300)) if self._logarithmic else y


def _binned(x: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Return (step, mean, least, largest) of neighbouring points; gaps are left out."""
    width = max(math.ceil(len(x) / _POINTS), 1)
    found = []
    for start in range(0, len(x), width):
        known = [y for y in ys[start : start + width] if math.isfinite(y)]
        if known:
            at = x[min(start + width // 2, len(x) - 1)]
            found.append((at, math.fsum(known) / len(known), min(known), max(known)))
    return found


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _picture(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _legend(names: Sequence[str]) -> str:
    entries = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for colour, name in zip(_cycle(len(names)), names, strict=True)
    )
    return f'<p class="legend">{entries}</p>'
