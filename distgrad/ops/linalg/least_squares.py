"""Least squares, by the pseudo-inverse."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad.core.seam import operands
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import abs as abs_of
from distgrad.ops.elementwise.arithmetic import square, subtract
from distgrad.ops.linalg.pseudo_inverse import matrix_rank, pinv, rank_tolerance
from distgrad.ops.linalg.singular import svdvals
from distgrad.ops.products.contractions import matmul
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import expand_dims, squeeze
from distgrad.shapes import shape_given


class LstsqResult(NamedTuple):
    """A least-squares solution, what remains of it, and what it says about the matrix."""

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


def lstsq(a: Any, b: Any, /, rcond: Any = None) -> LstsqResult:
    """Return the X of smallest norm that makes ``|A X - B|`` smallest.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, n).
    b : Tensor, Variable or array
        Of shape (..., m, k), or one vector of shape (m,).
    rcond : float, optional
        Singular values of `a` no larger than this times the largest count as 0; by default the
        larger of m and n times the dtype's spacing.

    Returns
    -------
    solution : Tensor
        Of shape (..., n, k), or (n,) for a vector.
    residuals : Tensor
        The sums of squares of what remains, of shape (..., k), or (1,) for a vector; of length 0
        where m <= n. (NumPy's are of length 0 at deficient rank too, which depends on values.)
    rank : Tensor
        The number of singular values that count; no derivative.
    singular_values : Tensor
        Of shape (..., min(m, n)).

    Raises
    ------
    ShapeError
        If shapes do not fit.

    Notes
    -----
    The solution is ``pinv(A) B``, with the derivative of `pinv`: right where the rank stays.
    """
    a, b = operands(a, b)
    is_vector = len(shape_given(b)) == 1
    right = expand_dims(b, axis=-1) if is_vector else b
    share = rank_tolerance(a) if rcond is None else rcond
    left, sides = shape_given(a), shape_given(b)
    thin = len(left) < 2 or not sides
    if thin or left[-2] != shape_given(right)[-2]:
        raise ShapeError(f"lstsq: (..., m, n) and (..., m, k) expected, got {left} and {sides}")
    solution = matmul(pinv(a, share), right)
    rows, columns = left[-2:]
    remains = sum_over(square(abs_of(subtract(matmul(a, solution), right))), axis=-2)
    if rows <= columns:
        remains = remains[..., :0]
    if is_vector:
        solution = squeeze(solution, axis=-1)
    return LstsqResult(solution, remains, matrix_rank(a, rtol=share), svdvals(a))
