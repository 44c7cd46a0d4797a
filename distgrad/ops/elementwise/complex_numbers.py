"""Complex numbers: conjugate, real and imaginary part."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.core.seam import apply
from distgrad.ops.rules.families import (
    conjugate,
    elementwise_spec,
    joint,
    real_cotangent,
    real_part,
)

# --- complex numbers ----------------------------------------------------------------------------


def _conj_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (conjugate(xp, g),)


def _conj_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return conjugate(xp, tangents[0])


CONJ = Op(
    "conj", Kind.ELEMENTWISE, elementwise_spec("conj", joint), _conj_vjp, _conj_jvp, Keep.SHAPES
)


def conj(x: Any, /) -> Any:
    """Return the complex conjugate, element by element; x itself where it is real."""
    return apply(CONJ, x)


def _real_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (xp.astype(real_cotangent(xp, g), dtype=xs[0].dtype),)


def _real_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.real(tangents[0])


REAL = Op(
    "real",
    Kind.ELEMENTWISE,
    elementwise_spec("real", real_part),
    _real_vjp,
    _real_jvp,
    Keep.SPECS,
)


def real(x: Any, /) -> Any:
    """Return the real part, element by element."""
    return apply(REAL, x)


def _imag_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    if xs[0].dtype not in xp.complex_dtypes:
        return (xp.zeros_like(g),)
    return (1j * xp.astype(real_cotangent(xp, g), dtype=xs[0].dtype),)


def _imag_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.imag(tangents[0])


IMAG = Op(
    "imag",
    Kind.ELEMENTWISE,
    elementwise_spec("imag", real_part),
    _imag_vjp,
    _imag_jvp,
    Keep.SPECS,
)


def imag(x: Any, /) -> Any:
    """Return the imaginary part, element by element."""
    return apply(IMAG, x)


OPS = (CONJ, REAL, IMAG)
