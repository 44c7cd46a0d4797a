"""Blocks of sliding windows: cut an array of windows into parts, and see the windows of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distgrad.windows import Geometry
from distgrad_numpy.threads import scratch

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Ranges = tuple[tuple[int, int], ...]


def blocks_of(shape: Shape, rows: int) -> Iterator[Ranges]:
    """Yield ranges over all axes but the last that together cover an array of windows.

    Each covers the last axes wholly, a range of one axis, and one position of those before it, so
    that it is contiguous in an array that is.

    Parameters
    ----------
    shape : tuple of int
        Of the array, with the channels last; they are not cut.
    rows : int
        How many windows a block is to have, at most.
    """
    if 0 in shape:
        return
    lengths = shape[:-1]
    sizes = []
    for length in reversed(lengths):
        size = min(max(rows, 1), length)
        # Equal parts: a short last one would leave a thread waiting, and BLAS with few rows.
        size = -(-length // -(-length // size))
        sizes.append(size)
        rows = rows // length if size == length else 0
    steps = sizes[::-1]
    for starts in product(*(range(0, n, s) for n, s in zip(lengths, steps, strict=True))):
        yield tuple(
            (start, min(start + step, n))
            for start, step, n in zip(starts, steps, lengths, strict=True)
        )


def rows_of(array: Array, block: Ranges) -> Array:
    """Return a view of a block of an array."""
    return array[tuple(slice(start, stop) for start, stop in block)]


def seen_by(x: Array, window: Shape, geometry: Geometry, block: Ranges, fill: Any = 0) -> Array:
    """Return what the windows of a block see of an input, with its padding.

    Parameters
    ----------
    x : numpy.ndarray
        The input, (examples, *spatial, channels).
    window : tuple of int
        How many taps a window has along each axis.
    geometry : Geometry
        How it slides.
    block : ranges
        Which windows, along all axes of their array but the channels.
    fill : scalar
        What stands where there is padding.

    Returns
    -------
    numpy.ndarray
        A view of the input, or scratch memory where padding is seen.
    """
    (first, last), *ranges = block
    index, pads = [], []
    for axis, (start, stop) in enumerate(ranges):
        begin = start * geometry.stride[axis] - geometry.padding[axis][0]
        whole = ((stop - start - 1) * geometry.stride[axis]) + (
            (window[axis] - 1) * geometry.dilation[axis] + 1
        )
        length = x.shape[1 + axis]
        low, high = min(max(begin, 0), length), min(max(begin + whole, 0), length)
        index.append(slice(low, high))
        pads.append((min(low - begin, whole) if high > low else 0, high - low, whole))
    inside = x[(slice(first, last), *index)]
    if all(taken == whole for _, taken, whole in pads):
        return inside
    shape = (last - first, *(whole for _, _, whole in pads), x.shape[-1])
    padded = scratch("padded", shape, x.dtype)
    _fill_around(padded, pads, fill)
    padded[(slice(None), *(slice(low, low + taken) for low, taken, _ in pads))] = inside
    return padded


def _fill_around(padded: Array, pads: Sequence[tuple[int, int, int]], fill: Any) -> None:
    """Set what lies around the inner part of an array."""
    index: list[slice] = [slice(None)]
    for low, taken, whole in pads:
        if low:
            padded[(*index, slice(0, low))] = fill
        if low + taken < whole:
            padded[(*index, slice(low + taken, whole))] = fill
        index.append(slice(low, low + taken))


def windows_of(x: Array, window: Shape, geometry: Geometry, block: Ranges) -> Array:
    """Return a view of the windows of a block, (examples, *windows, *window, channels).

    Parameters are those of `seen_by`; padding is zero.
    """
    seen = seen_by(x, window, geometry, block)
    batch, *steps, channel = seen.strides
    return as_strided(
        seen,
        (*(stop - start for start, stop in block), *window, x.shape[-1]),
        (
            batch,
            *(s * n for s, n in zip(steps, geometry.stride, strict=True)),
            *(s * n for s, n in zip(steps, geometry.dilation, strict=True)),
            channel,
        ),
        writeable=False,
    )
