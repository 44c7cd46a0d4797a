"""Depthwise convolution of stride 1: every tap's product is added as it is made.

A convolution of one channel a group has no product of matrices: it is a sum of as many scaled
images as the kernel has taps. By ufuncs each of these passes over memory twice, to multiply and to
add. The inner loop of `numpy.einsum` does both at once; it is given whole rows of positions and
channels, so that it is long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distgrad.windows import Geometry
from distgrad_numpy.blocks import Ranges, Shape, rows_of, seen_by

Array = np.ndarray[Any, Any]


def convolve(
    x: Array, weights: Array, y: Array, window: Shape, geometry: Geometry, block: Ranges
) -> None:
    """Write a block of a convolution into an array.

    Parameters
    ----------
    x : numpy.ndarray
        The input, (examples, *spatial, channels).
    weights : numpy.ndarray
        The kernel, (*window, positions * channels), the same at each position of the last spatial
        axis, of the input's dtype.
    y : numpy.ndarray
        To be overwritten in the block, (examples, *windows, channels).
    window : tuple of int
        How many taps a window has along each axis.
    geometry : Geometry
        How it slides: by 1 along the last axis.
    block : ranges
        Which windows, along all axes of their array but the channels.
    """
    seen = seen_by(x, window, geometry, block)
    channels, size = seen.shape[-1], seen.itemsize
    if seen.strides[-2:] != (channels * size, size):
        seen = np.ascontiguousarray(seen)
    target = rows_of(y, block)
    lead, run = target.shape[:-2], target.shape[-2] * channels
    whole = target.flags.c_contiguous
    result = target.reshape(*lead, run) if whole else np.empty((*lead, run), y.dtype)
    batch, *steps, _ = seen.strides
    scaled = as_strided(
        seen,
        (*lead, *window, run),
        (
            batch,
            *(n * s for n, s in zip(geometry.stride[:-1], steps[:-1], strict=True)),
            *(n * s for n, s in zip(geometry.dilation, steps, strict=True)),
            size,
        ),
        writeable=False,
    )
    outer, taps = "abc"[: len(lead)], "klm"[: len(window)]
    np.einsum(f"{outer}{taps}x,{taps}x->{outer}x", scaled, weights[..., :run], out=result)
    if not whole:
        target[...] = result.reshape(target.shape)
