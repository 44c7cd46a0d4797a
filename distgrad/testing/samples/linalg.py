"""Samples of linear algebra: matrices with a heavy diagonal, so that all of them are regular.

Cast to integers they become diagonal matrices, and turned into complex numbers they keep what
their operation needs: positive definite, of full rank, with eigenvalues that lie apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from distgrad.shapes import Shape
from distgrad.testing.inputs import ANY, HostArray, Sample, frozen, values


def heavy(shape: Shape, seed: int = 0) -> HostArray:
    """Return matrices with small elements beside growing ones on the diagonal."""
    small = values(shape, -0.8, 0.75, seed)
    rows, columns = shape[-2:]
    return frozen(small + np.eye(rows, columns) * (3.0 + 1.5 * np.arange(columns)))


def ranked(shape: Shape) -> HostArray:
    """Return matrices of rank 1."""
    return frozen(values((*shape[:-1], 1), *ANY) @ values((1, shape[-1]), *ANY, seed=1))


_SQUARE = {"matrix": (3, 3), "stack": (2, 3, 3), "larger": (5, 5), "one": (1, 1)}
_NOTHING = {"no-matrices": (0, 3, 3), "no-rows": (0, 0)}
_ANY_SHAPE = {"square": (3, 3), "tall": (5, 3), "wide": (3, 4), "stack": (2, 4, 3)}


def _square() -> Iterator[Sample]:
    for name in "cholesky eigvalsh inv det cofactor slogdet".split():
        for variant, shape in (_SQUARE | _NOTHING).items():
            if (name, variant) != ("cofactor", "larger"):  # too large for float16
                yield Sample(name, variant, (heavy(shape),))
    for variant, shape in (_SQUARE | {"no-matrices": (0, 3, 3)}).items():
        yield Sample("expm", variant, (frozen(heavy(shape) / 4),))
    yield Sample("expm", "scaled", (frozen(heavy((2, 3, 3)) * np.array([[[0.1]], [[-0.9]]])),))
    for name in ("det", "cofactor"):
        yield Sample(name, "singular", (ranked((2, 2)),), scale=1.0)
        matrix = _of_rank_2()  # with parts turned about zero it is of another rank
        scale = _largest_determinant(matrix)
        yield Sample(name, "of-rank-2", (matrix,), scale=scale, takes_complex=False)


def _largest_determinant(matrix: HostArray) -> float:
    """Return Hadamard's bound, in whose units determinants are rounded that nearly vanish."""
    return float(np.prod(np.linalg.norm(matrix, axis=0)))


def _of_rank_2() -> HostArray:
    matrix = heavy((3, 3)).copy()
    matrix[2] = matrix[0] - matrix[1]
    return frozen(matrix)


def _lengths(module: Any, vectors: Any) -> Any:
    sizes = module.abs(vectors)
    return sizes * sizes


def _without_phases(module: Any, eigenvalues: Any, vectors: Any) -> tuple[Any, ...]:
    return eigenvalues, _lengths(module, vectors)


def _in_order(module: Any, eigenvalues: Any, *vectors: Any) -> tuple[Any, ...]:
    """Return eigenvalues from left to right, and the lengths in vectors as theirs are."""
    order = module.argsort(module.real(eigenvalues) + 0.37 * module.imag(eigenvalues), axis=-1)
    places = module.expand_dims(order, axis=-2)
    return (
        module.take_along_axis(eigenvalues, order, axis=-1),
        *(module.take_along_axis(_lengths(module, v), places, axis=-1) for v in vectors),
    )


def _spectral() -> Iterator[Sample]:
    rotation = frozen(heavy((2, 2)) * 0.1 + np.array([[1.0, -2.0], [2.0, 1.0]]))
    matrices = {variant: heavy(shape) for variant, shape in (_SQUARE | _NOTHING).items()}
    for variant, matrix in matrices.items():
        yield Sample("eigh", variant, (matrix,), invariants=_without_phases)
    upper = (heavy((2, 3, 3)),), {"upper": True}
    yield Sample("eigh", "upper", *upper, invariants=_without_phases)
    yield Sample("eigvalsh", "upper", *upper)
    for variant, matrix in (matrices | {"conjugate-pair": rotation}).items():
        for name in ("eig", "eigvals"):
            yield Sample(name, variant, (matrix,), invariants=_in_order)


