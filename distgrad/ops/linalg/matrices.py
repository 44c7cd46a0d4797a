"""Matrices in the last two axes: what their shapes must be, their parts, triangles and adjoints."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.core.op import Array, Namespace, Slice, Spec
from distgrad.dtypes import DType, as_dtype, complex64, float64, is_complex, is_differentiable
from distgrad.errors import MatrixShapeError
from distgrad.ops.rules.families import conjugate, joint, real_part
from distgrad.promotion import finfo
from distgrad.shapes import Shape

_ALL = Slice(None, None, None)

# --- shapes and dtypes ----------------------------------------------------------------------------


def check_matrices(operation: str, *operands: Any) -> None:
    """Check that operands have two axes or more.

    Raises
    ------
    MatrixShapeError
        If one has not.
    """
    for operand in operands:
        if len(operand.shape) < 2:
            raise MatrixShapeError(
                f"{operation}: matrices expected, of shape (..., n, m), got "
                f"{tuple(operand.shape)}; give it axes of length 1, such as x[None, :]"
            )


def check_square(operation: str, operand: Any) -> None:
    """Check that an operand holds square matrices.

    Raises
    ------
    MatrixShapeError
        If it does not.
    """
    check_matrices(operation, operand)
    if operand.shape[-1] != operand.shape[-2]:
        raise MatrixShapeError(
            f"{operation}: square matrices expected, of shape (..., n, n), got "
            f"{tuple(operand.shape)}"
        )


def floating_of(*operands: Any) -> DType:
    """Return the dtype that linear algebra answers in: the operands', float64 for integers."""
    dtype = joint(*operands)
    return dtype if is_differentiable(dtype) else float64


def real_of(*operands: Any) -> DType:
    """Return the real dtype with the precision of `floating_of`."""
    return real_part(Spec((), floating_of(*operands)))


def complex_of(*operands: Any) -> DType:
    """Return the complex dtype with the precision of `floating_of`, complex64 or wider."""
    dtype = floating_of(*operands)
    if is_complex(dtype):
        return dtype
    return complex64 if dtype.itemsize < 8 else np.dtype("complex128")


def precision_of(x: Array) -> float:
    """Return the relative spacing of the numbers of an array's dtype."""
    return finfo(x.dtype).eps


# --- parts ----------------------------------------------------------------------------------------


def adjoint(xp: Namespace, x: Array) -> Array:
    """Return the conjugate transpose."""
    return xp.matrix_transpose(conjugate(xp, x))


def product_of(xp: Namespace, first: Array, *others: Array) -> Array:
    """Return the product of matrices, multiplied from the left.

    Rules name the vocabulary's product in place of ``a @ b``: that is the array module's own, which
    on a device takes no bfloat16 stacks and refuses to be captured.
    """
    for other in others:
        first = xp.matmul(first, other)
    return first


def as_row(xp: Namespace, x: Array) -> Array:
    """Return vectors as matrices of one row: what multiplies columns, as diag(x) on the right."""
    return xp.expand_dims(x, axis=-2)


def as_column(xp: Namespace, x: Array) -> Array:
    """Return vectors as matrices of one column: what multiplies rows, as diag(x) on the left."""
    return xp.expand_dims(x, axis=-1)


def as_matrices(xp: Namespace, x: Array) -> Array:
    """Return numbers as matrices of one row and column."""
    return xp.expand_dims(xp.expand_dims(x, axis=-1), axis=-1)


def first_columns(xp: Namespace, x: Array, count: int) -> Array:
    """Return the first columns."""
    return xp.getitem(x, index=(Ellipsis, Slice(None, count, None)))


def other_columns(xp: Namespace, x: Array, count: int) -> Array:
    """Return all columns but the first."""
    return xp.getitem(x, index=(Ellipsis, Slice(count, None, None)))


def first_rows(xp: Namespace, x: Array, count: int) -> Array:
    """Return the first rows."""
    return xp.getitem(x, index=(Ellipsis, Slice(None, count, None), _ALL))


