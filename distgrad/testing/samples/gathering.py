"""Samples of picking rows by their positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.shapes import Shape
from distgrad.testing.inputs import ANY, Sample, frozen, layouts, values

_POSITIONS: dict[str, tuple[Shape, np.ndarray]] = {
    "rows": ((4, 5), np.array([3, 0])),
    "repeats": ((4, 5), np.array([1, 1, 3, 1, 0])),
    "negative": ((4, 5), np.array([-1, 3, -4])),
    "table": ((4, 3), np.array([[0, 2, 2], [1, 0, 3]])),
    "no-axes": ((4, 3), np.array(2)),
    "none": ((4, 5), np.array([], dtype=np.int64)),
    "small-integers": ((4, 5), np.array([3, 1, 1], dtype=np.uint8)),
    "large-unsigned": ((4, 5), np.array([3, 1, 1], dtype=np.uint64)),
    "of-a-vector": ((5,), np.array([4, 0, 4])),
    "of-blocks": ((4, 3, 2), np.array([2, 2, 1])),
}


def _gathering() -> Iterator[Sample]:
    for variant, (shape, positions) in _POSITIONS.items():
        yield Sample("gather", variant, (values(shape, *ANY), frozen(positions)))
    for layout, x in layouts(ANY):
        if layout in ("fortran", "backwards"):
            yield Sample("gather", layout, (x, frozen(np.array([0, 2, 2]))))


FAMILIES = (_gathering,)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset(["gather"])
