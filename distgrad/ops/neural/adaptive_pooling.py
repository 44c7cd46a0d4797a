"""Pooling whose windows follow from the shape: over all of it, or into a number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.errors import ShapeError
from distgrad.ops.neural.channels import (
    DataFormat,
    spatial_axes,
)
from distgrad.ops.neural.pooling import avg_pool, max_pool
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import max as max_over
from distgrad.ops.reducing.reductions import mean as mean_over
from distgrad.ops.shaping.structure import concat
from distgrad.shapes import shape_given
from distgrad.windows import per_axis


def global_avg_pool(
    x: Any, /, *, keepdims: bool = False, data_format: DataFormat = "channels_last"
) -> Any:
    """Return the mean over all spatial axes, (batch, channels)."""
    return mean_over(x, axis=spatial_axes("global_avg_pool", x, data_format), keepdims=keepdims)


def global_max_pool(
    x: Any, /, *, keepdims: bool = False, data_format: DataFormat = "channels_last"
) -> Any:
    """Return the greatest over all spatial axes, (batch, channels); equal ones share a gradient."""
    return max_over(x, axis=spatial_axes("global_max_pool", x, data_format), keepdims=keepdims)


def adaptive_avg_pool(
    x: Any, /, size: int | Sequence[int], *, data_format: DataFormat = "channels_last"
) -> Any:
    """Return means of as many windows as asked for, which together cover the input.

    Parameters
    ----------
    x : Tensor, Variable or array
        See `max_pool`.
    size : int or sequence of int
        How many windows along all spatial axes, or each. Window i of n goes from
        ``floor(i length / n)`` to ``ceil((i + 1) length / n)``, as PyTorch's.
    data_format : "channels_last" or "channels_first"
        The order of the axes.

    Raises
    ------
    ShapeError
        If a size is less than 1, or an axis has no elements.
    """
    return _adaptive("adaptive_avg_pool", mean_over, avg_pool, x, size, data_format)


def adaptive_max_pool(
    x: Any, /, size: int | Sequence[int], *, data_format: DataFormat = "channels_last"
) -> Any:
    """Return the greatest of as many windows as asked for; see `adaptive_avg_pool`."""
    return _adaptive("adaptive_max_pool", max_over, max_pool, x, size, data_format)


def _adaptive(
    name: str, reduce: Any, pool: Any, x: Any, size: int | Sequence[int], data_format: str
) -> Any:
    axes = spatial_axes(name, x, data_format)
    sizes = per_axis(name, "size", size, len(axes))
    shape = shape_given(x)
    lengths = tuple(shape[axis] for axis in axes)
    if 0 in lengths:
        raise ShapeError(f"{name}: shape {shape} has a spatial axis without elements")
    if all(length % number == 0 for length, number in zip(lengths, sizes, strict=True)):
        window = tuple(length // number for length, number in zip(lengths, sizes, strict=True))
        return pool(x, window, data_format=data_format)
    # Mean and greatest of a box are those of its rows' means and greatest: one axis at a time.
    for axis, length, number in zip(axes, lengths, sizes, strict=True):
        parts = []
        for i in range(number):
            part = slice(i * length // number, -(-(i + 1) * length // number))
            some = getitem(x, (slice(None),) * axis + (part,))
            parts.append(reduce(some, axis=axis, keepdims=True))
        x = concat(parts, axis=axis)
    return x
