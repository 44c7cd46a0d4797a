"""Windows cut out of images, side by side, and images put together of overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.core.seam import apply
from distgrad.entering import asarray, beside
from distgrad.errors import ShapeError
from distgrad.ops.neural.channels import (
    DataFormat,
    channels_are_first,
    channels_first,
    channels_last,
)
from distgrad.ops.picking.indexing import SCATTER_ADD, encode, getitem
from distgrad.ops.shaping.structure import permute_dims, reshape
from distgrad.shapes import Shape, shape_given
from distgrad.windows import Padding, Pairs, counts, paddings, per_axis


class _Windows(NamedTuple):
    """Where windows lie on a grid."""

    window: Shape
    padding: Pairs
    counts: Shape
    places: tuple[Any, ...]  # of their taps along each padded axis; together: counts, then taps
    padded: Shape
    inner: tuple[slice, ...]  # where the grid itself lies in the padded one, after the batch


def _windows(
    name: str,
    lengths: Shape,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
) -> _Windows:
    rank = len(lengths)
    taps = per_axis(name, "window", window, rank)
    strides = per_axis(name, "stride", stride, rank)
    dilations = per_axis(name, "dilation", dilation, rank)
    pairs = paddings(name, padding, lengths, taps, strides, dilations)
    numbers = counts(lengths, taps, strides, pairs, dilations)
    if min(numbers) < 1:
        raise ShapeError(
            f"{name}: no window of {taps} with dilation {dilations} fits in {lengths} padded by "
            f"{pairs}; expected one at least along each axis"
        )
    found: list[Any] = []
    for axis in range(rank):
        starts = np.arange(numbers[axis]) * strides[axis]
        places = starts[:, None] + np.arange(taps[axis]) * dilations[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = numbers[axis], taps[axis]
        found.append(places.reshape(shape))
    sides = list(zip(lengths, pairs, strict=True))
    padded = tuple(length + before + behind for length, (before, behind) in sides)
    inner = tuple(slice(before, before + length) for length, (before, _) in sides)
    return _Windows(taps, pairs, numbers, tuple(found), padded, (slice(None), *inner))


def unfold(
    x: Any,
    /,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return all windows of images, each as a vector: what a convolution multiplies its kernel by.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, *spatial, channels)``, or ``(batch, channels, *spatial)`` with
        ``data_format="channels_first"``.
    window, stride, padding, dilation
        As for `conv`; what is padded is 0.
    data_format : "channels_last" or "channels_first"
        The order of the axes.

    Returns
    -------
    Tensor
        Of shape ``(batch, *counts, taps * channels)``, with the channels of a tap side by side, as
        TensorFlow's `extract_patches`; or ``(batch, channels * taps, *counts)`` with the taps of a
        channel side by side, as PyTorch's `unfold`, which has all counts as one axis.

    Raises
    ------
    ShapeError
        If no window fits.
    """
    x = asarray(x)
    first = channels_are_first("unfold", data_format)
    ndim = _rank("unfold", shape_given(x))
    if first:
        x = channels_last(x, ndim)
    batch, *lengths, channels = shape_given(x)
    found = _windows("unfold", tuple(lengths), window, stride, padding, dilation)
    if any(map(any, found.padding)):
        index, _ = encode(found.inner)
        x = apply(SCATTER_ADD, x, index=index, shape=(batch, *found.padded, channels))
    picked = getitem(x, (slice(None), *(beside(each, x) for each in found.places)))
    width = prod(found.window)
    if not first:
        return reshape(picked, (batch, *found.counts, width * channels))
    picked = reshape(picked, (batch, *found.counts, width, channels))
    turned = permute_dims(picked, (0, ndim, ndim - 1, *range(1, ndim - 1)))
    return reshape(turned, (batch, channels * width, *found.counts))


def fold(
    patches: Any,
    /,
    size: Sequence[int],
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return images in which overlapping windows are added up: the adjoint of `unfold`.

    Parameters
    ----------
    patches : Tensor, Variable or array
        As `unfold` returns them for images of this size.
    size : sequence of int
        Of the images along their spatial axes.
    window, stride, padding, dilation, data_format
        As for `unfold`.

    Raises
    ------
    ShapeError
        If the patches are not those of such images.

    Notes
    -----
    ``fold(unfold(x))`` is x times the number of windows that cover each pixel: divide by the fold
    of ones for an average.
    """
    patches = asarray(patches)
    first = channels_are_first("fold", data_format)
    shape = shape_given(patches)
    ndim = _rank("fold", shape)
    lengths = tuple(int(length) for length in size)
    if len(lengths) != ndim - 2:
        raise ShapeError(
            f"fold: size is {lengths} for patches of shape {shape}; expected {ndim - 2} lengths, "
            "one for each spatial axis"
        )
    found = _windows("fold", lengths, window, stride, padding, dilation)
    width = prod(found.window)
    batch, merged = shape[0], shape[1 if first else -1]
    if (shape[2:] if first else shape[1:-1]) != found.counts or merged % width:
        raise ShapeError(
            f"fold: patches of shape {shape} for images of {lengths}; expected "
            f"{found.counts} windows, each of a multiple of {width} numbers"
        )
    channels = merged // width
    if first:
        patches = reshape(patches, (batch, channels, width, *found.counts))
        patches = permute_dims(patches, (0, *range(3, ndim + 1), 2, 1))
    parts = reshape(patches, (batch, *found.counts, *found.window, channels))
    index, places = encode((slice(None), *(beside(each, parts) for each in found.places)))
    whole = apply(SCATTER_ADD, parts, *places, index=index, shape=(batch, *found.padded, channels))
    if any(map(any, found.padding)):
        whole = getitem(whole, found.inner)
    return channels_first(whole, ndim) if first else whole


def _rank(name: str, shape: Shape) -> int:
    if len(shape) < 3:
        raise ShapeError(
            f"{name}: an input with a batch axis, channels and spatial axes expected, got shape "
            f"{shape}"
        )
    return len(shape)
