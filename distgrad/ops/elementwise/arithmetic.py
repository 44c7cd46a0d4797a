"""Arithmetic, signs, rounding and extrema: an operation a block, its rule and function together."""

from __future__ import annotations

import cmath
import math
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.core.seam import apply
from distgrad.ops.rules.families import (
    binary,
    conjugate,
    elementwise_spec,
    expand_to,
    fit,
    joint,
    quotient,
    real_cotangent,
    real_part,
    sum_of,
    sum_to,
    unary,
)

# --- sums and differences: nothing is kept but shapes --------------------------------------------


def _signed_sum(name: str, sign: int) -> Op:
    """Return the operation a + b or a - b."""

    def vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
        if xs is None:
            return g, (g if sign > 0 else -g) if needs[1] else None
        to_a, to_b = (
            sum_to(xp, g, shape) if need and g.shape != shape else g
            for shape, need in zip(xs, needs, strict=True)
        )
        return to_a, (to_b if sign > 0 else -to_b) if needs[1] else None

    def jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
        a, b = tangents
        terms = ([] if a is None else [a]) + ([] if b is None else [b if sign > 0 else -b])
        return expand_to(xp, sum_of(terms), y)

    return Op(name, Kind.ELEMENTWISE, elementwise_spec(name, joint), vjp, jvp, Keep.SHAPES)


ADD = _signed_sum("add", +1)
SUBTRACT = _signed_sum("subtract", -1)


def add(x1: Any, x2: Any, /) -> Any:
    """Return x1 + x2, element by element, with broadcasting.

    Parameters
    ----------
    x1, x2 : Tensor, Variable, array or scalar
        The terms; their shapes broadcast, their dtypes promote as NumPy's do.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.
    MixedBackendError
        If the arrays belong to different backends.
    """
    return apply(ADD, x1, x2)


def subtract(x1: Any, x2: Any, /) -> Any:
    """Return x1 - x2, element by element, with broadcasting."""
    return apply(SUBTRACT, x1, x2)


# --- products -----------------------------------------------------------------------------------

MULTIPLY = binary("multiply", lambda xp, y, a, b: b, lambda xp, y, a, b: a, keep=((1,), (0,)))


def multiply(x1: Any, x2: Any, /) -> Any:
    """Return x1 * x2, element by element, with broadcasting."""
    return apply(MULTIPLY, x1, x2)


def _quotient_in_dividend(xp: Namespace, y: Array, a: Array, b: Array) -> Array:
    try:
        return 1 / b
    except ZeroDivisionError:  # Python's numbers raise where an array's division gives infinities
        return complex(math.nan, math.nan) if isinstance(b, complex) else math.copysign(math.inf, b)


DIVIDE = binary(
    "divide",
    _quotient_in_dividend,
    lambda xp, y, a, b: -(a / b) / b,  # b * b would overflow for half of a dtype's exponents
    keep=((1,), (0, 1)),
    dtype=quotient,
)


def divide(x1: Any, x2: Any, /) -> Any:
    """Return x1 / x2, element by element, with broadcasting; always floating."""
    return apply(DIVIDE, x1, x2)


def _pow_in_base(xp: Namespace, y: Array, a: Array, b: Array) -> Array:
    # Where the exponent is 0 the derivative is 0 also at base 0, where b * a**(b - 1) is 0 * inf.
    # Only there by a choice: elsewhere the product is 0 by itself, with 1 / a for its slope in b.
    if isinstance(b, (int, float, complex)):
        return xp.zeros_like(a) if b == 0 else (2 * a if b == 2 else b * xp.pow(a, b - 1))
    zero = xp.logical_and(xp.equal(b, 0), xp.logical_not(xp.abs(a) > 0))  # NaN to the 0 is 1
    # By the kernel and not by `*`: integer exponents are promoted on every backend.
    return xp.where(zero, 0, xp.multiply(b, xp.pow(a, xp.where(zero, 1, b - 1))))


