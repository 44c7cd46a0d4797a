"""The matrix exponential."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec
from distgrad.core.seam import apply
from distgrad.ops.linalg.matrices import adjoint, check_square, first_rows, floating_of
from distgrad.ops.rules import batching


def _expm_spec(a: Spec) -> Spec:
    check_square("expm", a)
    return Spec(tuple(a.shape), floating_of(a))


def _moved(xp: Namespace, a: Array, direction: Array) -> Array:
    """Return the derivative at A in a direction: the corner of a block triangle's exponential."""
    size = a.shape[-1]
    above = xp.concat(a, direction, axis=-1)
    below = xp.concat(xp.zeros_like(a), a, axis=-1)
    whole = xp.expm(xp.concat(above, below, axis=-2))
    return xp.getitem(first_rows(xp, whole, size), index=(Ellipsis, Slice(size, None, None)))


def _expm_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (_moved(xp, adjoint(xp, xs[0]), g),)


def _expm_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return _moved(xp, xs[0], tangents[0])


EXPM = Op(
    "expm",
    Kind.OPAQUE,
    _expm_spec,
    _expm_vjp,
    _expm_jvp,
    Keep.INPUTS,
    batch=batching.trailing("expm"),
)


def expm(a: Any, /) -> Any:
    """Return the exponential of square matrices, ``I + A + A^2/2 + ...``.

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
    By scaling and squaring a Padé approximant of degree 13 [1]_. The derivative in a direction E is
    the upper right block of the exponential of ``[[A, E], [0, A]]``, the gradient the same with A^H
    and the cotangent [2]_: eight times the work, and right for every matrix and order.

    References
    ----------
    .. [1] Higham, "The scaling and squaring method for the matrix exponential revisited", SIAM
       J. Matrix Anal. Appl. 26, 2005.
    .. [2] Al-Mohy and Higham, "Computing the Fréchet derivative of the matrix exponential", SIAM
       J. Matrix Anal. Appl. 30, 2009.
    """
    return apply(EXPM, a)


OPS = (EXPM,)