def _projections(
    module: Any, left: Any, singular: Any, right: Any, *, count: int
) -> tuple[Any, ...]:
    first, others = left[..., :count], left[..., count:]
    rows, rest = right[..., :count, :], right[..., count:, :]
    return (
        singular,
        _lengths(module, first),
        _lengths(module, rows),
        module.matmul(first, rows),
        module.matmul(others, module.conj(module.matrix_transpose(others))),
        module.matmul(module.conj(module.matrix_transpose(rest)), rest),
    )


def _singular() -> Iterator[Sample]:
    for variant, shape in _ANY_SHAPE.items():
        matrix = heavy(shape)
        of_svd = partial(_projections, count=min(shape[-2:]))
        for full in (False, True):
            yield Sample(
                "svd",
                f"{variant}{'-full' if full else ''}",
                (matrix,),
                {"full_matrices": full},
                invariants=of_svd,
            )
        yield Sample("svdvals", variant, (matrix,))
        yield Sample("pinv", variant, (matrix, 1e-6))
    yield Sample("svd", "no-matrices", (values((0, 3, 2), *ANY),), {"full_matrices": False})
    yield Sample("svdvals", "no-rows", (values((0, 3), *ANY),))
    yield Sample("pinv", "no-rows", (values((0, 3), *ANY), 1e-6))


def _span(module: Any, q: Any, r: Any, *, count: int) -> tuple[Any, ...]:
    first, others = q[..., :count], q[..., count:]
    return first, r, module.matmul(others, module.conj(module.matrix_transpose(others)))


def _qr() -> Iterator[Sample]:
    for variant, shape in _ANY_SHAPE.items():
        yield Sample("qr", variant, (heavy(shape),), {"mode": "reduced"})
    for variant, shape in (("tall", (4, 2)), ("wide", (2, 3))):
        of_qr = partial(_span, count=min(shape))
        complete = {"mode": "complete"}
        yield Sample("qr", f"{variant}-complete", (heavy(shape),), complete, invariants=of_qr)
    yield Sample("qr", "no-matrices", (values((0, 3, 2), *ANY),), {"mode": "reduced"})


_SYSTEMS: dict[str, tuple[Shape, Shape]] = {
    "matrices": ((3, 3), (3, 4)),
    "stack": ((2, 3, 3), (2, 3, 4)),
    "one-matrix": ((3, 3), (2, 3, 4)),
    "one-side": ((2, 1, 3, 3), (5, 3, 1)),
    "no-columns": ((3, 3), (3, 0)),
}


def _systems() -> Iterator[Sample]:
    for variant, (left, right) in _SYSTEMS.items():
        operands = (heavy(left), values(right, *ANY))
        yield Sample("solve", variant, operands)
        for lower in (True, False):
            for unit in (True, False):
                where = ("lower" if lower else "upper") + ("-unit" if unit else "")
                params = {"lower": lower, "unit_diagonal": unit}
                yield Sample("solve_triangular", f"{variant}-{where}", operands, params)


def _norms() -> Iterator[Sample]:
    for axis in (None, 1, (0, 1)):
        for keepdims in (False, True):
            params = {"axis": axis, "keepdims": keepdims}
            yield Sample(
                "euclidean_norm", f"axis-{axis}-{keepdims}", (values((3, 4), *ANY),), params
            )
    yield Sample("euclidean_norm", "no-elements", (values((0, 3), *ANY),), {"axis": 0})


FAMILIES = (_square, _spectral, _singular, _qr, _systems, _norms)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset(
    "cholesky eigh eigvalsh eig eigvals svd svdvals pinv qr inv solve solve_triangular det "
    "cofactor slogdet expm euclidean_norm".split()
)
