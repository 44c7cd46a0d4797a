"""tf.nn: the greatest, or the mean, of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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


class _Pooling(Protocol):
    """The signature that TensorFlow's functions of windows share."""

    def __call__(
        self,
        input: Any,
        ksize: Any,
        strides: Any,
        padding: Any,
        data_format: str | None = ...,
        name: str | None = None,
    ) -> Tensor:
        """Return what comes of each window."""


def _pooling(
    public: str,
    operation: str,
    pool: Callable[..., Any],
    layout: str,
    documentation: str,
    *,
    takes_lists: bool = False,
) -> _Pooling:
    """Return a function of windows over the spatial axes of a layout.

    Parameters
    ----------
    public, operation : str
        Its name, and the one that messages have.
    pool : callable
        `distgrad.nn.max_pool` or `avg_pool`.
    layout : str
        The data format by default, such as ``"NHWC"``.
    documentation : str
        The docstring.
    takes_lists : bool
        Whether the padding may be a list of pairs.
    """
    rank = len(layout) - 2

    def pooled(
        input: Any,
        ksize: Any,
        strides: Any,
        padding: Any,
        data_format: str | None = layout,
        name: str | None = None,
    ) -> Tensor:
        is_first = is_channels_first(data_format, rank)
        window = per_axis("ksize", ksize, rank, is_first)
        stride = per_axis("strides", strides, rank, is_first)
        sides = padding_of(padding, rank, is_first, takes_lists)
        (x,) = checked(operation, input, rank=rank, integers=pool is dg.nn.max_pool)
        refuse_too_short(spatial(x.shape, is_first), window, stride, sides, (1,) * rank)
        order = format_of(is_first)
        return compute(
            lambda v: pool(v, window, stride=stride, padding=sides, data_format=order), x
        )

    pooled.__name__ = pooled.__qualname__ = public
    pooled.__doc__ = documentation
    return pooled


max_pool1d = _pooling(
    *("max_pool1d", "MaxPool", dg.nn.max_pool, "NWC"),
    "Return the greatest of each window over one axis; see `max_pool2d`.",
)

max_pool2d = _pooling(
    *("max_pool2d", "MaxPool", dg.nn.max_pool, "NHWC"),
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
    """,
    takes_lists=True,
)

max_pool3d = _pooling(
    *("max_pool3d", "MaxPool3D", dg.nn.max_pool, "NDHWC"),
    "Return the greatest of each window over three axes; see `max_pool2d`.",
)

avg_pool1d = _pooling(
    *("avg_pool1d", "AvgPool", dg.nn.avg_pool, "NWC"),
    "Return the mean of each window over one axis; see `avg_pool2d`.",
)

avg_pool2d = _pooling(
    *("avg_pool2d", "AvgPool", dg.nn.avg_pool, "NHWC"),
    "Return the mean of each window over two axes; padding does not count. See `max_pool2d`.",
)

avg_pool3d = _pooling(
    *("avg_pool3d", "AvgPool3D", dg.nn.avg_pool, "NDHWC"),
    "Return the mean of each window over three axes; see `avg_pool2d`.",
)
