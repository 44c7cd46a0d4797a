"""Pooling on the device: a thread for each number, cotangents gathered from the windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.ops.neural.shifted_views import places_dtype
from distgrad.windows import Pairs, counts
from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for, composed, name_of

Array = Any
Shape = tuple[int, ...]

_LARGEST = 2**31 - 1  # of a length or a number of taps: kernels count these by 32 bits


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of pooling.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "max_pool": partial(_max_pool, run),
        "pool_places": partial(_places, run),
        "max_pool_vjp": partial(_max_pool_vjp, run),
        "max_pool_jvp": partial(_max_pool_jvp, run),
        "avg_pool": partial(_avg_pool, run),
        "avg_pool_vjp": partial(_avg_pool_vjp, run),
    }


def _takes(*arrays: Array) -> bool:
    first = arrays[0]
    return name_of(first.dtype) in ELEMENTS and all(each.dtype == first.dtype for each in arrays)


def _three(values: Any, filling: int) -> tuple[np.int32, ...]:
    """Return a number for each of three spatial axes, those that are missing in front."""
    own = tuple(values)
    return tuple(np.int32(n) for n in ((filling,) * (3 - len(own)) + own))


def _geometry(
    spatial: Shape, windows: Shape, channels: int, window: Shape, stride: Shape, padding: Pairs
) -> tuple[Any, ...]:
    """Return the arguments that every kernel ends with."""
    return (
        *_three(spatial, 1),
        *_three(windows, 1),
        *_three(window, 1),
        *_three(stride, 1),
        *_three((before for before, _ in padding), 0),
        np.int32(channels),
    )


def _run(run: Runner, name: str, elements: str, out: Array, *arguments: Any) -> Array:
    if out.size:
        run.launch("pooling", name, elements, (blocks_for(out.size),), THREADS, arguments)
    return out


def _windows(spatial: Shape, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    return counts(spatial, window, stride, padding, (1,) * len(window))


def _fits(x: Array, window: Shape) -> bool:
    return len(window) <= 3 and bool(max((*x.shape, prod(window))) <= _LARGEST)


def _max_pool(run: Runner, x: Array, *, window: Shape, stride: Shape, padding: Pairs) -> Array:
    if not (_takes(x) and _fits(x, window)):
        return composed(run, "max_pool", x, window=window, stride=stride, padding=padding)
    own, spatial, channels = run.module.ascontiguousarray(x), tuple(x.shape[1:-1]), x.shape[-1]
    windows = _windows(spatial, window, stride, padding)
    out = run.module.empty((x.shape[0], *windows, channels), x.dtype)
    geometry = _geometry(spatial, windows, channels, window, stride, padding)
    return _run(run, "max_pool", name_of(x.dtype), out, own, out, np.int64(out.size), *geometry)


def _places(
    run: Runner, x: Array, y: Array, *, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    if not (_takes(x, y) and _fits(x, window)):
        return composed(run, "pool_places", x, y, window=window, stride=stride, padding=padding)
    own, greatest = map(run.module.ascontiguousarray, (x, y))
    dtype = np.dtype(places_dtype(window))
    out = run.module.empty(y.shape, dtype)
    geometry = _geometry(
        tuple(x.shape[1:-1]), tuple(y.shape[1:-1]), x.shape[-1], window, stride, padding
    )
    arguments = (own, greatest, out, np.int32(dtype.itemsize > 1), np.int64(out.size), *geometry)
    return _run(run, "pool_places", name_of(x.dtype), out, *arguments)


def _max_pool_vjp(
    run: Runner,
    g: Array,
    places: Array,
    *,
    shape: Shape,
    window: Shape,
    stride: Shape,
    padding: Pairs,
) -> Array:
    if not (_takes(g) and _fits(g, window)):
        how = {"shape": shape, "window": window, "stride": stride, "padding": padding}
        return composed(run, "max_pool_vjp", g, places, **how)
    given, taps = map(run.module.ascontiguousarray, (g, places))
    out = run.module.empty((g.shape[0], *shape, g.shape[-1]), g.dtype)
    geometry = _geometry(shape, tuple(g.shape[1:-1]), g.shape[-1], window, stride, padding)
    wide = np.int32(places.dtype.itemsize > 1)
    arguments = (given, taps, wide, out, np.int64(out.size), *geometry)
    return _run(run, "max_pool_vjp", name_of(g.dtype), out, *arguments)


def _max_pool_jvp(
    run: Runner, t: Array, places: Array, *, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    if not (_takes(t) and _fits(t, window)):
        how = {"window": window, "stride": stride, "padding": padding}
        return composed(run, "max_pool_jvp", t, places, **how)
    given, taps = map(run.module.ascontiguousarray, (t, places))
    out = run.module.empty(places.shape, t.dtype)
    spatial, windows = tuple(t.shape[1:-1]), tuple(places.shape[1:-1])
    geometry = _geometry(spatial, windows, t.shape[-1], window, stride, padding)
    wide = np.int32(places.dtype.itemsize > 1)
    arguments = (given, taps, wide, out, np.int64(out.size), *geometry)
    return _run(run, "max_pool_jvp", name_of(t.dtype), out, *arguments)


def _counted(counted: Pairs) -> tuple[np.int32, ...]:
    before, behind = zip(*counted, strict=True)
    return (*_three(before, 0), *_three(behind, 0))


def _avg_pool(
    run: Runner, x: Array, *, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Array:
    if not (_takes(x) and _fits(x, window)):
        how = {"window": window, "stride": stride, "padding": padding, "counted": counted}
        return composed(run, "avg_pool", x, **how)
    own, spatial, channels = run.module.ascontiguousarray(x), tuple(x.shape[1:-1]), x.shape[-1]
    windows = _windows(spatial, window, stride, padding)
    out = run.module.empty((x.shape[0], *windows, channels), x.dtype)
    geometry = _geometry(spatial, windows, channels, window, stride, padding)
    arguments = (own, out, *_counted(counted), np.int64(out.size), *geometry)
    return _run(run, "avg_pool", name_of(x.dtype), out, *arguments)


def _avg_pool_vjp(
    run: Runner,
    g: Array,
    *,
    shape: Shape,
    window: Shape,
    stride: Shape,
    padding: Pairs,
    counted: Pairs,
) -> Array:
    if not (_takes(g) and _fits(g, window)):
        how = {"shape": shape, "window": window, "stride": stride, "padding": padding}
        return composed(run, "avg_pool_vjp", g, **how, counted=counted)
    given = run.module.ascontiguousarray(g)
    out = run.module.empty((g.shape[0], *shape, g.shape[-1]), g.dtype)
    geometry = _geometry(shape, tuple(g.shape[1:-1]), g.shape[-1], window, stride, padding)
    arguments = (given, out, *_counted(counted), np.int64(out.size), *geometry)
    return _run(run, "avg_pool_vjp", name_of(g.dtype), out, *arguments)
