"""Derivatives of the gamma distribution's integral in its shape parameter, on the host.

With P(a, x) the distribution function and f(a, x) the density, numbers here are

    R_n(a, x) = -(d^n P / da^n) / f

R_1 is by how much a quantile moves with `a`, which is what a sample's gradient is made of. All are
integrals of the density times a polynomial of log t - digamma(a),

    d^n f / da^n = f B_n(log t - digamma(a), -polygamma(1, a), -polygamma(2, a), ...)

with the complete Bell polynomials B_n. From the end that is nearer: below x with t = x exp(-s),
above it with t = x exp(s), where the integrands fall off from s = 0 on, so that Gauss's rule on the
part that counts gives nearly all digits, whatever the parameter.

References
----------
Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients", NeurIPS 2018, section 3.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

Host = np.ndarray[Any, Any]

_NODES = 48
_DROP = 40.0  # what is left out is exp(-40) of the integrand: below the last digit
_PIECE = 1 << 9  # numbers integrated at a time: so many times 48 stay in the cache
_FAR = 16.0  # from here on the polygamma functions' asymptotic series serve

# B_2k / (2k)!, of Bernoulli's numbers: Abramowitz and Stegun, "Handbook", table 23.2.
_BERNOULLI = tuple(
    b / math.factorial(2 * k + 2)
    for k, b in enumerate((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6))
)


def ratio(order: int, a: Host, x: Host) -> Host:
    """Return R_n(a, x) for float64 arrays of one shape.

    Parameters
    ----------
    order : int
        n, 1 or more.
    a : float64
        Shape parameter, above 0 (NaN elsewhere).
    x : float64
        0 or more (NaN elsewhere).
    """
    out = np.empty(a.size)
    flat_a, flat_x = a.ravel(), x.ravel()
    for start in range(0, a.size, _PIECE):
        part = slice(start, start + _PIECE)
        out[part] = _piece(order, flat_a[part], flat_x[part])
    return out.reshape(a.shape)


def _piece(order: int, a: Host, x: Host) -> Host:
    usual = (a > 0) & (x > 0) & np.isfinite(a) & np.isfinite(x)
    safe_a, safe_x = np.where(usual, a, 1.0), np.where(usual, x, 1.0)
    above = safe_x > safe_a
    # Below 1 the lower integrand falls off slowly: P(a) = P(a + 1) + x^a exp(-x) / gamma(a + 1).
    raised = ~above & (safe_a < 1)
    shape = safe_a + raised
    values = _integral(order, shape, safe_x, above)
    if raised.any():
        step = bell(order, np.log(safe_x), shape)
        values = np.where(raised, (values - step) * (safe_x / safe_a), values)
    return np.where(usual, values, np.where((a > 0) & (x == 0), 0.0, np.nan))


def _integral(order: int, a: Host, x: Host, above: Host) -> Host:
    """Return R_n by Gauss's rule, from x upwards where `above`, else downwards."""
    points, weights = _gauss()
    # Each side is asked about its own numbers; the other's are replaced by harmless ones.
    length = np.where(above, _reach_above(a, np.maximum(x, a)), _reach_below(np.maximum(a, x), x))
    s = length[:, None] * points
    signed = np.where(above[:, None], s, -s)
    # The exponent a s - x (exp(s) - 1) in two parts that have one sign.
    exponent = (a - x)[:, None] * signed - x[:, None] * (np.expm1(signed) - signed)
    polynomial = bell(order, np.log(x)[:, None] + signed, a[:, None])
    total = (np.exp(exponent) * polynomial) @ weights
    return np.where(above, 1.0, -1.0) * x * length * total


@cache
def _gauss() -> tuple[Host, Host]:
    """Return points and weights of the rule of Gauss and Legendre on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return (points + 1) / 2, weights / 2


def _reach_below(a: Host, x: Host) -> Host:
    """Return s at which a s - x (1 - exp(-s)), convex, has grown to `_DROP` or little more."""
    with np.errstate(divide="ignore"):
        bounds = (_DROP + x) / a, _DROP / np.maximum(a - x, 0)
    curved = (_DROP + np.sqrt(_DROP * _DROP + 8 * _DROP * x)) / (2 * x)
    s = np.minimum(np.minimum(*bounds), curved)
    for _ in range(4):  # Newton's steps come from the right, and stay there
        fallen = (a - x) * s + x * (np.expm1(-s) + s)
        s = s - (fallen - _DROP) / (a - x - x * np.expm1(-s))
    return s


def _reach_above(a: Host, x: Host) -> Host:
    """Return s at which x (exp(s) - 1) - a s, convex, has grown to `_DROP` or little more."""
    wide = np.log1p(_DROP / x)
    with np.errstate(divide="ignore"):
        straight = _DROP / np.maximum(x - a, 0)
    s = np.minimum(np.minimum(straight, np.sqrt(2 * _DROP / x)), 2 + wide + np.log1p(wide))
    for _ in range(4):
        fallen = (x - a) * s + x * (np.expm1(s) - s)
        s = s - (fallen - _DROP) / (x - a + x * np.expm1(s))
    return s


def bell(order: int, logarithm: Host, a: Host) -> Host:
    """Return B_n(log t - digamma(a), -polygamma(1, a), ...), the factor of the density.

    Notes
    -----
    Towards a = 0 the arguments' poles cancel. As 1 / gamma(a) is a / gamma(a + 1), the factor is
    B_n + (n / a) B_(n-1) of the arguments at a + 1, which have none.
    """
    up = a + 1
    slopes = [logarithm - polygamma(0, up), *(-polygamma(k, up) for k in range(1, order))]
    found: list[Any] = [1.0]
    for n in range(order):
        found.append(sum(math.comb(n, k) * found[n - k] * slopes[k] for k in range(n + 1)))
    return np.asarray(found[order] + order / a * found[order - 1])


def polygamma(order: int, a: Host) -> Host:
    """Return the derivative of an order of the digamma function at positive numbers.

    Notes
    -----
    By the recurrence up to 16, from where on Abramowitz and Stegun's series 6.3.18 and 6.4.11 give
    all digits.
    """
    sign = (-1.0) ** (order + 1)
    total = np.zeros_like(a)
    far = np.array(a)
    for _ in range(int(_FAR)):
        near = far < _FAR
        if not near.any():
            break
        total += np.where(near, far ** -(order + 1.0), 0.0)
        far = far + near
    total *= sign * math.factorial(order)
    if order == 0:
        series = np.log(far) - 0.5 / far
    else:
        series = sign * (
            math.factorial(order - 1) * far ** -float(order)
            + math.factorial(order) / 2 * far ** -(order + 1.0)
        )
    for k, bernoulli in enumerate(_BERNOULLI, start=1):
        factor = bernoulli * math.factorial(2 * k + order - 1)
        series = series + sign * factor * far ** -(2.0 * k + order)
    return np.asarray(total + series)
