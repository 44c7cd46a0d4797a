"""Determinants and their logarithms; right also where a matrix is singular."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype
from distgrad.ops.linalg.matrices import (
    adjoint,
    as_column,
    as_matrices,
    as_row,
    check_square,
    diagonal_of,
    floating_of,
    precision_of,
    product_of,
    real_of,
    trace_of,
    with_diagonal,
)
from distgrad.ops.reducing.reductions import PROD
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import conjugate, real_cotangent

# --- the determinant ------------------------------------------------------------------------------


def _det_spec(a: Spec) -> Spec:
    check_square("det", a)
    return Spec(tuple(a.shape[:-2]), floating_of(a))


def _det_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (as_matrices(xp, g) * conjugate(xp, xp.cofactor(xs[0])),)


def _det_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.sum(xp.cofactor(xs[0]) * tangents[0], axis=(-2, -1))


DET = Op("det", Kind.OPAQUE, _det_spec, _det_vjp, _det_jvp, batch=batching.trailing("det"))


def det(a: Any, /) -> Any:
    """Return the determinant of square matrices.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n).

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.

    Notes
    -----
    Its derivative is the matrix of cofactors, by the inverse of a regular matrix, else from its
    singular values: right also where it is singular, and so is the second derivative. `slogdet`
    is quicker, and does not overflow.
    """
    return apply(DET, a)


# --- the matrix of cofactors ----------------------------------------------------------------------
#
# With A = U S V^H it is det(U V^H) conj(U) adj(S) V^T, and the adjugate of the diagonal matrix S
# has on its diagonal the products of all other singular values. No division, so nothing is lost
# where one of them is 0.


def _cofactor_spec(a: Spec) -> Spec:
    check_square("cofactor", a)
    return Spec(tuple(a.shape), floating_of(a))


def _products_of_others(xp: Namespace, values: Array) -> Array:
    """Return for each element the product of all others along the last axis."""
    assert PROD.vjp is not None  # noqa: S101  for the type checker
    ones = xp.ones_like(xp.sum(values, axis=-1))
    return PROD.vjp(xp, ones, None, (values,), {"axis": -1}, (1,))[0]


def _unit_determinant(xp: Namespace, left: Array, right: Array) -> Array:
    """Return det(U V^H) as matrices of one element; 1, -1, or a complex number of length 1."""
    return as_matrices(xp, xp.det(xp.matmul(left, right)))


def _cofactor_compose(xp: Namespace, a: Array) -> Array:
    left, values, right = xp.svd(a, full_matrices=False)
    others = as_row(xp, _products_of_others(xp, values))
    # conj(U) diag(others) V^T, and the last factor of the decomposition is V^H
    product = xp.matmul(conjugate(xp, left) * others, conjugate(xp, right))
    return _unit_determinant(xp, left, right) * product


def _slope(xp: Namespace, a: Array, y: Array, moved: Array) -> Array:
    """Return the derivative of the cofactors C of A in a direction E.

    ``(<C, E> C - C E^T C) / det(A)``, the sum <C, E> without conjugates; where A is near a singular
    matrix, the same from the singular values: the quotient errs by rounding over the least of them.
    """
    values = xp.svdvals(a)
    determinant = xp.det(a)
    smallest, largest = xp.min(values, axis=-1), xp.max(values, axis=-1)
    is_singular = smallest <= largest * precision_of(a) ** 0.5  # half of the digits are left
    is_singular = xp.logical_or(is_singular, xp.equal(determinant, 0))
    divisor = as_matrices(xp, xp.where(is_singular, xp.ones_like(determinant), determinant))
    along = as_matrices(xp, xp.sum(y * moved, axis=(-2, -1)))
    regular = (along * y - product_of(xp, y, xp.matrix_transpose(moved), y)) / divisor
    return xp.where(as_matrices(xp, is_singular), _singular_slope(xp, a, moved), regular)


def _singular_slope(xp: Namespace, a: Array, moved: Array) -> Array:
    """Return the derivative of the cofactors without dividing by the determinant.

    In the bases of the singular vectors, with M the direction and P[i, j] the product of all
    singular values but s[i] and s[j], the adjugate moves by -P[i, j] M[i, j] off the diagonal and
    by sum(P[i, k] M[k, k]) over all k but i on it.
    """
    left, values, right = xp.svd(a, full_matrices=False)
    size = values.shape[-1]
    inner = product_of(xp, adjoint(xp, left), moved, adjoint(xp, right))
    ones = xp.eye(n_rows=size, n_cols=size, k=0, dtype=as_dtype(values.dtype))
    rows = xp.where(xp.equal(ones, 1), ones, as_row(xp, values))  # row i without s[i]
    products = xp.where(xp.equal(ones, 1), 0, _products_of_others(xp, rows))
    shares = xp.matmul(products, as_column(xp, diagonal_of(xp, inner)))
    on_diagonal = xp.reshape(shares, shape=tuple(shares.shape[:-1]))
    adjugate = with_diagonal(xp, on_diagonal, (size, size)) - products * inner
    back = xp.matrix_transpose(adjugate)
    turned = product_of(xp, conjugate(xp, left), back, conjugate(xp, right))
    return _unit_determinant(xp, left, right) * turned


def _cofactor_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    # The second derivative of the determinant is symmetric, so its transpose is itself.
    moved = _slope(xp, xs[0], y, conjugate(xp, g)) if xs[0].shape[-1] else g
    return (conjugate(xp, moved),)


def _cofactor_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return _slope(xp, xs[0], y, tangents[0]) if xs[0].shape[-1] else tangents[0]


COFACTOR = Op(
    "cofactor",
    Kind.OPAQUE,
    _cofactor_spec,
    _cofactor_vjp,
    _cofactor_jvp,
    Keep.BOTH,
    _cofactor_compose,
    batch=batching.trailing("cofactor"),
)


# --- the logarithm --------------------------------------------------------------------------------


class SlogdetResult(NamedTuple):
    """Sign and logarithm of the absolute value of a determinant."""

    sign: Any
    logabsdet: Any


def _slogdet_spec(a: Spec) -> tuple[Spec, Spec]:
    check_square("slogdet", a)
    lead = tuple(a.shape[:-2])
    return Spec(lead, floating_of(a)), Spec(lead, real_of(a))


def _slogdet_inverse(xp: Namespace, a: Array, sign: Array) -> Array:
    """Return the inverse, and zeros for singular matrices."""
    is_singular = as_matrices(xp, xp.equal(sign, 0))
    size = a.shape[-1]
    ones = xp.eye(n_rows=size, n_cols=size, k=0, dtype=as_dtype(a.dtype))
    return xp.where(is_singular, 0, xp.inv(xp.where(is_singular, ones, a)))


def _slogdet_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    (to_sign, to_log), sign = g, y[0]
    weight = real_cotangent(xp, to_log)
    if sign.dtype in xp.complex_dtypes:
        turn = xp.imag(to_sign * xp.conj(sign))
        weight = weight + 1j * xp.astype(turn, dtype=as_dtype(sign.dtype))
    back = adjoint(xp, _slogdet_inverse(xp, xs[0], sign))
    return (as_matrices(xp, weight) * back,)


def _slogdet_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    sign = y[0]
    growth = trace_of(xp, xp.matmul(_slogdet_inverse(xp, xs[0], sign), tangents[0]))
    if sign.dtype not in xp.complex_dtypes:
        return xp.zeros_like(sign), growth
    turn = 1j * xp.astype(xp.imag(growth), dtype=as_dtype(sign.dtype))
    return sign * turn, xp.real(growth)


SLOGDET = Op(
    "slogdet",
    Kind.OPAQUE,
    _slogdet_spec,
    _slogdet_vjp,
    _slogdet_jvp,
    Keep.BOTH,
    batch=batching.trailing("slogdet"),
    outputs=2,
)


def slogdet(a: Any, /) -> SlogdetResult:
    """Return the sign of the determinant and the logarithm of its absolute value.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n).

    Returns
    -------
    sign : Tensor
        Of shape (...): 1, -1, a complex number of length 1, or 0 for a singular matrix.
    logabsdet : Tensor
        Of shape (...), real; -inf for a singular matrix.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.

    Notes
    -----
    ``d logabsdet = Re tr(A^-1 dA)``; the sign of a complex determinant turns by
    ``i Im tr(A^-1 dA)``. Of a singular matrix the logarithm has no slope; both derivatives are
    taken as 0 there.
    """
    return SlogdetResult(*apply(SLOGDET, a))


def logdet(a: Any, /) -> Any:
    """Return the logarithm of the determinant's absolute value; see `slogdet`.

    For Hermitian positive definite matrices, as in a likelihood, that is the logarithm of the
    determinant itself, and TensorFlow's ``tf.linalg.logdet``.
    """
    return slogdet(a).logabsdet


OPS = (DET, COFACTOR, SLOGDET)
