"""The pseudo-inverse of matrices, and their rank: what small singular values leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import as_dtype, default_dtype, float32, float64, int64, is_differentiable
from distgrad.errors import MatrixShapeError
from distgrad.ops.elementwise.arithmetic import multiply
from distgrad.ops.elementwise.comparison import greater, not_equal
from distgrad.ops.linalg.matrices import (
    adjoint,
    as_row,
    check_matrices,
    floating_of,
    product_of,
)
from distgrad.ops.linalg.singular import svdvals
from distgrad.ops.reducing.reductions import any as any_of
from distgrad.ops.reducing.reductions import max as max_of
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules import batching
from distgrad.ops.shaping.structure import astype, expand_dims
from distgrad.promotion import finfo
from distgrad.shapes import shape_given

# --- the pseudo-inverse ---------------------------------------------------------------------------


def _pinv_spec(a: Spec, rtol: Any) -> Spec:
    check_matrices("pinv", a)
    shape = tuple(a.shape)
    return Spec((*shape[:-2], shape[-1], shape[-2]), floating_of(a))


def _pinv_compose(xp: Namespace, a: Array, rtol: Any) -> Array:
    left, values, right = xp.svd(a, full_matrices=False)
    if not values.shape[-1]:
        return adjoint(xp, xp.matmul(left, right))
    largest = xp.max(values, axis=-1, keepdims=True)
    if hasattr(rtol, "shape") and rtol.shape:
        rtol = xp.expand_dims(rtol, axis=-1)
    counted = values > largest * rtol
    inverses = xp.where(counted, 1 / xp.where(counted, values, 1), 0)
    return xp.matmul(adjoint(xp, right) * as_row(xp, inverses), adjoint(xp, left))


def _pinv_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    a, back = xs[0], adjoint(xp, g)
    inverse_adjoint = adjoint(xp, y)
    beyond = back - xp.matmul(a, xp.matmul(y, back))
    span = xp.matmul(inverse_adjoint, xp.matmul(y, back))
    to_a = product_of(xp, beyond, y, inverse_adjoint) + span - product_of(xp, span, y, a)
    return to_a - product_of(xp, inverse_adjoint, g, inverse_adjoint), None


def _pinv_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    a, moved = xs[0], tangents[0]
    back = adjoint(xp, moved)
    beyond = xp.matmul(y, xp.matmul(adjoint(xp, y), back))
    behind = product_of(xp, back, adjoint(xp, y), y)
    result = beyond - product_of(xp, beyond, a, y)
    result = result + behind - xp.matmul(y, xp.matmul(a, behind))
    return result - product_of(xp, y, moved, y)


def _pinv_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    a, rtol = arrays
    if hasattr(rtol, "shape"):
        rtol = batching.with_batch(xp, size, rtol, batched[1])
        if len(rtol.shape) == 1:  # one bound for all visible matrices of an example
            rtol = xp.reshape(rtol, shape=(size, *(1,) * (len(a.shape) - 2 - batched[0])))
    return xp.pinv(batching.with_batch(xp, size, a, batched[0]), rtol)


PINV = Op(
    "pinv",
    Kind.OPAQUE,
    _pinv_spec,
    _pinv_vjp,
    _pinv_jvp,
    Keep.BOTH,
    _pinv_compose,
    batch=_pinv_batch,
)


def pinv(a: Any, /, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    """Return the Moore-Penrose pseudo-inverse of matrices.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, n).
    rcond, rtol : float or array of shape (...), optional
        Singular values no larger than this times the largest count as 0; by default the larger of
        m and n times the dtype's spacing. Two names for one argument: NumPy's and the standard's.
    hermitian : bool
        NumPy's hint that `a` is Hermitian; it changes nothing.

    Returns
    -------
    Tensor
        Of shape (..., n, m).

    Raises
    ------
    MatrixShapeError
        If there are less than two axes.

    Notes
    -----
    ``dP = -P dA P + P P^H dA^H (I - A P) + (I - P A) dA^H P^H P`` [1]_, which holds as long as
    changes of A leave its rank the same; the singular values may coincide. Where `rcond` lets
    singular values count as 0 that are not, P depends on these too, which the formula leaves out:
    take `svd` there.

    References
    ----------
    .. [1] Golub and Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares
       problems whose variables separate", SIAM J. Numer. Anal. 10, 1973.
    """
    bound = rtol if rcond is None else rcond
    if bound is None:
        bound = rank_tolerance(a)
    return apply(PINV, a, bound)


def rank_tolerance(a: Any) -> float:
    """Return below which part of the largest a singular value counts as 0."""
    shape = shape_given(a)
    if len(shape) < 2:
        raise MatrixShapeError(f"matrices expected, of shape (..., m, n), got {shape}")
    dtype = as_dtype(a.dtype) if hasattr(a, "dtype") else default_dtype()
    if not is_differentiable(dtype):
        dtype = float64
    # bfloat16 is computed in single: its own spacing would drop a fiftieth of the largest.
    return max(shape[-2:]) * finfo(float32 if dtype.name == "bfloat16" else dtype).eps


# --- rank and condition ---------------------------------------------------------------------------


def matrix_rank(x: Any, /, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    """Return the number of singular values that count, of each matrix; no derivative.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape (..., m, n). Fewer axes are NumPy's special case: rank 0 for zeros alone, else 1.
    tol : float or array, optional
        Singular values no larger than this count as 0.
    hermitian : bool
        NumPy's hint that `x` is Hermitian; it changes nothing.
    rtol : float or array, optional
        The same relative to the largest; by default as for `pinv`.
    """
    x, tol, rtol = operands(x, tol, rtol)
    if len(shape_given(x)) < 2:
        return astype(any_of(not_equal(x, 0)), int64)
    values = svdvals(x)
    if tol is None:
        share = rank_tolerance(x) if rtol is None else rtol
        if not values.shape[-1]:
            return sum_over(astype(values, int64), axis=-1)
        tol = multiply(max_of(values, axis=-1), share)
    if shape_given(tol):
        tol = expand_dims(tol, axis=-1)
    return sum_over(astype(greater(values, tol), int64), axis=-1)


OPS = (PINV,)
