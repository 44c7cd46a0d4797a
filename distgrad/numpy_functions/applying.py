"""NumPy's functions that apply a function of the user's along axes, on tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.numpy_functions.arguments import as_tensor, called, one_axis
from distgrad.ops.shaping.arrangement import moveaxis, unstack
from distgrad.ops.shaping.structure import expand_dims, reshape, stack


def _apply_along_axis(
    func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any
) -> Any:
    x = as_tensor(arr)
    place = one_axis("axis", axis, x.ndim)
    lines = moveaxis(x, place, -1)
    outer = lines.shape[:-1]
    lines = reshape(lines, (-1, lines.shape[-1]))
    if not lines.shape[0]:
        raise ValueError(
            f"apply_along_axis: no lines in an array of shape {x.shape}; expected one or more"
        )
    results = [as_tensor(called(func1d, line, *args, **kwargs)) for line in unstack(lines)]
    joined = stack(results, axis=0)
    inner = joined.shape[1:]
    shaped = reshape(joined, (*outer, *inner))
    # What the function gives for a line takes the place of the axis.
    back = tuple(range(len(outer), len(outer) + len(inner)))
    return moveaxis(shaped, back, tuple(range(place, place + len(inner)))) if inner else shaped


def _apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Any:
    x = as_tensor(a)
    rank = x.ndim
    for axis in (axes,) if np.ndim(axes) == 0 else axes:
        place = one_axis("axis", operator.index(axis), rank)
        result = as_tensor(called(func, x, place))
        if result.ndim == rank:
            x = result
        elif result.ndim == rank - 1:
            x = expand_dims(result, axis=place)
        else:
            raise ValueError(
                f"apply_over_axes: function is not returning an array of the correct shape: "
                f"{result.ndim} axes; expected {rank}, or one fewer"
            )
    return x


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "apply_along_axis": _apply_along_axis,
    "apply_over_axes": _apply_over_axes,
}
