"""Positions along an axis: numbers picked there, or added there in the order in which they come."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address

Array = np.ndarray[Any, Any]

_MANY = 1 << 17  # numbers; with fewer, one thread is done before a second has begun
_NARROWEST = 32  # columns that a thread takes, at least: whole lines of the cache
_FARTHEST = 1 << 31  # positions from which on they need more than 32 bits

_ARGUMENTS = (ctypes.c_void_p,) * 4


def pick(x: Array, positions: Array, axis: int) -> Array | None:
    """Return the numbers at positions along an axis, which take its place.

    Parameters
    ----------
    x : numpy.ndarray
        What to pick from.
    positions : integer array
        Of any shape; negative ones count from the end.
    axis : int
        The axis, from 0 on.

    Returns
    -------
    numpy.ndarray or None
        None where no compiled kernel can: for positions outside, for gaps between numbers, and
        along the first axis, where NumPy copies whole rows.
    """
    if not library.is_on() or axis == 0 or not x.flags.c_contiguous:
        return None
    if x.dtype.itemsize not in (1, 2, 4, 8) or x.dtype.kind == "O":
        return None
    places = _inside(positions, x.shape[axis])
    if places is None:
        return None
    run = crew.shared("along", f"pick_{8 * x.dtype.itemsize}", _ARGUMENTS)
    if run is None:
        return None
    out = np.empty((*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :]), x.dtype)
    shape = _shape(x.shape, axis, places.size)
    _run(run, shape, int(shape[0]), out.size, (places, x, out))
    return out


def add(array: Array, positions: Array, values: Array, axis: int) -> bool:
    """Add values at positions along an axis; return False where no compiled kernel can.

    Parameters
    ----------
    array : numpy.ndarray
        What is changed.
    positions : integer array
        Of any shape; negative ones count from the end.
    values : numpy.ndarray
        Shaped as the array, but for the positions' shape in place of the axis.
    axis : int
        The axis, from 0 on.

    Notes
    -----
    Threads share the columns, or what comes before the axis, so that every number is added up in
    the order of the values, whatever the number of threads.
    """
    name = array.dtype.name
    if name not in ("float32", "float64") or values.dtype != array.dtype or not library.is_on():
        return False
    if values.shape != (*array.shape[:axis], *positions.shape, *array.shape[axis + 1 :]):
        return False
    if not (array.flags.c_contiguous and values.flags.c_contiguous):
        return False
    places = _inside(positions, array.shape[axis])
    if places is None or not values.size:
        return False
    run = crew.shared("along", f"add_{name}", _ARGUMENTS)
    if run is None:
        return False
    shape = _shape(array.shape, axis, places.size)
    outer, inner = int(shape[0]), int(shape[2])
    _run(run, shape, inner if outer == 1 else outer, values.size, (places, values, array))
    return True


def _inside(positions: Array, length: int) -> Array | None:
    """Return positions from 0 to length - 1 in 32 bits; None if there are others, or none."""
    if positions.dtype.kind not in "iu" or not positions.size or length >= _FARTHEST:
        return None
    lowest, highest = int(positions.min()), int(positions.max())
    if lowest < -length or highest >= length:
        return None
    places = np.ascontiguousarray(positions, np.int32)
    return np.where(places < 0, places + np.int32(length), places) if lowest < 0 else places


def _shape(shape: tuple[int, ...], axis: int, count: int) -> Array:
    """Return the numbers of the source's ``struct Shape``."""
    outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
    return np.array((outer, shape[axis], inner, count), np.int64)


def _run(run: Any, shape: Array, parts: int, size: int, arrays: tuple[Array, ...]) -> None:
    """Have threads share the parts: columns in whole lines of the cache, and others by fours."""
    sharing = crew.workers() if size >= _MANY else 1
    least = _NARROWEST if shape[0] == 1 else 4
    run(parts, max(-(-parts // sharing // least) * least, least), *map(address, (shape, *arrays)))
