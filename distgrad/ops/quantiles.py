"""The normal distribution's quantiles, from which truncated normal numbers are made."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Namespace, Spec
from distgrad.core.seam import apply
from distgrad.ops.rules.families import quotient, undifferentiable

# Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics
# 37 (1988), routine PPND16: relative accuracy 1e-16. Numerators and denominators, ascending.
_CENTRE = (
    (
        *(3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3),
        *(1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4),
        *(3.3430575583588128105e4, 2.5090809287301226727e3),
    ),
    (
        *(1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3),
        *(2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4),
        5.2264952788528545610e3,
    ),
)
_SHOULDER = (
    (
        *(1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0),
        *(3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1),
        *(2.27238449892691845833e-2, 7.74545014278341407640e-4),
    ),
    (
        *(1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1),
        *(1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4),
        1.05075007164441684324e-9,
    ),
)
_TAIL = (
    (
        *(6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0),
        *(2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3),
        *(2.71155556874348757815e-5, 2.01033439929228813265e-7),
    ),
    (
        *(1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2),
        *(7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7),
        2.04426310338993978564e-15,
    ),
)


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    numerator, denominator = (_polynomial(x, each) for each in coefficients)
    return numerator / denominator


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def _quantile_compose(xp: Namespace, u: Array, *, low: float, high: float) -> Array:
    # From the nearer end, so that a small probability is not the difference of two numbers near 1.
    upper = low > 0
    bounds = (-high, -low) if upper else (low, high)
    first, last = (_cumulated(bound) for bound in bounds)
    p = first + (1 - u if upper else u) * (last - first)
    q = p - 0.5
    centre = q * _ratio(0.180625 - xp.minimum(q * q, 0.180625), _CENTRE)
    least = xp.minimum(p, 1 - p)
    r = xp.sqrt(-xp.log(xp.maximum(least, 1e-300)))
    outside = xp.where(
        r <= 5, _ratio(xp.minimum(r, 5) - 1.6, _SHOULDER), _ratio(xp.maximum(r, 5) - 5, _TAIL)
    )
    z = xp.where(xp.abs(q) <= 0.425, centre, xp.sign(q) * outside)
    z = xp.minimum(xp.maximum(z, bounds[0]), bounds[1])
    return -z if upper else z


def _cumulated(z: float) -> float:
    """Return the probability of a standard normal number below z."""
    if math.isinf(z):
        return 1.0 if z > 0 else 0.0
    root = z / math.sqrt(2)
    return 0.5 * math.erfc(-root) if z < 0 else 0.5 * (1 + math.erf(root))


def _quantile_spec(u: Spec, *, low: float, high: float) -> Spec:
    return Spec(tuple(u.shape), quotient(u))


NORMAL_QUANTILE = undifferentiable(
    "normal_quantile",
    _quantile_spec,
    compose=_quantile_compose,
    batch=lambda xp, size, batched, arrays, params: xp.normal_quantile(arrays[0], **params),
)


def normal_quantile(u: Any, /, *, low: float = -math.inf, high: float = math.inf) -> Any:
    """Return the number below which a normal one within bounds lies with probability u.

    Parameters
    ----------
    u : Tensor or array of float64
        From 0 to 1.
    low, high : float
        The bounds, in standard deviations.
    """
    return apply(NORMAL_QUANTILE, u, low=low, high=high)


OPS = (NORMAL_QUANTILE,)
