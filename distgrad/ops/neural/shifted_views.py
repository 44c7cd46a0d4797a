"""Pooling composed of other operations: a shifted view of the input for each tap of a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad.core.op import Array, Namespace, Slice, Spec
from distgrad.dtypes import as_dtype, int32, is_real_floating, uint8
from distgrad.ops.rules.families import quotient, sum_of
from distgrad.shapes import Shape
from distgrad.windows import Pairs, count, counts

_ALL = Slice(None, None, None)


def max_pool_composed(
    xp: Namespace, x: Array, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    """Compose `max_pool`."""
    spatial = counts(tuple(x.shape[1:-1]), window, stride, padding, (1,) * len(window))
    if 0 in spatial:
        return xp.full(
            shape=(x.shape[0], *spatial, x.shape[-1]), fill_value=0, dtype=as_dtype(x.dtype)
        )
    padded = _filled(xp, x, padding, lowest(x.dtype))
    parts = _seen(xp, padded, window, spatial, stride)
    greatest = next(parts)
    for part in parts:
        greatest = xp.maximum(greatest, part)
    return greatest


def pool_places_composed(
    xp: Namespace, x: Array, y: Array, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    """Compose `pool_places`."""
    spatial = tuple(y.shape[1:-1])
    dtype = as_dtype(places_dtype(window))
    places = xp.full(shape=tuple(y.shape), fill_value=0, dtype=dtype)
    if 0 in spatial:
        return places
    padded = _filled(xp, x, padding, lowest(x.dtype))
    floats = is_real_floating(as_dtype(x.dtype))
    parts = list(_seen(xp, padded, window, spatial, stride))
    for tap in range(len(parts) - 1, -1, -1):
        hit = xp.equal(parts[tap], y)
        if floats:  # a NaN is the greatest of its window, and equal to nothing
            hit = xp.logical_or(hit, xp.isnan(parts[tap]))
        places = xp.where(hit, xp.full(shape=(), fill_value=tap, dtype=dtype), places)
    return places


def max_pool_vjp_composed(
    xp: Namespace,
    g: Array,
    places: Array,
    shape: Shape,
    window: Shape,
    stride: Shape,
    padding: Pairs,
) -> Array:
    """Compose `max_pool_vjp`."""
    spatial = tuple(g.shape[1:-1])
    if 0 in spatial:
        return xp.full(
            shape=(g.shape[0], *shape, g.shape[-1]), fill_value=0, dtype=as_dtype(g.dtype)
        )
    parts = [xp.where(xp.equal(places, tap), g, 0) for tap in range(prod(window))]
    return _laid_back(xp, parts, shape, window, spatial, stride, padding)


def max_pool_jvp_composed(
    xp: Namespace, t: Array, places: Array, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    """Compose `max_pool_jvp`."""
    spatial = tuple(places.shape[1:-1])
    if 0 in spatial:
        return xp.full(
            shape=(t.shape[0], *spatial, t.shape[-1]), fill_value=0, dtype=as_dtype(t.dtype)
        )
    padded = _filled(xp, t, padding, 0)
    parts = list(_seen(xp, padded, window, spatial, stride))
    picked = parts[0]
    for tap in range(1, len(parts)):
        picked = xp.where(xp.equal(places, tap), parts[tap], picked)
    return picked


def avg_pool_composed(
    xp: Namespace, x: Array, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Array:
    """Compose `avg_pool`."""
    lengths = tuple(x.shape[1:-1])
    spatial = counts(lengths, window, stride, padding, (1,) * len(window))
    dtype = quotient(Spec(tuple(x.shape), as_dtype(x.dtype)))
    if as_dtype(x.dtype) != dtype:
        x = xp.astype(x, dtype=dtype)
    if 0 in spatial:
        return xp.full(shape=(x.shape[0], *spatial, x.shape[-1]), fill_value=0, dtype=dtype)
    total = sum_of(list(_seen(xp, _filled(xp, x, padding, 0), window, spatial, stride)))
    params = {"window": window, "stride": stride, "padding": padding, "counted": counted}
    return _scaled(xp, total, lengths, params)


def avg_pool_vjp_composed(
    xp: Namespace,
    g: Array,
    shape: Shape,
    window: Shape,
    stride: Shape,
    padding: Pairs,
    counted: Pairs,
) -> Array:
    """Compose `avg_pool_vjp`."""
    spatial = tuple(g.shape[1:-1])
    dtype = quotient(Spec(tuple(g.shape), as_dtype(g.dtype)))
    if as_dtype(g.dtype) != dtype:
        g = xp.astype(g, dtype=dtype)
    if 0 in spatial:
        return xp.full(shape=(g.shape[0], *shape, g.shape[-1]), fill_value=0, dtype=dtype)
    params = {"window": window, "stride": stride, "padding": padding, "counted": counted}
    part = _scaled(xp, g, shape, params)
    parts = [part] * prod(window)
    return _laid_back(xp, parts, shape, window, spatial, stride, padding)


def lowest(dtype: Any) -> Any:
    """Return what is less than, or equal to, every number of a dtype."""
    kind = as_dtype(dtype)
    if kind.kind == "b":
        return False
    return int(np.iinfo(kind).min) if kind.kind in "iu" else -np.inf


def places_dtype(window: Shape) -> Any:
    """Return the dtype that numbers the taps of a window."""
    return uint8 if prod(window) <= 256 else int32


def divisors(
    length: int, window: int, stride: int, padding: tuple[int, int], counted: tuple[int, int]
) -> list[int]:
    """Return for each window along an axis how many of its taps count.

    Parameters
    ----------
    length, window, stride : int
        Of the axis.
    padding : (int, int)
        Before and behind.
    counted : (int, int)
        How much of the padding counts as elements.
    """
    starts = (n * stride - padding[0] for n in range(count(length, window, stride, padding)))
    return [min(start + window, length + counted[1]) - max(start, -counted[0]) for start in starts]


def _scaled(xp: Namespace, y: Array, shape: Shape, params: dict[str, Any]) -> Array:
    """Return sums divided by how many numbers each is a sum of."""
    geometry = zip(
        shape, *(params[k] for k in ("window", "stride", "padding", "counted")), strict=True
    )
    for axis, each in enumerate(geometry, start=1):
        taps = divisors(*each)
        if len(set(taps)) == 1:
            y = y / taps[0]
        elif taps:
            parts = [
                xp.full(shape=(1,), fill_value=1 / number, dtype=as_dtype(y.dtype))
                for number in taps
            ]
            weights = xp.concat(*parts, axis=0)
            y = y * xp.reshape(weights, shape=(-1, *(1,) * (len(y.shape) - 1 - axis)))
    return y


def _filled(xp: Namespace, x: Array, padding: Pairs, value: Any) -> Array:
    """Return an array with a value all around its spatial axes."""
    for axis, sides in enumerate(padding, start=1):
        parts = []
        for length in sides:
            shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
            parts.append(xp.full(shape=shape, fill_value=value, dtype=as_dtype(x.dtype)))
        if any(sides):
            x = xp.concat(parts[0], x, parts[1], axis=axis)
    return x


def _places(window: Shape, spatial: Shape, stride: Shape) -> Iterator[tuple[Slice, ...]]:
    """Yield for each tap, first to last, the positions that the windows see through it."""
    for tap in np.ndindex(*window):
        yield (
            _ALL,
            *(
                Slice(t, t + (n - 1) * step + 1, step)
                for t, n, step in zip(tap, spatial, stride, strict=True)
            ),
            _ALL,
        )


def _seen(xp: Namespace, x: Array, window: Shape, spatial: Shape, stride: Shape) -> Iterator[Array]:
    for place in _places(window, spatial, stride):
        yield xp.getitem(x, index=place)


def _laid_back(
    xp: Namespace,
    parts: Sequence[Array],
    shape: Shape,
    window: Shape,
    spatial: Shape,
    stride: Shape,
    padding: Pairs,
) -> Array:
    """Return what each tap sends back, summed where it belongs; what falls on padding is lost."""
    first = parts[0]
    padded = tuple(n + lo + hi for n, (lo, hi) in zip(shape, padding, strict=True))
    whole = (first.shape[0], *padded, first.shape[-1])
    places = _places(window, spatial, stride)
    total = sum_of(
        [
            xp.scatter_add(part, index=place, shape=whole)
            for part, place in zip(parts, places, strict=True)
        ]
    )
    if padded == tuple(shape):
        return total
    cut = tuple(Slice(lo, lo + n, None) for n, (lo, _) in zip(shape, padding, strict=True))
    return xp.getitem(total, index=(_ALL, *cut, _ALL))