def _pow_in_exponent(xp: Namespace, y: Array, a: Array, b: Array) -> Array:
    # a**b log(a) tends to 0 for a to +0, where the product is 0 * -inf; and a negative real base
    # has a power at single exponents only. Base 1 stands in there: 1**b log(1) is 0.
    if isinstance(a, complex) and a.imag == 0 and not hasattr(a, "dtype"):
        a = a.real
    if b.dtype in xp.complex_dtypes:
        a = a + 0j if isinstance(a, (int, float, complex)) else xp.astype(a, dtype=b.dtype)
    if isinstance(a, (int, float, complex)):
        if a == 0 if isinstance(a, complex) else a <= 0:
            return xp.zeros_like(b)
        return xp.pow(a, b) * (cmath.log(a) if isinstance(a, complex) else math.log(a))
    outside = xp.equal(a, 0) if a.dtype in xp.complex_dtypes else xp.less_equal(a, 0)
    base = xp.where(outside, 1, a)
    return xp.pow(base, b) * xp.log(base)


POW = binary("pow", _pow_in_base, _pow_in_exponent, keep=((0, 1), (0, 1)))


def pow(x1: Any, x2: Any, /) -> Any:
    """Return x1 to the power of x2, element by element, with broadcasting.

    Notes
    -----
    The derivative in the base is 0 where the exponent is 0 (also at base 0, where TensorFlow and
    JAX give NaN). The derivative in the exponent is 0 at base 0, its limit from above, and, as in
    TensorFlow, at a negative real base, where PyTorch and JAX give NaN.
    """
    return apply(POW, x1, x2)


RECIPROCAL = unary(
    "reciprocal", lambda xp, y, x: -y * y, keep=Keep.OUTPUT, compose=lambda xp, x: 1 / x
)


def reciprocal(x: Any, /) -> Any:
    """Return 1 / x, element by element; of integers NumPy's, which is rounded to integers."""
    return apply(RECIPROCAL, x)


SQUARE = unary("square", lambda xp, y, x: 2 * x, compose=lambda xp, x: x * x)


def square(x: Any, /) -> Any:
    """Return x * x, element by element."""
    return apply(SQUARE, x)


REMAINDER = binary(
    "remainder",
    lambda xp, y, a, b: xp.ones_like(a),
    lambda xp, y, a, b: -xp.floor(a / b),
    keep=((0,), (0, 1)),
)


def remainder(x1: Any, x2: Any, /) -> Any:
    """Return x1 modulo x2 with the sign of x2, element by element.

    Notes
    -----
    The derivative is 1 in `x1` and -floor(x1 / x2) in `x2`, also at the jumps.
    """
    return apply(REMAINDER, x1, x2)


FLOOR_DIVIDE = binary("floor_divide", None, None)


def floor_divide(x1: Any, x2: Any, /) -> Any:
    """Return the largest integer not above x1 / x2; no derivative flows through it."""
    return apply(FLOOR_DIVIDE, x1, x2)


# --- signs --------------------------------------------------------------------------------------


def _negative_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (-g,)


def _negative_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return -tangents[0]


NEGATIVE = Op(
    "negative",
    Kind.ELEMENTWISE,
    elementwise_spec("negative", joint),
    _negative_vjp,
    _negative_jvp,
    Keep.SHAPES,
)


def negative(x: Any, /) -> Any:
    """Return -x, element by element."""
    return apply(NEGATIVE, x)


def _positive_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (g,)


def _positive_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return tangents[0]


POSITIVE = Op(
    "positive",
    Kind.ELEMENTWISE,
    elementwise_spec("positive", joint),
    _positive_vjp,
    _positive_jvp,
    Keep.SHAPES,
)


def positive(x: Any, /) -> Any:
    """Return +x: the same values as a new tensor with an identity of its own on a tape."""
    return apply(POSITIVE, x)


def operand(x: Any) -> Any:
    """Return what has a shape and a dtype: x itself, or numbers and nested lists as a tensor.

    For functions that look at their operand before the first operation on it.
    """
    return x if hasattr(x, "shape") else positive(x)


def _abs_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (real_cotangent(xp, g) * xp.sign(xs[0]),)


