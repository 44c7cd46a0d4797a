"""Bessel functions of the first and second kind, plain and modified, some of them scaled.

Slopes are sums of functions of neighbouring orders where a quotient by x would have a removable
singularity: so they are right, to any order, at 0 too. Those of the scaled functions are products
far out, where the sums cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply
from distgrad.ops.special.confluent import beyond, decaying, growing
from distgrad.ops.special.families import special, special_of_parameters

# --- far out --------------------------------------------------------------------------------------
# DLMF, https://dlmf.nist.gov/13.6.E9 and E10: ive(v, x) and kve(v, x) are x^v times constants and
# M(v + 1/2, 2v + 1, -2x) and U(v + 1/2, 2v + 1, 2x).

_FAR = 20.0  # beyond, and beyond the order


def _scaled_slope(
    xp: Namespace,
    fraction: Callable[..., Array],
    y: Array,
    v: Any,
    x: Array,
    near: Callable[[Array], Array],
) -> Array:
    """Return the slope of a scaled modified Bessel function y of order v: nearer in, the given."""
    size = xp.abs(x)
    bound = _FAR if isinstance(v, float) else xp.maximum(xp.abs(v), _FAR)

    def far(x: Array) -> Array:
        return y * (v + fraction(xp, v + 0.5, 2 * v + 1, 0.5 / xp.abs(x))) / x

    return beyond(xp, size > bound, x, bound, far, near)


def _i0e_slope(xp: Namespace, y: Array, x: Array) -> Array:
    return _scaled_slope(xp, growing, y, 0.0, x, lambda x: xp.i1e(x) - xp.sign(x) * y)


def _i1e_slope(xp: Namespace, y: Array, x: Array) -> Array:
    def near(x: Array) -> Array:
        return (xp.i0e(x) + xp.ive(2, x)) / 2 - xp.sign(x) * y

    return _scaled_slope(xp, growing, y, 1.0, x, near)


def _ive_slope(xp: Namespace, y: Array, v: Array, x: Array) -> Array:
    def near(x: Array) -> Array:
        return (xp.ive(v - 1, x) + xp.ive(v + 1, x)) / 2 - xp.sign(x) * y

    return _scaled_slope(xp, growing, y, v, x, near)


def _k0e_slope(xp: Namespace, y: Array, x: Array) -> Array:
    return _scaled_slope(xp, decaying, y, 0.0, x, lambda x: y - xp.k1e(x))


def _k1e_slope(xp: Namespace, y: Array, x: Array) -> Array:
    return _scaled_slope(xp, decaying, y, 1.0, x, lambda x: y - xp.k0e(x) - y / x)


def _kve_slope(xp: Namespace, y: Array, v: Array, x: Array) -> Array:
    def near(x: Array) -> Array:
        return y - (xp.kve(v - 1, x) + xp.kve(v + 1, x)) / 2

    return _scaled_slope(xp, decaying, y, v, x, near)


# --- of order 0 and 1 -----------------------------------------------------------------------------

J0 = special("j0", lambda xp, y, x: -xp.j1(x))
J1 = special("j1", lambda xp, y, x: (xp.j0(x) - xp.jv(2, x)) / 2)
Y0 = special("y0", lambda xp, y, x: -xp.y1(x))
Y1 = special("y1", lambda xp, y, x: xp.y0(x) - y / x, keep=Keep.BOTH)
I0 = special("i0", lambda xp, y, x: xp.i1(x))
I1 = special("i1", lambda xp, y, x: (xp.i0(x) + xp.iv(2, x)) / 2)
I0E = special("i0e", _i0e_slope, keep=Keep.BOTH)
I1E = special("i1e", _i1e_slope, keep=Keep.BOTH)
K0 = special("k0", lambda xp, y, x: -xp.k1(x))
K1 = special("k1", lambda xp, y, x: -xp.k0(x) - y / x, keep=Keep.BOTH)
K0E = special("k0e", _k0e_slope, keep=Keep.BOTH)
K1E = special("k1e", _k1e_slope, keep=Keep.BOTH)


def j0(x: Any, /) -> Any:
    """Return the Bessel function of the first kind of order 0, element by element."""
    return apply(J0, x)


def j1(x: Any, /) -> Any:
    """Return the Bessel function of the first kind of order 1; its slope at 0 is 1/2."""
    return apply(J1, x)


def y0(x: Any, /) -> Any:
    """Return the Bessel function of the second kind of order 0, of positive x."""
    return apply(Y0, x)


def y1(x: Any, /) -> Any:
    """Return the Bessel function of the second kind of order 1, of positive x."""
    return apply(Y1, x)


def i0(x: Any, /) -> Any:
    """Return the modified Bessel function of the first kind of order 0, element by element."""
    return apply(I0, x)


def i1(x: Any, /) -> Any:
    """Return the modified Bessel function of the first kind of order 1; its slope at 0 is 1/2."""
    return apply(I1, x)


def i0e(x: Any, /) -> Any:
    """Return ``exp(-|x|) i0(x)``, element by element; the derivative at its kink at 0 is 0."""
    return apply(I0E, x)


def i1e(x: Any, /) -> Any:
    """Return ``exp(-|x|) i1(x)``, element by element; its slope at 0 is 1/2."""
    return apply(I1E, x)


def k0(x: Any, /) -> Any:
    """Return the modified Bessel function of the second kind of order 0, of positive x."""
    return apply(K0, x)


def k1(x: Any, /) -> Any:
    """Return the modified Bessel function of the second kind of order 1, of positive x."""
    return apply(K1, x)


def k0e(x: Any, /) -> Any:
    """Return exp(x) k0(x), of positive x."""
    return apply(K0E, x)


def k1e(x: Any, /) -> Any:
    """Return exp(x) k1(x), of positive x."""
    return apply(K1E, x)


# --- of any order ---------------------------------------------------------------------------------
# DLMF, https://dlmf.nist.gov/10.6.E1 and 10.29.E1: slopes by the neighbouring orders.

_ORDER = ("v",)
JV = special_of_parameters(
    "jv", _ORDER, lambda xp, y, v, x: (xp.jv(v - 1, x) - xp.jv(v + 1, x)) / 2
)
YV = special_of_parameters(
    "yv", _ORDER, lambda xp, y, v, x: (xp.yv(v - 1, x) - xp.yv(v + 1, x)) / 2
)
IV = special_of_parameters(
    "iv", _ORDER, lambda xp, y, v, x: (xp.iv(v - 1, x) + xp.iv(v + 1, x)) / 2
)
IVE = special_of_parameters("ive", _ORDER, _ive_slope, keep=Keep.BOTH)
KV = special_of_parameters(
    "kv", _ORDER, lambda xp, y, v, x: (xp.kv(v - 1, x) + xp.kv(v + 1, x)) / -2
)
KVE = special_of_parameters("kve", _ORDER, _kve_slope, keep=Keep.BOTH)


def jv(v: Any, x: Any, /) -> Any:
    """Return the Bessel function of the first kind of real order v; differentiable in x.

    Parameters
    ----------
    v : Tensor, Variable, array or scalar
        The order; the derivative in it is not known.
    x : Tensor, Variable, array or scalar
        Real; 0 or more where the order is no integer.

    Raises
    ------
    UnsupportedOptionError
        If a gradient is asked for in `v`.
    """
    return apply(JV, v, x)


jn = jv


def yv(v: Any, x: Any, /) -> Any:
    """Return the Bessel function of the second kind, of positive x; the rest as for `jv`."""
    return apply(YV, v, x)


yn = yv


def iv(v: Any, x: Any, /) -> Any:
    """Return the modified Bessel function of the first kind; parameters and errors as for `jv`."""
    return apply(IV, v, x)


def ive(v: Any, x: Any, /) -> Any:
    """Return ``exp(-|x|) iv(v, x)``; parameters and errors as for `jv`."""
    return apply(IVE, v, x)


def kv(v: Any, x: Any, /) -> Any:
    """Return the modified Bessel function of the second kind, of positive x; else as `jv`."""
    return apply(KV, v, x)


kn = kv


def kve(v: Any, x: Any, /) -> Any:
    """Return exp(x) kv(v, x), of positive x; parameters and errors as for `jv`."""
    return apply(KVE, v, x)


OPS = (
    *(J0, J1, Y0, Y1, I0, I1, I0E, I1E, K0, K1, K0E, K1E),
    *(JV, YV, IV, IVE, KV, KVE),
)
