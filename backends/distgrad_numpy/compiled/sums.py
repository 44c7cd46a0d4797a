"""Sums and means of columns in float32, as of a bias' gradient: they stay in registers.

NumPy adds row by row to a result in memory, which takes up to seven times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import real_of

Array = np.ndarray[Any, Any]

_FEW = 4  # rows, and columns; with fewer, NumPy's order of adding is as good
_SMALL = 3 << 13  # numbers; below, NumPy is done before this is prepared
_SHARED = 1 << 18  # numbers from which on threads share the columns
_BLOCK = 64  # columns that threads take, or a multiple of these

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS = (*[_COUNT] * 3, ctypes.c_float, *[_ARRAY] * 2)
_RECTIFYING = (*[_COUNT] * 2, *[_ARRAY] * 4)
_LANES = 16  # columns that the widest vectors have


def sum_over(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the sums over neighbouring axes before the last; None for other axes."""
    return _sums(x, axis, keepdims, mean=False)


def mean_over(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the means over neighbouring axes before the last; None for other axes."""
    return _sums(x, axis, keepdims, mean=True)


def _sums(x: Array, axis: Any, keepdims: bool, *, mean: bool) -> Any:
    if axis is None or x.size < _SMALL or real_of(x) != "float":
        return None
    plan = _plan(x.shape, axis, keepdims)
    run = _function() if plan is not None else None
    if run is None or plan is None:
        return None
    outer, rows, columns, shape = plan
    out = np.empty(shape, np.float32)
    given = outer, rows, columns, rows if mean else 1, address(x), address(out)
    sharing = crew.workers() if x.size >= _SHARED else 1
    each = columns if sharing == 1 else -(-columns // sharing // _BLOCK) * _BLOCK
    run(columns, each, *given)
    return out


def _plan(
    shape: tuple[int, ...], axis: int | tuple[int, ...], keepdims: bool
) -> tuple[int, int, int, tuple[int, ...]] | None:
    """Return how many outer parts, rows and columns there are, and the shape of the sums."""
    found = lines_of(shape, axis, keepdims)
    if found is None or min(found[1:3]) < _FEW:
        return None
    axes = (axis,) if isinstance(axis, int) else axis
    return None if -1 in axes or len(shape) - 1 in axes else found


@lru_cache(maxsize=1024)
def lines_of(
    shape: tuple[int, ...], axis: int | tuple[int, ...] | None, keepdims: bool
) -> tuple[int, int, int, tuple[int, ...]] | None:
    """Return an array as (outer, rows, columns), whose rows are reduced, and the result's shape.

    None where the axes are not neighbours. Without an axis all of it is one line.
    """
    ndim = len(shape)
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    places = sorted(each + ndim if each < 0 else each for each in axes)
    if not places or not 0 <= places[0] <= places[-1] < ndim:
        return None
    first, behind = places[0], places[-1] + 1
    if behind - first != len(set(places)) or len(set(places)) != len(places):
        return None  # others between them, or one twice
    kept = (1,) * len(places) if keepdims else ()
    rows, columns = prod(shape[first:behind]), prod(shape[behind:])
    return prod(shape[:first]), rows, columns, (*shape[:first], *kept, *shape[behind:])


def rectified(g: Array, y: Array) -> tuple[Array, Array] | None:
    """Return the cotangent of relu's operand, and the sums of its columns, in one pass.

    Parameters
    ----------
    g, y : numpy.ndarray of shape (rows, columns)
        The cotangent of relu's result, and the result.

    Returns
    -------
    tuple of numpy.ndarray, or None
        None where NumPy has to do.
    """
    rows, columns = y.shape
    if columns % _LANES or not rows or not library.is_on() or real_of(g, y) != "float":
        return None
    run = _Compiled.rectify
    if run is None:
        run = _Compiled.rectify = crew.shared("sums", "rectify_rows", _RECTIFYING)
        if run is None:
            return None
    kept, sums = np.empty(y.shape, np.float32), np.empty(columns, np.float32)
    sharing = crew.workers() if g.size >= _SHARED else 1
    each = columns if sharing == 1 else -(-columns // sharing // _BLOCK) * _BLOCK
    run(columns, each, rows, columns, *map(address, (g, y, kept, sums)))
    return kept, sums


class _Compiled:
    """The functions, once they are loaded."""

    run: Callable[..., None] | None = None
    rectify: Callable[..., None] | None = None


def _function() -> Callable[..., None] | None:
    if _Compiled.run is None:
        _Compiled.run = crew.shared("sums", "sum_rows", _ARGUMENTS)
    return _Compiled.run
