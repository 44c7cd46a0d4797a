"""Samples of subscripts of every kind, and of their adjoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.ops.picking.indexing import encode
from distgrad.shapes import Shape
from distgrad.testing.inputs import (
    ANY,
    SHIFTED,
    Sample,
    frozen,
    layouts,
    values,
)

_MASK = frozen(values((4, 5), -1.0, 1.0) > 0)
_KEYS: dict[str, tuple[Shape, Any]] = {
    "integer": ((4, 5), 2),
    "negative-integer": ((4, 5), (-1, 3)),
    "to-no-axes": ((4,), 1),
    "slice": ((4, 5), np.s_[1:3]),
    "steps": ((5, 4), np.s_[::2, 1::2]),
    "negative-steps": ((5, 4), np.s_[::-2, ::-1]),
    "empty-slice": ((4, 5), np.s_[3:1]),
    "ellipsis": ((3, 4, 5), np.s_[..., 1]),
    "new-axes": ((3, 4), np.s_[None, :, None, 1]),
    "everything": ((3, 4), np.s_[...]),
    "of-no-axes": ((), ()),
    "array": ((4, 5), np.array([3, 0])),
    "repeats": ((4, 5), np.array([1, 1, 3, 1])),
    "negative-array": ((4, 5), np.array([-1, 3, -4])),
    "table": ((4, 5), np.array([[0, 2, 2], [1, 0, 3]])),
    "no-positions": ((4, 5), np.array([], dtype=np.int64)),
    "small-integers": ((4, 5), np.array([3, 1, 1], dtype=np.uint8)),
    "two-arrays": ((4, 5), (np.array([0, 1, 0]), np.array([2, 4, 2]))),
    "arrays-that-broadcast": ((4, 5), (np.array([[0], [3]]), np.array([1, 1, 2]))),
    "array-after-slice": ((4, 5), (slice(None, None, 2), np.array([1, 1, 4]))),
    "arrays-apart": ((3, 4, 5), (np.array([0, 2, 2]), slice(1, 3), np.array([4, 0, 0]))),
    "array-and-integer": ((3, 4, 5), (1, slice(None), np.array([0, 0, 3]))),
    "array-and-new-axis": ((3, 4), (np.array([0, 2, 0]), None, slice(None, None, -1))),
    "mask": ((4, 5), _MASK),
    "row-mask": ((4, 5), np.array([True, False, True, True])),
    "mask-and-slice": ((4, 5), (np.array([True, False, True, True]), np.s_[::2])),
    "mask-and-array": ((3, 5), (np.array([True, False, True]), np.array([4, 4]))),
    "empty-mask": ((4, 5), np.zeros(4, dtype=bool)),
}


def _indexing() -> Iterator[Sample]:
    for variant, (shape, key) in _KEYS.items():
        x = values(shape, *ANY)
        index, arrays = encode(key)
        for array in arrays:
            frozen(array)
        is_static = not any(array.dtype == bool for array in arrays)
        yield Sample("getitem", variant, (x, *arrays), {"index": index}, is_static)
        cotangent = values(np.shape(x[key]), *SHIFTED)
        params = {"index": index, "shape": shape}
        yield Sample("scatter_add", variant, (cotangent, *arrays), params)
    for layout, x in layouts(ANY):
        if layout in ("fortran", "backwards"):
            index, arrays = encode((slice(None, None, -1), frozen(np.array([0, 2, 2]))))
            yield Sample("getitem", layout, (x, *arrays), {"index": index})


FAMILIES = (_indexing,)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("getitem scatter_add".split())
