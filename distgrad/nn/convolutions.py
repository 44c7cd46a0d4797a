"""Layers over windows: convolutions and pooling in 1 to 3 dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.nn import initializers
from distgrad.nn.initializers import Initializer
from distgrad.nn.module import Module, as_input
from distgrad.nn.settings import count, function_or_none
from distgrad.ops.elementwise.arithmetic import add
from distgrad.ops.neural.channels import DataFormat, channels_are_first
from distgrad.ops.neural.convolution import conv, conv_transpose
from distgrad.ops.neural.pooling import avg_pool, max_pool
from distgrad.ops.shaping.structure import astype, matrix_transpose, reshape
from distgrad.windows import Padding

Lengths = int | Sequence[int]


class _Convolution(Module):
    """What `Conv` and `ConvTranspose` have in common."""

    def __init__(
        self,
        filters: int,
        window: Lengths,
        *,
        stride: Lengths = 1,
        padding: Padding = "valid",
        dilation: Lengths = 1,
        groups: int = 1,
        activation: Callable[[Any], Any] | None = None,
        bias: bool = True,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer | None = None,
        data_format: DataFormat = "channels_last",
        dtype: DTypeLike | None = None,
    ) -> None:
        self.filters = count(type(self).__name__, "filters", filters)
        self.window = window
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = count(type(self).__name__, "groups", groups)
        self.activation = function_or_none(type(self).__name__, "activation", activation)
        self.kernel: Any = None
        self.bias: Any = None
        self.has_bias = bias
        self.kernel_initializer = kernel_initializer or initializers.glorot_uniform()
        self.bias_initializer = bias_initializer or initializers.zeros()
        self.data_format = data_format
        self.dtype = dtype

    def _prepared(self, x: Any) -> Any:
        """Return the input, after the variables were created and its channels were looked at."""
        x = as_input(x)
        first = channels_are_first(self.path, self.data_format)
        rank = x.ndim - 2
        window = (self.window,) * rank if isinstance(self.window, int) else tuple(self.window)
        order = "(batch, channels, *spatial)" if first else "(batch, *spatial, channels)"
        if not 1 <= rank <= 3 or len(window) != rank:
            raise ShapeError(
                f"{self.path}: an input {order} expected with as many spatial axes as the window "
                f"{self.window} has, 1 to 3; got shape {tuple(x.shape)}"
            )
        channels = x.shape[1 if first else -1]
        if self.kernel is None:
            self._create(x, window, channels)
        expected = self._channels()
        if channels != expected:
            raise ShapeError(
                f"{self.path}: an input {order} with {expected} channels expected, got shape "
                f"{tuple(x.shape)}; the kernel has shape {tuple(self.kernel.shape)}"
            )
        return x

    def _create(self, x: Any, window: tuple[int, ...], channels: int) -> None:
        if channels % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"{self.path}: {channels} channels and {self.filters} filters are to form "
                f"{self.groups} groups; expected multiples of that"
            )
        shape, rule = self._kernel(window, channels)
        self.create("kernel", shape, rule, like=x, dtype=self.dtype)
        if self.has_bias:
            self.create("bias", (self.filters,), self.bias_initializer, like=x, dtype=self.dtype)

    def _kernel(
        self, window: tuple[int, ...], channels: int
    ) -> tuple[tuple[int, ...], Initializer]:
        return (*window, channels // self.groups, self.filters), self.kernel_initializer

    def _channels(self) -> int:
        return int(self.kernel.shape[-2]) * self.groups

    def _convolved(self, convolve: Callable[..., Any], x: Any, **options: Any) -> Any:
        """Return the activation of the sum of a convolution and the bias."""
        x = self._prepared(x)
        y = convolve(
            x,
            self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            data_format=self.data_format,
            **options,
        )
        if self.bias is not None:
            bias = self.bias
            if self.data_format == "channels_first":
                bias = reshape(bias, (self.filters, *(1,) * (y.ndim - 2)))
            if y.dtype.itemsize == 2:  # within `autocast`: what follows is to stay narrow, too
                bias = astype(bias, y.dtype, copy=False)
            y = add(y, bias)
        return y if self.activation is None else self.activation(y)


class Conv(_Convolution):
    """A convolution over 1 to 3 spatial axes, see `conv`.

    Parameters
    ----------
    filters : int
        How many channels the result has.
    window : int or sequence of int
        How many taps along each spatial axis; a number is for all that the input has.
    stride, padding, dilation, groups, data_format
        See `conv`. As many groups as channels make a depthwise convolution.
    activation : callable, optional
        Applied to the sum.
    bias : bool
        Whether to add a bias for each filter.
    kernel_initializer, bias_initializer : callable, optional
        See `initializers`; Glorot's even numbers, and zeros.
    dtype : dtype, optional
        Of the variables; that of the first input unless given.

    Attributes
    ----------
    kernel : Variable, shape ``(*window, channels / groups, filters)``
        As in TensorFlow; PyTorch's has filters and channels in front.
    bias : Variable, shape (filters,)
        Or None.
    """

    def call(self, x: Any) -> Any:
        """Return the result, of shape ``(batch, *windows, filters)`` with channels last."""
        return self._convolved(conv, x)


class ConvTranspose(_Convolution):
    """A transposed convolution, see `conv_transpose`: with a stride, its result is longer.

    Parameters
    ----------
    filters, window, stride, padding, dilation, groups, data_format
        See `conv_transpose`, and `Conv`.
    output_padding : int or sequence of int
        How much longer the result is behind.
    activation, bias, kernel_initializer, bias_initializer, dtype
        As for `Conv`; the fans are those of a convolution that leads the other way.

    Attributes
    ----------
    kernel : Variable, shape ``(*window, filters / groups, channels)``
        As in TensorFlow.
    bias : Variable, shape (filters,)
        Or None.
    """

    def __init__(
        self, filters: int, window: Lengths, *, output_padding: Lengths = 0, **options: Any
    ) -> None:
        super().__init__(filters, window, **options)
        self.output_padding = output_padding

    def _kernel(
        self, window: tuple[int, ...], channels: int
    ) -> tuple[tuple[int, ...], Initializer]:
        def turned(generator: Any, shape: Sequence[int], dtype: Any) -> Any:
            # Rules take the axis before the last for the inputs: here they are on the last.
            swapped = (*shape[:-2], shape[-1], shape[-2])
            return matrix_transpose(self.kernel_initializer(generator, swapped, dtype))

        return (*window, self.filters // self.groups, channels), turned

    def _channels(self) -> int:
        return int(self.kernel.shape[-1])

    def call(self, x: Any) -> Any:
        """Return the result; along each axis with padding "same" of `stride` times the length."""
        return self._convolved(conv_transpose, x, output_padding=self.output_padding)


class _Pooling(Module):
    """What `MaxPool` and `AvgPool` share: the windows and where the channels stand."""

    def __init__(
        self,
        window: Lengths = 2,
        *,
        stride: Lengths | None = None,
        padding: Padding = "valid",
        ceil_mode: bool = False,
        data_format: DataFormat = "channels_last",
    ) -> None:
        self.window = window
        self.stride = stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.data_format = data_format

    def _pooled(self, pool: Callable[..., Any], x: Any, **options: Any) -> Any:
        return pool(
            x,
            self.window,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            data_format=self.data_format,
            **options,
        )


class MaxPool(_Pooling):
    """The greatest number in each window, see `max_pool`.

    Parameters
    ----------
    window, stride, padding, ceil_mode, data_format
        See `max_pool`; the stride is the window unless given.
    """

    def call(self, x: Any) -> Any:
        """Return the greatest numbers."""
        return self._pooled(max_pool, x)


class AvgPool(_Pooling):
    """The mean of each window, see `avg_pool`.

    Parameters
    ----------
    window, stride, padding, ceil_mode, count_include_pad, data_format
        See `avg_pool`; the stride is the window unless given.
    """

    def __init__(
        self,
        window: Lengths = 2,
        *,
        stride: Lengths | None = None,
        padding: Padding = "valid",
        ceil_mode: bool = False,
        count_include_pad: bool = False,
        data_format: DataFormat = "channels_last",
    ) -> None:
        super().__init__(
            window, stride=stride, padding=padding, ceil_mode=ceil_mode, data_format=data_format
        )
        self.count_include_pad = count_include_pad

    def call(self, x: Any) -> Any:
        """Return the means."""
        return self._pooled(avg_pool, x, count_include_pad=self.count_include_pad)
