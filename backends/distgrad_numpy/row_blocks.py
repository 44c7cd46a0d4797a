"""Blocks of rows that fit the cache, for kernels that compute along or across rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from distgrad_numpy import threads

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 17  # bytes at a time, as in `blocked`
_PIECE = 4  # blocks that a thread takes at once


def takes(x: Array) -> bool:
    """Return whether kernels by blocks take an array, and it is worth it."""
    return (
        x.ndim > 0
        and x.nbytes > 1 << 12
        and x.dtype in (np.float32, np.float64)
        and x.flags.c_contiguous
    )


def rows_of(x: Array) -> Array:
    """Return an array with all axes but the last as one."""
    return x.reshape(-1, x.shape[-1])


def step_of(x: Array) -> int:
    """Return how many rows a block has."""
    row: int = x.shape[-1] * x.itemsize
    return max(_BLOCK // row, 1)


def pieces_of(rows: Array) -> int:
    """Return how many pieces `in_blocks` makes of rows."""
    return -(-len(rows) // (_PIECE * step_of(rows)))


def in_blocks(rows: Array, work: Callable[[int, slice], None]) -> None:
    """Do work on each block of rows, given the number of its piece: of several blocks, in turn."""
    step, count = step_of(rows), len(rows)
    piece = _PIECE * step

    def run(number: int) -> None:
        begin = number * piece
        for low in range(begin, min(begin + piece, count), step):
            work(number, slice(low, min(low + step, count)))

    with threads.one_each():
        threads.run(run, range(pieces_of(rows)))


@lru_cache(maxsize=16)
def ones(length: int, dtype: np.dtype[Any]) -> Array:
    """Return ones, to add up by: products are twice as quick as sums."""
    each = np.ones(length, dtype)
    each.flags.writeable = False
    return each


def sums_of(x: Array) -> Array:
    """Return the sum of each row, as a column."""
    total: Array = np.vecdot(x, ones(x.shape[1], x.dtype))[:, None]
    return total
