"""What TensorFlow's convolutions and pools are given: formats, strides, paddings, operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from distgrad.compat.tensorflow.conversion import dims, dtype_of, operands
from distgrad.compat.tensorflow.dtypes import spoken
from distgrad.compat.tensorflow.errors import InvalidArgumentError, UnimplementedError
from distgrad.compat.tensorflow.values import convert_to_tensor
from distgrad.windows import paddings

FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}


def is_channels_first(data_format: str | None, rank: int) -> bool:
    """Return whether a format such as "NCHW" has the channels before the spatial axes.

    Raises
    ------
    InvalidArgumentError
        If it is no format of so many spatial axes.
    """
    last, first = FORMATS[rank]
    if data_format not in (None, last, first):
        raise InvalidArgumentError(
            f"Value for attr 'data_format' of \"{data_format}\" is not in the list of allowed "
            f'values: "{last}", "{first}"'
        )
    return data_format == first


def per_axis(name: str, given: Any, rank: int, is_first: bool) -> tuple[int, ...]:
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


def check_whole(name: str, argument: str, given: Any, rank: int) -> None:
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


def padding_of(padding: Any, rank: int, is_first: bool, takes_lists: bool = True) -> Any:
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


def checked(name: str, *values: Any, rank: int, integers: bool = True) -> list[Any]:
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


def refuse_too_short(
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


def spatial(shape: Sequence[int], is_first: bool) -> tuple[int, ...]:
    """Return the lengths of the spatial axes."""
    return tuple(shape[2:] if is_first else shape[1:-1])


def format_of(is_first: bool) -> Literal["channels_first", "channels_last"]:
    """Return the library's word for an order of the axes."""
    return "channels_first" if is_first else "channels_last"
