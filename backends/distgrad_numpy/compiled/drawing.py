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
from distgrad_numpy.compiled.offers import REALS

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
    dtype = np.dtype(dtype)
    if count < _FEW or streams.ndim != 1 or dtype not in REALS:
        return None
    run = crew.shared("drawing", "normal", [ctypes.c_void_p] * 2, REALS[dtype])
    if run is None:
        return None
    first = start - start % 2
    pairs = (start + count + 1) // 2 - first // 2
    bits = philox.bits64 if dtype == np.float64 else philox.bits32
    words = np.ascontiguousarray(bits(philox.Stream(*streams.tolist()), first, 2 * pairs))
    out = np.empty(2 * pairs, dtype)
    run(pairs, _PIECE, address(words), address(out))
    return out[start - first : start - first + count].reshape(shape)


def preferred(own: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of normal numbers, compiled where that goes."""

    def kernel(streams: Any, **how: Any) -> Any:
        found = normal(streams, **how) if library.is_on() else None
        return own(streams, **how) if found is None else found

    return kernel
