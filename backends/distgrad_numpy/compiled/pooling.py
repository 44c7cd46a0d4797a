"""Pooling of one to three spatial axes, window by window: channels lie side by side."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.windows import Pairs, counts
from distgrad_numpy.compiled import crew
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import REALS, dense, real_of
from distgrad_numpy.pooling import weights_of

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_PIECE = 1 << 16  # elements of the input that a thread takes at once, about
_RANK = 3
_PLACES = 255  # taps at most: a place is a byte, and one value of it is none

_COUNT, _ARRAY, _FLAG = ctypes.c_longlong, ctypes.c_void_p, ctypes.c_int
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "max_pool": (_ARRAY,) * 3,
    "pool_places": (_ARRAY,) * 4,
    "max_pool_vjp": (_ARRAY,) * 4,
    "avg_pool": (_ARRAY, _FLAG, *[_ARRAY] * 3),
    "avg_pool_vjp": (_ARRAY, _FLAG, *[_ARRAY] * 3),
}


def _function(name: str, x: Array, window: Shape) -> Callable[..., None] | None:
    if not 1 <= len(window) <= _RANK:
        return None
    return crew.shared("pooling", name, _ARGUMENTS[name], REALS[x.dtype])


def _pool(x: Shape, y: Shape, window: Shape, stride: Shape, padding: Pairs) -> Array:
    """Return the numbers of the sources' ``struct Pool``."""
    lead = _RANK - len(window)
    ones = (1,) * lead
    return np.array(
        (
            *(*ones, *x[1:-1], x[-1]),
            *(*ones, *y[1:-1]),
            *(*ones, *window),
            *(*ones, *stride),
            *(*(0,) * lead, *(low for low, _ in padding)),
        ),
        np.int64,
    )


def _pooled(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    spatial = counts(x.shape[1:-1], window, stride, padding, (1,) * len(window))
    return (x.shape[0], *spatial, x.shape[-1])


def _lines(x: Shape, each: int = 1) -> tuple[int, int]:
    """Return how many lines along the last spatial axis there are, and how many make a piece.

    Work on a line is on so many times as many numbers as it has.
    """
    return prod(x[:-2]), max(_PIECE // (prod(x[-2:]) * each), 1)


# --- the greatest ---------------------------------------------------------------------------------


def max_pool(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Any:
    """Return the greatest of each window."""
    if real_of(x) is None or (run := _function("max_pool", x, window)) is None:
        return None
    y = np.empty(_pooled(x, window, stride, padding), x.dtype)
    if not y.size:
        return None
    pool = _pool(x.shape, y.shape, window, stride, padding)
    numbers = [address(each) for each in (pool, x, y)]
    run(*_lines(y.shape, prod(stride)), *numbers)
    return y


def pool_places(x: Array, y: Array, window: Shape, stride: Shape, padding: Pairs) -> Any:
    """Return the number of the first tap of each window that sees its greatest."""
    if real_of(x, y) is None or prod(window) > _PLACES:
        return None
    if y.shape != _pooled(x, window, stride, padding):
        return None
    if (run := _function("pool_places", x, window)) is None:
        return None
    chosen = np.empty(y.shape, np.uint8)
    pool = _pool(x.shape, y.shape, window, stride, padding)
    numbers = [address(each) for each in (pool, x, y, chosen)]
    run(*_lines(y.shape, prod(stride)), *numbers)
    return chosen


def max_pool_vjp(
    g: Array, places: Array, shape: Shape, window: Shape, stride: Shape, padding: Pairs
) -> Any:
    """Return cotangents of windows laid where the chosen taps are."""
    g = dense(g)
    if real_of(g) is None or places.dtype != np.uint8 or places.shape != g.shape:
        return None
    if not places.flags.c_contiguous or (run := _function("max_pool_vjp", g, window)) is None:
        return None
    x = np.empty((g.shape[0], *shape, g.shape[-1]), g.dtype)
    if not x.size:
        return None
    pool = _pool(x.shape, g.shape, window, stride, padding)
    numbers = [address(each) for each in (pool, g, places, x)]
    run(*_lines(x.shape), *numbers)
    return x


# --- the mean -------------------------------------------------------------------------------------


def avg_pool(x: Array, window: Shape, stride: Shape, padding: Pairs, counted: Pairs) -> Any:
    """Return the mean of each window."""
    if real_of(x) is None or (run := _function("avg_pool", x, window)) is None:
        return None
    y = np.empty(_pooled(x, window, stride, padding), x.dtype)
    if not y.size:
        return None
    pool = _pool(x.shape, y.shape, window, stride, padding)
    weights = weights_of(x.dtype, x.shape[1:-1], window, stride, padding, counted)
    factors = _of_each(weights, y)
    numbers = [address(each) for each in (factors, x, y)]
    place, single = address(pool), factors.size == 1
    run(*_lines(y.shape, prod(stride)), place, single, *numbers)
    return y


def avg_pool_vjp(
    g: Array, shape: Shape, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Any:
    """Return cotangents of windows shared out among what they see."""
    g = dense(g)
    if real_of(g) is None or (run := _function("avg_pool_vjp", g, window)) is None:
        return None
    x = np.empty((g.shape[0], *shape, g.shape[-1]), g.dtype)
    if not x.size:
        return None
    pool = _pool(x.shape, g.shape, window, stride, padding)
    factors = _of_each(weights_of(g.dtype, shape, window, stride, padding, counted), g)
    numbers = [address(each) for each in (factors, g, x)]
    place, single = address(pool), factors.size == 1
    run(*_lines(x.shape), place, single, *numbers)
    return x


def _of_each(weights: Any, y: Array) -> Array:
    """Return one factor for all windows, or one for each of an example."""
    weights = np.asarray(weights)
    if weights.ndim:
        weights = np.broadcast_to(weights[..., 0], y.shape[1:-1])
    return np.ascontiguousarray(weights, y.dtype)


OFFERS: dict[str, Callable[..., Any]] = {
    "max_pool": max_pool,
    "pool_places": pool_places,
    "max_pool_vjp": max_pool_vjp,
    "avg_pool": avg_pool,
    "avg_pool_vjp": avg_pool_vjp,
}
