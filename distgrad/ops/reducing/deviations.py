"""How far a sample spreads about its mean: variance and standard deviation."""

from __future__ import annotations

from typing import Any

from distgrad.ops.elementwise.arithmetic import multiply, subtract
from distgrad.ops.elementwise.comparison import equal
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.reducing.reductions import elements_over, mean, sum
from distgrad.shapes import Axis


def var(
    x: Any, /, *, axis: Axis = None, correction: int | float = 0.0, keepdims: bool = False
) -> Any:
    """Return the variance over axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        The sample; floating.
    axis : int or tuple of int, optional
        The axes to average over; all of them by default.
    correction : float
        Subtracted from the number of elements in the divisor: 0 for the population's variance,
        1 for the unbiased estimate (Bessel's correction); NaN if nothing is left.
    keepdims : bool
        Whether these axes stay, with length 1.
    """
    centred = subtract(x, mean(x, axis=axis, keepdims=True))
    squares = real(multiply(centred, conj(centred)))
    total = sum(squares, axis=axis, keepdims=keepdims)
    freedom = elements_over(tuple(centred.shape), axis) - correction
    # Of too small a sample nothing can be said: NaN, without NumPy's warning of a division by 0.
    return total / freedom if freedom > 0 else total * float("nan")


def std(
    x: Any, /, *, axis: Axis = None, correction: int | float = 0.0, keepdims: bool = False
) -> Any:
    """Return the standard deviation over axes; parameters as for `var`.

    Notes
    -----
    Where all elements are equal the gradient is 0, as that of a norm is at 0: the slopes of both
    sides are finite, and the rule of `sqrt` would make NaN of them.
    """
    return deviation(var(x, axis=axis, correction=correction, keepdims=keepdims))


def deviation(variance: Any) -> Any:
    """Return the square root of variances, whose slope is taken for 0 where they are 0."""
    none = equal(variance, 0)
    return where(none, 0, sqrt(where(none, 1, variance)))  # of 1: NumPy warns of no slope of 0
