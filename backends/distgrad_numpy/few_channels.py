"""The adjoint of a convolution whose input has few channels: products added to shifted planes.

Of an image with three channels, gathering what an input position contributed to copies all outputs
of all windows that see it, for three numbers. The other way is less: one product of the kernel with
all outputs of a window is what goes to each of its taps, and each tap's part is one plane that is
added to a shifted view of the input. A stride is taken apart first, one set of planes for each
residue of positions, so that whole rows are added; they are brought together at the end.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from distgrad.windows import Geometry
from distgrad_numpy.blocks import blocks_of
from distgrad_numpy.threads import run, scratch

Array = np.ndarray[Any, Any]

# Products that are worked on at once, in bytes: they are to stay in a core's cache.
_BLOCK_BYTES = 1 << 20
# Parts of the batch, at least, where there are so many: for threads to share.
_PARTS = 4
# More channels than that are quicker gathered; 16 took 0.6 of the time, 32 took 1.7 of it.
_MOST_CHANNELS = 16


def applies(w: Array, geometry: Geometry) -> bool:
    """Return whether a kernel, (*window, channels, outputs), is one for this way."""
    inner, outputs = w.shape[-2:]
    padded = all(low >= 0 for low, _ in geometry.padding)
    return padded and geometry.groups == 1 and 0 < inner <= min(_MOST_CHANNELS, outputs // 2)


def conv_transpose(y: Array, w: Array, x: Array, geometry: Geometry, dtype: Any) -> None:
    """Write the adjoint of a convolution into an array of the input's shape.

    Parameters
    ----------
    y : numpy.ndarray
        What the windows hold, (examples, *windows, outputs), of any floating or complex dtype.
    w : numpy.ndarray
        The kernel, (*window, channels, outputs).
    x : numpy.ndarray
        To be overwritten, (examples, *spatial, channels).
    geometry : Geometry
        How the window slides, without groups.
    dtype : dtype
        To compute in.
    """
    window, (inner, outputs) = w.shape[:-2], w.shape[-2:]
    stride, dilation = geometry.stride, geometry.dilation
    before = [low for low, _ in geometry.padding]
    # How many positions of one residue there are, with those in the padding.
    lengths = [
        max((k - 1) * d // s + n, -(-(length + low) // s))
        for k, d, s, n, length, low in zip(
            window, dilation, stride, y.shape[1:-1], x.shape[1:-1], before, strict=True
        )
    ]
    matrix = np.ascontiguousarray(w.reshape(-1, outputs), dtype)
    taps = prod(window)
    rows = max(_BLOCK_BYTES // (len(matrix) * matrix.itemsize), 1)
    # Several small examples at a time, or one large one in parts.
    several = max(min(rows // prod(y.shape[1:-1]), -(-len(y) // _PARTS)), 1)
    blocks = list(blocks_of((1, *y.shape[1:]), rows))
    rank = len(window)
    inside = tuple(slice(low, low + n) for low, n in zip(before, x.shape[1:-1], strict=True))
    # (channels, *residues, examples, *positions) to (examples, *(position, residue), channels)
    order = [axis for a in range(rank) for axis in (2 + rank + a, 1 + a)]

    def work(begin: int) -> None:
        examples = slice(begin, min(begin + several, len(y)))
        together = examples.stop - begin
        planes = scratch("planes", (inner, *stride, together, *lengths), dtype)
        planes[...] = 0
        for _, *ranges in blocks:
            part = y[(examples, *(slice(*each) for each in ranges))]
            numbers = part.shape[:-1]
            right = part.reshape(-1, outputs).astype(dtype, copy=False)
            parts = scratch("products", (len(matrix), len(right)), dtype)
            np.matmul(matrix, right.T, out=parts)
            shifted = parts.reshape(taps, inner, *numbers)
            for tap, place in enumerate(product(*map(range, window))):
                offsets = [t * d for t, d in zip(place, dilation, strict=True)]
                residues = [o % s for o, s in zip(offsets, stride, strict=True)]
                starts = [
                    o // s + first for o, s, (first, _) in zip(offsets, stride, ranges, strict=True)
                ]
                views = (slice(at, at + n) for at, n in zip(starts, numbers[1:], strict=True))
                place_in_planes: Any = (slice(None), *residues, slice(None), *views)
                target = planes[place_in_planes]
                np.add(target, shifted[tap], out=target)
        whole = planes.transpose(1 + rank, *order, 0).reshape(
            together, *(n * s for n, s in zip(lengths, stride, strict=True)), inner
        )
        np.copyto(x[examples], whole[(slice(None), *inside)], casting="same_kind")

    run(work, range(0, len(y), several))
