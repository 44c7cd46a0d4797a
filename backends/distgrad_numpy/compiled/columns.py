"""Moments over axes before the last, and what is normalized by them: batch, group, instance norm.

An array is seen as (outer, rows, columns), where the rows are those of neighbouring axes. The
results for each column of an outer part are merged as the axes say, which are few numbers then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy import threads
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import function, takes

Array = np.ndarray[Any, Any]

_PIECE = 1 << 18  # elements that a thread takes at once
_BLOCK = 1 << 16  # elements that stay in the cache while they are gone through twice
_LINE = 128  # elements at least, for vectors to be full
_PIECES = 256  # of an outer part: each has sums of its own
_FEW = 4  # rows; fewer are no columns
_SMALL = 1 << 14  # elements; below, NumPy's calls take no longer than what prepares this one

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "moments": (*[_COUNT] * 4, *[_ARRAY] * 4),
    "normalize": (*[_COUNT] * 2, *[_ARRAY] * 5),
    "normalize_vjp": (*[_COUNT] * 4, *[_ARRAY] * 7),
    "batch_norm_sums": (*[_COUNT] * 4, *[_ARRAY] * 5),
    "batch_norm_vjp": (*[_COUNT] * 2, *[_ARRAY] * 4),
}


class _Columns(NamedTuple):
    """An array as rows and columns, and how it is gone through."""

    axes: tuple[int, ...]  # whose places are the rows
    outer: int
    rows: int
    columns: int
    line: int  # how many rows are one line
    length: int  # of a line
    lines: int  # of a block: few enough that float sums lose nothing to their number
    step: int  # rows of a piece: whole lines

    def parts(self) -> list[tuple[int, int, int, int]]:
        """Return number and outer part of each piece, its first row and the row behind it."""
        starts = range(0, self.rows, self.step)
        return [
            (part * len(starts) + piece, part, begin, min(begin + self.step, self.rows))
            for part in range(self.outer)
            for piece, begin in enumerate(starts)
        ]

    def reduced(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a shape with 1 for the axes of the rows."""
        return tuple(1 if axis in self.axes else n for axis, n in enumerate(shape))

    def tiled(self, x: Array) -> Array:
        """Return numbers of columns, (outer, columns), for each row of a line."""
        whole = x.reshape(self.outer, 1, self.columns)
        if self.line > 1:
            whole = np.repeat(whole, self.line, axis=1)
        return np.ascontiguousarray(whole)


