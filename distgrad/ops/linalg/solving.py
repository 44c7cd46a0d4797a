"""Linear systems: solve, invert, least squares, and the same for tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import abs as abs_of
from distgrad.ops.elementwise.arithmetic import square, subtract
from distgrad.ops.linalg.matrices import (
    adjoint,
    check_matrices,
    check_square,
    floating_of,
    shape_given,
)
from distgrad.ops.linalg.parts import adjoint as adjoint_of
from distgrad.ops.linalg.pseudo_inverse import matrix_rank, pinv, rank_tolerance
from distgrad.ops.linalg.singular import svdvals
from distgrad.ops.products.contractions import matmul
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import fit, sum_of
from distgrad.ops.shaping.structure import (
    expand_dims,
    matrix_transpose,
    permute_dims,
    reshape,
    squeeze,
)
from distgrad.shapes import broadcast, normalize_axes

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
    to_a = fit(xp, -(to_b @ adjoint(xp, y)), a) if needs[0] else None
    return to_a, fit(xp, to_b, b) if needs[1] else None


def _solve_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(-(tangents[0] @ y))
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
        to_a = fit(xp, _triangle(xp, -(to_b @ adjoint(xp, y)), **params), a)
    return to_a, fit(xp, to_b, b) if needs[1] else None


def _triangular_jvp(
    xp: Namespace, tangents: Any, y: Array, xs: Any, params: dict[str, Any]
) -> Array:
    terms = []
    if tangents[0] is not None:
        terms.append(-(_triangle(xp, tangents[0], **params) @ y))
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
    return (-(back @ g @ back),)


def _inv_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return -(y @ tangents[0] @ y)


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


# --- least squares --------------------------------------------------------------------------------


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
    is_vector = len(shape_given(b)) == 1
    right = expand_dims(b, axis=-1) if is_vector else b
    share = rank_tolerance(a) if rcond is None else rcond
    left, sides = shape_given(a), shape_given(b)
    if left[-2] != shape_given(right)[-2]:
        raise ShapeError(f"lstsq: (..., m, n) and (..., m, k) expected, got {left} and {sides}")
    solution = matmul(pinv(a, share), right)
    rows, columns = left[-2:]
    remains = sum_over(square(abs_of(subtract(matmul(a, solution), right))), axis=-2)
    if rows <= columns:
        remains = remains[..., :0]
    if is_vector:
        solution = squeeze(solution, axis=-1)
    return LstsqResult(solution, remains, matrix_rank(a, rtol=share), svdvals(a))


# --- tensors as matrices --------------------------------------------------------------------------


def tensorinv(a: Any, /, ind: int = 2) -> Any:
    """Return the inverse of a tensor with respect to `tensordot` over `ind` axes.

    Parameters
    ----------
    a : Tensor, Variable or array
        Whose first `ind` lengths have the same product as the others.
    ind : int
        How many axes are those of rows; 1 or more.

    Raises
    ------
    ShapeError
        If the products differ.
    LinAlgError
        If the tensor is singular.
    """
    shape = shape_given(a)
    if ind <= 0:
        raise ValueError(f"tensorinv: ind is {ind}; expected 1 or more")
    rows, columns = shape[:ind], shape[ind:]
    if prod(rows) != prod(columns):
        raise ShapeError(
            f"tensorinv: axes {rows} and {columns} have {prod(rows)} and {prod(columns)} elements; "
            "expected equal numbers"
        )
    return reshape(inv(reshape(a, (prod(rows), prod(columns)))), (*columns, *rows))


def tensorsolve(a: Any, b: Any, /, axes: Sequence[int] | None = None) -> Any:
    """Return the x of ``tensordot(a, x, axes=x.ndim) == b``.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of the shape of `b`, followed by that of x.
    b : Tensor, Variable or array
        The right-hand side.
    axes : sequence of int, optional
        Axes of `a` to put behind all others first.

    Raises
    ------
    ShapeError
        If the numbers of elements do not fit.
    LinAlgError
        If the tensor is singular.
    """
    shape = shape_given(a)
    if axes is not None:
        last = normalize_axes("tensorsolve", tuple(axes), len(shape))
        order = (*(i for i in range(len(shape)) if i not in last), *last)
        a, shape = permute_dims(a, order), tuple(shape[i] for i in order)
    right = shape_given(b)
    unknown = shape[len(right) :]
    size = prod(unknown)
    if shape[: len(right)] != right or prod(right) != size:
        raise ShapeError(
            f"tensorsolve: a of the shape of b and then of x expected, with equal numbers of "
            f"elements, got {shape} for b of {right}"
        )
    return reshape(solve(reshape(a, (size, size)), reshape(b, (size,))), unknown)


OPS = (SOLVE, SOLVE_TRIANGULAR, INV)
