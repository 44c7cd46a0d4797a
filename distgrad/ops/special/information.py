"""Products with logarithms, by their limits at 0: entropies and divergences, element by element."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Namespace
from distgrad.core.seam import apply
from distgrad.ops.special.families import as_floating, special, special_of_two


def _safe(xp: Namespace, x: Array, y: Array) -> Array:
    """Return y, but 1 where x is 0 and y is a number."""
    return xp.where(xp.equal(x, 0) & xp.equal(y, y), 1, y)


def _both(xp: Namespace, x: Array, y: Array, pole: float) -> Array:
    """Return y, but off the logarithm's pole where x is 0 too."""
    return xp.where(xp.equal(x, 0) & xp.equal(y, pole), pole + 1, y)


XLOGY = special_of_two(
    "xlogy",
    lambda xp, y, a, b: xp.log(_both(xp, a, b, 0)),
    lambda xp, y, a, b: a / _both(xp, a, b, 0),
    compose=lambda xp, a, b: a * xp.log(_safe(xp, a, b)),
)
XLOG1PY = special_of_two(
    "xlog1py",
    lambda xp, y, a, b: xp.log1p(_both(xp, a, b, -1)),
    lambda xp, y, a, b: a / (1 + _both(xp, a, b, -1)),
    compose=lambda xp, a, b: a * xp.log1p(_safe(xp, a, b)),
)


def xlogy(x: Any, y: Any, /) -> Any:
    """Return x log(y), and 0 where x is 0, element by element.

    Notes
    -----
    The slope in x is log(y), also at x = 0, and 0 where y is 0 too; the slope in y is x / y, and 0
    where x is 0. TensorFlow gives 0 for both at x = 0.
    """
    return apply(XLOGY, x, y)


def xlog1py(x: Any, y: Any, /) -> Any:
    """Return x log(1 + y), and 0 where x is 0; slopes by the conventions of `xlogy`."""
    return apply(XLOG1PY, x, y)


def _entr_compose(xp: Namespace, x: Array) -> Array:
    (x,) = as_floating(xp, x)
    inside = x > 0
    # 0 and NaN are what they are.
    outside = xp.where(x < 0, -math.inf, x)
    return xp.where(inside, -x * xp.log(xp.where(inside, x, 1)), outside)


def _entr_slope(xp: Namespace, y: Array, x: Array) -> Array:
    inside = x > 0
    outside = xp.where(xp.equal(x, 0), math.inf, 0.0 * x)
    return xp.where(inside, -xp.log(xp.where(inside, x, 1)) - 1, outside)


ENTR = special("entr", _entr_slope, compose=_entr_compose)


def entr(x: Any, /) -> Any:
    """Return -x log(x), 0 at 0 and -inf below; the slope at 0 is inf, and 0 below."""
    return apply(ENTR, x)


def _log_ratio(xp: Namespace, x: Array, y: Array) -> Array:
    """Return log(x / y) of positive numbers, precise where they are close."""
    excess = (x - y) / y
    close = xp.abs(excess) < 0.5
    return xp.where(close, xp.log1p(xp.where(close, excess, 0)), xp.log(x) - xp.log(y))


def _ones_outside(xp: Namespace, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Return whether both numbers are positive, and both, as 1 where not."""
    inside = (x > 0) & (y > 0)
    return inside, xp.where(inside, x, 1), xp.where(inside, y, 1)


def _outside(xp: Namespace, x: Array, y: Array, at_zero: Any) -> Array:
    """Return what is given where x is 0 and y is not negative, inf elsewhere, NaN of NaN."""
    known = xp.equal(x, 0) & (y >= 0)
    return xp.where(known, at_zero, xp.where(xp.isnan(x + y), x + y, math.inf))


def _rel_entr_compose(xp: Namespace, x: Array, y: Array) -> Array:
    inside, a, b = _ones_outside(xp, x, y)
    return xp.where(inside, a * _log_ratio(xp, a, b), _outside(xp, x, y, 0.0))


def _kl_div_compose(xp: Namespace, x: Array, y: Array) -> Array:
    inside, a, b = _ones_outside(xp, x, y)
    return xp.where(inside, a * _log_ratio(xp, a, b) - a + b, _outside(xp, x, y, y))


def _ratio_slope(xp: Namespace, x: Array, y: Array, plus: float) -> Array:
    inside, a, b = _ones_outside(xp, x, y)
    return xp.where(inside, _log_ratio(xp, a, b) + plus, 0)


def _ratio(xp: Namespace, x: Array, y: Array) -> Array:
    inside, a, b = _ones_outside(xp, x, y)
    return xp.where(inside, a / b, 0)


REL_ENTR = special_of_two(
    "rel_entr",
    lambda xp, y, a, b: _ratio_slope(xp, a, b, 1.0),
    lambda xp, y, a, b: -_ratio(xp, a, b),
    compose=_rel_entr_compose,
)
KL_DIV = special_of_two(
    "kl_div",
    lambda xp, y, a, b: _ratio_slope(xp, a, b, 0.0),
    lambda xp, y, a, b: 1 - _ratio(xp, a, b),
    compose=_kl_div_compose,
)


def rel_entr(x: Any, y: Any, /) -> Any:
    """Return x log(x / y), 0 where x is 0 and y is not negative, inf elsewhere.

    Notes
    -----
    The slope in x is taken as 0 where x is 0, where its limit is -inf: probabilities that are 0
    stay there under a gradient step. Both are 0 where the value is inf.
    """
    return apply(REL_ENTR, x, y)


def kl_div(x: Any, y: Any, /) -> Any:
    """Return x log(x / y) - x + y, which is convex; y where x is 0; slopes as for `rel_entr`."""
    return apply(KL_DIV, x, y)


OPS = (XLOGY, XLOG1PY, ENTR, REL_ENTR, KL_DIV)
