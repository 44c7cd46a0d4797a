"""Norms of vectors and matrices, of every order, with a finite gradient everywhere."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import is_differentiable
from distgrad.errors import MatrixShapeError, ShapeError
from distgrad.ops.elementwise.arithmetic import abs as abs_of
from distgrad.ops.elementwise.arithmetic import divide, multiply, pow
from distgrad.ops.elementwise.comparison import equal, not_equal
from distgrad.ops.elementwise.selection import where
from distgrad.ops.linalg.determinants import slogdet
from distgrad.ops.linalg.matrices import floating_of, real_of, safe_reciprocal
from distgrad.ops.linalg.parts import identity_like
from distgrad.ops.linalg.singular import svdvals
from distgrad.ops.linalg.solving import inv
from distgrad.ops.reducing.reductions import any as any_of
from distgrad.ops.reducing.reductions import max as max_of
from distgrad.ops.reducing.reductions import min as min_of
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.reducing.reductions import with_axes
from distgrad.ops.rules.families import conjugate, real_cotangent
from distgrad.ops.shaping.structure import astype, expand_dims, permute_dims, reshape
from distgrad.shapes import Axis, normalize_axes, plain_axes, reduced, shape_given

Order: TypeAlias = int | float | Literal["fro", "nuc"] | None

# --- the Euclidean norm ---------------------------------------------------------------------------


def _euclidean_spec(x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
    axes = normalize_axes("vector_norm", axis, len(x.shape))
    return Spec(reduced(tuple(x.shape), axes, keepdims), real_of(x))


def _euclidean_compose(xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    sizes = xp.abs(x) if x.dtype in xp.complex_dtypes else x
    return xp.sqrt(xp.sum(sizes * sizes, axis=axis, keepdims=keepdims))


def _direction(xp: Namespace, x: Array, y: Array, axis: Axis, keepdims: bool) -> Array:
    """Return the vectors in length 1; zeros stay zeros."""
    return x * safe_reciprocal(xp, with_axes(xp, y, tuple(x.shape), axis, keepdims))


def _euclidean_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Any
) -> Any:
    axis, keepdims = params.get("axis"), params.get("keepdims", False)
    to_norm = with_axes(xp, real_cotangent(xp, g), tuple(xs[0].shape), axis, keepdims)
    return (_direction(xp, xs[0], y, axis, keepdims) * to_norm,)


def _euclidean_jvp(
    xp: Namespace, tangents: Any, y: Array, xs: Any, params: dict[str, Any]
) -> Array:
    axis, keepdims = params.get("axis"), params.get("keepdims", False)
    along = conjugate(xp, _direction(xp, xs[0], y, axis, keepdims)) * tangents[0]
    return xp.sum(real_cotangent(xp, along), axis=axis, keepdims=keepdims)


EUCLIDEAN_NORM = Op(
    "euclidean_norm",
    Kind.REDUCTION,
    _euclidean_spec,
    _euclidean_vjp,
    _euclidean_jvp,
    Keep.BOTH,
    _euclidean_compose,
)

# --- vectors --------------------------------------------------------------------------------------


def vector_norm(
    x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: int | float = 2
) -> Any:
    """Return the norm of vectors.

    Parameters
    ----------
    x : Tensor, Variable or array
        Floating or complex; the standard leaves other dtypes out, they count as float64.
    axis : int or tuple of int, optional
        The axes over which the elements of a vector lie; all of them by default.
    keepdims : bool
        Whether these axes stay, with length 1.
    ord : int or float
        ``sum(|x|^p)^(1/p)``; the largest or smallest ``|x|`` for inf and -inf, and for 0 the number
        of elements that are not 0.

    Returns
    -------
    Tensor
        Real.

    Raises
    ------
    ShapeError
        If there is no such axis.

    Notes
    -----
    The gradient is finite everywhere: it is 0 for a vector of zeros, whatever the order, and
    an element of 0 gets 0 where its true slope is infinite (orders below 1) or two-sided (order 1).
    Elements that tie share the gradient of inf and -inf equally.
    """
    x = _as_floating(x)
    axis = plain_axes("vector_norm", axis)
    if ord == 2:
        return apply(EUCLIDEAN_NORM, x, axis=axis, keepdims=keepdims)
    sizes = abs_of(x)
    if ord == math.inf:
        return _extreme(max_of, sizes, axis, keepdims)
    if ord == -math.inf:
        return min_of(sizes, axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum_over(sizes, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_over(astype(not_equal(x, 0), sizes.dtype), axis=axis, keepdims=keepdims)
    return _power_norm(sizes, axis, keepdims, ord)


def _as_floating(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    if dtype is None or is_differentiable(dtype):
        return x
    return astype(x, floating_of(x))


def _extreme(largest: Any, sizes: Any, axis: Axis, keepdims: bool) -> Any:
    """Return the largest of absolute values, 0 of none."""
    shape = shape_given(sizes)
    if all(shape[a] for a in normalize_axes("vector_norm", axis, len(shape))):
        return largest(sizes, axis=axis, keepdims=keepdims)
    return sum_over(sizes, axis=axis, keepdims=keepdims)


def _power_norm(sizes: Any, axis: Axis, keepdims: bool, power: int | float) -> Any:
    """Return the sum of powers, to the power of one over it, without infinite slopes at 0."""
    is_zero = equal(sizes, 0)
    terms = where(is_zero, 0.0, pow(where(is_zero, 1.0, sizes), power))
    total = sum_over(terms, axis=axis, keepdims=keepdims)
    is_nothing = equal(total, 0)
    if power < 0:  # one element of 0 makes the sum infinite, and the norm 0
        is_nothing = any_of(is_zero, axis=axis, keepdims=keepdims)
    return where(is_nothing, 0.0, pow(where(is_nothing, 1.0, total), 1 / power))


# --- matrices -------------------------------------------------------------------------------------


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Order = "fro") -> Any:
    """Return the norm of matrices in the last two axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape (..., m, n).
    keepdims : bool
        Whether the two axes stay, with length 1.
    ord : {"fro", "nuc", 1, -1, 2, -2, inf, -inf}
        Frobenius' norm; the sum of singular values; the largest (smallest) column sum of absolute
        values; the largest (smallest) singular value; the largest (smallest) row sum.

    Raises
    ------
    MatrixShapeError
        If there are less than two axes.
    ValueError
        If there is no such norm.

    Notes
    -----
    The gradient is finite everywhere: 0 for a matrix of zeros, and singular values of 0 add nothing
    to that of "nuc". What ties shares it equally, but for singular values, of which the first is
    taken.
    """
    shape = shape_given(x)
    if len(shape) < 2:
        raise MatrixShapeError(f"matrix_norm: two axes or more expected, got {shape}")
    x = _as_floating(x)
    if ord in ("fro", None):
        return apply(EUCLIDEAN_NORM, x, axis=(-2, -1), keepdims=keepdims)
    if ord == "nuc":
        result = sum_over(svdvals(x), axis=-1)
    elif ord in (2, -2):
        values = svdvals(x)
        if not values.shape[-1]:
            result = sum_over(values, axis=-1)
        else:
            result = values[..., 0] if ord == 2 else values[..., -1]
    elif ord in (1, -1, math.inf, -math.inf):
        sums = sum_over(abs_of(x), axis=-2 if abs(ord) == 1 else -1)
        result = _extreme(max_of if ord > 0 else min_of, sums, -1, False)
    else:
        raise ValueError(
            f"matrix_norm: ord is {ord!r}; expected 'fro', 'nuc', 1, -1, 2, -2, inf or -inf"
        )
    return reshape(result, (*shape[:-2], 1, 1)) if keepdims else result


# --- NumPy's one function for both ----------------------------------------------------------------


def norm(x: Any, /, ord: Order = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return a norm of vectors or of matrices, by NumPy's signature.

    Parameters
    ----------
    x : Tensor, Variable or array
        Floating or complex.
    ord : int, float, "fro" or "nuc", optional
        Which norm, see `vector_norm` and `matrix_norm`; the Euclidean one by default.
    axis : int or pair of int, optional
        One axis for vectors, two for matrices. By default all of `x` is one vector if `ord` is left
        out, else one vector or one matrix, as `x` has one axis or two.
    keepdims : bool
        Whether these axes stay, with length 1.

    Raises
    ------
    ShapeError
        If the number of axes fits neither vectors nor matrices.
    ValueError
        If there is no such norm.
    """
    shape = shape_given(x)
    if axis is None and ord is None:
        return vector_norm(x, keepdims=keepdims)
    axes = normalize_axes("norm", axis, len(shape))
    if len(axes) == 1:
        if isinstance(ord, str):
            raise ValueError(f"norm: ord is {ord!r}, which is a norm of matrices; axis names one")
        return vector_norm(x, axis=axes[0], keepdims=keepdims, ord=2 if ord is None else ord)
    if len(axes) != 2:
        raise ShapeError(
            f"norm: axis is {axis} for an array of shape {shape}; expected one axis for vectors, "
            "or two for matrices"
        )
    rest = tuple(a for a in range(len(shape)) if a not in axes)
    order = (*rest, *axes)
    matrices = x if order == tuple(range(len(shape))) else permute_dims(x, order)
    result = matrix_norm(matrices, ord=ord)
    return reshape(result, reduced(shape, axes, True)) if keepdims else result


