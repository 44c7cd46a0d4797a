"""Pooling on the CPU: one axis after the other, block by block, with byte masks for the choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np

from distgrad.ops.neural.shifted_views import divisors, lowest, places_dtype
from distgrad.windows import Geometry, Pairs, counts
from distgrad_numpy.blocks import Ranges, blocks_of, rows_of, seen_by
from distgrad_numpy.threads import run, scratch

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

# What a block sees of the input, and what it makes of it, is to stay in a core's cache.
_BLOCK_BYTES = 1 << 19
# Cotangents that are laid down at a time: their indices, of 8 bytes each, are to stay there too.
_SCATTERED = 1 << 14
# The signed integers as wide as a floating number, to choose among such numbers by masks of bits.
_BITS: dict[int, np.dtype[Any]] = {size: np.dtype(f"i{size}") for size in (2, 4, 8)}


def _geometry(stride: Shape, padding: Pairs) -> Geometry:
    return Geometry(stride, padding, (1,) * len(stride))


def _blocks(x: Array, y_shape: Shape, stride: Shape) -> list[Ranges]:
    row = prod(stride) * y_shape[-1] * x.itemsize
    return list(blocks_of(y_shape, max(_BLOCK_BYTES // max(row, 1), 1)))


def _pooled_shape(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    spatial = counts(x.shape[1:-1], window, stride, padding, (1,) * len(window))
    return (x.shape[0], *spatial, x.shape[-1])


def _taps(seen: Array, window: Shape, block: Ranges, stride: Shape) -> Iterator[Array]:
    """Yield for each tap, first to last, what the windows of a block see through it."""
    lengths = [stop - start for start, stop in block[1:]]
    for tap in product(*map(range, window)):
        yield seen[
            (
                slice(None),
                *(
                    slice(t, t + (n - 1) * step + 1, step)
                    for t, n, step in zip(tap, lengths, stride, strict=True)
                ),
            )
        ]


def _reduced(
    ufunc: np.ufunc, seen: Array, window: Shape, block: Ranges, stride: Shape, target: Array
) -> None:
    """Write into an array what a block's windows reduce to, one axis after the other."""
    steps = [axis for axis in range(1, len(window) + 1) if window[axis - 1] * stride[axis - 1] > 1]
    if not steps:
        np.copyto(target, seen)
        return
    for axis in steps:
        start, stop = block[axis]
        number, step = stop - start, stride[axis - 1]
        views = [
            seen[(slice(None),) * axis + (slice(t, t + (number - 1) * step + 1, step),)]
            for t in range(window[axis - 1])
        ]
        if axis == steps[-1]:
            result = target
        else:
            result = scratch(f"axis {axis}", views[0].shape, target.dtype)
        if len(views) == 1:
            np.copyto(result, views[0])
        else:
            ufunc(views[0], views[1], out=result)
            for view in views[2:]:
                ufunc(result, view, out=result)
        seen = result


# --- the greatest ---------------------------------------------------------------------------------


def max_pool(x: Array, window: Shape, stride: Shape, padding: Pairs) -> Array:
    """Return the greatest of each window."""
    y = np.empty(_pooled_shape(x, window, stride, padding), x.dtype)
    geometry, fill = _geometry(stride, padding), lowest(x.dtype)

    def work(block: Ranges) -> None:
        seen = seen_by(x, window, geometry, block, fill)
        _reduced(np.maximum, seen, window, block, stride, rows_of(y, block))

    run(work, _blocks(x, y.shape, stride))
    return y


def pool_places(x: Array, y: Array, window: Shape, stride: Shape, padding: Pairs) -> Array:
    """Return the number of the first tap of each window that sees its greatest."""
    dtype = np.dtype(places_dtype(window))
    places = np.empty(y.shape, dtype)
    geometry, fill = _geometry(stride, padding), lowest(x.dtype)
    last = np.iinfo(dtype).max
    is_float = x.dtype.kind not in "biu"

    def work(block: Ranges) -> None:
        seen = seen_by(x, window, geometry, block, fill)
        greatest, chosen = rows_of(y, block), rows_of(places, block)
        has_nan = is_float and bool(np.isnan(greatest.max()))
        hit = scratch("hit", chosen.shape, np.bool_)
        number = scratch("number", chosen.shape, dtype)
        chosen[...] = last
        for tap, part in enumerate(_taps(seen, window, block, stride)):
            np.equal(part, greatest, out=hit)
            if has_nan:  # a NaN is the greatest of its window, and equal to nothing
                np.logical_or(hit, np.isnan(part), out=hit)
            # The tap where it is a hit, all bits set elsewhere; then the least of all taps.
            if dtype.kind == "u":
                np.subtract(hit.view(np.uint8), 1, out=number)
                np.bitwise_or(number, dtype.type(tap), out=number)
            else:
                np.copyto(number, np.where(hit, dtype.type(tap), dtype.type(last)))
            np.minimum(chosen, number, out=chosen)

    run(work, _blocks(x, y.shape, stride))
    return places


