"""Grids of other sizes: values between pixels, and channels that become pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from distgrad.entering import asarray, beside
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add, multiply, subtract
from distgrad.ops.neural.channels import (
    DataFormat,
    channels_are_first,
    spatial_axes,
)
from distgrad.ops.picking.indexing import take
from distgrad.ops.shaping.structure import permute_dims, reshape
from distgrad.shapes import shape_given
from distgrad.windows import per_axis


def resize(
    x: Any,
    /,
    size: int | Sequence[int],
    *,
    method: Literal["linear", "nearest"] = "linear",
    align_corners: bool = False,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return a grid with other numbers of pixels, by values between the pixels.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, *spatial, channels)``, or ``(batch, channels, *spatial)`` with
        ``data_format="channels_first"``; floating for "linear".
    size : int or sequence of int
        How many pixels along all spatial axes, or each.
    method : "linear" or "nearest"
        Linear along each axis (bilinear, trilinear), or the nearest pixel.
    align_corners : bool
        Whether the middles of the outermost pixels stay where they are, instead of the outer edges.
    data_format : "channels_last" or "channels_first"
        The order of the axes.

    Raises
    ------
    ShapeError
        If the size does not fit, or an axis has no pixels.
    ValueError
        If the method is another one.

    Notes
    -----
    Pixel i of n has its middle at ``(i + 1/2) m / n - 1/2`` of the m old ones, as in PyTorch and
    TensorFlow 2 (PyTorch calls this nearest neighbour "nearest-exact"); with `align_corners` at
    ``i (m - 1) / (n - 1)``. Nothing is smoothed first: of a much larger grid most pixels are left
    out, so average it with `avg_pool` before.
    """
    if method not in ("linear", "nearest"):
        raise ValueError(f"resize: method is {method!r}; expected 'linear' or 'nearest'")
    x = asarray(x)
    axes = spatial_axes("resize", x, data_format)
    shape = shape_given(x)
    if 0 in (shape[axis] for axis in axes):
        raise ShapeError(f"resize: shape {shape} has a spatial axis without pixels")
    for axis, new in zip(axes, per_axis("resize", "size", size, len(axes)), strict=True):
        old = shape[axis]
        if new == old:
            continue
        middles = _middles(old, new, align_corners)
        if method == "nearest":
            # Halves go up, as those of floor((i + 1/2) m / n) do.
            nearest = np.clip(np.floor(middles + 0.5), 0, old - 1).astype(np.int64)
            x = take(x, beside(nearest, x), axis=axis)
            continue
        middles = np.clip(middles, 0, old - 1)
        lower = np.minimum(np.floor(middles), max(old - 2, 0)).astype(np.int64)
        weight = (middles - lower).reshape(-1, *(1,) * (len(shape) - 1 - axis))
        share = beside(weight.astype(x.dtype), x)
        below = take(x, beside(lower, x), axis=axis)
        above = take(x, beside(np.minimum(lower + 1, old - 1), x), axis=axis)
        x = add(below, multiply(subtract(above, below), share))
    return x


def _middles(old: int, new: int, align_corners: bool) -> np.ndarray[Any, Any]:
    """Return where the new pixels' middles lie, counted in old pixels."""
    places = np.arange(new, dtype=np.float64)
    if align_corners:
        return places * ((old - 1) / (new - 1)) if new > 1 else places
    return (places + 0.5) * (old / new) - 0.5


def pixel_shuffle(x: Any, /, factor: int, *, data_format: DataFormat = "channels_last") -> Any:
    """Return an image of which each pixel's channels have become factor x factor pixels.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, height, width, channels factor^2)``, or with the channels second.
    factor : int
        How many times as many pixels along each axis.
    data_format : "channels_last" or "channels_first"
        The order of the axes.

    Raises
    ------
    ShapeError
        If there are other than two spatial axes, or the channels are no multiple of the square.

    Notes
    -----
    With channels first, the factor^2 places of a channel lie side by side, as in PyTorch; with
    channels last, the channels of a place do, as in TensorFlow's `depth_to_space`.

    References
    ----------
    Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", CVPR 2016, arXiv:1609.05158, equation 4.
    """
    first = _of_images("pixel_shuffle", x, factor, data_format)
    shape = shape_given(x)
    channels = shape[1 if first else 3]
    if channels % factor**2:
        raise ShapeError(
            f"pixel_shuffle: {channels} channels cannot become {factor} x {factor} pixels; "
            f"expected a multiple of {factor**2}"
        )
    depth = channels // factor**2
    if first:
        batch, _, height, width = shape
        parts = reshape(x, (batch, depth, factor, factor, height, width))
        turned = permute_dims(parts, (0, 1, 4, 2, 5, 3))
        return reshape(turned, (batch, depth, height * factor, width * factor))
    batch, height, width, _ = shape
    parts = reshape(x, (batch, height, width, factor, factor, depth))
    turned = permute_dims(parts, (0, 1, 3, 2, 4, 5))
    return reshape(turned, (batch, height * factor, width * factor, depth))


def pixel_unshuffle(x: Any, /, factor: int, *, data_format: DataFormat = "channels_last") -> Any:
    """Return the image that `pixel_shuffle` makes this one of: its inverse; parameters as there."""
    first = _of_images("pixel_unshuffle", x, factor, data_format)
    shape = shape_given(x)
    height, width = shape[2:] if first else shape[1:3]
    if height % factor or width % factor:
        raise ShapeError(
            f"pixel_unshuffle: {height} x {width} pixels cannot be taken {factor} x {factor} at a "
            f"time; expected multiples of {factor}"
        )
    height, width = height // factor, width // factor
    if first:
        batch, depth = shape[:2]
        parts = reshape(x, (batch, depth, height, factor, width, factor))
        turned = permute_dims(parts, (0, 1, 3, 5, 2, 4))
        return reshape(turned, (batch, depth * factor**2, height, width))
    batch, depth = shape[0], shape[3]
    parts = reshape(x, (batch, height, factor, width, factor, depth))
    turned = permute_dims(parts, (0, 1, 3, 2, 4, 5))
    return reshape(turned, (batch, height, width, factor**2 * depth))


def _of_images(name: str, x: Any, factor: int, data_format: str) -> bool:
    """Return whether channels come first, of what has two spatial axes."""
    if len(shape_given(x)) != 4:
        raise ShapeError(f"{name}: images of four axes expected, got shape {shape_given(x)}")
    if factor < 1:
        raise ValueError(f"{name}: factor is {factor}; expected 1 or more")
    return channels_are_first(name, data_format)
