"""tf.nn: the greatest, or the mean, of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.values import Tensor, compute
from distgrad.compat.tensorflow.windows import (
    checked,
    format_of,
    is_channels_first,
    padding_of,
    per_axis,
    refuse_too_short,
    spatial,
)


def _pool(
    name: str,
    pool: Callable[..., Any],
    rank: int,
    value: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None,
    takes_lists: bool = False,
) -> Tensor:
    is_first = is_channels_first(data_format, rank)
    window = per_axis("ksize", ksize, rank, is_first)
    stride = per_axis("strides", strides, rank, is_first)
    sides = padding_of(padding, rank, is_first, takes_lists)
    (x,) = checked(name, value, rank=rank, integers=pool is dg.nn.max_pool)
    refuse_too_short(spatial(x.shape, is_first), window, stride, sides, (1,) * rank)
    return compute(
        lambda v: pool(v, window, stride=stride, padding=sides, data_format=format_of(is_first)),
        x,
    )


def max_pool1d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NWC",
    name: str | None = None,
) -> Tensor:
    """Return the greatest of each window over one axis; see `max_pool2d`."""
    return _pool("MaxPool", dg.nn.max_pool, 1, input, ksize, strides, padding, data_format)


def max_pool2d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    name: str | None = None,
) -> Tensor:
    """Return the greatest of each window over two axes.

    Parameters
    ----------
    input : Tensor, Variable or array
        See `conv2d`.
    ksize, strides : int or list of int
        Of the window; for both spatial axes, for each, or for all four.
    padding : "SAME", "VALID" or list of pairs
        See `conv2d`.
    data_format : str
        ``"NHWC"`` or ``"NCHW"``.
    """
    pool = dg.nn.max_pool
    return _pool("MaxPool", pool, 2, input, ksize, strides, padding, data_format, True)


def max_pool3d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NDHWC",
    name: str | None = None,
) -> Tensor:
    """Return the greatest of each window over three axes; see `max_pool2d`."""
    return _pool("MaxPool3D", dg.nn.max_pool, 3, input, ksize, strides, padding, data_format)


def avg_pool1d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NWC",
    name: str | None = None,
) -> Tensor:
    """Return the mean of each window over one axis; see `avg_pool2d`."""
    return _pool("AvgPool", dg.nn.avg_pool, 1, input, ksize, strides, padding, data_format)


def avg_pool2d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NHWC",
    name: str | None = None,
) -> Tensor:
    """Return the mean of each window over two axes; padding does not count. See `max_pool2d`."""
    return _pool("AvgPool", dg.nn.avg_pool, 2, input, ksize, strides, padding, data_format)


def avg_pool3d(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NDHWC",
    name: str | None = None,
) -> Tensor:
    """Return the mean of each window over three axes; see `avg_pool2d`."""
    return _pool("AvgPool3D", dg.nn.avg_pool, 3, input, ksize, strides, padding, data_format)
