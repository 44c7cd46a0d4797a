"""Normal numbers from random words, compiled: logarithm, sine and cosine in one pass."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.backend import philox
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address

Array = np.ndarray[Any, Any]

_FEW = 1 << 11  # numbers; below, what NumPy saves does not count
_PIECE = 1 << 15  # pairs that a thread takes at once


def normal(streams: Array, *, shape: tuple[int, ...], start: int, dtype: Any) -> Array | None:
    """Return the normal numbers of `distgrad.backend.philox.normal`, up to the last digit.

    Parameters
    ----------
    streams : numpy.ndarray of uint64, shape (3,)
        The stream.
    shape : tuple of int
        Of the result.
    start : int
        The place of the first number in the draw.
    dtype : dtype
        Of the result.
    """
    count = prod(shape)
    if count < _FEW or streams.ndim != 1 or np.dtype(dtype) != np.float32:
        return None
    run = crew.shared("drawing", "normal", [ctypes.c_void_p] * 2)
    if run is None:
        return None
    first = start - start % 2
    pairs = (start + count + 1) // 2 - first // 2
    words = np.ascontiguousarray(
        philox.bits32(philox.Stream(*streams.tolist()), first, 2 * pairs), np.uint32
    )
    out = np.empty(2 * pairs, np.float32)
    run(pairs, _PIECE, address(words), address(out))
    return out[start - first : start - first + count].reshape(shape)


def preferred(own: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of normal numbers, compiled where that goes."""

    def kernel(streams: Any, **how: Any) -> Any:
        found = normal(streams, **how) if library.is_on() else None
        return own(streams, **how) if found is None else found

    return kernel
