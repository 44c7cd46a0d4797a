"""tf.linalg's factorisations, systems and determinants, and einsum, by TensorFlow's signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import distgrad as dg
from distgrad.compat.tensorflow.conversion import floating, together
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, wrap
from distgrad.errors import LinAlgError, ShapeError


class LogMatrixDeterminant(NamedTuple):
    """Sign and logarithm of the absolute value of a determinant."""

    sign: Tensor
    log_abs_determinant: Tensor


def _computed(function: Callable[..., Any], *inputs: Any, **params: Any) -> Tensor:
    """Return the result of a function; its errors of linear algebra are TensorFlow's."""
    try:
        return compute(function, *inputs, **params)
    except LinAlgError as error:
        raise InvalidArgumentError(str(error)) from error


def _several(function: Callable[..., Any], *inputs: Any) -> tuple[Tensor, ...]:
    try:
        return tuple(wrap(each) for each in function(*inputs))
    except (LinAlgError, ShapeError) as error:
        raise InvalidArgumentError(str(error)) from error


def _system(name: str, matrix: Any, rhs: Any) -> list[Any]:
    """Return matrices and right-hand sides of one dtype, and of two axes or more."""
    both = together(name, matrix, rhs)
    for letter, each in zip(("matrix", "rhs"), both, strict=True):
        floating(name, each)
        if each.ndim < 2:
            raise InvalidArgumentError(
                f"{name}: {letter} has shape {each.shape}; expected (..., n, k): put an axis of "
                "length 1 behind a vector, rhs[..., tf.newaxis]"
            )
    return both


def _adjoint(x: Any) -> Any:
    return dg.linalg.adjoint(x)


def _mirrored(x: Any) -> Any:
    """Return the Hermitian matrix of a lower triangle, whose gradient goes to both triangles.

    TensorFlow reads the lower triangle, and gives each half of the gradient.
    """
    half = (x + _adjoint(x)) / 2
    lower = dg.tril(x) + _adjoint(dg.tril(x, k=-1))
    return half + dg.stop_gradient(lower - half)


# --- factorisations -----------------------------------------------------------------------------


def cholesky(input: Any, name: str | None = None) -> Tensor:
    """Return the lower triangular factors of Hermitian positive definite matrices.

    Raises
    ------
    InvalidArgumentError
        If matrices are not square, or one is not positive definite, where TensorFlow 2.21 logs a
        warning and gives NaN.
    """
    return _computed(lambda x: dg.linalg.cholesky(_mirrored(x)), floating("cholesky", input))


def qr(input: Any, full_matrices: bool = False, name: str | None = None) -> tuple[Tensor, ...]:
    """Return orthonormal columns and upper triangles whose product the matrices are."""
    mode: Any = "complete" if full_matrices else "reduced"
    return _several(lambda x: dg.linalg.qr(x, mode=mode), floating("qr", input))


def svd(
    tensor: Any, full_matrices: bool = False, compute_uv: bool = True, name: str | None = None
) -> Any:
    """Return singular values, left and right singular vectors, in this order.

    Parameters
    ----------
    tensor : Tensor, Variable or array
        Of shape (..., m, n).
    full_matrices : bool
        Whether the vectors are completed to square matrices.
    compute_uv : bool
        False returns the singular values alone.

    Notes
    -----
    The right vectors are columns of v, so that ``u @ tf.linalg.diag(s) @ tf.linalg.adjoint(v)`` is
    the matrix.
    """
    x = floating("svd", tensor)
    if not compute_uv:
        return _computed(dg.linalg.svdvals, x)

    def reordered(x: Any) -> tuple[Any, ...]:
        left, singular, right = dg.linalg.svd(x, full_matrices=full_matrices)
        return singular, left, _adjoint(right)

    return _several(reordered, x)


# --- systems ------------------------------------------------------------------------------------


def inv(input: Any, adjoint: bool = False, name: str | None = None) -> Tensor:
    """Return the inverses of square matrices, or on request of their adjoints.

    Raises
    ------
    InvalidArgumentError
        If one is singular.
    """
    return _computed(lambda x: dg.linalg.inv(_adjoint(x) if adjoint else x), floating("inv", input))


def solve(matrix: Any, rhs: Any, adjoint: bool = False, name: str | None = None) -> Tensor:
    """Return the solutions of linear systems, or on request of those with the adjoint matrices.

    Raises
    ------
    InvalidArgumentError
        If a matrix is singular, or shapes or dtypes do not fit.
    """
    left, right = _system("solve", matrix, rhs)
    return _computed(lambda a, b: dg.linalg.solve(_adjoint(a) if adjoint else a, b), left, right)


def triangular_solve(
    matrix: Any, rhs: Any, lower: bool = True, adjoint: bool = False, name: str | None = None
) -> Tensor:
    """Return the solutions of triangular systems, of which one triangle is read.

    Raises
    ------
    InvalidArgumentError
        If there is a zero on a diagonal, or shapes or dtypes do not fit.
    """
    left, right = _system("triangular_solve", matrix, rhs)
    trans: Any = "C" if adjoint else "N"
    return _computed(
        lambda a, b: dg.linalg.solve_triangular(a, b, trans=trans, lower=lower), left, right
    )


