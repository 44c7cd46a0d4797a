"""Linear systems of square matrices, triangular ones among them, and inverses."""

from __future__ import annotations

from typing import Any, Literal

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply, operands
from distgrad.errors import ShapeError
from distgrad.ops.linalg.matrices import (
    adjoint,
    check_matrices,
    check_square,
    floating_of,
    product_of,
)
from distgrad.ops.linalg.parts import adjoint as adjoint_of
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import fit, sum_of
from distgrad.ops.shaping.structure import expand_dims, matrix_transpose, squeeze
from distgrad.shapes import broadcast, shape_given

# --- one system with several right-hand sides -----------------------------------------------------


def _system_spec(operation: str, a: Spec, b: Spec) -> Spec:
    check_square(operation, a)
    check_matrices(operation, b)
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"{operation}: (..., n, n) and (..., n, k) expected, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}: {a.shape[-1]} is not {b.shape[-2]}"
        )
    lead = broadcast(operation, tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    return Spec((*lead, *b.shape[-2:]), floating_of(a, b))


def _solve_spec(a: Spec, b: Spec) -> Spec:
    return _system_spec("solve", a, b)


def _solve_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    a, b = xs
    to_b = xp.solve(adjoint(xp, a), g)
    to_a = fit(xp, -xp.matmul(to_b, adjoint(xp, y)), a) if needs[0] else None
    return to_a, fit(xp, to_b, b) if needs[1] else None


def _solve_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(-xp.matmul(tangents[0], y))
    if tangents[1] is not None:
        terms.append(tangents[1])
    return xp.solve(xs[0], sum_of(terms))


SOLVE = Op(
    "solve",
    Kind.OPAQUE,
    _solve_spec,
    _solve_vjp,
    _solve_jvp,
    Keep.BOTH,
    batch=batching.elementwise("solve"),
)


def solve(a: Any, b: Any, /) -> Any:
    """Return the solution X of ``A X = B``.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n).
    b : Tensor, Variable or array
        Of shape (..., n, k), or one vector of shape (n,); leading axes broadcast.

    Returns
    -------
    Tensor
        Of the shape of `b`, with the leading axes broadcast.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    ShapeError
        If the lengths do not fit.
    LinAlgError
        If a matrix is singular.

    Notes
    -----
    The cotangent of B is ``A^-H g``, that of A ``-(A^-H g) X^H`` [1]_.

    References
    ----------
    .. [1] Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
       differentiation", 2008, section 2.3.1.
    """
    a, b = operands(a, b)
    return _for_columns(lambda right: apply(SOLVE, a, right), b)


def _for_columns(solved: Any, b: Any) -> Any:
    """Return what a function of matrices gives for them, or for one vector as a column."""
    if len(shape_given(b)) == 1:
        return squeeze(solved(expand_dims(b, axis=-1)), axis=-1)
    return solved(b)


# --- triangular systems ---------------------------------------------------------------------------


def _triangular_spec(a: Spec, b: Spec, *, lower: bool, unit_diagonal: bool) -> Spec:
    return _system_spec("solve_triangular", a, b)


def _triangle(xp: Namespace, a: Array, lower: bool, unit_diagonal: bool) -> Array:
    """Return the part of a matrix that is read."""
    if lower:
        return xp.tril(a, k=-1 if unit_diagonal else 0)
    return xp.triu(a, k=1 if unit_diagonal else 0)


def _triangular_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Any
) -> Any:
    a, b = xs
    turned = {**params, "lower": not params["lower"]}
    to_b = xp.solve_triangular(adjoint(xp, a), g, **turned)
    to_a = None
    if needs[0]:
        to_a = fit(xp, _triangle(xp, -xp.matmul(to_b, adjoint(xp, y)), **params), a)
    return to_a, fit(xp, to_b, b) if needs[1] else None


def _triangular_jvp(
    xp: Namespace, tangents: Any, y: Array, xs: Any, params: dict[str, Any]
) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(-xp.matmul(_triangle(xp, tangents[0], **params), y))
    if tangents[1] is not None:
        terms.append(tangents[1])
    return xp.solve_triangular(xs[0], sum_of(terms), **params)


SOLVE_TRIANGULAR = Op(
    "solve_triangular",
    Kind.OPAQUE,
    _triangular_spec,
    _triangular_vjp,
    _triangular_jvp,
    Keep.BOTH,
    batch=batching.elementwise("solve_triangular"),
)

Transposition = Literal[0, 1, 2, "N", "T", "C"]


def solve_triangular(
    a: Any,
    b: Any,
    /,
    trans: Transposition = 0,
    lower: bool = False,
    unit_diagonal: bool = False,
) -> Any:
    """Return the solution X of ``A X = B`` with triangular A, by SciPy's signature.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n); one triangle is read.
    b : Tensor, Variable or array
        Of shape (..., n, k), or one vector of shape (n,); leading axes broadcast.
    trans : {0, 1, 2, "N", "T", "C"}
        Which system: with A, with its transpose, or with its conjugate transpose.
    lower : bool
        Whether the lower triangle of A is read; the upper one by default.
    unit_diagonal : bool
        Whether the diagonal is taken as ones, and not read.

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    ShapeError
        If the lengths do not fit.
    LinAlgError
        If there is a zero on a diagonal that is read.

    Notes
    -----
    Derivatives as for `solve`; the cotangent of A stays in the triangle that is read. Computed by
    blocks of 64 rows, nearly all of it matrix products.
    """
    if trans not in (0, 1, 2, "N", "T", "C"):
        raise ValueError(f"solve_triangular: trans is {trans!r}; expected 0, 1, 2, 'N', 'T' or 'C'")
    a, b = operands(a, b)
    if trans in (1, "T"):
        a, lower = matrix_transpose(a), not lower
    elif trans in (2, "C"):
        a, lower = adjoint_of(a), not lower

    def solved(right: Any) -> Any:
        return apply(
            SOLVE_TRIANGULAR, a, right, lower=bool(lower), unit_diagonal=bool(unit_diagonal)
        )

    return _for_columns(solved, b)


# --- the inverse ----------------------------------------------------------------------------------


def _inv_spec(a: Spec) -> Spec:
    check_square("inv", a)
    return Spec(tuple(a.shape), floating_of(a))


def _inv_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    back = adjoint(xp, y)
    return (-product_of(xp, back, g, back),)


def _inv_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return -product_of(xp, y, tangents[0], y)


INV = Op(
    "inv",
    Kind.OPAQUE,
    _inv_spec,
    _inv_vjp,
    _inv_jvp,
    Keep.OUTPUT,
    batch=batching.trailing("inv"),
)


def inv(a: Any, /) -> Any:
    """Return the inverse of square matrices; ``dY = -Y dA Y``.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., n, n).

    Raises
    ------
    MatrixShapeError
        If the matrices are not square.
    LinAlgError
        If a matrix is singular.
    """
    return apply(INV, a)


OPS = (SOLVE, SOLVE_TRIANGULAR, INV)