def cond(x: Any, /, p: Order = None) -> Any:
    """Return the condition number of matrices with respect to inversion.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape (..., m, n); square unless `p` is None, 2 or -2.
    p : {None, 1, -1, 2, -2, inf, -inf, "fro", "nuc"}
        Which norm: ``|A| |A^-1|``, by default the largest over the smallest singular value.

    Returns
    -------
    Tensor
        inf for a singular matrix, with the gradient 0.

    Raises
    ------
    MatrixShapeError
        If the matrices have no rows or columns, or have to be square.
    """
    shape = shape_given(x)
    if len(shape) < 2 or 0 in shape[-2:]:
        raise MatrixShapeError(
            f"cond: matrices with rows and columns expected, of shape (..., m, n), got {shape}"
        )
    x = _as_floating(x)
    if p in (None, 2, -2):
        values = svdvals(x)
        over, under = (0, -1) if p != -2 else (-1, 0)
        largest, smallest = values[..., over], values[..., under]
        is_singular = equal(smallest, 0)
        ratio = divide(largest, where(is_singular, 1.0, smallest))
        return where(is_singular, math.inf, ratio)
    is_singular = equal(slogdet(x).sign, 0)  # exactly so: the others have an inverse
    whole = expand_dims(expand_dims(is_singular, axis=-1), axis=-1)
    regular = where(whole, identity_like(x), x)
    product = multiply(matrix_norm(regular, ord=p), matrix_norm(inv(regular), ord=p))
    return where(is_singular, math.inf, product)


OPS = (EUCLIDEAN_NORM,)
