"""Error functions, the normal distribution, and the logistic one."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply
from distgrad.ops.special.confluent import beyond, decaying, growing
from distgrad.ops.special.families import as_floating, special

_ROOT_PI = math.sqrt(math.pi)
_ROOT_HALF = math.sqrt(0.5)

# --- error functions ------------------------------------------------------------------------------


def _erfcx_slope(xp: Namespace, y: Array, x: Array) -> Array:
    # y is U(1/2, 1/2, x^2) / sqrt(pi); far out 2 x y and 2 / sqrt(pi) are almost the same.
    def far(x: Array) -> Array:
        return 2 * y * decaying(xp, 0.5, 0.5, (1 / x) * (1 / x)) / x

    return beyond(xp, x > 2.5, x, 2.5, far, lambda x: 2 * x * y - 2 / _ROOT_PI)


def _dawsn_slope(xp: Namespace, y: Array, x: Array) -> Array:
    # y is x M(1, 3/2, -x^2); far out 2 x y is almost 1.
    def far(x: Array) -> Array:
        return y * (1 + 2 * growing(xp, 1.0, 1.5, (1 / x) * (1 / x), terms=56)) / x

    return beyond(xp, xp.abs(x) > 4.0, x, 4.0, far, lambda x: 1 - 2 * x * y)


ERFCX = special("erfcx", _erfcx_slope, keep=Keep.BOTH)
ERFI = special("erfi", lambda xp, y, x: 2 / _ROOT_PI * xp.exp(x * x))
ERFINV = special("erfinv", lambda xp, y, x: _ROOT_PI / 2 * xp.exp(y * y), keep=Keep.OUTPUT)
ERFCINV = special("erfcinv", lambda xp, y, x: -_ROOT_PI / 2 * xp.exp(y * y), keep=Keep.OUTPUT)
DAWSN = special("dawsn", _dawsn_slope, keep=Keep.BOTH)


def erfcx(x: Any, /) -> Any:
    """Return exp(x^2) erfc(x), which does not underflow, element by element."""
    return apply(ERFCX, x)


def erfi(x: Any, /) -> Any:
    """Return the imaginary error function, 2 / sqrt(pi) times the integral of exp(t^2) up to x."""
    return apply(ERFI, x)


def erfinv(x: Any, /) -> Any:
    """Return the inverse of `erf`, element by element; infinite at -1 and 1, and so its slope."""
    return apply(ERFINV, x)


def erfcinv(x: Any, /) -> Any:
    """Return the inverse of `erfc`, element by element; infinite at 0 and 2, and so its slope."""
    return apply(ERFCINV, x)


def dawsn(x: Any, /) -> Any:
    """Return Dawson's integral, exp(-x^2) times the integral of exp(t^2) from 0 to x."""
    return apply(DAWSN, x)


# --- the normal distribution ----------------------------------------------------------------------


def _density(xp: Namespace, x: Array) -> Array:
    return 1 / math.sqrt(2 * math.pi) * xp.exp(-0.5 * x * x)


def _log_ndtr_slope(xp: Namespace, y: Array, x: Array) -> Array:
    # The density over the distribution function. Below 0 both underflow, but erfcx does not; above
    # 0 erfcx overflows, which its reciprocal survives, but not the slope of that.
    below = x < 0
    tail = xp.erfcx(xp.where(below, -x, 0) * _ROOT_HALF)
    above = xp.where(below, 0, x)
    exponent = -0.5 * above * above - xp.where(below, 0, y + math.log(2))
    return math.sqrt(2 / math.pi) * xp.exp(exponent) / tail


NDTR = special("ndtr", lambda xp, y, x: _density(xp, x))
LOG_NDTR = special("log_ndtr", _log_ndtr_slope, keep=Keep.BOTH)
NDTRI = special("ndtri", lambda xp, y, p: 1 / _density(xp, y), keep=Keep.OUTPUT)
NDTRI_EXP = special(
    "ndtri_exp",
    lambda xp, y, p: math.sqrt(math.pi / 2) * xp.erfcx(-y * _ROOT_HALF),
    keep=Keep.OUTPUT,
)


def ndtr(x: Any, /) -> Any:
    """Return the probability that a standard normal number is below x, element by element."""
    return apply(NDTR, x)


def log_ndtr(x: Any, /) -> Any:
    """Return log(ndtr(x)), precise where ndtr underflows; so is its slope, to any order."""
    return apply(LOG_NDTR, x)


def ndtri(p: Any, /) -> Any:
    """Return x with ndtr(x) = p, element by element; infinite at 0 and 1, and so its slope."""
    return apply(NDTRI, p)


def ndtri_exp(p: Any, /) -> Any:
    """Return x with log_ndtr(x) = p, element by element."""
    return apply(NDTRI_EXP, p)


# --- the logistic distribution --------------------------------------------------------------------


def _logit_compose(xp: Namespace, x: Array) -> Array:
    (x,) = as_floating(xp, x)
    # Around 1/2, where the result is small, by the distance from there, which is exact.
    near = xp.abs(x - 0.5) < 0.2
    twice = xp.where(near, 2 * (x - 0.5), 0)
    away = xp.where(near, 0.5, x)
    return xp.where(near, xp.log1p(twice) - xp.log1p(-twice), xp.log(away) - xp.log1p(-away))


LOGIT = special("logit", lambda xp, y, x: 1 / (x * (1 - x)), compose=_logit_compose)


def logit(x: Any, /) -> Any:
    """Return log(x / (1 - x)), the inverse of the sigmoid; at 0 and 1 infinite, as its slope is."""
    return apply(LOGIT, x)


OPS = (ERFCX, ERFI, ERFINV, ERFCINV, DAWSN, NDTR, LOG_NDTR, NDTRI, NDTRI_EXP, LOGIT)
