"""Special functions by TensorFlow's names and signatures; `special` is its module of that name.

The slope of `bessel_i1` at 0 is 1/2, as it is of the function; TensorFlow's is 1 at this one point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import converted, floating, of_kinds, together
from distgrad.compat.tensorflow.values import Tensor, compute


def _of_one(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    def unary(x: Any, name: str | None = None) -> Tensor:
        return compute(function, of_kinds(unary.__name__, "f", converted(x)))

    unary.__name__ = unary.__qualname__ = name
    unary.__doc__ = (function.__doc__ or "").splitlines()[0]
    return unary


def _tensors(name: str, *values: Any) -> list[Any]:
    """Return operands of one floating dtype, all of them tensors."""
    return [floating(name, each) for each in together(name, *values)]


lgamma = _of_one("lgamma", dg.special.gammaln)
digamma = _of_one("digamma", dg.special.digamma)
erfinv = _of_one("erfinv", dg.special.erfinv)
erfcinv = _of_one("erfcinv", dg.special.erfcinv)
ndtri = _of_one("ndtri", dg.special.ndtri)
bessel_i0 = _of_one("bessel_i0", dg.special.i0)
bessel_i0e = _of_one("bessel_i0e", dg.special.i0e)
bessel_i1 = _of_one("bessel_i1", dg.special.i1)
bessel_i1e = _of_one("bessel_i1e", dg.special.i1e)
bessel_j0 = _of_one("bessel_j0", dg.special.j0)
bessel_j1 = _of_one("bessel_j1", dg.special.j1)
bessel_k0 = _of_one("bessel_k0", dg.special.k0)
bessel_k0e = _of_one("bessel_k0e", dg.special.k0e)
bessel_k1 = _of_one("bessel_k1", dg.special.k1)
bessel_k1e = _of_one("bessel_k1e", dg.special.k1e)
bessel_y0 = _of_one("bessel_y0", dg.special.y0)
bessel_y1 = _of_one("bessel_y1", dg.special.y1)
dawsn = _of_one("dawsn", dg.special.dawsn)
expint = _of_one("expint", dg.special.expi)
spence = _of_one("spence", dg.special.spence)


def fresnel_sin(x: Any, name: str | None = None) -> Tensor:
    """Return the integral of sin(pi t^2 / 2) from 0 to x."""
    return compute(lambda a: dg.special.fresnel(a)[0], floating("fresnel_sin", x))


def fresnel_cos(x: Any, name: str | None = None) -> Tensor:
    """Return the integral of cos(pi t^2 / 2) from 0 to x."""
    return compute(lambda a: dg.special.fresnel(a)[1], floating("fresnel_cos", x))


def igamma(a: Any, x: Any, name: str | None = None) -> Tensor:
    """Return the lower incomplete gamma function over gamma(a); gradients flow into both."""
    return compute(dg.special.gammainc, *_tensors("igamma", a, x))


def igammac(a: Any, x: Any, name: str | None = None) -> Tensor:
    """Return the upper incomplete gamma function over gamma(a); gradients flow into both."""
    return compute(dg.special.gammaincc, *_tensors("igammac", a, x))


def betainc(a: Any, b: Any, x: Any, name: str | None = None) -> Tensor:
    """Return the incomplete beta function over beta(a, b); there is a gradient in `x` alone."""

    def of(a: Any, b: Any, x: Any) -> Any:
        return dg.special.betainc(dg.stop_gradient(a), dg.stop_gradient(b), x)

    return compute(of, *_tensors("betainc", a, b, x))


def lbeta(x: Any, name: str | None = None) -> Tensor:
    """Return the logarithm of the multivariate beta function of the last axis."""

    def of(x: Any) -> Any:
        total = dg.sum(x, axis=-1)
        return dg.sum(dg.special.gammaln(x), axis=-1) - dg.special.gammaln(total)

    return compute(of, floating("lbeta", x))


def polygamma(a: Any, x: Any, name: str | None = None) -> Tensor:
    """Return the derivative of digamma of order `a`, a whole number; no gradient in `a`."""

    def of(a: Any, x: Any) -> Any:
        order = dg.stop_gradient(a)
        # (-1)^(a + 1) gamma(a + 1) zeta(a + 1, x); of order 0 digamma itself.
        sign = 1 - 2 * dg.remainder(order + 1, 2)
        above = dg.maximum(order, 1)
        higher = sign * dg.special.gamma(above + 1) * dg.special.zeta(above + 1, x)
        return dg.where(dg.equal(order, 0), dg.special.digamma(x), higher)

    return compute(of, *_tensors("polygamma", a, x))


def zeta(x: Any, q: Any, name: str | None = None) -> Tensor:
    """Return Hurwitz' zeta function of exponent `x`; there is a gradient in `q` alone."""
    return compute(lambda s, q: dg.special.zeta(dg.stop_gradient(s), q), *_tensors("zeta", x, q))


def xlog1py(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x log(1 + y), and 0 where x is 0; the derivatives are 0 there too."""

    def of(a: Any, b: Any) -> Any:
        return dg.multiply(a, dg.log1p(dg.where(dg.equal(a, 0), 0, b)))

    return compute(of, *_tensors("xlog1py", x, y))


def xdivy(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x / y, and 0 where x is 0; the derivatives are 0 there too."""

    def of(a: Any, b: Any) -> Any:
        zero = dg.equal(a, 0)
        return dg.where(zero, 0, dg.divide(a, dg.where(zero, 1, b)))

    return compute(of, *_tensors("xdivy", x, y))
