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
from distgrad_numpy.compiled import crew
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import REALS, dense, function, real_of

Array = np.ndarray[Any, Any]

_PIECE = 1 << 17  # elements that a thread takes at once
_BLOCK = 1 << 16  # elements that stay in the cache while they are gone through twice
_LINE = 128  # elements at least, for vectors to be full
_PIECES = 256  # of an outer part: each has sums of its own
_FEW = 4  # rows; fewer are no columns
_SMALL = 1 << 14  # elements; below, NumPy's calls take no longer than what prepares this one

# How many arrays each takes behind the cut, see the source.
_ARRAYS = {
    "moments": 4,
    "normalize": 5,
    "normalize_vjp": 7,
    "batch_norm_sums": 5,
    "batch_norm_vjp": 4,
}


# What is done with few numbers between two passes.
_BETWEEN = {
    "finish_moments": (*[ctypes.c_void_p] * 5, ctypes.c_double, *[ctypes.c_void_p] * 3),
    "finish_sums": (*[ctypes.c_void_p] * 7, ctypes.c_double, *[ctypes.c_void_p] * 3),
}


def _function(name: str, x: Array) -> Callable[..., None] | None:
    real = REALS[x.dtype]
    if name in _BETWEEN:
        return function("columns", name, _BETWEEN[name], real)
    return crew.shared("columns", name, (ctypes.c_void_p,) * (1 + _ARRAYS[name]), real)


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

    @property
    def pieces(self) -> int:
        """How many pieces an outer part has."""
        return -(-self.rows // self.step)

    @property
    def range(self) -> tuple[int, int]:
        """How many pieces there are in all, and how many are done at once: one."""
        return self.outer * self.pieces, 1

    def cut(self) -> Array:
        """Return the numbers of the source's ``struct Cut``."""
        return np.array((self.rows, self.step, self.columns, self.length, self.lines), np.int64)

    def counts(self) -> Array:
        """Return how many rows each piece of an outer part has."""
        counts = np.full(self.pieces, float(self.step))
        counts[-1] = self.rows - (self.pieces - 1) * self.step
        return counts

    def memory(self, lines: int, dtype: np.dtype[Any]) -> Array:
        """Return so many lines of memory for each worker."""
        return threads.scratch("columns", (crew.workers(), lines, self.length), dtype)

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
    if prod(shape) < _SMALL:
        return None
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
    if rows < _FEW or rows * columns < _LINE:
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
    if real_of(x) is None:
        return None
    chosen = tuple(axis % x.ndim for axis in axes)
    seen = _columns(x.shape, chosen)
    if seen is None or (run := _function("moments", x)) is None:
        return None
    found = np.zeros((2, seen.outer * seen.pieces, seen.columns))
    arrays = (seen.cut(), x, seen.memory(3, x.dtype), found[0], found[1])
    run(*seen.range, *map(address, arrays))
    means, squares = found.reshape(2, seen.outer, -1, seen.columns)
    mean, squares = _merged(means, squares, seen.counts()[:, None], 1)
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
    if real_of(x) is None or any(a.dtype != x.dtype or a.ndim > x.ndim for a in given):
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
    if seen is None or (run := _function("normalize", x)) is None:
        return None
    factor = _factors(variance, epsilon)
    if affine:
        factor = factor * affine[0]
    lines = [seen.tiled(_wide(seen, x, each)) for each in (mean, factor, *affine[1:])]
    out, cut = np.empty(x.shape, x.dtype), seen.cut()
    places: list[int | None] = [address(each) for each in lines]
    if not affine[1:]:
        places.append(None)
    run(*seen.range, address(cut), address(x), *places, address(out))
    return out


def normalize_vjp(
    g: Array, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> Any:
    """Return the cotangents of the operands of `normalize`."""
    g, given = dense(g), (mean, variance, *affine)
    if real_of(g, x) is None or g.shape != x.shape or (seen := _seen_with(x, given)) is None:
        return None
    run = _function("normalize_vjp", x)
    if run is None:
        return None
    inverse = _factors(variance, epsilon)
    factor = inverse * affine[0] if affine else inverse
    lines = [seen.tiled(_wide(seen, x, each)) for each in (mean, factor)]
    out = np.empty(x.shape, x.dtype)
    sums = np.zeros((seen.outer * seen.pieces, 2, seen.columns))
    arrays = (seen.cut(), g, x, *lines, out, seen.memory(2, x.dtype), sums)
    run(*seen.range, *map(address, arrays))
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
    made = _batch_norm(x, affine, tuple(axis % x.ndim for axis in axes), epsilon)
    if made is not None:
        return made
    found = moments(x, axes)
    if found is None or (y := normalize(x, *found, *affine, epsilon=epsilon)) is None:
        return None
    return y, *found


def _batch_norm(x: Array, affine: tuple[Array, ...], axes: tuple[int, ...], epsilon: float) -> Any:
    """Return what `batch_norm` does where all rows are those of one run of axes."""
    if real_of(x, *affine) is None or (seen := _columns(x.shape, axes)) is None:
        return None
    if not _is_one(seen, axes) or any(each.size != seen.columns for each in affine):
        return None
    add, finish, run = (_function(name, x) for name in ("moments", "finish_moments", "normalize"))
    if add is None or finish is None or run is None:
        return None
    cut = seen.cut()
    found = np.zeros((2, seen.pieces, seen.columns))
    add(*seen.range, *map(address, (cut, x, seen.memory(3, x.dtype), found[0], found[1])))
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    mean, variance = np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    lines = np.empty((3, seen.length), x.dtype)
    given = [address(each) for each in affine] + [None] * (2 - len(affine))
    ends = [address(each) for each in (mean, variance, lines)]
    finish(*map(address, (cut, found[0], found[1])), *given, epsilon, *ends)
    y = np.empty(x.shape, x.dtype)
    run(*seen.range, *map(address, (cut, x, *lines, y)))
    return y, mean, variance


def _is_one(seen: _Columns, axes: tuple[int, ...]) -> bool:
    """Return whether what is reduced over axes are the rows, and nothing besides."""
    return seen.outer == 1 and set(axes) == set(seen.axes)


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
    g = dense(g)
    if (
        real_of(g, x) is None
        or g.shape != x.shape
        or (seen := _seen_with(x, (mean, *affine))) is None
    ):
        return None
    if any(each.shape != mean.shape for each in affine):
        return None
    add = _function("batch_norm_sums", x)
    run = _function("batch_norm_vjp", x)
    if add is None or run is None:
        return None
    cut = seen.cut()
    sums = np.zeros((seen.outer * seen.pieces, 2, seen.columns))
    arrays = (cut, g, x, seen.tiled(_wide(seen, x, mean)), seen.memory(2, x.dtype), sums)
    add(*seen.range, *map(address, arrays))
    if _is_one(seen, tuple(axis % x.ndim for axis in axes)) and real_of(x, mean, variance, *affine):
        found = _between(seen, sums, to_mean, to_variance, mean, variance, affine, epsilon)
    else:
        found = None
    tiled, *pulled = found or _between_anyhow(
        seen, sums, to_mean, to_variance, x, mean, variance, affine, axes, epsilon
    )
    out = np.empty(x.shape, x.dtype)
    run(*seen.range, *map(address, (cut, g, x, tiled, out)))
    return out, *pulled


def _between(
    seen: _Columns,
    sums: Array,
    to_mean: Array,
    to_variance: Array,
    mean: Array,
    variance: Array,
    affine: tuple[Array, ...],
    epsilon: float,
) -> list[Array] | None:
    """Return the lines that the last pass reads, and the cotangents of scale and shift."""
    finish = _function("finish_sums", mean)
    if finish is None:
        return None
    dense = [
        np.ascontiguousarray(np.broadcast_to(each, mean.shape), mean.dtype)
        for each in (to_mean, to_variance)
    ]
    lines = np.empty((4, seen.length), mean.dtype)
    pulled = [np.empty(mean.shape, mean.dtype) for _ in range(2)]
    given = [address(each) for each in (seen.cut(), sums, mean, variance, *dense)]
    scale = address(affine[0]) if affine else None
    finish(*given, scale, epsilon, *map(address, (lines, *pulled)))
    return [lines, *pulled[: len(affine)]]


def _between_anyhow(
    seen: _Columns,
    sums: Array,
    to_mean: Array,
    to_variance: Array,
    x: Array,
    mean: Array,
    variance: Array,
    affine: tuple[Array, ...],
    axes: tuple[int, ...],
    epsilon: float,
) -> list[Array]:
    """Return the same where rows lie apart."""
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
    return [tiled, *pulled]


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
