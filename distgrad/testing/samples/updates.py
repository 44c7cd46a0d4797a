"""Samples of what puts values at the places of a subscript."""

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
    values,
)

_KEYS: dict[str, tuple[Shape, Any]] = {
    "integer": ((4, 5), 2),
    "to-no-axes": ((4,), 1),
    "slice": ((4, 5), np.s_[1:3]),
    "negative-steps": ((5, 4), np.s_[::-2, ::-1]),
    "ellipsis": ((3, 4, 5), np.s_[..., 1]),
    "everything": ((3, 4), np.s_[...]),
    "empty-slice": ((4, 5), np.s_[3:1]),
    "array": ((4, 5), np.array([3, 0])),
    "repeats": ((4, 5), np.array([1, 1, 3, 1])),
    "table": ((4, 5), np.array([[0, 2, 2], [1, 0, 3]])),
    "two-arrays": ((4, 5), (np.array([0, 1, 0]), np.array([2, 4, 2]))),
    "array-after-slice": ((4, 5), (slice(None), np.array([1, 1, 4]))),
    "arrays-apart": ((3, 4, 5), (np.array([0, 2, 2]), slice(1, 3), np.array([4, 0, 0]))),
    "no-positions": ((4, 5), np.array([], dtype=np.int64)),
    "mask": ((3, 5), frozen(values((3, 5), -1.0, 1.0) > 0)),
}


def _updates() -> Iterator[Sample]:
    for variant, (shape, key) in _KEYS.items():
        x = values(shape, *ANY)
        index, arrays = encode(key)
        for array in arrays:
            frozen(array)
        put = values(np.shape(x[key]), *SHIFTED)
        yield Sample("index_set", variant, (x, put, *arrays), {"index": index})
        params = {"index": index, "shape": shape}
        factors = values(np.shape(x[key]), 0.6, 1.5)
        yield Sample("scatter_multiply", variant, (factors, *arrays), params)
    # Every place gets a value: what stands elsewhere is infinite, and has no differences.
    everywhere = frozen(np.array([2, 0, 0, 1, 2, 1]))
    for name in ("scatter_max", "scatter_min"):
        for trailing in ((), (4,)):
            params = {"index": encode(everywhere)[0], "shape": (3, *trailing)}
            put = values((6, *trailing), *SHIFTED)
            yield Sample(name, f"repeats-{len(trailing)}", (put, everywhere), params)
        index, arrays = encode((slice(None), frozen(np.array([1, 0, 0]))))
        put = values((4, 3), *SHIFTED)
        yield Sample(name, "columns", (put, *arrays), {"index": index, "shape": (4, 2)})
        index, _ = encode(np.s_[::-1])
        yield Sample(name, "slice", (values((4, 3), *ANY),), {"index": index, "shape": (4, 3)})
    yield Sample("index_set", "scalar", (values((4, 5), *ANY), 2.5), {"index": encode(2)[0]})


FAMILIES = (_updates,)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("index_set scatter_multiply".split())
