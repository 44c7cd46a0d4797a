"""Samples of sorting, searching, sets, and what runs along an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.dtypes import float32
from distgrad.testing.inputs import (
    ANY,
    SHIFTED,
    Sample,
    frozen,
    integers,
    values,
)


def _sorting() -> Iterator[Sample]:
    for descending in (False, True):
        order = {"axis": -1, "descending": descending, "stable": True}
        name = "down" if descending else "up"
        tied = frozen(np.floor(values((3, 5), *ANY)))
        for operation in ("sort", "argsort"):
            yield Sample(operation, f"{name}-rows", (values((3, 4), *ANY),), order)
            yield Sample(
                operation, f"{name}-middle", (values((3, 4, 2), *ANY),), {**order, "axis": 1}
            )
            yield Sample(operation, f"{name}-line", (values((5,), *ANY),), {**order, "axis": 0})
            yield Sample(operation, f"{name}-empty", (values((0, 3), *ANY),), {**order, "axis": 0})
            yield Sample(operation, f"{name}-backwards", (values((6, 5), *ANY)[::-2, ::-1],), order)
        yield Sample("argsort", f"{name}-ties", (tied,), order)
    quick = {"axis": 0, "descending": False, "stable": False}
    yield Sample("argsort", "unstable", (values((5, 3), *ANY),), quick)


def _searching() -> Iterator[Sample]:
    line = frozen(np.sort(values((7,), *ANY)))
    ties = frozen(np.array([0.0, 1.0, 1.0, 2.0]))
    for side in ("left", "right"):
        yield Sample("searchsorted", side, (line, values((3, 4), *SHIFTED)), {"side": side})
        yield Sample(
            "searchsorted", f"{side}-ties", (ties, frozen(np.array([1.0, 3.0]))), {"side": side}
        )
        yield Sample("searchsorted", f"{side}-scalar", (line, 0.5), {"side": side})
    steps = frozen(np.floor(values((3, 4, 2), *ANY)))
    for variant, params in (
        ("by-default", {}),
        ("first", {"axis": 0}),
        ("two-kept", {"axis": (0, -1), "keepdims": True}),
        ("no-axis", {"axis": ()}),
    ):
        yield Sample("count_nonzero", variant, (steps,), params)
    yield Sample("count_nonzero", "bool", (frozen(steps > 0),), {"axis": 1})
    yield Sample("count_nonzero", "empty", (values((0, 3), *ANY),), {"axis": 0})


# How many elements they find depends on values, so their results have no shape before.
def _finding() -> Iterator[Sample]:
    steps = frozen(np.floor(values((3, 4), *ANY)))
    for variant, x in (
        ("matrix", steps),
        ("integers", integers((2, 3, 2), 0, 3)),
        ("nothing", frozen(steps[:0])),
    ):
        yield Sample("nonzero", variant, (x,), is_static=False)
        yield Sample("unique", variant, (x,), is_static=False)
    yield Sample("unique", "no-axes", (frozen(np.array(2.0)),), is_static=False)


def _running() -> Iterator[Sample]:
    for name, interval in (("cumulative_sum", ANY), ("cumulative_prod", (0.6, 1.5))):
        for axis in (0, 1, -1):
            yield Sample(name, f"axis{axis}", (values((3, 4), *interval),), {"axis": axis})
        yield Sample(name, "line", (values((5,), *interval),))
        yield Sample(name, "one", (values((3, 1), *interval),), {"axis": 1})
        yield Sample(name, "empty", (values((0, 3), *interval),), {"axis": 0})
        backwards = values((6, 5), *interval)[::-2, ::-1]
        yield Sample(name, "backwards", (backwards,), {"axis": 0})
    for zeros in (1, 2):
        line = values((4, 5), *ANY).copy()
        line[1, 1 : 1 + zeros] = 0
        yield Sample("cumulative_prod", f"zeros-{zeros}", (frozen(line),), {"axis": 1})


def _along() -> Iterator[Sample]:
    x = values((3, 4), *ANY)
    rows, columns = integers((3, 5), -4, 4), integers((2, 4), 0, 3)
    yield Sample("take_along_axis", "rows", (x, rows), {"axis": 1})
    yield Sample("take_along_axis", "negative", (x, rows), {"axis": -1})
    yield Sample("take_along_axis", "columns", (x, columns), {"axis": 0})
    yield Sample("take_along_axis", "line", (values((4,), *ANY), integers((6,), 0, 4)), {"axis": 0})
    yield Sample("take_along_axis", "one-row-of-indices", (x, frozen(rows[:1])), {"axis": 1})
    yield Sample("take_along_axis", "one-row-of-values", (frozen(x[:1]), rows), {"axis": 1})
    nothing = frozen(np.zeros((3, 0), np.int64))
    yield Sample("take_along_axis", "no-indices", (x, nothing), {"axis": 1})


def _filled() -> Iterator[Sample]:
    like = {"fill_value": 2.5, "dtype": float32}
    yield Sample("full_like", "matrix", (values((3, 4), *ANY),), like)
    yield Sample("full_like", "no-axes", (values((), *ANY),), {**like, "fill_value": float("inf")})


FAMILIES = (_sorting, _searching, _finding, _running, _along, _filled)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("cumulative_sum cumulative_prod take_along_axis".split())
