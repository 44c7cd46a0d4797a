"""Where the channels of images stand: behind the spatial axes, or before them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from distgrad.errors import ShapeError
from distgrad.ops.shaping.structure import permute_dims
from distgrad.shapes import shape_given

DataFormat: TypeAlias = Literal["channels_last", "channels_first"]


def channels_are_first(name: str, data_format: str) -> bool:
    """Return whether channels stand before the spatial axes.

    Raises
    ------
    ValueError
        If `data_format` is no such word.
    """
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            f"{name}: data_format is {data_format!r}; expected 'channels_last' or 'channels_first'"
        )
    return data_format == "channels_first"


def channels_last(x: Any, ndim: int) -> Any:
    """Return an array (batch, channels, *spatial) with its channels behind."""
    return permute_dims(x, (0, *range(2, ndim), 1))


def channels_first(x: Any, ndim: int) -> Any:
    """Return an array (batch, *spatial, channels) with its channels before the spatial axes."""
    return permute_dims(x, (0, ndim - 1, *range(1, ndim - 1)))


def spatial_axes(name: str, x: Any, data_format: str) -> tuple[int, ...]:
    """Return the spatial axes of a batch of images.

    Raises
    ------
    ShapeError
        If there is none.
    ValueError
        If `data_format` is no such word.
    """
    ndim = len(shape_given(x))
    if ndim < 3:
        raise ShapeError(
            f"{name}: an input with a batch axis, channels and spatial axes expected, got shape "
            f"{shape_given(x)}"
        )
    first = 2 if channels_are_first(name, data_format) else 1
    return tuple(range(first, first + ndim - 2))
