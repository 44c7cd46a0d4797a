"""The gamma function and its kin: logarithm, derivatives, quotients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply, operands
from distgrad.ops.elementwise.arithmetic import add, multiply
from distgrad.ops.elementwise.comparison import equal, less
from distgrad.ops.elementwise.selection import where
from distgrad.ops.rules.families import sum_of
from distgrad.ops.shaping.structure import reshape
from distgrad.ops.special.families import special, special_of_parameters, special_of_two
from distgrad.shapes import shape_given

# --- the gamma function ---------------------------------------------------------------------------

GAMMA = special("gamma", lambda xp, y, x: y * xp.digamma(x), keep=Keep.BOTH)
GAMMALN = special("gammaln", lambda xp, y, x: xp.digamma(x))
DIGAMMA = special("digamma", lambda xp, y, x: xp.zeta(2, x))


def gamma(x: Any, /) -> Any:
    """Return the gamma function of real x, element by element; its slope is gamma times digamma."""
    return apply(GAMMA, x)


def gammaln(x: Any, /) -> Any:
    """Return the logarithm of the gamma function's absolute value; its slope is digamma."""
    return apply(GAMMALN, x)


def loggamma(x: Any, /) -> Any:
    """Return the logarithm of the gamma function, NaN at negative x, where it is not real.

    `gammaln` is that of the absolute value, and real everywhere.
    """
    return where(less(x, 0), math.nan, gammaln(x))


def digamma(x: Any, /) -> Any:
    """Return the derivative of `gammaln`, element by element; its slope is ``polygamma(1, x)``."""
    return apply(DIGAMMA, x)


psi = digamma


def polygamma(n: Any, x: Any, /) -> Any:
    """Return the derivative of order n of `digamma`, element by element.

    Parameters
    ----------
    n : int or array of int
        The order, 0 or more: plain numbers, which have no derivative.
    x : Tensor, Variable or array
        Real; positive where n is even and above 0 (SciPy's values at negative x too).

    Raises
    ------
    ValueError
        If an order is negative or no integer.

    Notes
    -----
    (-1)^(n+1) n! zeta(n + 1, x), with Hurwitz' zeta function.
    """
    is_host = isinstance(n, (int, float, list, tuple, np.ndarray, np.generic))
    orders = np.asarray(n) if is_host else reshape(n, shape_given(n)).numpy()
    if not (np.all(orders >= 0) and np.all(orders == np.floor(orders))):
        raise ValueError(f"polygamma: n is {n}; expected integers of 0 or more")
    if not orders.ndim:
        order = int(orders)
        return digamma(x) if not order else multiply(_factor(order), zeta(order + 1, x))
    exponents = (np.maximum(orders, 1) + 1.0).tolist()
    x, which, exponents = operands(x, orders.tolist(), exponents, joint=False)
    series = zeta(exponents, x)
    result = where(equal(which, 0), digamma(x), series)
    for order in np.unique(orders[orders > 0]).tolist():
        result = where(equal(which, order), multiply(_factor(int(order)), series), result)
    return result


def _factor(order: int) -> float:
    return float((-1) ** (order + 1) * math.factorial(order))


def multigammaln(a: Any, d: int, /) -> Any:
    """Return the logarithm of the multivariate gamma function of dimension d.

    Parameters
    ----------
    a : Tensor, Variable or array
        Real, above (d - 1) / 2.
    d : int
        The dimension, 1 or more.

    Raises
    ------
    ValueError
        If `d` is no positive integer.

    Notes
    -----
    d (d - 1) / 4 log(pi) + sum of gammaln(a - j / 2) over j from 0 to d - 1.
    """
    if d != int(d) or d < 1:
        raise ValueError(f"multigammaln: d is {d}; expected a positive integer")
    total = add(gammaln(a), d * (d - 1) / 4 * math.log(math.pi))
    for j in range(1, int(d)):
        total = add(total, gammaln(add(a, -j / 2)))
    return total


ZETA = special_of_parameters("zeta", ("s",), lambda xp, y, s, q: -s * xp.zeta(s + 1, q))


