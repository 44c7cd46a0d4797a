"""Samples of the reductions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.testing.inputs import (
    ANY,
    Interval,
    Sample,
    frozen,
    layouts,
    values,
)

_REDUCTIONS: dict[str, Interval] = {
    **dict.fromkeys("sum mean max min logsumexp".split(), ANY),
    "prod": (0.6, 1.5),  # so that 60 factors make a number of order 1
}
_AXES: dict[str, dict[str, Any]] = {
    "all-axes": {"axis": None},
    "by-default": {},
    "first": {"axis": 0},
    "last": {"axis": -1},
    "two": {"axis": (0, 2)},
    "two-backwards": {"axis": (-1, 0)},
    "kept": {"axis": 1, "keepdims": True},
    "all-kept": {"keepdims": True},
    "kept-two": {"axis": (2, 0), "keepdims": True},
    "no-axis": {"axis": ()},
}


def _reductions() -> Iterator[Sample]:
    for name, interval in _REDUCTIONS.items():
        for variant, params in _AXES.items():
            yield Sample(name, variant, (values((3, 4, 5), *interval),), params)
        for layout, x in layouts(interval):
            if layout != "empty":
                yield Sample(name, layout, (x,))
        yield Sample(name, "of-no-rows", (values((0, 3), *interval),), {"axis": 1})
    for name in ("sum", "prod"):
        yield Sample(name, "of-nothing", (values((0, 3), *ANY),), {"axis": 0})
    yield Sample("logsumexp", "nothing-of-nothing", (values((0, 0), *ANY),), {"axis": 0})
    for zeros in (1, 2, 3):
        line = values((4, 5), *ANY).copy()
        line[1, :zeros] = 0
        yield Sample("prod", f"zeros-{zeros}", (frozen(line),), {"axis": 1})
    for name in ("all", "any"):
        for variant, params in _AXES.items():
            yield Sample(name, variant, (frozen(values((3, 4, 5), *ANY) > 0),), params)
        yield Sample(name, "of-nothing", (frozen(values((0, 3), *ANY) > 0),), {"axis": 0})
    for name in ("argmax", "argmin"):
        for variant in ("all-axes", "by-default", "first", "last", "kept", "all-kept"):
            yield Sample(name, variant, (values((3, 4, 5), *ANY),), _AXES[variant])
        tied = frozen(np.floor(values((3, 4), *ANY)))
        yield Sample(name, "ties", (tied,), {"axis": 1})


FAMILIES = (_reductions,)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("sum mean prod".split())
