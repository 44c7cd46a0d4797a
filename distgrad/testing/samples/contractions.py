"""Samples of the products of matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.shapes import Shape
from distgrad.testing.inputs import (
    ANY,
    SHIFTED,
    Sample,
    frozen,
    values,
)

_FACTORS: dict[str, tuple[Shape, Shape]] = {
    "matrices": ((3, 4), (4, 5)),
    "vectors": ((4,), (4,)),
    "matrix-vector": ((3, 4), (4,)),
    "vector-matrix": ((4,), (4, 5)),
    "square": ((3, 3), (3, 3)),
    "square-vector": ((3, 3), (3,)),
    "vector-square": ((3,), (3, 3)),
    "stack": ((2, 3, 4), (2, 4, 5)),
    "stack-matrix": ((2, 3, 4), (4, 5)),
    "matrix-stack": ((3, 4), (2, 4, 5)),
    "stack-vector": ((2, 3, 4), (4,)),
    "vector-stack": ((4,), (2, 4, 3)),
    "broadcast-stacks": ((2, 1, 3, 4), (5, 4, 2)),
    "stretched-stack": ((1, 3, 4), (2, 4, 5)),
    "ones": ((1, 1), (1, 1)),
    "no-rows": ((0, 3), (3, 2)),
    "nothing-to-sum": ((2, 0), (0, 3)),
}


def _contractions() -> Iterator[Sample]:
    for variant, (left, right) in _FACTORS.items():
        yield Sample("matmul", variant, (values(left, *ANY), values(right, *SHIFTED)))
    fortran = frozen(np.asfortranarray(values((3, 4), *ANY)))
    yield Sample("matmul", "strided", (fortran, values((5, 8), *SHIFTED)[::-1, ::2].T))


_SUBSCRIPTS: dict[str, tuple[Shape, Shape]] = {
    "ab,bc->ac": ((3, 4), (4, 5)),
    "ab,ab->": ((3, 4), (3, 4)),
    "ab,cb->ca": ((3, 4), (5, 4)),
    "zab,zbc->zca": ((2, 3, 4), (2, 4, 5)),
    "ab,ab->ba": ((3, 4), (3, 4)),
    "a,b->ab": ((3,), (4,)),
    "abc,b->a": ((3, 4, 2), (4,)),
    "a,bcd->ca": ((2,), (3, 4, 5)),
    ",a->a": ((), (3,)),
    ",->": ((), ()),
    "ab,b->a": ((0, 3), (3,)),
}


def _einsums() -> Iterator[Sample]:
    for subscripts, (left, right) in _SUBSCRIPTS.items():
        operands = (values(left, *ANY), values(right, *SHIFTED))
        yield Sample("contract", subscripts, operands, {"subscripts": subscripts})


_ROWS: dict[str, Shape] = {"rows": (3, 4), "line": (4,), "stack": (2, 3, 4), "no-rows": (0, 4)}


def _affine_maps() -> Iterator[Sample]:
    for variant, shape in _ROWS.items():
        operands = (values(shape, *ANY), values((4, 5), *SHIFTED), values((5,), *ANY, seed=1))
        yield Sample("linear", variant, operands)
        yield Sample("linear", f"{variant}-without-bias", operands[:2])
    fortran = frozen(np.asfortranarray(values((4, 4), *ANY)))
    strided = (values((8, 4), *SHIFTED)[::-2], values((8,), *ANY)[::2])
    yield Sample("linear", "strided", (fortran, *strided))
    yield Sample("linear", "nothing-to-sum", (values((2, 0), *ANY), values((0, 3), *ANY)))


def _rectified() -> Iterator[Sample]:
    signs = np.array([1.0, -1.0, 1.0, -1.0, 1.0])  # of columns, whose sums stay away from 0
    for variant, shape in {**_ROWS, "strided": (6, 4)}.items():
        x = values(shape, *SHIFTED)[:: 2 if variant == "strided" else 1]
        kernel = frozen(values((4, 5), *SHIFTED) * signs)
        bias = frozen(values((5,), *SHIFTED, seed=1) * signs)
        yield Sample("linear_relu", variant, (x, kernel, bias))
        yield Sample("linear_relu", f"{variant}-without-bias", (x, kernel))


FAMILIES = (_contractions, _einsums, _affine_maps, _rectified)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("matmul contract linear".split())
