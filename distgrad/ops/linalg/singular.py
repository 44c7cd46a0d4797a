"""Singular values and vectors of matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype
from distgrad.ops.linalg.matrices import (
    adjoint,
    as_column,
    as_row,
    check_matrices,
    diagonal_of,
    first_columns,
    floating_of,
    inverse_gaps,
    other_columns,
    product_of,
    real_of,
    rounding_of,
    safe_reciprocal,
    with_diagonal,
)
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import conjugate, real_cotangent


class SVDResult(NamedTuple):
    """A singular value decomposition: ``A = U diag(S) Vh``."""

    U: Any
    S: Any
    Vh: Any


# --- the decomposition ----------------------------------------------------------------------------


def _svd_spec(a: Spec, *, full_matrices: bool = False) -> tuple[Spec, Spec, Spec]:
    check_matrices("svd", a)
    lead, (rows, columns) = tuple(a.shape[:-2]), a.shape[-2:]
    count, dtype = min(rows, columns), floating_of(a)
    left, right = (rows, columns) if full_matrices else (count, count)
    return (
        Spec((*lead, rows, left), dtype),
        Spec((*lead, count), real_of(a)),
        Spec((*lead, right, columns), dtype),
    )


def _turns(xp: Namespace, values: Array) -> Array:
    """Return 1 / (s_j^2 - s_i^2) in row i and column j, and 0 where the two coincide."""
    sums = as_row(xp, values) + as_column(xp, values)
    return inverse_gaps(xp, values) * safe_reciprocal(xp, sums)


def _phases(xp: Namespace, inner: Array, values: Array) -> Array | None:
    """Return the imaginary parts of a diagonal over twice the values, times i; None for reals."""
    if inner.dtype not in xp.complex_dtypes:
        return None
    halves = xp.imag(diagonal_of(xp, inner)) * safe_reciprocal(xp, values) / 2
    return 1j * xp.astype(halves, dtype=as_dtype(inner.dtype))


def _inverses(xp: Namespace, values: Array) -> Array:
    """Return the reciprocals of singular values, 0 for those that are 0 up to rounding."""
    return safe_reciprocal(xp, values, xp.expand_dims(rounding_of(xp, values), axis=-1))


def _within(xp: Namespace, to_first: Array, whole: Array, count: int) -> Array:
    """Return the cotangent of the first columns of a square unitary matrix from those of all.

    The others span what is orthogonal to the first: they move as ``dU2 = -U1 (dU1^H U2)``.
    """
    if whole.shape[-1] == count:
        return to_first
    first, others = first_columns(xp, whole, count), other_columns(xp, whole, count)
    to_others = other_columns(xp, to_first, count)
    beyond = xp.matmul(others, xp.matmul(adjoint(xp, to_others), first))
    return first_columns(xp, to_first, count) - beyond


def _outside(xp: Namespace, basis: Array, x: Array) -> Array:
    """Return what of columns is orthogonal to a basis."""
    return x - xp.matmul(basis, xp.matmul(adjoint(xp, basis), x))


def _svd_vjp(xp: Namespace, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
    to_left, to_values, to_right = g[0], g[1], adjoint(xp, g[2])
    left, values, right = y[0], y[1], adjoint(xp, y[2])
    rows, columns, count = left.shape[-2], right.shape[-2], values.shape[-1]
    to_left, to_right = _within(xp, to_left, left, count), _within(xp, to_right, right, count)
    left, right = first_columns(xp, left, count), first_columns(xp, right, count)
    turns, inverses = _turns(xp, values), as_row(xp, _inverses(xp, values))
    along_left = xp.matmul(adjoint(xp, left), to_left)
    along_right = xp.matmul(adjoint(xp, right), to_right)
    from_left, from_right = turns * along_left, turns * along_right
    inner = (from_left + adjoint(xp, from_left)) * as_row(xp, values)
    inner = inner + as_column(xp, values) * (from_right + adjoint(xp, from_right))
    inner = inner + with_diagonal(xp, real_cotangent(xp, to_values), (count, count))
    phases = _phases(xp, along_left - along_right, values)
    if phases is not None:
        inner = inner + with_diagonal(xp, phases, (count, count))
    result = product_of(xp, left, inner, adjoint(xp, right))
    if rows > count:
        result = result + xp.matmul(_outside(xp, left, to_left) * inverses, adjoint(xp, right))
    if columns > count:
        result = result + xp.matmul(left, adjoint(xp, _outside(xp, right, to_right) * inverses))
    return (result,)


def _svd_jvp(xp: Namespace, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    moved = tangents[0]
    whole_left, values, whole_right = y[0], y[1], adjoint(xp, y[2])
    rows, columns, count = whole_left.shape[-2], whole_right.shape[-2], values.shape[-1]
    left = first_columns(xp, whole_left, count)
    right = first_columns(xp, whole_right, count)
    turns, inverses = _turns(xp, values), as_row(xp, _inverses(xp, values))
    inner = product_of(xp, adjoint(xp, left), moved, right)
    back = adjoint(xp, inner)
    row, column = as_row(xp, values), as_column(xp, values)
    turn_left = turns * (inner * row + column * back)
    turn_right = turns * (column * inner + back * row)
    phases = _phases(xp, inner, values)
    if phases is not None:
        turn_left = turn_left + with_diagonal(xp, phases, (count, count))
        turn_right = turn_right - with_diagonal(xp, phases, (count, count))
    to_left, to_right = xp.matmul(left, turn_left), xp.matmul(right, turn_right)
    if rows > count:
        to_left = to_left + _outside(xp, left, xp.matmul(moved, right)) * inverses
    if columns > count:
        to_right = to_right + _outside(xp, right, xp.matmul(adjoint(xp, moved), left)) * inverses
    to_left = _with_others(xp, to_left, whole_left, count)
    to_right = _with_others(xp, to_right, whole_right, count)
    return to_left, real_cotangent(xp, diagonal_of(xp, inner)), adjoint(xp, to_right)


def _with_others(xp: Namespace, moved: Array, whole: Array, count: int) -> Array:
    """Return the tangent of a square unitary matrix from that of its first columns."""
    if whole.shape[-1] == count:
        return moved
    first, others = first_columns(xp, whole, count), other_columns(xp, whole, count)
    return xp.concat(moved, -xp.matmul(first, xp.matmul(adjoint(xp, moved), others)), axis=-1)


SVD = Op(
    "svd",
    Kind.OPAQUE,
    _svd_spec,
    _svd_vjp,
    _svd_jvp,
    Keep.OUTPUT,
    batch=batching.trailing("svd"),
    outputs=3,
)


def svd(
    a: Any, /, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    """Return the singular value decomposition ``A = U diag(S) Vh``.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, n).
    full_matrices : bool
        Whether U is of shape (..., m, m) and Vh of (..., n, n), completed by vectors that belong to
        no singular value; otherwise (..., m, k) and (..., k, n), with k the smaller of m and n.
    compute_uv : bool
        False returns the singular values alone, as `svdvals` does.
    hermitian : bool
        NumPy's hint that `a` is Hermitian; it changes nothing.

    Returns
    -------
    SVDResult of (U, S, Vh), or S
        S of shape (..., k), in descending order; columns of U and rows of Vh are orthonormal.

    Raises
    ------
    MatrixShapeError
        If there are less than two axes.
    LinAlgError
        If the iteration does not converge.

    Notes
    -----
    With ``P = U^H dA V`` and ``F[i, j] = 1 / (s[j]^2 - s[i]^2)``: ``dS = Re diag(P)``,
    ``U^H dU = F * (P S + S P^H)``, ``V^H dV = F * (S P + P^H S)``, and beyond the span of U and V
    ``(I - U U^H) dA V S^-1`` and its counterpart [1]_ [2]_. F is 0 where singular values coincide,
    and so is 1/s where s is 0 up to rounding: the gradient is finite, with the reserve that `eigh`
    states.

    A pair of complex vectors has a common phase that is arbitrary: what the imaginary part of the
    diagonal of P leaves open is shared equally between u and v. The vectors that complete U and V
    may turn among themselves; their derivative has no such turn. So only functions of U and V that
    depend on neither have a meaningful gradient.

    References
    ----------
    .. [1] Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
       differentiation", 2008, section 3.2.
    .. [2] Wan and Zhang, "Automatic differentiation for complex valued SVD", 2019.
    """
    if not compute_uv:
        return svdvals(a)
    return SVDResult(*apply(SVD, a, full_matrices=bool(full_matrices)))


# --- the values alone -----------------------------------------------------------------------------


def _svdvals_spec(a: Spec) -> Spec:
    check_matrices("svdvals", a)
    return Spec((*a.shape[:-2], min(a.shape[-2:])), real_of(a))


def _svdvals_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    left, values, right = xp.svd(xs[0], full_matrices=False)
    weights = xp.where(xp.equal(values, 0), 0, real_cotangent(xp, g))
    return (xp.matmul(left * as_row(xp, weights), right),)


def _svdvals_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    left, values, right = xp.svd(xs[0], full_matrices=False)
    pushed = xp.matmul(tangents[0], adjoint(xp, right))
    moved = xp.sum(real_cotangent(xp, conjugate(xp, left) * pushed), axis=-2)
    return xp.where(xp.equal(values, 0), 0, moved)


SVDVALS = Op(
    "svdvals",
    Kind.OPAQUE,
    _svdvals_spec,
    _svdvals_vjp,
    _svdvals_jvp,
    batch=batching.trailing("svdvals"),
)


def svdvals(x: Any, /) -> Any:
    """Return the singular values of matrices, in descending order.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape (..., m, n).

    Notes
    -----
    ``dS = Re diag(U^H dA V)``; the vectors are computed only if a gradient is asked for. Where a
    singular value is 0 its derivative is taken as 0, the smallest of its subgradients.
    """
    return apply(SVDVALS, x)


OPS = (SVD, SVDVALS)