def _columns(shape: tuple[int, ...], free: Iterable[int]) -> _Columns | None:
    """Return the longest run of neighbouring free axes before the last, as rows."""
    runs: list[list[int]] = []
    for axis in sorted(free):
        if axis == len(shape) - 1:
            continue
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if not runs:
        return None
    best = max(runs, key=lambda run: prod(shape[axis] for axis in run))
    rows = prod(shape[axis] for axis in best)
    columns = prod(shape[best[-1] + 1 :])
    # A call for each outer part: it must be worth it.
    if rows < _FEW or rows * columns < _LINE or prod(shape) < _SMALL:
        return None
    line = max(_LINE // columns, 1)
    length = line * columns
    lines = min(max(_BLOCK // length, 16), 512)
    pieces = max(min(rows * columns // _PIECE, _PIECES), 1)
    step = -(-rows // (pieces * line)) * line
    return _Columns(tuple(best), prod(shape[: best[0]]), rows, columns, line, length, lines, step)


# --- moments --------------------------------------------------------------------------------------


def moments(x: Array, axes: tuple[int, ...]) -> Any:
    """Return mean and variance over axes, which stay with length 1."""
    if not takes(x):
        return None
    chosen = tuple(axis % x.ndim for axis in axes)
    seen = _columns(x.shape, chosen)
    if seen is None or (run := function("columns", "moments", _ARGUMENTS["moments"])) is None:
        return None
    parts = seen.parts()
    found = np.zeros((2, len(parts), seen.columns))
    start, size = address(x), seen.columns * x.itemsize
    to_means, to_squares, each = address(found[0]), address(found[1]), seen.columns * 8

    def work(part: tuple[int, int, int, int]) -> None:
        number, outer, begin, end = part
        memory = threads.scratch("moments", (3, seen.length), x.dtype)
        run(
            (end - begin) * seen.columns,
            *(seen.columns, seen.length, seen.lines),
            *(start + (outer * seen.rows + begin) * size, address(memory)),
            *(to_means + number * each, to_squares + number * each),
        )

    threads.run(work, parts)
    means, squares = found.reshape(2, seen.outer, -1, seen.columns)
    counts = np.array([float(end - begin) for *_, begin, end in parts])
    mean, squares = _merged(means, squares, counts.reshape(seen.outer, -1, 1), 1)
    lengths = seen.reduced(x.shape)
    also = tuple(axis for axis in chosen if axis not in seen.axes)
    if also:
        counts = np.full((1,) * x.ndim, float(seen.rows))
        mean, squares = _merged(mean.reshape(lengths), squares.reshape(lengths), counts, also)
    shape = tuple(1 if axis in chosen else n for axis, n in enumerate(x.shape))
    variance = squares / prod(x.shape[axis] for axis in chosen)
    return mean.reshape(shape).astype(x.dtype), variance.reshape(shape).astype(x.dtype)


def _merged(mean: Array, squares: Array, counts: Array, axes: Any) -> tuple[Array, Array]:
    """Return the means, and sums of squares about them, of what parts have of each."""
    weights = np.broadcast_to(counts, mean.shape)
    with np.errstate(invalid="ignore"):  # infinities
        whole = (mean * weights).sum(axes, keepdims=True) / weights.sum(axes, keepdims=True)
        return whole, (squares + weights * (mean - whole) ** 2).sum(axes, keepdims=True)


# --- normalized by given moments ------------------------------------------------------------------


def _seen_with(x: Array, given: tuple[Array, ...]) -> _Columns | None:
    """Return an array as rows along which all that is given stays the same."""
    if not takes(x) or any(a.dtype != x.dtype or a.ndim > x.ndim for a in given):
        return None
    shapes = [(1,) * (x.ndim - a.ndim) + a.shape for a in given]
    if any(n not in (1, m) for shape in shapes for n, m in zip(shape, x.shape, strict=True)):
        return None
    free = [axis for axis in range(x.ndim - 1) if all(shape[axis] == 1 for shape in shapes)]
    return _columns(x.shape, free)


def _wide(seen: _Columns, x: Array, given: Array) -> Array:
    return np.broadcast_to(given, seen.reduced(x.shape))


def _factors(variance: Array, epsilon: float) -> Array:
    inverse: Array = 1 / np.sqrt(variance + variance.dtype.type(epsilon))
    return inverse


def normalize(x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float) -> Any:
    """Return scale (x - mean) / sqrt(variance + epsilon) + shift."""
    seen = _seen_with(x, (mean, variance, *affine))
    if seen is None or (run := function("columns", "normalize", _ARGUMENTS["normalize"])) is None:
        return None
    factor = _factors(variance, epsilon)
    if affine:
        factor = factor * affine[0]
    lines = [seen.tiled(_wide(seen, x, each)) for each in (mean, factor, *affine[1:])]
    out = np.empty(x.shape, x.dtype)
    start, to, size = address(x), address(out), seen.columns * x.itemsize
    places = [address(each) for each in lines]
    shifted = len(lines) > 2

    def work(part: tuple[int, int, int, int]) -> None:
        _, outer, begin, end = part
        at = (outer * seen.rows + begin) * size
        own = [place + outer * seen.line * size for place in places]
        shift = own[2] if shifted else None
        run((end - begin) * seen.columns, seen.length, start + at, *own[:2], shift, to + at)

    threads.run(work, seen.parts())
    return out


def normalize_vjp(
    g: Array, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> Any:
    """Return the cotangents of the operands of `normalize`."""
    given = (mean, variance, *affine)
    if not takes(g) or g.shape != x.shape or (seen := _seen_with(x, given)) is None:
        return None
    run = function("columns", "normalize_vjp", _ARGUMENTS["normalize_vjp"])
    if run is None:
        return None
    inverse = _factors(variance, epsilon)
    factor = inverse * affine[0] if affine else inverse
    lines = [seen.tiled(_wide(seen, x, each)) for each in (mean, factor)]
    out = np.empty(x.shape, x.dtype)
    parts = seen.parts()
    sums = np.zeros((len(parts), 2, seen.columns))
    start, source, to = address(g), address(x), address(out)
    places = [address(each) for each in lines]
    size, total_at = seen.columns * x.itemsize, address(sums)

    def work(part: tuple[int, int, int, int]) -> None:
        number, outer, begin, end = part
        memory = threads.scratch("moments", (2, seen.length), x.dtype)
        at = (outer * seen.rows + begin) * size
        run(
            (end - begin) * seen.columns,
            *(seen.columns, seen.length, seen.lines, start + at, source + at),
            *(place + outer * seen.line * size for place in places),
            *(to + at, address(memory), total_at + number * seen.columns * 16),
        )

    threads.run(work, parts)
    merged = sums.reshape(seen.outer, -1, 2, seen.columns).sum(axis=1)
    lengths = seen.reduced(x.shape)
    deviated, total = (merged[:, n].reshape(lengths) for n in (0, 1))
    terms = (
        -total * factor,
        deviated * factor * (inverse * inverse) * -0.5,
        deviated * inverse,
        total,
    )
    pulled = (
        _fitted(term, each.shape).astype(x.dtype) for term, each in zip(terms, given, strict=False)
    )
    return out, *pulled


# --- normalized by their own moments --------------------------------------------------------------


def batch_norm(x: Array, *affine: Array, axes: tuple[int, ...], epsilon: float) -> Any:
    """Return x normalized by its own moments, and these."""
    found = moments(x, axes)
    if found is None or (y := normalize(x, *found, *affine, epsilon=epsilon)) is None:
        return None
    return y, *found


def batch_norm_vjp(
    g: Array,
    to_mean: Array,
    to_variance: Array,
    x: Array,
    mean: Array,
    variance: Array,
    *affine: Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> Any:
    """Return the cotangents of x, scale and shift; x and g are gone through twice."""
    if not takes(g) or g.shape != x.shape or (seen := _seen_with(x, (mean, *affine))) is None:
        return None
    if any(each.shape != mean.shape for each in affine):
        return None
    add = function("columns", "batch_norm_sums", _ARGUMENTS["batch_norm_sums"])
    run = function("columns", "batch_norm_vjp", _ARGUMENTS["batch_norm_vjp"])
    if add is None or run is None:
        return None
    parts = seen.parts()
    sums = np.zeros((len(parts), 2, seen.columns))
    centre = seen.tiled(_wide(seen, x, mean))
    size, line = seen.columns * x.itemsize, seen.length * x.itemsize
    start, source, total_at, means = (address(each) for each in (g, x, sums, centre))

    def work(part: tuple[int, int, int, int]) -> None:
        number, outer, begin, end = part
        memory = threads.scratch("moments", (2, seen.length), x.dtype)
        at = (outer * seen.rows + begin) * size
        add(
            (end - begin) * seen.columns,
            *(seen.columns, seen.length, seen.lines, start + at, source + at),
            *(means + outer * line, address(memory), total_at + number * seen.columns * 16),
        )

    threads.run(work, parts)
    merged = sums.reshape(seen.outer, -1, 2, seen.columns).sum(axis=1)
    lengths = seen.reduced(x.shape)
    deviated, total = (_fitted(merged[:, n].reshape(lengths), mean.shape) for n in (0, 1))
    inverse = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    factor = inverse * affine[0] if affine else inverse
    count = prod(x.shape[axis] for axis in axes)
    with np.errstate(invalid="ignore"):  # infinities
        slope = (2 * to_variance - factor * (inverse * inverse) * deviated) / count
        offset = (to_mean - factor * total) / count
        pulled = ((deviated * inverse).astype(x.dtype), total.astype(x.dtype))[: len(affine)]
    each = [mean, *(term.astype(x.dtype) for term in (factor, slope, offset))]
    tiled = np.stack([seen.tiled(_wide(seen, x, one)) for one in each], axis=1)
    out = np.empty(x.shape, x.dtype)
    to, lines_at = address(out), address(tiled)

    def write(part: tuple[int, int, int, int]) -> None:
        _, outer, begin, end = part
        at = (outer * seen.rows + begin) * size
        run(
            (end - begin) * seen.columns,
            *(seen.length, start + at, source + at, lines_at + 4 * outer * line, to + at),
        )

    threads.run(write, parts)
    return out, *pulled


def _fitted(x: Array, shape: tuple[int, ...]) -> Array:
    """Return sums over the axes along which an operand was repeated."""
    lead = x.ndim - len(shape)
    axes = (
        *range(lead),
        *(lead + axis for axis, n in enumerate(shape) if n == 1 and x.shape[lead + axis] != 1),
    )
    return (x.sum(axis=axes) if axes else x).reshape(shape)


OFFERS: dict[str, Callable[..., Any]] = {
    "moments": moments,
    "normalize": normalize,
    "normalize_vjp": normalize_vjp,
    "batch_norm": batch_norm,
    "batch_norm_vjp": batch_norm_vjp,
}
