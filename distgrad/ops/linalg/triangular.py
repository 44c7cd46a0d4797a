"""Factorisations into triangular matrices: Cholesky's and QR."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype
from distgrad.ops.linalg.matrices import (
    adjoint,
    check_matrices,
    check_square,
    cotangent_of_triangle,
    diagonal_of,
    first_columns,
    first_rows,
    floating_of,
    hermitian_from_triangle,
    other_columns,
    product_of,
    with_diagonal,
)
from distgrad.ops.linalg.parts import adjoint as adjoint_of
from distgrad.ops.rules import batching

_ALL = Slice(None, None, None)

# --- Cholesky -------------------------------------------------------------------------------------


def _cholesky_spec(a: Spec) -> Spec:
    check_square("cholesky", a)
    return Spec(tuple(a.shape), floating_of(a))


def _half_lower(xp: Namespace, x: Array) -> Array:
    """Return the lower triangle, with half of the diagonal."""
    return xp.tril(x, k=0) - with_diagonal(xp, diagonal_of(xp, x) / 2, tuple(x.shape))


def _cholesky_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    back = adjoint(xp, y)
    inner = _half_lower(xp, xp.matmul(back, g))
    half = xp.solve_triangular(back, inner, lower=False, unit_diagonal=False)
    whole = xp.solve_triangular(back, adjoint(xp, half), lower=False, unit_diagonal=False)
    return (cotangent_of_triangle(xp, adjoint(xp, whole)),)


def _cholesky_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    moved = hermitian_from_triangle(xp, tangents[0])
    half = xp.solve_triangular(y, moved, lower=True, unit_diagonal=False)
    whole = xp.solve_triangular(y, adjoint(xp, half), lower=True, unit_diagonal=False)
    return xp.matmul(y, _half_lower(xp, adjoint(xp, whole)))


CHOLESKY = Op(
    "cholesky",
    Kind.OPAQUE,
    _cholesky_spec,
    _cholesky_vjp,
    _cholesky_jvp,
    Keep.OUTPUT,
    batch=batching.trailing("cholesky"),
)


def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """Return the triangular factor L of ``A = L L^H``, with a positive diagonal.

    Parameters
    ----------
    a : Tensor, Variable or array
        Hermitian (real: symmetric) positive definite matrices, of shape (..., n, n); only the
        triangle of the factor is read.
    upper : bool
        Whether to read the upper triangle and return ``U = L^H``, of ``A = U^H U``.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    LinAlgError
        If a matrix is not positive definite.

    Notes
    -----
    ``dL = L Phi(L^-1 dA L^-H)``, where Phi takes the lower triangle and half of the diagonal [1]_.
    The gradient arrives in the triangle that is read: it is the derivative of exactly what is
    computed. (TensorFlow and PyTorch share it equally between both triangles.)

    References
    ----------
    .. [1] Murray, "Differentiation of the Cholesky decomposition", 2016, section 3.1.
    """
    return adjoint_of(apply(CHOLESKY, adjoint_of(a))) if upper else apply(CHOLESKY, a)


# --- QR -------------------------------------------------------------------------------------------


class QRResult(NamedTuple):
    """A factorisation ``A = Q R`` into orthonormal columns and a triangular matrix."""

    Q: Any
    R: Any


def _qr_spec(a: Spec, *, mode: str) -> tuple[Spec, Spec]:
    check_matrices("qr", a)
    lead, (rows, columns) = tuple(a.shape[:-2]), a.shape[-2:]
    inner = rows if mode == "complete" else min(rows, columns)
    dtype = floating_of(a)
    return Spec((*lead, rows, inner), dtype), Spec((*lead, inner, columns), dtype)


def _imaginary(xp: Namespace, x: Array) -> Array:
    """Return i times the imaginary parts of the diagonal, as matrices; nothing for real ones."""
    turns = 1j * xp.astype(xp.imag(diagonal_of(xp, x)), dtype=as_dtype(x.dtype))
    return with_diagonal(xp, turns, tuple(x.shape))


def _regular(xp: Namespace, triangle: Array) -> Array:
    """Return triangular matrices with ones in place of zeros on the diagonal."""
    diagonal = diagonal_of(xp, triangle)
    ones = xp.where(xp.equal(diagonal, 0), xp.ones_like(diagonal), 0)
    return triangle + with_diagonal(xp, ones, tuple(triangle.shape))


def _over(xp: Namespace, x: Array, triangle: Array) -> Array:
    """Return ``x R^-1`` for an upper triangle R."""
    back = adjoint(xp, _regular(xp, triangle))
    solved = xp.solve_triangular(back, adjoint(xp, x), lower=True, unit_diagonal=False)
    return adjoint(xp, solved)


def _over_adjoint(xp: Namespace, x: Array, triangle: Array) -> Array:
    """Return ``x R^-H`` for an upper triangle R."""
    upper = _regular(xp, triangle)
    solved = xp.solve_triangular(upper, adjoint(xp, x), lower=False, unit_diagonal=False)
    return adjoint(xp, solved)


def _qr_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    (to_q, to_r), (q, r) = g, y
    count = min(q.shape[-2], r.shape[-1])
    if q.shape[-1] > count:  # complete: the further columns move as -Q1 (dQ1^H Q2)
        first, others = first_columns(xp, q, count), other_columns(xp, q, count)
        beyond = xp.matmul(others, xp.matmul(adjoint(xp, other_columns(xp, to_q, count)), first))
        to_q = first_columns(xp, to_q, count) - beyond
        q, r, to_r = first, first_rows(xp, r, count), first_rows(xp, to_r, count)
    if r.shape[-1] == count:
        return (_tall_vjp(xp, to_q, to_r, q, r),)
    # Wide: A = [A1 A2] with Q R1 = A1 and R2 = Q^H A2.
    right, to_right = other_columns(xp, r, count), other_columns(xp, to_r, count)
    to_q = to_q + product_of(xp, q, right, adjoint(xp, to_right))
    to_square = _tall_vjp(xp, to_q, first_columns(xp, to_r, count), q, first_columns(xp, r, count))
    return (xp.concat(to_square, xp.matmul(q, to_right), axis=-1),)


def _tall_vjp(xp: Namespace, to_q: Array, to_r: Array, q: Array, r: Array) -> Array:
    along = xp.matmul(adjoint(xp, q), to_q)
    through = xp.matmul(to_r, adjoint(xp, r))
    net = along - through
    inner = xp.tril(net - adjoint(xp, net), k=-1) + through
    if net.dtype in xp.complex_dtypes:
        inner = inner + _imaginary(xp, net)
    return _over_adjoint(xp, xp.matmul(q, inner - along) + to_q, r)


def _qr_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    q, r = y
    moved = tangents[0]
    rows, columns = q.shape[-2], r.shape[-1]
    count = min(rows, columns)
    first, top = first_columns(xp, q, count), first_rows(xp, r, count)
    to_q, to_r = _tall_jvp(
        xp, first_columns(xp, moved, count), first, first_columns(xp, top, count)
    )
    if columns > count:
        right = xp.matmul(first, other_columns(xp, top, count))
        to_right = xp.matmul(adjoint(xp, first), other_columns(xp, moved, count))
        to_right = xp.matmul(adjoint(xp, to_q), right) + to_right
        to_r = xp.concat(to_r, to_right, axis=-1)
    if q.shape[-1] > count:
        others = other_columns(xp, q, count)
        to_q = xp.concat(to_q, -xp.matmul(first, xp.matmul(adjoint(xp, to_q), others)), axis=-1)
        below = xp.zeros_like(xp.getitem(r, index=(Ellipsis, Slice(count, None, None), _ALL)))
        to_r = xp.concat(to_r, xp.astype(below, dtype=as_dtype(to_r.dtype)), axis=-2)
    return to_q, to_r


def _tall_jvp(xp: Namespace, moved: Array, q: Array, r: Array) -> tuple[Array, Array]:
    scaled = _over(xp, moved, r)
    inner = xp.matmul(adjoint(xp, q), scaled)
    below = xp.tril(inner, k=-1)
    turn = below - adjoint(xp, below)
    if inner.dtype in xp.complex_dtypes:
        turn = turn + _imaginary(xp, inner)
    return xp.matmul(q, turn - inner) + scaled, xp.matmul(inner - turn, r)


QR = Op(
    "qr",
    Kind.OPAQUE,
    _qr_spec,
    _qr_vjp,
    _qr_jvp,
    Keep.OUTPUT,
    batch=batching.trailing("qr"),
    outputs=2,
)


def qr(a: Any, /, mode: Literal["reduced", "complete", "r"] = "reduced") -> Any:
    """Return the factorisation ``A = Q R`` into orthonormal columns and an upper triangle.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, n).
    mode : {"reduced", "complete", "r"}
        Whether Q has the smaller of m and n columns, or m, or only R is wanted.

    Returns
    -------
    QRResult of (Q, R), or R
        Q of shape (..., m, k), R of shape (..., k, n).

    Raises
    ------
    MatrixShapeError
        If there are less than two axes.
    ValueError
        If there is no such mode.

    Notes
    -----
    With ``C = Q^H dA R^-1`` and ``W`` the skew-Hermitian matrix whose lower triangle is that of C:
    ``dQ = Q W + (I - Q Q^H) dA R^-1`` and ``dR = (C - W) R`` [1]_. For m < n that holds for the
    first m columns, and the rest of R is ``Q^H A2``. Where a diagonal element of R is 0, so that
    the columns are linearly dependent, there is no derivative; the gradient is finite, computed
    with 1 in its place.

    The further columns in mode "complete" may turn among themselves; their derivative has no such
    turn. So only functions of them that do not depend on it have a meaningful gradient.

    References
    ----------
    .. [1] Walter and Lehmann, "Algorithmic differentiation of linear algebra functions with
       application in optimum experimental design", 2010; for wide matrices Liao et al.,
       "Differentiable programming tensor networks", 2019.
    """
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"qr: mode is {mode!r}; expected 'reduced', 'complete' or 'r'")
    result = QRResult(*apply(QR, a, mode="complete" if mode == "complete" else "reduced"))
    return result.R if mode == "r" else result


OPS = (CHOLESKY, QR)
