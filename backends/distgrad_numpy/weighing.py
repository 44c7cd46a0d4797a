"""Sums of two weighed arrays that come into the place of both, as two ranks have one another's."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad_numpy.compiled import weighing

Array = np.ndarray[Any, Any]

_PIECE = 2**17  # bytes, which stay in a second-level cache while they are gone through


def add_weighed(first: Array, second: Array, factors: tuple[float, float]) -> None:
    """Put the sum of two arrays, each times its factor, into both.

    Parameters
    ----------
    first, second : numpy.ndarray of shape (n,)
        Contiguous, of the same dtype, no memory in common.
    factors : tuple of float
        One for each.

    Notes
    -----
    The bits are those of ``first * factors[0] + second * factors[1]``.
    """
    if weighing.add_weighed(first, second, factors):
        return
    step = max(_PIECE // first.itemsize, 1)
    rooms = [np.empty(min(step, first.size), first.dtype) for _ in factors]
    for start in range(0, first.size, step):
        left, right = first[start : start + step], second[start : start + step]
        terms = [
            piece if factor == 1 else np.multiply(piece, factor, out=room[: piece.size])
            for piece, factor, room in zip((left, right), factors, rooms, strict=True)
        ]
        np.add(terms[0], terms[1], out=left)
        right[...] = left
