"""Exponentials, logarithms, roots, trigonometric and hyperbolic functions, element by element."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array, Keep, Namespace
from distgrad.core.seam import apply
from distgrad.ops.rules.families import (
    binary,
    floating,
    unary,
)

# --- exponentials, logarithms, roots ------------------------------------------------------------

EXP = unary("exp", lambda xp, y, x: y, keep=Keep.OUTPUT, dtype=floating)
EXPM1 = unary("expm1", lambda xp, y, x: y + 1, keep=Keep.OUTPUT, dtype=floating)
LOG = unary("log", lambda xp, y, x: 1 / x, dtype=floating)
LOG1P = unary("log1p", lambda xp, y, x: 1 / (1 + x), dtype=floating)
LOG2 = unary("log2", lambda xp, y, x: (1 / math.log(2)) / x, dtype=floating)
LOG10 = unary("log10", lambda xp, y, x: (1 / math.log(10)) / x, dtype=floating)
SQRT = unary("sqrt", lambda xp, y, x: 0.5 / y, keep=Keep.OUTPUT, dtype=floating)


def exp(x: Any, /) -> Any:
    """Return e to the power of x, element by element."""
    return apply(EXP, x)


def expm1(x: Any, /) -> Any:
    """Return exp(x) - 1, precise near 0, element by element."""
    return apply(EXPM1, x)


def log(x: Any, /) -> Any:
    """Return the natural logarithm, element by element."""
    return apply(LOG, x)


def log1p(x: Any, /) -> Any:
    """Return log(1 + x), precise near 0, element by element."""
    return apply(LOG1P, x)


def log2(x: Any, /) -> Any:
    """Return the logarithm to base 2, element by element."""
    return apply(LOG2, x)


def log10(x: Any, /) -> Any:
    """Return the logarithm to base 10, element by element."""
    return apply(LOG10, x)


def sqrt(x: Any, /) -> Any:
    """Return the square root, element by element; its derivative at 0 is inf."""
    return apply(SQRT, x)


def _finite_below(xp: Namespace, y: Array) -> Array:
    # Where both terms are exp(-inf) the sum has no slope; exp(-inf + inf) would be NaN.
    return xp.where(xp.equal(y, -math.inf), 0, y)


LOGADDEXP = binary(
    "logaddexp",
    lambda xp, y, a, b: xp.exp(a - _finite_below(xp, y)),
    lambda xp, y, a, b: xp.exp(b - _finite_below(xp, y)),
    keep=Keep.BOTH,
    dtype=floating,
)


def logaddexp(x1: Any, x2: Any, /) -> Any:
    """Return log(exp(x1) + exp(x2)) without overflow, element by element."""
    return apply(LOGADDEXP, x1, x2)


# --- trigonometric and hyperbolic functions -----------------------------------------------------

SIN = unary("sin", lambda xp, y, x: xp.cos(x), dtype=floating)
COS = unary("cos", lambda xp, y, x: -xp.sin(x), dtype=floating)
TAN = unary("tan", lambda xp, y, x: 1 + y * y, keep=Keep.OUTPUT, dtype=floating)
ASIN = unary("asin", lambda xp, y, x: 1 / xp.sqrt(1 - x * x), dtype=floating)
ACOS = unary("acos", lambda xp, y, x: -1 / xp.sqrt(1 - x * x), dtype=floating)
ATAN = unary("atan", lambda xp, y, x: 1 / (1 + x * x), dtype=floating)
SINH = unary("sinh", lambda xp, y, x: xp.cosh(x), dtype=floating)
COSH = unary("cosh", lambda xp, y, x: xp.sinh(x), dtype=floating)
TANH = unary("tanh", lambda xp, y, x: 1 - y * y, keep=Keep.OUTPUT, dtype=floating)
ASINH = unary("asinh", lambda xp, y, x: 1 / xp.sqrt(1 + x * x), dtype=floating)
ACOSH = unary("acosh", lambda xp, y, x: 1 / (xp.sqrt(x - 1) * xp.sqrt(x + 1)), dtype=floating)
ATANH = unary("atanh", lambda xp, y, x: 1 / (1 - x * x), dtype=floating)


def sin(x: Any, /) -> Any:
    """Return the sine, element by element; x in radians."""
    return apply(SIN, x)


def cos(x: Any, /) -> Any:
    """Return the cosine, element by element; x in radians."""
    return apply(COS, x)


def tan(x: Any, /) -> Any:
    """Return the tangent, element by element; x in radians."""
    return apply(TAN, x)


def asin(x: Any, /) -> Any:
    """Return the inverse sine in radians, element by element."""
    return apply(ASIN, x)


def acos(x: Any, /) -> Any:
    """Return the inverse cosine in radians, element by element."""
    return apply(ACOS, x)


def atan(x: Any, /) -> Any:
    """Return the inverse tangent in radians, element by element."""
    return apply(ATAN, x)


def sinh(x: Any, /) -> Any:
    """Return the hyperbolic sine, element by element."""
    return apply(SINH, x)


def cosh(x: Any, /) -> Any:
    """Return the hyperbolic cosine, element by element."""
    return apply(COSH, x)


def tanh(x: Any, /) -> Any:
    """Return the hyperbolic tangent, element by element."""
    return apply(TANH, x)


def asinh(x: Any, /) -> Any:
    """Return the inverse hyperbolic sine, element by element."""
    return apply(ASINH, x)


def acosh(x: Any, /) -> Any:
    """Return the inverse hyperbolic cosine, element by element."""
    return apply(ACOSH, x)


def atanh(x: Any, /) -> Any:
    """Return the inverse hyperbolic tangent, element by element."""
    return apply(ATANH, x)


def _squared_radius(xp: Namespace, a: Any, b: Any) -> Array:
    """Return a² + b²; 1 at the origin, where the angle has no direction and the slopes are 0."""
    squared = a * a + b * b
    return xp.where(xp.equal(squared, 0), 1, squared)


ATAN2 = binary(
    "atan2",
    lambda xp, y, a, b: b / _squared_radius(xp, a, b),
    lambda xp, y, a, b: -a / _squared_radius(xp, a, b),
    dtype=floating,
)


def atan2(x1: Any, x2: Any, /) -> Any:
    """Return the angle in radians of the point (x2, x1), element by element.

    Notes
    -----
    The derivatives at the origin are 0, as in PyTorch; TensorFlow and JAX give NaN.
    """
    return apply(ATAN2, x1, x2)


OPS = (EXP, EXPM1, LOG, LOG1P, LOG2, LOG10, SQRT, LOGADDEXP) + (
    SIN,
    COS,
    TAN,
    ASIN,
    ACOS,
    ATAN,
    SINH,
    COSH,
    TANH,
    ASINH,
    ACOSH,
    ATANH,
    ATAN2,
)