def _abs_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    slope = tangents[0] * conjugate(xp, xp.sign(xs[0]))
    return xp.real(slope) if slope.dtype in xp.complex_dtypes else slope


ABS = Op("abs", Kind.ELEMENTWISE, elementwise_spec("abs", real_part), _abs_vjp, _abs_jvp)


def abs(x: Any, /) -> Any:
    """Return the absolute value (modulus), element by element.

    Notes
    -----
    The derivative at 0 is 0. For complex x the cotangent is g x / ``|x|``.
    """
    return apply(ABS, x)


def _sign_turned(xp: Namespace, x: Array, tangent: Array) -> Array:
    """Return how x / ``|x|`` turns with x: by what of the tangent lies across x."""
    if x.dtype not in xp.complex_dtypes:
        return xp.zeros_like(tangent)
    zero = xp.equal(x, 0)
    length = xp.where(zero, 1, xp.abs(x))
    unit = x / length
    across = tangent - unit * xp.real(xp.conj(unit) * tangent)
    return xp.where(zero, 0, across / length)


def _sign_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (_sign_turned(xp, xs[0], g),)


def _sign_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return _sign_turned(xp, xs[0], tangents[0])


SIGN = Op("sign", Kind.ELEMENTWISE, elementwise_spec("sign", joint), _sign_vjp, _sign_jvp)


def sign(x: Any, /) -> Any:
    """Return -1, 0 or 1, or x / ``|x|`` for complex x, element by element.

    Notes
    -----
    The derivative is 0 for real x, also at 0. For complex x it is that of a rotation; 0 at 0.
    """
    return apply(SIGN, x)


# --- rounding: no derivative flows --------------------------------------------------------------

FLOOR = unary("floor", None)
CEIL = unary("ceil", None)
ROUND = unary("round", None)
TRUNC = unary("trunc", None)


def floor(x: Any, /) -> Any:
    """Return the largest integer not above x; no derivative flows through it."""
    return apply(FLOOR, x)


def ceil(x: Any, /) -> Any:
    """Return the smallest integer not below x; no derivative flows through it."""
    return apply(CEIL, x)


def round(x: Any, /) -> Any:
    """Return the nearest integer (the even one of two); no derivative flows through it."""
    return apply(ROUND, x)


def trunc(x: Any, /) -> Any:
    """Return x without what follows the decimal point; no derivative flows through it."""
    return apply(TRUNC, x)


# --- the larger and the smaller -----------------------------------------------------------------


def _extremum(name: str, first_wins: str) -> Op:
    """Return maximum or minimum; `first_wins` names the comparison by which x1 is taken."""

    def vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
        a, b = xs
        first = getattr(xp, first_wins)(a, b)
        to_a = fit(xp, xp.where(first, g, 0), a) if needs[0] else None
        to_b = fit(xp, xp.where(first, 0, g), b) if needs[1] else None
        return to_a, to_b

    def jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
        first = getattr(xp, first_wins)(*xs)
        return xp.where(first, *(0 if tangent is None else tangent for tangent in tangents))

    return Op(name, Kind.ELEMENTWISE, elementwise_spec(name, joint), vjp, jvp)


MAXIMUM = _extremum("maximum", "greater_equal")
MINIMUM = _extremum("minimum", "less_equal")


def maximum(x1: Any, x2: Any, /) -> Any:
    """Return the larger of x1 and x2, element by element; at a tie the gradient goes to `x1`."""
    return apply(MAXIMUM, x1, x2)


def minimum(x1: Any, x2: Any, /) -> Any:
    """Return the smaller of x1 and x2, element by element; at a tie the gradient goes to `x1`."""
    return apply(MINIMUM, x1, x2)


OPS = (
    (ADD, SUBTRACT, MULTIPLY, DIVIDE, RECIPROCAL, POW, SQUARE, REMAINDER, FLOOR_DIVIDE)
    + (NEGATIVE, POSITIVE, ABS, SIGN)
    + (FLOOR, CEIL, ROUND, TRUNC, MAXIMUM, MINIMUM)
)
