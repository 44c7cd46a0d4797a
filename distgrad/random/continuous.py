"""Numbers of continuous distributions: uniform, normal, exponential, Gumbel.

Functions of a source of bits, which is a generator: they are its methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtypes import (
    DTypeLike,
    as_dtype,
    complex64,
    default_dtype,
    float32,
    float64,
)
from distgrad.ops.elementwise.arithmetic import add, maximum, multiply, negative, subtract
from distgrad.ops.elementwise.transcendental import log, log1p
from distgrad.ops.quantiles import normal_quantile
from distgrad.ops.random import RANDOM_NORMAL, RANDOM_UNIFORM
from distgrad.ops.shaping.structure import astype
from distgrad.random.arguments import as_shape, floating_dtype, is_number
from distgrad.random.source import Rows, Source
from distgrad.tensor import Tensor


def uniform(
    source: Source,
    shape: int | Sequence[int] = (),
    low: Any = 0.0,
    high: Any = 1.0,
    *,
    dtype: DTypeLike | None = None,
    rows: Rows = None,
) -> Tensor:
    """Return numbers drawn evenly from [low, high).

    Parameters
    ----------
    shape : int or sequence of int
        Of the whole draw.
    low, high : float or Tensor
        The bounds. Gradients flow into tensors, whose shapes broadcast with `shape`.
    dtype : dtype, optional
        Real floating; the default one unless given.
    rows : int, range, slice or sequence of int, optional
        Which rows of the whole draw, along its first axis, to return; all by default. The
        others are not computed. The generator counts one draw either way.

    Returns
    -------
    Tensor
        Of `shape`, with as many rows as were asked for.

    Notes
    -----
    Multiples of 2^-24 for float32 and of 2^-53 for float64, exactly, from [0, 1).
    """
    chosen = floating_dtype("uniform", dtype)
    if not (is_number(low) and is_number(high)):
        unit = uniform(source, shape, dtype=chosen, rows=rows)
        return add(low, multiply(subtract(high, low), unit))
    bounds = {"low": float(low), "high": float(high)}
    return source._draw(RANDOM_UNIFORM, shape, rows, dtype=chosen, **bounds)


def normal(
    source: Source,
    shape: int | Sequence[int] = (),
    *,
    dtype: DTypeLike | None = None,
    mean: Any = 0.0,
    deviation: Any = 1.0,
    rows: Rows = None,
) -> Tensor:
    """Return normally distributed numbers.

    Parameters
    ----------
    shape, rows
        As for `uniform`.
    dtype : dtype, optional
        Floating; the default one unless given. Complex numbers have real and imaginary parts of
        variance 1/2 each.
    mean, deviation : float or Tensor
        Mean and standard deviation; gradients flow into tensors.

    Notes
    -----
    By the transform of Box and Muller; at most 6.8 deviations from the mean in float32.
    """
    chosen = default_dtype() if dtype is None else as_dtype(dtype)
    if chosen.kind == "c":
        real = float32 if chosen == complex64 else float64
        parts = normal(source, (*as_shape(shape), 2), dtype=real, rows=rows) * 0.5**0.5
        numbers = parts[..., 0] + parts[..., 1] * 1j
    else:
        chosen = floating_dtype("normal", chosen)
        numbers = source._draw(RANDOM_NORMAL, shape, rows, dtype=chosen)
    return _placed(numbers, mean, deviation)


def truncated_normal(
    source: Source,
    shape: int | Sequence[int] = (),
    low: float = -2.0,
    high: float = 2.0,
    *,
    dtype: DTypeLike | None = None,
    rows: Rows = None,
) -> Tensor:
    """Return numbers of the standard normal distribution, given that they lie within bounds.

    Parameters
    ----------
    shape, dtype, rows
        As for `uniform`.
    low, high : float
        The bounds, in standard deviations.

    Notes
    -----
    The normal quantile of a uniform number, computed in float64.
    """
    chosen = floating_dtype("truncated_normal", dtype)
    if not low < high:
        raise ValueError(f"truncated_normal: low is {low}, high is {high}; expected low < high")
    u = uniform(source, shape, dtype=float64, rows=rows)
    return astype(normal_quantile(u, low=float(low), high=float(high)), chosen)


def exponential(
    source: Source,
    shape: int | Sequence[int] = (),
    *,
    dtype: DTypeLike | None = None,
    rows: Rows = None,
) -> Tensor:
    """Return exponentially distributed numbers of mean 1; parameters as for `uniform`."""
    chosen = floating_dtype("exponential", dtype)
    return negative(log1p(negative(uniform(source, shape, dtype=chosen, rows=rows))))


def gumbel(
    source: Source,
    shape: int | Sequence[int] = (),
    *,
    loc: Any = 0.0,
    scale: Any = 1.0,
    dtype: DTypeLike | None = None,
    rows: Rows = None,
) -> Tensor:
    """Return Gumbel-distributed numbers, those of the largest of many.

    Parameters
    ----------
    shape, dtype, rows
        As for `uniform`.
    loc, scale : float or Tensor
        Mode and width, whose shapes broadcast with `shape`. Gradients flow into tensors.

    Notes
    -----
    ``loc - scale log(-log(1 - u))`` for a uniform number u, computed in float64, so that the
    upper tail, which decides which of several is the largest, reaches to 36 also in float32.
    The class of the largest of ``logits + gumbel(logits.shape)`` has the probabilities
    softmax(logits).
    """
    chosen = floating_dtype("gumbel", dtype)
    # 0 stands for what lies between 0 and 2^-53, and would give infinity.
    u = maximum(uniform(source, shape, dtype=float64, rows=rows), 2.0**-54)
    numbers = astype(negative(log(negative(log1p(negative(u))))), chosen)
    return _placed(numbers, loc, scale)


def _placed(numbers: Tensor, centre: Any, width: Any) -> Tensor:
    """Return standard numbers times a width about a centre, without operations on 1 and 0."""
    if not (is_number(width) and width == 1):
        numbers = multiply(numbers, width)
    return numbers if is_number(centre) and centre == 0 else add(numbers, centre)
