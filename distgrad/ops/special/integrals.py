"""Exponential, Fresnel and elliptic integrals, the dilogarithm, and the omega function."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply
from distgrad.ops.special.confluent import beyond
from distgrad.ops.special.families import by_series_near, special, special_of_parameters

# --- exponential integrals ------------------------------------------------------------------------

EXP1 = special("exp1", lambda xp, y, x: -xp.exp(-x) / x)
EXPI = special("expi", lambda xp, y, x: xp.exp(x) / x)


def _expn_slope(xp: Namespace, y: Array, n: Array, x: Array) -> Array:
    # The function of order 0 is exp(-x) / x, and there is none below.
    lower = xp.expn(xp.maximum(n - 1, 0), x)
    return -xp.where(n > 0, lower, xp.exp(-x) * (1 / x + 1 / (x * x)))


EXPN = special_of_parameters("expn", ("n",), _expn_slope)


def exp1(x: Any, /) -> Any:
    """Return the integral of exp(-t) / t from positive x to infinity."""
    return apply(EXP1, x)


def expi(x: Any, /) -> Any:
    """Return the principal value of the integral of exp(t) / t from -infinity to x."""
    return apply(EXPI, x)


def expn(n: Any, x: Any, /) -> Any:
    """Return the integral of exp(-x t) / t^n from 1 to infinity; differentiable in x.

    Parameters
    ----------
    n : array or scalar
        The order, a whole number of 0 or more; there is no derivative in it.
    x : Tensor, Variable, array or scalar
        Positive.

    Raises
    ------
    UnsupportedOptionError
        If a gradient is asked for in `n`.
    """
    return apply(EXPN, n, x)


# --- Fresnel's integrals --------------------------------------------------------------------------

FRESNEL_SIN = special("fresnel_sin", lambda xp, y, x: xp.sin(math.pi / 2 * (x * x)))
FRESNEL_COS = special("fresnel_cos", lambda xp, y, x: xp.cos(math.pi / 2 * (x * x)))


def fresnel(x: Any, /) -> tuple[Any, Any]:
    """Return the integrals of sin(pi t^2 / 2) and of cos(pi t^2 / 2) from 0 to x."""
    return fresnel_sin(x), fresnel_cos(x)


def fresnel_sin(x: Any, /) -> Any:
    """Return the integral of sin(pi t^2 / 2) from 0 to x, element by element."""
    return apply(FRESNEL_SIN, x)


def fresnel_cos(x: Any, /) -> Any:
    """Return the integral of cos(pi t^2 / 2) from 0 to x, element by element."""
    return apply(FRESNEL_COS, x)


# --- the dilogarithm ------------------------------------------------------------------------------

# log(x) / (1 - x) in powers of x - 1; within 0.1 of 1 the next term is below 1e-20.
_LOG_SERIES = tuple((-1.0) ** (k + 1) / (k + 1) for k in range(19))


def _spence_slope(xp: Namespace, y: Array, x: Array) -> Array:
    return by_series_near(xp, x, 1.0, 0.1, _LOG_SERIES, lambda far: xp.log(far) / (1 - far))


SPENCE = special("spence", _spence_slope)


def spence(x: Any, /) -> Any:
    """Return the integral of log(t) / (1 - t) from 1 to x; its slope at 1 is -1."""
    return apply(SPENCE, x)


# --- complete elliptic integrals ------------------------------------------------------------------

# Their power series at 0, DLMF https://dlmf.nist.gov/19.5.E1 and E2, differentiated; within 0.15 of
# 0 the next term is below 1e-20.
_TERMS = 24
_SQUARES = [(math.comb(2 * n, n) / 4.0**n) ** 2 for n in range(_TERMS + 1)]
_K_SERIES = tuple(math.pi / 2 * (n + 1) * _SQUARES[n + 1] for n in range(_TERMS))
_E_SERIES = tuple(-each / (2 * n + 1) for n, each in enumerate(_K_SERIES))


def _ellipk_slope(xp: Namespace, y: Array, m: Array) -> Array:
    def away(m: Array) -> Array:
        return (xp.ellipe(m) / (1 - m) - xp.ellipk(m)) / (2 * m)

    return by_series_near(xp, m, 0.0, 0.15, _K_SERIES, away)


def _ellipe_slope(xp: Namespace, y: Array, m: Array) -> Array:
    def away(m: Array) -> Array:
        return (xp.ellipe(m) - xp.ellipk(m)) / (2 * m)

    return by_series_near(xp, m, 0.0, 0.15, _E_SERIES, away)


ELLIPK = special("ellipk", _ellipk_slope)
ELLIPE = special("ellipe", _ellipe_slope)


def ellipk(m: Any, /) -> Any:
    """Return the complete elliptic integral of the first kind, of m = k^2 below 1."""
    return apply(ELLIPK, m)


def ellipe(m: Any, /) -> Any:
    """Return the complete elliptic integral of the second kind, of m = k^2 up to 1.

    Its slope at 1 is -inf.
    """
    return apply(ELLIPE, m)


# --- omega ----------------------------------------------------------------------------------------


def _wrightomega_slope(xp: Namespace, y: Array, x: Array) -> Array:
    # y / (1 + y); above 1 the quotient's own slope is a difference, of 1 / y its is none.
    return beyond(xp, y > 1, y, 1.0, lambda y: 1 / (1 + 1 / y), lambda y: y / (1 + y))


WRIGHTOMEGA = special("wrightomega", _wrightomega_slope, keep=Keep.OUTPUT)


def wrightomega(x: Any, /) -> Any:
    """Return y with y + log(y) = x, of real x: Lambert's W function of exp(x)."""
    return apply(WRIGHTOMEGA, x)


OPS = (*(EXP1, EXPI, EXPN, FRESNEL_SIN, FRESNEL_COS, SPENCE, ELLIPK, ELLIPE, WRIGHTOMEGA),)
