"""Logarithmic slopes of Kummer's functions at large arguments, by continued fractions.

The error function, Dawson's integral and the modified Bessel functions are Kummer's functions M or
U times a power and an exponential. Where the exponential is scaled away, what the textbook's slope
subtracts are numbers of almost the same size. The fractions here give that small difference itself,
and as formulas of the vocabulary they are differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.core.op import Array, Namespace


def beyond(
    xp: Namespace,
    is_far: Array,
    x: Array,
    bound: Any,
    far: Callable[[Array], Array],
    near: Callable[[Array], Array],
) -> Array:
    """Return one formula of x where it is far, and another elsewhere, both finite everywhere.

    Parameters
    ----------
    xp : Namespace
        In which to compute.
    is_far : array of bool
        Where the first formula serves.
    x : array
        The argument.
    bound : array or float
        Between both regions: each formula is computed here where the other one serves.
    far, near : callable
        The formulas.
    """
    return xp.where(is_far, far(xp.where(is_far, x, bound)), near(xp.where(is_far, bound, x)))


def decaying(xp: Namespace, a: Any, b: Any, inverse: Array, *, terms: int = 24) -> Array:
    """Return z U'(a, b, z) / U(a, b, z) of positive z, by 1 / z; it tends to -a.

    Notes
    -----
    -a + a (1 + a - b) / (z + 2a - b + 2 - (1 + a) (2 + a - b) / (z + 2a - b + 4 - ...)) [1]_. By
    24 terms it is exact in float64 from z = 6 on; of a Bessel function, where z is also above twice
    the order.

    References
    ----------
    .. [1] Temme, "On the numerical evaluation of the modified Bessel function of the third kind",
       J. Comput. Phys. 19 (1975), and https://dlmf.nist.gov/13.3.E7, divided by z.
    """
    tail: Any = 1.0
    for n in range(terms, 0, -1):
        numerator = (n + a) * (n + 1 + a - b) * (inverse * inverse)
        tail = 1 + (2 * a - b + 2 * n) * inverse - numerator / tail
    return a * (1 + a - b) * (inverse / tail) - a


def growing(xp: Namespace, a: Any, b: Any, inverse: Array, *, terms: int = 24) -> Array:
    """Return -z M'(a, b, -z) / M(a, b, -z) of positive z, by 1 / z; it tends to -a.

    Notes
    -----
    M's derivatives follow z M'' = (b + z) M' - a M at -z, so neighbouring ones have the quotients
    r_n = (a + n) / (b + n + z - z r_(n+1)): Perron's fraction [1]_. By 24 terms it is exact in
    float64 from z = 40 on; the smaller z, the more it takes.

    References
    ----------
    .. [1] Gautschi and Slavik, "On the computation of modified Bessel function ratios", Math. Comp.
       32 (1978).
    """
    # Each denominator is z (1 + rest). Where n is far above z, r_n is about 1; far below, z r_n is
    # about a + n.
    rest = xp.maximum((b + terms) * inverse - 1, (b - a - 1) * inverse)
    for n in range(terms, 0, -1):
        rest = (b + (n - 1) - (a + n) / (1 + rest)) * inverse
    return -a / (1 + rest)