def diagonal_places(shape: Shape, offset: int) -> tuple[Slice, int]:
    """Return where a diagonal lies among the elements of a matrix in row-major order.

    Returns
    -------
    Slice
        Of the flattened matrix.
    int
        The diagonal's length.
    """
    rows, columns = shape[-2:]
    length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    start = max(offset, 0) + max(-offset, 0) * columns
    step = columns + 1
    return Slice(start, start + (length - 1) * step + 1, step) if length else Slice(0, 0, 1), length


def diagonal_of(xp: Namespace, x: Array, offset: int = 0) -> Array:
    """Return a diagonal, as a last axis in place of two."""
    shape = tuple(x.shape)
    flat = xp.reshape(x, shape=(*shape[:-2], shape[-2] * shape[-1]))
    return xp.getitem(flat, index=(Ellipsis, diagonal_places(shape, offset)[0]))


def trace_of(xp: Namespace, x: Array) -> Array:
    """Return the sums of the main diagonals."""
    return xp.sum(diagonal_of(xp, x), axis=-1)


def with_diagonal(xp: Namespace, values: Array, shape: Shape, offset: int = 0) -> Array:
    """Return matrices with values on a diagonal and zeros elsewhere."""
    lead = tuple(values.shape[:-1])
    places, _ = diagonal_places(shape, offset)
    size = shape[-2] * shape[-1]
    flat = xp.scatter_add(values, index=(Ellipsis, places), shape=(*lead, size))
    return xp.reshape(flat, shape=(*lead, *shape[-2:]))


# --- Hermitian matrices, of which the lower triangle is read --------------------------------------


def hermitian_from_triangle(xp: Namespace, x: Array, upper: bool = False) -> Array:
    """Return the Hermitian matrices whose lower, or upper, triangles these are."""
    half = xp.triu(x, k=1) if upper else xp.tril(x, k=-1)
    diagonal = diagonal_of(xp, x)
    if diagonal.dtype in xp.complex_dtypes:
        diagonal = xp.astype(xp.real(diagonal), dtype=as_dtype(x.dtype))
    return half + adjoint(xp, half) + with_diagonal(xp, diagonal, tuple(x.shape))


def cotangent_of_triangle(xp: Namespace, g: Array, upper: bool = False) -> Array:
    """Return the cotangent of lower, or upper, triangles from that of their Hermitian matrices.

    The adjoint of `hermitian_from_triangle`: what stands on the other side of the diagonal is read
    nowhere, so its cotangent is 0, and the triangle that is read gets the cotangents of both.
    """
    both = g + adjoint(xp, g)
    half = xp.triu(both, k=1) if upper else xp.tril(both, k=-1)
    diagonal = diagonal_of(xp, g)
    if diagonal.dtype in xp.complex_dtypes:
        diagonal = xp.astype(xp.real(diagonal), dtype=as_dtype(g.dtype))
    return half + with_diagonal(xp, diagonal, tuple(g.shape))


# --- quotients at coinciding values ---------------------------------------------------------------


def safe_reciprocal(xp: Namespace, x: Array, bound: Array | float = 0) -> Array:
    """Return 1/x, and 0 where the absolute value is no larger than a bound."""
    is_small = xp.abs(x) <= bound
    return xp.where(is_small, 0, 1 / xp.where(is_small, 1, x))


def inverse_gaps(xp: Namespace, values: Array) -> Array:
    """Return 1 / (v_j - v_i) in row i and column j, and 0 where the two values coincide.

    They coincide where they differ by no more than rounding makes of equal ones: 8 eps times the
    largest absolute value, and 2 eps in half precision.
    """
    gaps = as_row(xp, values) - as_column(xp, values)
    return safe_reciprocal(xp, gaps, as_matrices(xp, rounding_of(xp, values)))


def rounding_of(xp: Namespace, values: Array) -> Array:
    """Return the absolute error that rounding leaves in a vector of spectral values.

    Those in half precision are computed in single, and rounded once.
    """
    sizes = xp.abs(values)
    largest = xp.max(sizes, axis=-1) if values.shape[-1] else xp.sum(sizes, axis=-1)
    return largest * ((8 if as_dtype(values.dtype).itemsize > 2 else 2) * precision_of(values))
