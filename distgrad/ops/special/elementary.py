"""Elementary functions that the array API standard leaves out: powers of 2 and 10, cube roots."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply, operands
from distgrad.ops.elementwise.arithmetic import abs as magnitude
from distgrad.ops.elementwise.arithmetic import divide, multiply, subtract
from distgrad.ops.elementwise.comparison import less_equal
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.neural.activations import log_sigmoid
from distgrad.ops.neural.softmax import sigmoid
from distgrad.ops.rules.families import floating, unary
from distgrad.ops.special.families import special


def _cbrt_compose(xp: Namespace, x: Array) -> Array:
    return xp.sign(x) * xp.abs(x) ** (1 / 3)


EXP2 = unary(
    "exp2",
    lambda xp, y, x: math.log(2) * y,
    keep=Keep.OUTPUT,
    dtype=floating,
    compose=lambda xp, x: xp.pow(2.0, x),
)
EXP10 = special(
    "exp10",
    lambda xp, y, x: math.log(10) * y,
    keep=Keep.OUTPUT,
    compose=lambda xp, x: xp.pow(10.0, x),
)
CBRT = unary(
    "cbrt",
    lambda xp, y, x: (1 / 3) / (y * y),
    keep=Keep.OUTPUT,
    dtype=floating,
    compose=_cbrt_compose,
)


def _cosm1_compose(xp: Namespace, x: Array) -> Array:
    half = xp.sin(x * 0.5)
    return -2 * half * half


COSM1 = special("cosm1", lambda xp, y, x: -xp.sin(x), compose=_cosm1_compose)


def exp2(x: Any, /) -> Any:
    """Return 2 to the power of x, element by element."""
    return apply(EXP2, x)


def exp10(x: Any, /) -> Any:
    """Return 10 to the power of x, element by element."""
    return apply(EXP10, x)


def cbrt(x: Any, /) -> Any:
    """Return the real cube root, element by element; its slope at 0 is inf."""
    return apply(CBRT, x)


def cosm1(x: Any, /) -> Any:
    """Return cos(x) - 1, precise near 0, element by element; x in radians."""
    return apply(COSM1, x)


expit = sigmoid
log_expit = log_sigmoid


def huber(delta: Any, r: Any, /) -> Any:
    """Return r^2 / 2 up to ``|r| = delta``, ``delta (|r| - delta / 2)`` beyond; delta positive."""
    delta, r = operands(delta, r)
    size = magnitude(r)
    beyond = multiply(delta, subtract(size, multiply(delta, 0.5)))
    return where(less_equal(size, delta), multiply(r, r) / 2, beyond)


def pseudo_huber(delta: Any, r: Any, /) -> Any:
    """Return delta^2 (sqrt(1 + (r / delta)^2) - 1), a smooth form of `huber`; delta positive."""
    delta, r = operands(delta, r)
    ratio = divide(r, delta)
    # sqrt(1 + s) - 1 without the difference, which would cancel at small s.
    return multiply(multiply(r, r), 1 / (sqrt(multiply(ratio, ratio) + 1) + 1))


OPS = (EXP2, EXP10, CBRT, COSM1)