def _chosen(values: Array, hit: Array, target: Array) -> None:
    """Write values where there is a hit, and zero elsewhere; also of infinite values and NaN."""
    bits = _BITS.get(values.dtype.itemsize) if values.dtype.kind == "f" else None
    if bits is None:
        np.copyto(target, np.where(hit, values, values.dtype.type(0)))
        return
    mask = scratch("mask", hit.shape, bits)
    np.copyto(mask, hit.view(np.int8))
    np.negative(mask, out=mask)
    if values.strides[-1] != values.itemsize or target.strides[-1] != target.itemsize:
        np.copyto(target, (np.ascontiguousarray(values).view(bits) & mask).view(values.dtype))
        return
    np.bitwise_and(values.view(bits), mask, out=target.view(bits))


def max_pool_vjp(
    g: Array, places: Array, shape: Shape, window: Shape, stride: Shape, padding: Pairs
) -> Array:
    """Return cotangents of windows laid where the chosen taps are."""
    if 0 in g.shape:
        return np.zeros((g.shape[0], *shape, g.shape[-1]), g.dtype)
    # As long as the windows reach: a window that sees nothing but -inf may have chosen padding.
    lengths = tuple(
        max(length + low, (n - 1) * step + k)
        for length, (low, _), n, step, k in zip(
            shape, padding, g.shape[1:-1], stride, window, strict=True
        )
    )
    direct = lengths == tuple(shape) and not any(low for low, _ in padding)
    x = (np.zeros if direct else np.empty)((g.shape[0], *shape, g.shape[-1]), g.dtype)
    channels = g.shape[-1]
    jumps = [channels * prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
    blocks = list(blocks_of((1, *g.shape[1:]), max(_SCATTERED // channels, 1)))
    taps = np.zeros((), np.intp)
    for k, jump in zip(window, jumps, strict=True):
        taps = np.add.outer(taps, np.arange(k) * jump)
    # Where the first tap of a block's windows lies, counted from that of its first window.
    first = np.zeros((), np.intp)
    for (start, stop), step, jump in zip(blocks[0][1:], stride, jumps, strict=True):
        first = np.add.outer(first, np.arange(stop - start) * step * jump)
    first = np.add.outer(first, np.arange(channels))
    inside = tuple(slice(low, low + n) for (low, _), n in zip(padding, shape, strict=True))

    def work(example: int) -> None:
        target = x[example] if direct else scratch("target", (*lengths, channels), g.dtype)
        if not direct:
            target[...] = 0
        flat = target.reshape(-1)
        for _, *ranges in blocks:
            of = tuple(slice(*each) for each in ranges)
            values, numbers = g[example][of], places[example][of]
            chosen, index = (scratch(name, values.shape, np.intp) for name in ("chosen", "index"))
            np.copyto(chosen, numbers)
            np.take(taps.reshape(-1), chosen, out=index, mode="clip")
            np.add(index, first[tuple(map(slice, values.shape))], out=index)
            begin = sum(
                start * step * jump
                for (start, _), step, jump in zip(ranges, stride, jumps, strict=True)
            )
            np.add.at(flat[begin:], index.reshape(-1), values.reshape(-1))
        if not direct:
            x[example] = target[inside]

    run(work, range(g.shape[0]))
    return x


def _nothing_yet(g: Array, shape: Shape, window: Shape, stride: Shape, dtype: Any) -> Array:
    """Return an array of zeros for what windows lay down, or of anything where they tile it."""
    tiled = window == stride and tuple(
        n * k for n, k in zip(g.shape[1:-1], window, strict=True)
    ) == tuple(shape)
    return (np.empty if tiled else np.zeros)((g.shape[0], *shape, g.shape[-1]), dtype)


def _whole_examples(g: Array, stride: Shape) -> list[Ranges]:
    """Return blocks of whole examples: windows of two blocks may lay numbers on one place."""
    if 0 in g.shape:
        return []
    each = prod(g.shape[1:]) * g.itemsize * (1 + prod(stride))
    step = max(_BLOCK_BYTES // max(each, 1), 1)
    rest = tuple((0, n) for n in g.shape[1:-1])
    return [((at, min(at + step, g.shape[0])), *rest) for at in range(0, g.shape[0], step)]


def _spread(share: Array, target: Array, axis: int, window: int, step: int, before: int) -> None:
    """Add to an array, along one axis, what each window of it has for all of its places."""
    number, length = share.shape[axis], target.shape[axis]
    lead = (slice(None),) * axis
    for tap in range(window):
        first = max(-((tap - before) // step), 0)
        last = min((length - 1 + before - tap) // step, number - 1)
        if last < first:
            continue
        begin = first * step + tap - before
        places = target[(*lead, slice(begin, last * step + tap - before + 1, step))]
        part = share[(*lead, slice(first, last + 1))]
        if step >= window:
            np.copyto(places, part)
        else:
            np.add(places, part, out=places)


def max_pool_jvp(t: Array, places: Array, window: Shape, stride: Shape, padding: Pairs) -> Array:
    """Return what the chosen taps of the windows see."""
    y = np.zeros(places.shape, t.dtype)
    geometry = _geometry(stride, padding)

    def work(block: Ranges) -> None:
        seen = seen_by(t, window, geometry, block)
        numbers, target = rows_of(places, block), rows_of(y, block)
        hit = scratch("hit", numbers.shape, np.bool_)
        term = scratch("term", numbers.shape, t.dtype)
        for tap, part in enumerate(_taps(seen, window, block, stride)):
            np.equal(numbers, tap, out=hit)
            _chosen(part, hit, term)
            np.add(target, term, out=target)

    run(work, _blocks(t, y.shape, stride))
    return y


# --- the mean -------------------------------------------------------------------------------------


def weights_of(
    dtype: Any, shape: Shape, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Any:
    """Return what to multiply sums of windows with: a number, or an array that broadcasts."""
    along = list(map(divisors, shape, window, stride, padding, counted))
    if all(len(set(each)) <= 1 for each in along):
        return dtype.type(1 / max(prod(each[0] for each in along if each), 1))
    whole: Any = np.ones((1,) * len(shape))
    for axis, each in enumerate(along):
        whole = whole / np.reshape(each, (-1, *(1,) * (len(shape) - 1 - axis)))
    return whole[..., None].astype(dtype)


def _mean_dtype(dtype: Any) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    return np.dtype(np.float64) if kind.kind in "biu" else kind


def avg_pool(x: Array, window: Shape, stride: Shape, padding: Pairs, counted: Pairs) -> Array:
    """Return the mean of each window."""
    dtype = _mean_dtype(x.dtype)
    # Halves are summed in float32, as by np.mean.
    half = dtype.itemsize == 2
    working = np.dtype(np.float32) if half else dtype
    y = np.empty(_pooled_shape(x, window, stride, padding), dtype)
    geometry = _geometry(stride, padding)
    weights = weights_of(working, x.shape[1:-1], window, stride, padding, counted)

    def work(block: Ranges) -> None:
        seen = seen_by(x, window, geometry, block)
        if seen.dtype != working:
            seen = seen.astype(working)
        target = rows_of(y, block)
        total = scratch("total", target.shape, working) if half else target
        _reduced(np.add, seen, window, block, stride, total)
        factor = weights if weights.ndim == 0 else rows_of(weights, block[1:])
        np.multiply(total, factor, out=target, casting="same_kind")

    run(work, _blocks(x, y.shape, stride))
    return y


def avg_pool_vjp(
    g: Array,
    shape: Shape,
    window: Shape,
    stride: Shape,
    padding: Pairs,
    counted: Pairs,
) -> Array:
    """Return cotangents of windows shared out among what they see."""
    dtype = _mean_dtype(g.dtype)
    working = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    x = _nothing_yet(g, shape, window, stride, working)
    weights = weights_of(working, shape, window, stride, padding, counted)

    def work(block: Ranges) -> None:
        part = rows_of(g, block)
        share = scratch("share", part.shape, working)
        np.multiply(part, weights, out=share, casting="same_kind")
        # One axis after the other, as sums of windows are built; the first last, by whole rows.
        for axis in range(len(window), 0, -1):
            lengths = (*share.shape[:axis], shape[axis - 1], *share.shape[axis + 1 :])
            if axis == 1:
                target = rows_of(x, block[:1])
            else:
                target = scratch(f"axis {axis}", lengths, working)
                target[...] = 0
            _spread(share, target, axis, window[axis - 1], stride[axis - 1], padding[axis - 1][0])
            share = target

    run(work, _whole_examples(g, stride))
    return x if dtype == working else x.astype(dtype)


KERNELS: dict[str, Callable[..., Any]] = {
    "max_pool": max_pool,
    "pool_places": pool_places,
    "max_pool_vjp": max_pool_vjp,
    "max_pool_jvp": max_pool_jvp,
    "avg_pool": avg_pool,
    "avg_pool_vjp": avg_pool_vjp,
}
