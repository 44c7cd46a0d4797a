"""tf.nn's convolutions: its orders of axes, its words for padding, its errors."""

from __future__ import annotations

from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dims
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute
from distgrad.compat.tensorflow.windows import (
    check_whole,
    checked,
    format_of,
    is_channels_first,
    padding_of,
    per_axis,
    refuse_too_short,
    spatial,
)
from distgrad.ops.neural.convolution import apply_transpose
from distgrad.shapes import Shape
from distgrad.windows import paddings


def _geometry(
    rank: int,
    data_format: str | None,
    strides: Any,
    padding: Any,
    dilations: Any,
    takes_lists: bool = True,
) -> tuple[bool, Shape, Any, Shape]:
    """Return whether channels come first, and stride, padding and dilation along spatial axes."""
    is_first = is_channels_first(data_format, rank)
    stride = per_axis("strides", strides, rank, is_first)
    dilation = per_axis("dilations", dilations, rank, is_first)
    return is_first, stride, padding_of(padding, rank, is_first, takes_lists), dilation


def _convolution(
    name: str,
    rank: int,
    value: Any,
    filters: Any,
    strides: Any,
    padding: Any,
    data_format: str | None,
    dilations: Any,
    takes_lists: bool = True,
) -> Tensor:
    is_first, stride, sides, dilation = _geometry(
        rank, data_format, strides, padding, dilations, takes_lists
    )
    x, w = checked(name, value, filters, rank=rank)
    depth, taken = x.shape[1 if is_first else -1], w.shape[-2]
    if not taken or depth % taken:
        raise InvalidArgumentError(
            f"input depth must be evenly divisible by filter depth: {depth} vs {taken}"
        )
    refuse_too_short(spatial(x.shape, is_first), w.shape[:-2], stride, sides, dilation)
    return compute(
        dg.nn.conv,
        x,
        w,
        stride=stride,
        padding=sides,
        dilation=dilation,
        groups=depth // taken,
        data_format=format_of(is_first),
    )


def conv1d(
    input: Any,
    filters: Any,
    stride: Any,
    padding: str,
    data_format: str | None = "NWC",
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return a convolution over one axis; see `conv2d`."""
    return _convolution(
        "conv1d", 1, input, filters, stride, padding, data_format, dilations, takes_lists=False
    )


def conv2d(
    input: Any,
    filters: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return a convolution over two axes.

    Parameters
    ----------
    input : Tensor, Variable or array
        Of shape (batch, height, width, channels), or as `data_format` says.
    filters : Tensor, Variable or array
        Of shape (height, width, channels, outputs); with fewer channels than the input these are
        cut into groups.
    strides, dilations : int or list of int
        For both spatial axes, for each, or for all four.
    padding : "SAME", "VALID" or list of pairs
        A pair for each of the four axes.
    data_format : str
        ``"NHWC"`` or ``"NCHW"``; the latter runs on the CPU too.

    Raises
    ------
    InvalidArgumentError
        If shapes do not fit.
    """
    return _convolution("Conv2D", 2, input, filters, strides, padding, data_format, dilations)


def conv3d(
    input: Any,
    filters: Any,
    strides: Any,
    padding: str,
    data_format: str | None = "NDHWC",
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return a convolution over three axes; `strides` and `dilations` are lists of five."""
    check_whole("conv3d", "strides", strides, 3)
    return _convolution(
        "Conv3D", 3, input, filters, strides, padding, data_format, dilations, takes_lists=False
    )


def conv2d_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return the transpose of `conv2d`: the gradient by its input.

    Parameters
    ----------
    input : Tensor, Variable or array
        What the convolution would give.
    filters : Tensor, Variable or array
        Of shape (height, width, outputs, channels), where `input` has the channels.
    output_shape : shape
        Of the result, all four axes.
    strides, padding, data_format, dilations
        Those of the convolution.

    Raises
    ------
    InvalidArgumentError
        If the convolution does not lead from `output_shape` to the shape of `input`.
    """
    is_first, stride, sides, dilation = _geometry(2, data_format, strides, padding, dilations)
    y, w = checked("Conv2DBackpropInput", input, filters, rank=2)
    shape = dims(output_shape)
    if len(shape) != 4:
        raise InvalidArgumentError(f"output_shape must have 4 numbers, got {list(shape)}")
    channel = 1 if is_first else 3
    if shape[0] != y.shape[0] or shape[channel] != w.shape[-2]:
        raise InvalidArgumentError(
            f"conv2d_transpose: output_shape {list(shape)} with {y.shape[0]} examples and "
            f"{w.shape[-2]} channels expected for the input {list(y.shape)} and the filters "
            f"{list(w.shape)}"
        )
    lengths = spatial(shape, is_first)
    pairs = paddings("conv2d_transpose", sides, lengths, tuple(w.shape[:-2]), stride, dilation)

    def of(y: dg.Tensor, w: dg.Tensor) -> Any:
        last = dg.permute_dims(y, (0, 2, 3, 1)) if is_first else y
        x = apply_transpose(last, w, lengths, stride, pairs, dilation, 1)
        return dg.permute_dims(x, (0, 3, 1, 2)) if is_first else x

    return compute(of, y, w)


def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return a convolution of each channel with kernels of its own.

    Parameters
    ----------
    input : Tensor, Variable or array
        See `conv2d`.
    filter : Tensor, Variable or array
        Of shape (height, width, channels, multiplier); the result has channels * multiplier
        channels, those of one input channel side by side.
    strides : list of four int
        One for each axis.
    padding, data_format, dilations
        See `conv2d`.
    """
    check_whole("depthwise_conv2d_native", "strides", strides, 2)
    is_first, stride, sides, dilation = _geometry(2, data_format, strides, padding, dilations)
    x, w = checked("DepthwiseConv2dNative", input, filter, rank=2, integers=False)
    depth = x.shape[1 if is_first else -1]
    if depth != w.shape[2]:
        raise InvalidArgumentError(
            f"input depth must be evenly divisible by filter depth: {depth} vs {w.shape[2]}"
        )
    refuse_too_short(spatial(x.shape, is_first), w.shape[:2], stride, sides, dilation)

    def of(x: dg.Tensor, w: dg.Tensor) -> Any:
        *window, channels, multiplier = w.shape
        kernel = dg.reshape(w, (*window, 1, channels * multiplier))
        return dg.nn.conv(
            x,
            kernel,
            stride=stride,
            padding=sides,
            dilation=dilation,
            groups=channels,
            data_format=format_of(is_first),
        )

    return compute(of, x, w)


def separable_conv2d(
    input: Any,
    depthwise_filter: Any,
    pointwise_filter: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: str | None = None,
) -> Tensor:
    """Return `depthwise_conv2d` and after it a convolution of single points, (1, 1, c, k)."""
    channels = depthwise_conv2d(input, depthwise_filter, strides, padding, data_format, dilations)
    return _convolution("Conv2D", 2, channels, pointwise_filter, 1, "VALID", data_format, None)
