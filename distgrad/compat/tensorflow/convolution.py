"""tf.nn's convolutions and pooling: its orders of axes, its words for padding, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dims, dtype_of, operands
from distgrad.compat.tensorflow.dtypes import spoken
from distgrad.compat.tensorflow.errors import InvalidArgumentError, UnimplementedError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.ops.neural.convolution import apply_transpose
from distgrad.windows import paddings

_FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}

# --- arguments ----------------------------------------------------------------------------------


def _is_channels_first(data_format: str | None, rank: int) -> bool:
    last, first = _FORMATS[rank]
    if data_format not in (None, last, first):
        raise InvalidArgumentError(
            f"Value for attr 'data_format' of \"{data_format}\" is not in the list of allowed "
            f'values: "{last}", "{first}"'
        )
    return data_format == first


def _per_axis(name: str, given: Any, rank: int, is_first: bool) -> tuple[int, ...]:
    """Return numbers for the spatial axes, of one for all, one for each, or one for every axis.

    Raises
    ------
    ValueError
        If there is another number of them.
    UnimplementedError
        If one for the batch or the channels is not 1.
    InvalidArgumentError
        If one is not positive.
    """
    if given is None:
        return (1,) * rank
    numbers = dims(given)
    if len(numbers) == 1:
        numbers *= rank
    if len(numbers) == rank + 2:
        spatial = numbers[2:] if is_first else numbers[1:-1]
        rest = (numbers[0], numbers[1] if is_first else numbers[-1])
        if rest != (1, 1):
            raise UnimplementedError(
                f"Current implementation does not yet support {name} in the batch and depth "
                f"dimensions. Received: {name}={list(numbers)}"
            )
        numbers = spatial
    if len(numbers) != rank:
        raise ValueError(
            f"{name} should be of length 1, {rank} or {rank + 2}. Received: {name}={given} of "
            f"length {len(numbers)}"
        )
    if min(numbers) < 1:
        raise InvalidArgumentError(f"{name} must be > 0, but got {list(numbers)}")
    return numbers


def _whole(name: str, argument: str, given: Any, rank: int) -> None:
    """Refuse what is not a number for every axis.

    Raises
    ------
    TypeError
        If it is not a list.
    """
    if isinstance(given, int) or len(dims(given)) != rank + 2:
        raise TypeError(
            f"Expected list for '{argument}' argument to '{name}' Op, not {given}; it has "
            f"{rank + 2} numbers, one for each axis"
        )


def _padding(padding: Any, rank: int, is_first: bool, takes_lists: bool = True) -> Any:
    """Return padding in the library's words.

    Raises
    ------
    InvalidArgumentError
        If it is an unknown word, or negative.
    ValueError
        If a list has not a pair for every axis.
    TypeError
        If the function takes words only.
    """
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            allowed = '"SAME", "VALID", "EXPLICIT"' if takes_lists else '"SAME", "VALID"'
            raise InvalidArgumentError(
                f"Value for attr 'padding' of \"{padding}\" is not in the list of allowed values: "
                f"{allowed}; TensorFlow writes it in capitals"
            )
        return padding.lower()
    if not takes_lists:
        raise TypeError(f"Expected string for argument 'padding' not {padding}.")
    if len(padding) != rank + 2:
        raise ValueError(
            f"When padding is a list, it must be of size {rank + 2}. Received: padding={padding} "
            f"of size {len(padding)}"
        )
    pairs = [dims(pair) for pair in padding]
    spatial = pairs[2:] if is_first else pairs[1:-1]
    if any(len(pair) != 2 or min(pair) < 0 for pair in spatial):
        raise InvalidArgumentError(
            f"padding must be pairs of numbers from 0 up, one for each axis, got {padding}"
        )
    return tuple(spatial)


def _checked(name: str, *values: Any, rank: int, integers: bool = True) -> list[Any]:
    """Return operands of one dtype, that of a convolution, with rank + 2 axes each.

    Raises
    ------
    InvalidArgumentError
        If one has another number of axes, or dtypes differ or are not to be convolved.
    """
    found = operands(name, *(convert_to_tensor(value) for value in values))
    dtype = dtype_of(found[0])
    if dtype.kind not in "fV" and not (integers and dtype.name == "int32"):
        allowed = "half, bfloat16, float, double" + (", int32" if integers else "")
        raise InvalidArgumentError(
            f"{name}: Value for attr 'T' of {spoken(dtype)} is not in the list of allowed values: "
            f"{allowed}; use tf.cast"
        )
    for value in found:
        if len(value.shape) != rank + 2:
            raise InvalidArgumentError(
                f"{name}: Shape must be rank {rank + 2} but is rank {len(value.shape)}, got shape "
                f"{list(value.shape)}"
            )
    return found


def _refuse_too_short(
    lengths: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Any,
    dilation: Sequence[int],
) -> None:
    """Raise if a window is longer than the padded input."""
    pairs = paddings("conv", padding, tuple(lengths), tuple(window), tuple(stride), tuple(dilation))
    for length, taps, step, pair, apart in zip(
        lengths, window, stride, pairs, dilation, strict=True
    ):
        reach = (taps - 1) * apart + 1
        if length + sum(pair) - reach < -step:
            size = (length + sum(pair) - reach) // step + 1
            raise InvalidArgumentError(
                f"Computed output size would be negative: {size} [input_size: {length}, "
                f"effective_filter_size: {reach}, stride: {step}]; pad more, or 'SAME'"
            )


def _spatial(shape: Sequence[int], is_first: bool) -> tuple[int, ...]:
    return tuple(shape[2:] if is_first else shape[1:-1])


def _format(is_first: bool) -> Literal["channels_first", "channels_last"]:
    return "channels_first" if is_first else "channels_last"


# --- convolutions ---------------------------------------------------------------------------------


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
    is_first = _is_channels_first(data_format, rank)
    stride = _per_axis("strides", strides, rank, is_first)
    dilation = _per_axis("dilations", dilations, rank, is_first)
    sides = _padding(padding, rank, is_first, takes_lists)
    x, w = _checked(name, value, filters, rank=rank)
    depth, taken = x.shape[1 if is_first else -1], w.shape[-2]
    if not taken or depth % taken:
        raise InvalidArgumentError(
            f"input depth must be evenly divisible by filter depth: {depth} vs {taken}"
        )
    _refuse_too_short(_spatial(x.shape, is_first), w.shape[:-2], stride, sides, dilation)
    return compute(
        dg.nn.conv,
        x,
        w,
        stride=stride,
        padding=sides,
        dilation=dilation,
        groups=depth // taken,
        data_format=_format(is_first),
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
    _whole("conv3d", "strides", strides, 3)
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
    is_first = _is_channels_first(data_format, 2)
    stride = _per_axis("strides", strides, 2, is_first)
    dilation = _per_axis("dilations", dilations, 2, is_first)
    sides = _padding(padding, 2, is_first)
    y, w = _checked("Conv2DBackpropInput", input, filters, rank=2)
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
    lengths = _spatial(shape, is_first)
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
    _whole("depthwise_conv2d_native", "strides", strides, 2)
    is_first = _is_channels_first(data_format, 2)
    stride = _per_axis("strides", strides, 2, is_first)
    dilation = _per_axis("dilations", dilations, 2, is_first)
    sides = _padding(padding, 2, is_first)
    x, w = _checked("DepthwiseConv2dNative", input, filter, rank=2, integers=False)
    depth = x.shape[1 if is_first else -1]
    if depth != w.shape[2]:
        raise InvalidArgumentError(
            f"input depth must be evenly divisible by filter depth: {depth} vs {w.shape[2]}"
        )
    _refuse_too_short(_spatial(x.shape, is_first), w.shape[:2], stride, sides, dilation)

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
            data_format=_format(is_first),
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


# --- pooling --------------------------------------------------------------------------------------


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
    is_first = _is_channels_first(data_format, rank)
    window = _per_axis("ksize", ksize, rank, is_first)
    stride = _per_axis("strides", strides, rank, is_first)
    sides = _padding(padding, rank, is_first, takes_lists)
    (x,) = _checked(name, value, rank=rank, integers=pool is dg.nn.max_pool)
    _refuse_too_short(_spatial(x.shape, is_first), window, stride, sides, (1,) * rank)
    return compute(
        lambda v: pool(v, window, stride=stride, padding=sides, data_format=_format(is_first)),
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
