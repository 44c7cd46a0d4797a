"""The error function and its complement, element by element."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Namespace
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, float32, float64
from distgrad.ops.rules.families import quotient, unary

# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969),
# in the coefficients of his routine CALERF: relative accuracy 1e-16 in float64. Ascending.
_NEAR = (
    (
        *(3.20937758913846947e03, 3.77485237685302021e02, 1.13864154151050156e02),
        *(3.16112374387056560e00, 1.85777706184603153e-1),
    ),
    (
        *(2.84423683343917062e03, 1.28261652607737228e03, 2.44024637934444173e02),
        *(2.36012909523441209e01, 1.0),
    ),
)  # erf(x) / x in x^2, for |x| up to 0.46875
_MIDDLE = (
    (
        *(1.23033935479799725e03, 2.05107837782607147e03, 1.71204761263407058e03),
        *(8.81952221241769090e02, 2.98635138197400131e02, 6.61191906371416295e01),
        *(8.88314979438837594e00, 5.64188496988670089e-1, 2.15311535474403846e-8),
    ),
    (
        *(1.23033935480374942e03, 3.43936767414372164e03, 4.36261909014324716e03),
        *(3.29079923573345963e03, 1.62138957456669019e03, 5.37181101862009858e02),
        *(1.17693950891312499e02, 1.57449261107098347e01, 1.0),
    ),
)  # erfc(x) exp(x^2) in x, up to 4
_FAR = (
    (
        *(6.58749161529837803e-4, 1.60837851487422766e-2, 1.25781726111229246e-1),
        *(3.60344899949804439e-1, 3.05326634961232344e-1, 1.63153871373020978e-2),
    ),
    (
        *(2.33520497626869185e-3, 6.05183413124413191e-2, 5.27905102951428412e-1),
        *(1.87295284992346725e00, 2.56852019228982242e00, 1.0),
    ),
)  # (1 / sqrt(pi) - x erfc(x) exp(x^2)) x^2 in 1 / x^2, beyond
NARROW = (
    (1.12837915, 0.190779987, 0.0527897896, 0.00377944958, 0.000284805848, 2.04200955e-06),
    (1.0, 0.502407082, 0.114255945, 0.0149971146, 0.00116517573, 3.8004337e-05),
)  # erf(x) / x in x^2, for |x| up to 3.93: a minimax fit, relative error 2e-8

_NEAR_END, _MIDDLE_END = 0.46875, 4.0
NARROW_END = 4.0  # where the fit has just passed 1, to which erf rounds in float32 from 3.93 on


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    numerator, denominator = (_polynomial(x, each) for each in coefficients)
    return numerator / denominator


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total


def _erf_compose(xp: Namespace, x: Array) -> Array:
    kind = as_dtype(x.dtype)
    if kind.kind in "biu":
        x = xp.astype(x, dtype=float64)
    elif kind.itemsize <= 4:
        wide = x if kind == float32 else xp.astype(x, dtype=float32)
        near = xp.minimum(xp.maximum(wide, -NARROW_END), NARROW_END)
        y = xp.minimum(xp.maximum(near * _ratio(near * near, NARROW), -1.0), 1.0)
        return y if kind == float32 else xp.astype(y, dtype=kind)
    size = xp.abs(x)
    near = xp.minimum(size, _NEAR_END)
    rest = 1 - _complement(xp, xp.minimum(size, 6.0))  # from 5.9 on it is 1
    y = xp.where(size <= _NEAR_END, near * _ratio(near * near, _NEAR), rest)
    return xp.copysign(y, x)


def _erfc_compose(xp: Namespace, x: Array) -> Array:
    given = as_dtype(x.dtype)
    x = x if given == float64 else xp.astype(x, dtype=float64)
    size = xp.abs(x)
    near = xp.minimum(size, _NEAR_END)
    far = _complement(xp, xp.minimum(size, 30.0))
    near = near * _ratio(near * near, _NEAR)
    small = size <= _NEAR_END
    y = xp.where(x < 0, xp.where(small, 1 + near, 2 - far), xp.where(small, 1 - near, far))
    return y if given.kind in "biu" or given == float64 else xp.astype(y, dtype=given)


def _complement(xp: Namespace, x: Array) -> Array:
    """Return erfc of numbers from `_NEAR_END` up to 30."""
    # exp(-x^2) in two factors, the first of a square without rounding, as Cody computes it.
    coarse = xp.floor(x * 16) * 0.0625
    decay = xp.exp(-coarse * coarse) * xp.exp(-(x - coarse) * (x + coarse))
    middle = xp.maximum(xp.minimum(x, _MIDDLE_END), _NEAR_END)
    far = xp.maximum(x, _MIDDLE_END)
    inverse = 1 / (far * far)
    beyond = (1 / math.sqrt(math.pi) - inverse * _ratio(inverse, _FAR)) / far
    return decay * xp.where(x <= _MIDDLE_END, _ratio(middle, _MIDDLE), beyond)


def _erf_slope(xp: Namespace, y: Array, x: Array) -> Array:
    return 2 / math.sqrt(math.pi) * xp.exp(-x * x)


ERF = unary("erf", _erf_slope, dtype=quotient, compose=_erf_compose)
ERFC = unary("erfc", lambda xp, y, x: -_erf_slope(xp, y, x), dtype=quotient, compose=_erfc_compose)


def erf(x: Any, /) -> Any:
    """Return the error function, element by element.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real; integers are computed with in float64.

    Notes
    -----
    2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. Off by less than 4e-16 in float64 and
    4e-7 in float32.
    """
    return apply(ERF, x)


def erfc(x: Any, /) -> Any:
    """Return 1 - erf(x), precise where that is small, element by element; parameters as for `erf`.

    The relative error is below 2e-15 in float64, and 2e-7 in float32.
    """
    return apply(ERFC, x)


OPS = (ERF, ERFC)
