"""Running sums and products, and products of lines: several lines at a time.

NumPy takes one number after the other, each of which waits for the one before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import dense

Array = np.ndarray[Any, Any]

_FEW = 1 << 10  # numbers; below, NumPy is done before this is prepared
_SHARED = 1 << 17  # numbers from which on threads share the lines
_GROUP = 64  # lines that threads take, or a multiple of these

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p


def cumulative_sum(x: Array, *, axis: int | None = None) -> Array | None:
    """Return the running sum along an axis; None for other dtypes and layouts."""
    return _cumulative("cumulative_sum", x, axis)


def cumulative_prod(x: Array, *, axis: int | None = None) -> Array | None:
    """Return the running product along an axis; None for other dtypes and layouts."""
    return _cumulative("cumulative_prod", x, axis)


def _cumulative(name: str, x: Array, axis: int | None) -> Array | None:
    if not isinstance(x, np.ndarray) or not x.ndim or (axis is None and x.ndim > 1):
        return None
    if not -x.ndim <= (axis or 0) < x.ndim:
        return None
    x, place = dense(x), (axis or 0) % x.ndim
    # What passes back through a running sum is one from the end: an array that is turned round.
    turned = x.strides[place] < 0
    around = (slice(None),) * place + (slice(None, None, -1),)
    lines = x[around] if turned else x
    if not _takes(lines):
        return None
    out = np.empty(x.shape, x.dtype)
    if not _run(name, lines, place, turned, out):
        return None
    return out[around] if turned else out


def cumulative_prod_pullback(
    g: Array, y: Array | None, xs: Any, params: dict[str, Any], needs: Sequence[Any]
) -> list[Any] | None:
    """Return what the rule of `cumulative_prod` does, in two steps for each number."""
    x = xs[0]
    g = np.ascontiguousarray(g)
    if not (library.is_on() and _takes(x) and _takes(g)):
        return None
    if g.dtype != x.dtype or g.shape != x.shape:
        return None
    out = np.empty(x.shape, x.dtype)
    place = (params.get("axis") or 0) % x.ndim
    return [out] if _run("cumulative_prod_vjp", x, place, False, g, out) else None


def product_over(x: Array, axis: Any = None, keepdims: bool = False) -> Array | None:
    """Return the products over the last axis, or all of them; None for other axes."""
    every = axis is None or (isinstance(axis, tuple) and len(axis) == x.ndim)
    if not _takes(x) or not (every or axis in (-1, x.ndim - 1)):
        return None
    length = x.size if every else x.shape[-1]
    shape = ((1,) * x.ndim if keepdims else ()) if every else x.shape[:-1] + (1,) * keepdims
    run = crew.shared("running", f"prod_{x.dtype.name}", (_COUNT, _ARRAY, _ARRAY))
    if run is None:
        return None
    out = np.empty(shape, x.dtype)
    run(out.size, _piece(x, out.size), length, address(x), address(out))
    return out


PULLBACKS = {"cumulative_prod": cumulative_prod_pullback}
OFFERS = {
    "cumulative_sum": cumulative_sum,
    "cumulative_prod": cumulative_prod,
    "prod": product_over,
}


def _takes(x: Any) -> bool:
    """Return whether these are many numbers side by side; a scalar of NumPy's has no memory."""
    if not isinstance(x, np.ndarray) or x.size < _FEW:
        return False
    return x.dtype in (np.float32, np.float64) and x.flags.c_contiguous


def _run(name: str, x: Array, place: int, turned: bool, *others: Array) -> bool:
    arguments = (*[_COUNT] * 4, *[_ARRAY] * (1 + len(others)))
    run = crew.shared("running", f"{name}_{x.dtype.name}", arguments)
    if run is None:
        return False
    shape = x.shape
    outer, length, inner = prod(shape[:place]), shape[place], prod(shape[place + 1 :])
    lines = outer if inner == 1 else inner
    # From the end of each line: where it begins then, and how far the next number is.
    end = (length - 1) * inner * x.itemsize if turned else 0
    places = [address(each) + end for each in (x, *others)]
    run(lines, _piece(x, lines), outer, length, inner, -inner if turned else inner, *places)
    return True


def _piece(x: Array, lines: int) -> int:
    """Return how many lines a thread takes at once."""
    sharing = crew.workers() if x.size >= _SHARED else 1
    return lines if sharing == 1 else max(-(-lines // sharing // _GROUP) * _GROUP, _GROUP)
