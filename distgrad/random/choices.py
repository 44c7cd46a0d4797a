"""Places drawn with given weights, from uniform numbers."""

from __future__ import annotations

from typing import Any

from distgrad.dtypes import int64
from distgrad.ops.elementwise.comparison import less_equal
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.reducing.running import cumulative_sum
from distgrad.ops.shaping.structure import astype, expand_dims, permute_dims
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