def cholesky_solve(chol: Any, rhs: Any, name: str | None = None) -> Tensor:
    """Return the solutions of systems whose matrices' Cholesky factors are given."""
    factor, right = _system("cholesky_solve", chol, rhs)

    def solved(a: Any, b: Any) -> Any:
        half = dg.linalg.solve_triangular(a, b, lower=True)
        return dg.linalg.solve_triangular(a, half, trans="C", lower=True)

    return _computed(solved, factor, right)


def lstsq(
    matrix: Any,
    rhs: Any,
    l2_regularizer: float = 0.0,
    fast: bool = True,
    name: str | None = None,
) -> Tensor:
    """Return solutions that make the sum of squares ``|A X - B|^2 + l |X|^2`` smallest.

    Parameters
    ----------
    matrix : Tensor, Variable or array
        Of shape (..., m, n).
    rhs : Tensor, Variable or array
        Of shape (..., m, k).
    l2_regularizer : float
        The weight l.
    fast : bool
        Whether to solve the normal equations, which squares the condition number; otherwise by the
        pseudo-inverse, without a regularizer.
    """
    left, right = _system("lstsq", matrix, rhs)

    def solved(a: Any, b: Any) -> Any:
        if not fast:
            return dg.linalg.pinv(a) @ b
        rows, columns = a.shape[-2:]
        back = _adjoint(a)
        if rows >= columns:
            return dg.linalg.solve(_regular(back @ a, l2_regularizer), back @ b)
        return back @ dg.linalg.solve(_regular(a @ back, l2_regularizer), b)

    return _computed(solved, left, right)


def _regular(gram: Any, weight: float) -> Any:
    """Return square matrices with a weight added on their diagonals."""
    if not weight:
        return gram
    size = gram.shape[-1]
    ones = dg.linalg.diagonal(dg.ones_like(gram))[(0,) * (gram.ndim - 2)]
    return gram + weight * dg.reshape(dg.diag(ones), (size, size))


def pinv(a: Any, rcond: Any = None, validate_args: bool = False, name: str | None = None) -> Tensor:
    """Return the pseudo-inverses of matrices.

    Parameters
    ----------
    a : Tensor, Variable or array
        Of shape (..., m, n).
    rcond : float or Tensor, optional
        Singular values below this times the largest count as 0; by default ten times the larger of
        m and n times the dtype's spacing.
    validate_args : bool
        Without effect: the shapes are looked at in any case.
    """
    x = floating("pinv", a)
    if rcond is None:
        eps = float(dg.finfo(x.dtype).eps)
        rcond = 10.0 * max(x.shape[-2:], default=1) * eps
    bound = rcond if isinstance(rcond, float) else floating("pinv", rcond)
    return _computed(lambda x: dg.linalg.pinv(x, bound), x)


# --- determinants, and the exponential ----------------------------------------------------------


def det(input: Any, name: str | None = None) -> Tensor:
    """Return the determinants; their gradient is right at singular matrices too."""
    return _computed(dg.linalg.det, floating("det", input))


def slogdet(input: Any, name: str | None = None) -> LogMatrixDeterminant:
    """Return signs and logarithms of the absolute values of determinants."""

    def of(x: Any) -> tuple[Any, Any]:
        sign, logarithm = dg.linalg.slogdet(x)
        return sign, dg.astype(logarithm, sign.dtype)  # complex too, as TensorFlow's

    return LogMatrixDeterminant(*_several(of, floating("slogdet", input)))


def logdet(matrix: Any, name: str | None = None) -> Tensor:
    """Return the logarithms of the determinants of Hermitian positive definite matrices.

    Raises
    ------
    InvalidArgumentError
        If one is not positive definite.
    """

    def of(x: Any) -> Any:
        diagonal = dg.linalg.diagonal(dg.linalg.cholesky(_mirrored(x)))
        return 2.0 * dg.sum(dg.log(dg.real(diagonal)), axis=-1)

    return _computed(of, floating("logdet", matrix))


def expm(input: Any, name: str | None = None) -> Tensor:
    """Return the exponentials of square matrices."""
    return _computed(dg.linalg.expm, floating("expm", input))


def cross(a: Any, b: Any, name: str | None = None) -> Tensor:
    """Return the cross products of vectors of three elements along the last axis."""
    return compute(dg.linalg.cross, *together("cross", a, b))


# --- named axes ---------------------------------------------------------------------------------


def einsum(
    equation: str, *inputs: Any, optimize: Any = "greedy", name: str | None = None
) -> Tensor:
    """Return sums of products over named axes, such as ``tf.einsum("ij,jk->ik", a, b)``.

    Raises
    ------
    InvalidArgumentError
        If letters and shapes do not fit, or dtypes differ.
    """
    factors = together("Einsum", *inputs)
    return compute(lambda *xs: dg.einsum(equation, *xs, optimize=optimize or False), *factors)


__all__ = [
    "LogMatrixDeterminant",
    "cholesky",
    "cholesky_solve",
    "cross",
    "det",
    "einsum",
    "expm",
    "inv",
    "logdet",
    "lstsq",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "triangular_solve",
]
