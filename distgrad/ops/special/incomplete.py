"""Incomplete gamma and beta integrals, their inverses, and how they move with the gamma's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.core.seam import apply
from distgrad.ops.rules.families import (
    Partial,
    elementwise_spec,
    expand_to,
    fit,
    quotient,
    scaled_keeping_zeros,
    sum_of,
)
from distgrad.ops.special.families import as_floating, special_of_parameters, special_of_two

# --- the gamma distribution -----------------------------------------------------------------------


def _gamma_density(xp: Namespace, a: Array, x: Array) -> Array:
    return xp.exp(xp.xlogy(a - 1, x) - x - xp.gammaln(a))


def _bell(xp: Namespace, order: int, a: Array, x: Array) -> Array:
    """Return the factor B_n of d^n f / da^n = f B_n, for the density f.

    By B_n + (n / a) B_(n-1) of the slopes at a + 1, as 1 / gamma(a) is a / gamma(a + 1): those at a
    have poles at 0 that cancel.
    """
    slopes = [xp.log(x) - xp.digamma(a + 1)]
    for k in range(1, order):
        slopes.append(xp.zeta(k + 1, a + 1) * float((-1) ** k * math.factorial(k)))
    found: list[Any] = [1.0]
    for n in range(order):
        found.append(sum_of([slopes[k] * (math.comb(n, k) * found[n - k]) for k in range(n + 1)]))
    return found[order] + order / a * found[order - 1]


def _ratio_in_a(xp: Namespace, y: Array, a: Array, x: Array, order: int) -> Array:
    return xp.gammainc_ratio(a, x, order=order + 1) - (xp.log(x) - xp.digamma(a)) * y


def _ratio_in_x(xp: Namespace, y: Array, a: Array, x: Array, order: int) -> Array:
    return -_bell(xp, order, a, x) - ((a - 1) / x - 1) * y


def _of_order(
    name: str,
    partials: tuple[Partial, Partial],
    keep: Keep,
    compose: Callable[..., Array] | None = None,
) -> Op:
    """Return an operation on a, x and an order, by its derivatives in both."""

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Sequence[int]
    ) -> Sequence[Array | None]:
        operands = as_floating(xp, *xs)
        return tuple(
            _times(xp, g, slope(xp, y, *operands, **params), x) if need else None
            for slope, x, need in zip(partials, xs, needs, strict=True)
        )

    def jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: Any
    ) -> Array:
        operands = as_floating(xp, *xs)
        terms = [
            tangent * slope(xp, y, *operands, **params)
            for slope, tangent in zip(partials, tangents, strict=True)
            if tangent is not None
        ]
        return expand_to(xp, sum_of(terms), y)

    return Op(name, Kind.ELEMENTWISE, elementwise_spec(name, quotient), vjp, jvp, keep, compose)


def _times(xp: Namespace, g: Array, factor: Array, primal: Any) -> Array:
    term = scaled_keeping_zeros(xp, g, factor) if xp.keeps_zeros else g * factor
    return fit(xp, term, primal)


# -(d^n P / da^n) / f for the gamma distribution's distribution function P and density f. Of order 1
# it is how a quantile moves with a, and with it a sample. Closed under differentiation.
GAMMAINC_RATIO = _of_order("gammainc_ratio", (_ratio_in_a, _ratio_in_x), Keep.BOTH)


def _slope_compose(xp: Namespace, a: Array, x: Array, order: int) -> Array:
    # At x = 0 the density may be infinite, but the function is 0 for every a.
    a, x = as_floating(xp, a, x)
    return -xp.multiply_no_nan(_gamma_density(xp, a, x), xp.gammainc_ratio(a, x, order=order))


def _slope_in_a(xp: Namespace, y: Array, a: Array, x: Array, order: int) -> Array:
    return xp.gammainc_slope(a, x, order=order + 1)


def _slope_in_x(xp: Namespace, y: Array, a: Array, x: Array, order: int) -> Array:
    return _gamma_density(xp, a, x) * _bell(xp, order, a, x)


# d^n P / da^n. As the product of density and ratio it would be differentiated into a difference of
# terms that grow like 1 / a towards a = 0, where it is finite itself.
GAMMAINC_SLOPE = _of_order(
    "gammainc_slope", (_slope_in_a, _slope_in_x), Keep.INPUTS, _slope_compose
)
GAMMAINC = special_of_two(
    "gammainc",
    lambda xp, y, a, x: xp.gammainc_slope(a, x, order=1),
    lambda xp, y, a, x: _gamma_density(xp, a, x),
)
GAMMAINCC = special_of_two(
    "gammaincc",
    lambda xp, y, a, x: -xp.gammainc_slope(a, x, order=1),
    lambda xp, y, a, x: -_gamma_density(xp, a, x),
)
GAMMAINCINV = special_of_two(
    "gammaincinv",
    lambda xp, y, a, p: xp.gammainc_ratio(a, y, order=1),
    lambda xp, y, a, p: 1 / _gamma_density(xp, a, y),
    keep=Keep.BOTH,
)
GAMMAINCCINV = special_of_two(
    "gammainccinv",
    lambda xp, y, a, p: xp.gammainc_ratio(a, y, order=1),
    lambda xp, y, a, p: -1 / _gamma_density(xp, a, y),
    keep=Keep.BOTH,
)


def gammainc(a: Any, x: Any, /) -> Any:
    """Return the lower incomplete gamma function over gamma(a), element by element.

    Parameters
    ----------
    a : Tensor, Variable, array or scalar
        Positive.
    x : Tensor, Variable, array or scalar
        0 or more.

    Notes
    -----
    The distribution function of the gamma distribution of shape a. Its slope in x is the density,
    x^(a-1) exp(-x) / gamma(a); that in a is integrated numerically, to twelve digits [1]_.

    References
    ----------
    .. [1] Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients", NeurIPS 2018,
       arXiv:1805.08498, section 3.
    """
    return apply(GAMMAINC, a, x)


def gammaincc(a: Any, x: Any, /) -> Any:
    """Return 1 - gammainc(a, x), precise where that is small; derivatives as of `gammainc`."""
    return apply(GAMMAINCC, a, x)


def gammaincinv(a: Any, p: Any, /) -> Any:
    """Return x with gammainc(a, x) = p: the quantile of the gamma distribution of shape a."""
    return apply(GAMMAINCINV, a, p)


def gammainccinv(a: Any, p: Any, /) -> Any:
    """Return x with gammaincc(a, x) = p."""
    return apply(GAMMAINCCINV, a, p)


# --- samples that move with the shape -------------------------------------------------------------


def _carried_compose(xp: Namespace, number: Array, before: Array, a: Array) -> Array:
    return xp.gammaincinv(a, xp.gammainc(before, number))


def _carried_slopes(xp: Namespace, y: Array, xs: Any, needs: Sequence[Any]) -> list[Array | None]:
    """Return the partial derivatives that are needed, from equal quantiles P(b, x) = P(a, y)."""
    number, before, a = as_floating(xp, *xs)
    slopes: list[Array | None] = [None, None, None]
    if needs[0] or needs[1]:
        scale = xp.exp(
            xp.xlogy(before - 1, number)
            - number
            - xp.gammaln(before)
            - (xp.xlogy(a - 1, y) - y - xp.gammaln(a))
        )
        slopes[0] = scale
        if needs[1]:
            slopes[1] = -scale * xp.gammainc_ratio(before, number, order=1)
    if needs[2]:
        slopes[2] = xp.gammainc_ratio(a, y, order=1)
    return slopes


def _carried_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Sequence[int]
) -> Sequence[Array | None]:
    slopes = _carried_slopes(xp, y, xs, needs)
    return tuple(
        _times(xp, g, slope, x) if need else None
        for slope, x, need in zip(slopes, xs, needs, strict=True)
    )


def _carried_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: Any
) -> Array:
    slopes = _carried_slopes(xp, y, xs, [tangent is not None for tangent in tangents])
    terms = [t * s for t, s in zip(tangents, slopes, strict=True) if t is not None]
    return expand_to(xp, sum_of(terms), y)


# The number at the same quantile of shape a as x is of shape b. Where a is b that is x, which is
# what kernels look at first: so a sample gets a derivative in its shape without being changed.
GAMMA_CARRIED = Op(
    "gamma_carried",
    Kind.ELEMENTWISE,
    elementwise_spec("gamma_carried", quotient),
    _carried_vjp,
    _carried_jvp,
    Keep.BOTH,
    _carried_compose,
)


# --- the beta distribution ------------------------------------------------------------------------


def _beta_density(xp: Namespace, a: Array, b: Array, x: Array) -> Array:
    return xp.exp(xp.xlogy(a - 1, x) + xp.xlog1py(b - 1, -x) - xp.betaln(a, b))


BETAINC = special_of_parameters(
    "betainc", ("a", "b"), lambda xp, y, a, b, x: _beta_density(xp, a, b, x)
)
BETAINCC = special_of_parameters(
    "betaincc", ("a", "b"), lambda xp, y, a, b, x: -_beta_density(xp, a, b, x)
)
BETAINCINV = special_of_parameters(
    "betaincinv", ("a", "b"), lambda xp, y, a, b, p: 1 / _beta_density(xp, a, b, y), keep=Keep.BOTH
)


def betainc(a: Any, b: Any, x: Any, /) -> Any:
    """Return the incomplete beta function over beta(a, b); differentiable in x.

    Parameters
    ----------
    a, b : Tensor, Variable, array or scalar
        Positive; the derivatives in them are not known.
    x : Tensor, Variable, array or scalar
        From 0 to 1.

    Raises
    ------
    UnsupportedOptionError
        If a gradient is asked for in `a` or `b`.

    Notes
    -----
    The distribution function of the beta distribution; its slope is the density,
    x^(a-1) (1-x)^(b-1) / beta(a, b).
    """
    return apply(BETAINC, a, b, x)


def betaincc(a: Any, b: Any, x: Any, /) -> Any:
    """Return 1 - betainc(a, b, x), precise where that is small; errors as for `betainc`."""
    return apply(BETAINCC, a, b, x)


def betaincinv(a: Any, b: Any, p: Any, /) -> Any:
    """Return x with betainc(a, b, x) = p, differentiable in p; errors as for `betainc`."""
    return apply(BETAINCINV, a, b, p)


OPS = (
    *(GAMMAINC, GAMMAINCC, GAMMAINCINV, GAMMAINCCINV),
    *(GAMMAINC_RATIO, GAMMAINC_SLOPE, GAMMA_CARRIED),
    *(BETAINC, BETAINCC, BETAINCINV),
)