def zeta(s: Any, q: Any = None, /) -> Any:
    """Return Hurwitz' zeta function, the sum of (k + q)^-s over k from 0 on; differentiable in q.

    Parameters
    ----------
    s : Tensor, Variable, array or scalar
        The exponent, above 1; the derivative in it is not known.
    q : Tensor, Variable, array or scalar, optional
        1 by default: Riemann's zeta function.

    Raises
    ------
    UnsupportedOptionError
        If a gradient is asked for in `s`.
    """
    if q is None:
        return apply(ZETA, s, 1.0)
    return apply(ZETA, s, q)


# --- quotients of gamma functions -----------------------------------------------------------------


# B_2k / (2k), of Bernoulli's numbers: the coefficients of digamma's series at large x, DLMF
# https://dlmf.nist.gov/5.11.E2. From 8 on the next term is below the last digit.
_DIGAMMA_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_SHIFT = 8


def _digamma_rise(xp: Namespace, x: Array, step: Array) -> Array:
    """Return digamma(x + step) - digamma(x), precise where the step is small beside x."""
    positive = (x > 0) & (x + step > 0)

    def by_terms(x: Array, step: Array) -> Array:
        # Each term of the recurrence and of the series as a multiple of the step.
        near = sum_of([1 / (x + k) / (x + step + k) for k in range(_SHIFT)])
        lower, upper = 1 / (x + _SHIFT), 1 / (x + step + _SHIFT)
        square, power = lower * lower, 1.0
        both: Any = 0.0  # the sum of lower^2i upper^2j over i + j = k
        series: Any = 0.0
        for coefficient in _DIGAMMA_SERIES:
            both = both * square + power
            series = series + coefficient * both
            power = power * (upper * upper)
        far = lower * upper * (0.5 + (lower + upper) * series)
        return step * (near + far) + xp.log1p(step * lower)

    x_there, step_there = xp.where(positive, x, 1), xp.where(positive, step, 0)
    x_else, step_else = xp.where(positive, 1, x), xp.where(positive, 0, step)
    elsewhere = xp.digamma(x_else + step_else) - xp.digamma(x_else)
    return xp.where(positive, by_terms(x_there, step_there), elsewhere)


BETA = special_of_two(
    "beta",
    lambda xp, y, a, b: -y * _digamma_rise(xp, a, b),
    lambda xp, y, a, b: -y * _digamma_rise(xp, b, a),
    keep=Keep.BOTH,
)
BETALN = special_of_two(
    "betaln",
    lambda xp, y, a, b: -_digamma_rise(xp, a, b),
    lambda xp, y, a, b: -_digamma_rise(xp, b, a),
)
BINOM = special_of_two(
    "binom",
    lambda xp, y, n, k: y * _digamma_rise(xp, n - k + 1, k),
    lambda xp, y, n, k: y * _digamma_rise(xp, k + 1, n - 2 * k),
    keep=Keep.BOTH,
)
POCH = special_of_two(
    "poch",
    lambda xp, y, z, m: y * _digamma_rise(xp, z, m),
    lambda xp, y, z, m: y * xp.digamma(z + m),
    keep=Keep.BOTH,
)


def beta(a: Any, b: Any, /) -> Any:
    """Return the beta function, gamma(a) gamma(b) / gamma(a + b), element by element."""
    return apply(BETA, a, b)


def betaln(a: Any, b: Any, /) -> Any:
    """Return the logarithm of the beta function's absolute value, element by element."""
    return apply(BETALN, a, b)


def binom(n: Any, k: Any, /) -> Any:
    """Return the binomial coefficient of real n and k, element by element.

    Where it is 0 because k or n - k is a negative integer, its slope is given as NaN.
    """
    return apply(BINOM, n, k)


def poch(z: Any, m: Any, /) -> Any:
    """Return Pochhammer's symbol, gamma(z + m) / gamma(z), element by element."""
    return apply(POCH, z, m)


OPS = (GAMMA, GAMMALN, DIGAMMA, ZETA, BETA, BETALN, BINOM, POCH)
