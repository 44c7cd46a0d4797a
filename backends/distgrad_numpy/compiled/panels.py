"""Arrays for products of panels: dense ones, and memory that begins with a line of the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad_numpy import threads
from distgrad_numpy.compiled.library import address

Array = np.ndarray[Any, Any]

_LINE = 16  # numbers of float32 in a line of the cache


def dense(*arrays: Array) -> list[Any] | None:
    """Return the arrays without gaps; None unless all are of float32 and have elements."""
    if not all(each.dtype == np.float32 and each.size for each in arrays):
        return None
    return [np.ascontiguousarray(each) for each in arrays]


def aligned(purpose: str, elements: int) -> Array:
    """Return memory of this thread's own for numbers of float32, see `threads.scratch`."""
    buffer = threads.scratch(purpose, (elements + _LINE,), np.float32)
    first = -(address(buffer) // 4) % _LINE
    return buffer[first : first + elements]
