"""GELU and the error function in float32 on numpy.ndarray: polynomials in place.

A third of the time that the compositions take, whose every step makes an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.ops.elementwise.error_function import NARROW, NARROW_END
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]

_DENSITY = 1 / math.sqrt(2 * math.pi)
# A standard normal number is below x with probability (1 + tanh(x p(x^2))) / 2, off by less than
# 3e-8 with this p: a minimax fit on |x| <= 6. Beyond, x p(x^2) stays above 11. Ascending.
_HALF_LOGIT = (
    *(7.97884941e-1, 3.63330846e-2, -3.25949734e-5, -5.53061945e-5),
    *(3.96474462e-6, -1.32263357e-7, 1.75617126e-9),
)


def _polynomial(z: Array, coefficients: tuple[float, ...], out: Array) -> Array:
    np.multiply(z, coefficients[-1], out=out)
    for coefficient in coefficients[-2:0:-1]:
        out += coefficient
        out *= z
    out += coefficients[0]
    return out


def erf(out: Array, x: Array) -> None:
    """Write the error function."""
    z = scratch("square", x.shape, x.dtype)
    part = scratch("polynomial", x.shape, x.dtype)
    np.clip(x, -NARROW_END, NARROW_END, out=out)
    np.multiply(out, out, out=z)
    out *= _polynomial(z, NARROW[0], part)
    out /= _polynomial(z, NARROW[1], part)
    np.clip(out, -1, 1, out=out)


def _doubled_probability(x: Array, square: Array, out: Array) -> None:
    """Write twice the probability that a standard normal number is below x."""
    with np.errstate(over="ignore"):  # to infinity, of which tanh is 1
        _polynomial(square, _HALF_LOGIT, out)
        out *= x
    np.tanh(out, out=out)
    out += 1


def gelu(out: Array, x: Array) -> None:
    """Write x times the probability that a standard normal number is below it."""
    z = np.multiply(x, x, out=scratch("square", x.shape, x.dtype))
    _doubled_probability(x, z, out)
    half = np.multiply(x, 0.5, out=z)
    out *= half


def gelu_vjp(out: Array, g: Array, x: Array) -> None:
    """Write the cotangent of x from that of its GELU."""
    z = np.multiply(x, x, out=scratch("square", x.shape, x.dtype))
    _doubled_probability(x, z, out)
    z *= -0.5
    np.exp(z, out=z)
    z *= x
    z *= 2 * _DENSITY
    out += z
    out *= 0.5
    out *= g


# By the operation whose composition each replaces.
IN_FLOAT32: dict[str, Callable[..., None]] = {"erf": erf, "gelu": gelu, "gelu_vjp": gelu_vjp}
