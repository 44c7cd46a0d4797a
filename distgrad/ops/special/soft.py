"""Log-sum-exp and softmax with SciPy's arguments: over all axes by default, with factors."""

from __future__ import annotations

import math
from typing import Any

from distgrad.core.op import Array
from distgrad.core.seam import operands
from distgrad.ops.elementwise.arithmetic import abs as magnitude
from distgrad.ops.elementwise.arithmetic import add, multiply, operand, sign, subtract
from distgrad.ops.elementwise.comparison import equal, isfinite
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import exp, log
from distgrad.ops.neural import softmax as by_axis
from distgrad.ops.reducing import reductions
from distgrad.ops.reducing.reductions import max as largest
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import reshape
from distgrad.shapes import Axis


def logsumexp(
    a: Any, /, axis: Axis = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    """Return log(sum(b exp(a))) over axes, without overflow.

    Parameters
    ----------
    a : Tensor, Variable or array
        The exponents; real.
    axis : int or tuple of int, optional
        The axes to sum over; all of them by default.
    b : Tensor, Variable, array or scalar, optional
        Factors, which broadcast against `a`; they may be negative or 0.
    keepdims : bool
        Whether these axes stay, with length 1.
    return_sign : bool
        Whether to return the logarithm of the absolute value, and the sign, as a pair. Otherwise
        the logarithm of a negative sum is NaN.
    """
    if b is None and not return_sign:
        return reductions.logsumexp(a, axis=axis, keepdims=keepdims)
    a, b = operands(a, b)
    terms: Array = a if b is None else where(equal(b, 0), -math.inf, add(a, multiply(b, 0)))
    # Of no terms none is the largest; their sum has its shape, and is 0.
    top = (sum_over if 0 in terms.shape else largest)(terms, axis=axis, keepdims=True)
    top = where(isfinite(top), top, 0)
    factors = exp(subtract(terms, top))
    total = sum_over(factors if b is None else multiply(b, factors), axis=axis, keepdims=keepdims)
    back = reshape(top, tuple(total.shape))
    signs, is_zero = sign(total), equal(total, 0)
    size = log(where(is_zero, 1, magnitude(total)))  # without a warning of a logarithm of 0
    result = where(is_zero, -math.inf, add(size, back))
    return (result, signs) if return_sign else where(total < 0, math.nan, result)


def log_softmax(x: Any, /, axis: Axis = None) -> Any:
    """Return x - logsumexp(x) over axes, all of them by default."""
    if isinstance(axis, int):
        return by_axis.log_softmax(x, axis=axis)
    return subtract(x, reductions.logsumexp(x, axis=axis, keepdims=True))


def softmax(x: Any, /, axis: Axis = None) -> Any:
    """Return exp(x) / sum(exp(x)) over axes, all of them by default, without overflow."""
    if isinstance(axis, int):
        return by_axis.softmax(x, axis=axis)
    if axis is None:
        x = operand(x)
        flat = reshape(x, (-1,))
        return reshape(by_axis.softmax(flat, axis=0), tuple(x.shape))
    return exp(log_softmax(x, axis))
