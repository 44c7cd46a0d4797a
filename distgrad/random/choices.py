"""Places drawn with given weights, from uniform numbers."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from distgrad.dtypes import default_dtype, int64
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.comparison import less_equal
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.reducing.running import cumulative_sum
from distgrad.ops.shaping.structure import astype, expand_dims, permute_dims
from distgrad.promotion import finfo
from distgrad.random.arguments import floating_dtype
from distgrad.shapes import normalize_axis


def places_by_weight(weights: Any, u: Any) -> Any:
    """Return the first place, along the last axis, whose cumulated weight exceeds u of the whole.

    Parameters
    ----------
    weights : Tensor
        Not negative; what adds up to the whole lies along the last axis.
    u : Tensor
        In [0, 1), of a shape to which the other axes broadcast.
    """
    sums = cumulative_sum(weights, axis=-1)
    level = expand_dims(u, axis=-1) * sums[..., -1:]
    return sum_over(astype(less_equal(sums, level), int64), axis=-1)


def axis_to_back(operation: str, x: Any, axis: int) -> Any:
    """Return a tensor with one axis moved to the back."""
    place = normalize_axis(operation, axis, x.ndim)
    if place == x.ndim - 1:
        return x
    return permute_dims(x, (*(a for a in range(x.ndim) if a != place), place))


def check_without_replacement(wanted: int, count: int, p: Any) -> None:
    """Raise unless so many can be drawn without replacement."""
    if p is not None:
        raise ValueError("choice: p is given with replace=False; expected one of the two")
    if wanted > count:
        raise ValueError(
            f"choice: {wanted} are to be drawn without replacement of {count}; expected no "
            "more than there are"
        )


def as_probabilities(p: Any, count: int) -> Any:
    """Return the probabilities of so many options, in a floating dtype.

    Parameters
    ----------
    p : Tensor
        One for each option; integers become the default dtype.
    count : int
        How many options there are.

    Raises
    ------
    ShapeError
        If there are more or fewer probabilities than options.
    ValueError
        If one is negative or not finite, or their sum differs from 1 by more than the square root
        of their dtype's precision, as in NumPy. What a transformation holds has no values to look
        at, and passes.
    """
    if p.shape != (count,):
        raise ShapeError(f"choice: p has shape {p.shape}; expected ({count},)")
    if p.dtype.kind in "biu":
        p = astype(p, default_dtype())
    floating_dtype("choice", p.dtype)
    if p.kernels.level:
        return p
    values = np.asarray(p.numpy(), np.float64)
    if bad := [value for value in values.tolist() if not 0 <= value < np.inf]:
        raise ValueError(f"choice: a probability in p is {bad[0]}; expected 0 or more")
    total = float(values.sum())
    if abs(total - 1) > sqrt(finfo(p.dtype).eps):
        raise ValueError(f"choice: p adds up to {total:.6g}; expected 1, as of p / p.sum()")
    return p
