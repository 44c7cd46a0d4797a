"""Parts of matrices: diagonals, their sums, adjoints, and matrices made of a diagonal."""

from __future__ import annotations

from typing import Any

from distgrad.core.seam import apply
from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.complex_numbers import conj
from distgrad.ops.linalg.matrices import diagonal_places
from distgrad.ops.picking.indexing import GETITEM, SCATTER_ADD
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import (
    astype,
    matrix_transpose,
    ones_like,
    permute_dims,
    reshape,
)
from distgrad.shapes import normalize_axis, shape_given


def adjoint(a: Any, /) -> Any:
    """Return the conjugate transpose of matrices in the last two axes."""
    return matrix_transpose(conj(a) if _is_complex(a) else a)


def _is_complex(a: Any) -> bool:
    dtype = getattr(a, "dtype", None)
    return dtype is None or getattr(dtype, "kind", "c") == "c"


def diagonal(x: Any, /, *, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Any:
    """Return a diagonal of matrices.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of two axes or more.
    offset : int
        Which diagonal: above the main one for positive numbers.
    axis1, axis2 : int
        The axes of rows and columns; the last two by default.

    Returns
    -------
    Tensor
        Without these axes, and with the diagonal as the last one.

    Raises
    ------
    ShapeError
        If there are less than two axes, or both are the same one.
    """
    shape = shape_given(x)
    if len(shape) < 2:
        raise ShapeError(f"diagonal: two axes or more expected, got {shape}")
    rows = normalize_axis("diagonal", axis1, len(shape))
    columns = normalize_axis("diagonal", axis2, len(shape))
    if rows == columns:
        raise ShapeError(f"diagonal: axis1 and axis2 are both {rows}; expected two axes")
    if (rows, columns) != (len(shape) - 2, len(shape) - 1):
        rest = tuple(a for a in range(len(shape)) if a not in (rows, columns))
        order = (*rest, rows, columns)
        x, shape = permute_dims(x, order), tuple(shape[a] for a in order)
    flat = reshape(x, (*shape[:-2], shape[-2] * shape[-1]))
    return apply(GETITEM, flat, index=(Ellipsis, diagonal_places(shape, offset)[0]))


def trace(
    x: Any,
    /,
    *,
    offset: int = 0,
    axis1: int = -2,
    axis2: int = -1,
    dtype: DTypeLike | None = None,
) -> Any:
    """Return the sums along a diagonal of matrices.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of two axes or more.
    offset, axis1, axis2 : int
        See `diagonal`.
    dtype : dtype, optional
        What to sum in; by default that of `x`, and the platform's integer for smaller ones.
    """
    terms = diagonal(x, offset=offset, axis1=axis1, axis2=axis2)
    return sum_over(terms if dtype is None else astype(terms, dtype), axis=-1)


def diag(v: Any, /, k: int = 0) -> Any:
    """Return a matrix with a vector on its k-th diagonal, or the k-th diagonal of a matrix.

    Parameters
    ----------
    v : Tensor, Variable or array
        Of one axis or of two.
    k : int
        Which diagonal: above the main one for positive numbers.

    Raises
    ------
    ShapeError
        If `v` has another number of axes.
    """
    shape = shape_given(v)
    if len(shape) == 2:
        return diagonal(v, offset=k)
    if len(shape) != 1:
        raise ShapeError(f"diag: one axis or two expected, got {shape}; see linalg.diagonal")
    size = shape[0] + abs(k)
    places, _ = diagonal_places((size, size), k)
    flat = apply(SCATTER_ADD, v, index=(Ellipsis, places), shape=(size * size,))
    return reshape(flat, (size, size))


def identity_like(a: Any) -> Any:
    """Return unit matrices in the shape, dtype and on the backend of square ones."""
    size = shape_given(a)[-1]
    ones = ones_like(sum_over(a, axis=-1))
    places, _ = diagonal_places((size, size), 0)
    flat = apply(SCATTER_ADD, ones, index=(Ellipsis, places), shape=(*ones.shape[:-1], size * size))
    return reshape(flat, (*ones.shape[:-1], size, size))
