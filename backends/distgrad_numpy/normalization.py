"""Norms over rows, and moments over columns on numpy.ndarray, by blocks in the cache.

Sums over many rows are made of sums over blocks, added in float64 in the order of the blocks: no
digits of float32 are lost to the number of rows, and the number of threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.ops.neural import batch_normalization, normalization, row_normalization
from distgrad_numpy import threads
from distgrad_numpy.blocked import composed
from distgrad_numpy.row_blocks import in_blocks, ones, pieces_of, rows_of, step_of, sums_of, takes

Array = np.ndarray[Any, Any]

_FEW = 1 << 12  # numbers; of more, blocks are quicker

# --- norms over rows ------------------------------------------------------------------------------


def _deviations(x: Array, out: Array, epsilon: float, centred: bool) -> Array:
    """Write rows less their means, or as they are, and return what then standardizes them."""
    if centred:
        mean = sums_of(x)
        mean /= x.shape[1]
        np.subtract(x, mean, out=out)
    else:
        np.copyto(out, x)
    inverse: Array = np.vecdot(out, out)[:, None]
    inverse /= x.shape[1]
    inverse += epsilon
    np.sqrt(inverse, out=inverse)
    np.divide(1, inverse, out=inverse)
    return inverse


def _repeated(row: Array, like: Array) -> Array:
    """Return a row as often as a block has rows: whole blocks are multiplied twice as quickly."""
    return np.repeat(row[None], min(step_of(like), len(like)), axis=0)


def _norm(x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    op = row_normalization.LAYER_NORM if centred else row_normalization.RMS_NORM
    if not (takes(x) and all(each.dtype == x.dtype for each in affine)):
        return composed(op, x, *affine, epsilon=epsilon)
    out = np.empty_like(x)
    rows, results = rows_of(x), rows_of(out)
    wide = [_repeated(each, rows) for each in affine]

    def work(_: int, part: slice) -> None:
        y = results[part]
        y *= _deviations(rows[part], y, epsilon, centred)
        if wide:
            y *= wide[0][: len(y)]
        if len(wide) > 1:
            y += wide[1][: len(y)]

    in_blocks(rows, work)
    return out


def _norm_vjp(g: Array, x: Array, *affine: Array, epsilon: float, centred: bool) -> Any:
    op = row_normalization.LAYER_NORM_VJP if centred else row_normalization.RMS_NORM_VJP
    alike = all(each.dtype == x.dtype for each in (g, *affine)) and g.shape == x.shape
    if not (takes(x) and alike):
        return composed(op, g, x, *affine, epsilon=epsilon)
    out = np.empty_like(x)
    rows, results = rows_of(x), rows_of(out)
    given = g.reshape(rows.shape)
    sums = np.zeros((len(affine), pieces_of(rows), rows.shape[1]))
    scale = _repeated(affine[0], rows) if affine else None
    width = rows.shape[1]

    def work(piece: int, part: slice) -> None:
        y, own = results[part], given[part]
        c = threads.scratch("norm", own.shape, own.dtype)
        inverse = _deviations(rows[part], c, epsilon, centred)
        # With c the deviations and k = g scale: r (k - mean(k) - c r^2 mean(k c)).
        if affine:
            np.multiply(own, c, out=y)
            sums[0, piece] += np.matmul(inverse[:, 0], y)
        if len(affine) > 1:
            sums[1, piece] += np.matmul(ones(len(own), own.dtype), own)
        k = own
        if scale is not None:
            k = np.multiply(own, scale[: len(own)], out=y)
        share: Array = np.vecdot(k, c)[:, None]
        share *= inverse
        share *= inverse
        share /= width
        c *= share
        if centred:
            mean = sums_of(k)
            mean /= width
            c += mean
        np.subtract(k, c, out=y)
        y *= inverse

    in_blocks(rows, work)
    return (out, *(each.sum(axis=0).astype(x.dtype) for each in sums))


# --- moments --------------------------------------------------------------------------------------


def moments(x: Array, axes: tuple[int, ...]) -> Any:
    """Return mean and variance over axes, which stay with length 1."""
    lead = sorted(a % x.ndim for a in axes) == list(range(x.ndim - 1))
    if not (takes(x) and lead and len(axes)):
        return composed(normalization.MOMENTS, x, axes=axes)
    rows = rows_of(x)
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    sums = np.zeros((pieces_of(rows), rows.shape[1]))

    def add(piece: int, part: slice) -> None:
        sums[piece] += np.add.reduce(rows[part], axis=0)

    in_blocks(rows, add)
    mean = (sums.sum(axis=0) / len(rows)).astype(x.dtype)
    sums[...] = 0
    centre = _repeated(mean, rows)

    def add_squares(piece: int, part: slice) -> None:
        own = rows[part]
        d = threads.scratch("deviations", own.shape, x.dtype)
        np.subtract(own, centre[: len(own)], out=d)
        sums[piece] += np.einsum("ij,ij->j", d, d)

    in_blocks(rows, add_squares)
    variance = (sums.sum(axis=0) / len(rows)).astype(x.dtype)
    return mean.reshape(shape), variance.reshape(shape)


def normalize(x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float) -> Any:
    """Return scale (x - mean) / sqrt(variance + epsilon) + shift, of columns by blocks of rows."""
    columns = (1,) * (x.ndim - 1) + x.shape[-1:]
    given = (mean, variance, *affine)
    if not (takes(x) and all(a.shape == columns and a.dtype == x.dtype for a in given)):
        return composed(normalization.NORMALIZE, x, *given, epsilon=epsilon)
    out = np.empty_like(x)
    rows, results = rows_of(x), rows_of(out)
    factor = 1 / np.sqrt(variance.reshape(-1) + x.dtype.type(epsilon))
    if affine:
        factor *= affine[0].reshape(-1)
    steps: list[tuple[np.ufunc, Array]]
    steps = [(np.subtract, mean.reshape(-1)), (np.multiply, factor)]
    steps += [(np.add, each.reshape(-1)) for each in affine[1:]]
    wide = [(ufunc, _repeated(each, rows)) for ufunc, each in steps]

    def work(_: int, part: slice) -> None:
        source, y = rows[part], results[part]
        for ufunc, each in wide:
            ufunc(source, each[: len(y)], out=y)
            source = y

    in_blocks(rows, work)
    return out


def normalize_vjp(
    g: Array, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> Any:
    """Return the cotangents of the operands of `normalize`, of columns by blocks of rows."""
    columns = (1,) * (x.ndim - 1) + x.shape[-1:]
    given = (mean, variance, *affine)
    alike = g.shape == x.shape and all(a.dtype == x.dtype for a in (g, *given))
    if not (takes(x) and takes(g) and alike and all(a.shape == columns for a in given)):
        return composed(normalization.NORMALIZE_VJP, g, x, *given, epsilon=epsilon)
    out = np.empty_like(x)
    rows, results, cotangents = rows_of(x), rows_of(out), rows_of(g)
    inverse = 1 / np.sqrt(variance + x.dtype.type(epsilon))
    factor = inverse * affine[0] if affine else inverse
    centre, times = (_repeated(each.reshape(-1), rows) for each in (mean, factor))
    sums = np.zeros((2, pieces_of(rows), rows.shape[1]))

    def work(piece: int, part: slice) -> None:
        own, y = cotangents[part], results[part]
        np.subtract(rows[part], centre[: len(y)], out=y)
        sums[0, piece] += np.einsum("ij,ij->j", own, y)
        sums[1, piece] += np.add.reduce(own, axis=0)
        np.multiply(own, times[: len(y)], out=y)

    in_blocks(rows, work)
    deviated, total = (each.sum(axis=0).astype(x.dtype).reshape(columns) for each in sums)
    to_variance = deviated * factor * inverse * inverse * x.dtype.type(-0.5)
    return (out, -total * factor, to_variance, deviated * inverse, total)[: 1 + len(given)]


def batch_norm(x: Array, *affine: Array, axes: tuple[int, ...], epsilon: float) -> Any:
    """Return x normalized by its own moments, and these."""
    return composed(batch_normalization.BATCH_NORM, x, *affine, axes=axes, epsilon=epsilon)


def batch_norm_vjp(*operands: Array, axes: tuple[int, ...], epsilon: float) -> Any:
    """Return the cotangents of x, scale and shift; of few numbers without any detour."""
    g, to_mean, to_variance, x, mean, variance, *affine = operands
    dtype = x.dtype
    if x.size > _FEW or dtype.char not in "fd" or any(each.dtype != dtype for each in operands):
        return composed(batch_normalization.BATCH_NORM_VJP, *operands, axes=axes, epsilon=epsilon)
    share = mean.size / max(x.size, 1)
    deviation = x - mean
    total = np.add.reduce(g, axis=axes, keepdims=True)
    along = np.add.reduce(g * deviation, axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + epsilon)
    along *= inverse
    factor = inverse * affine[0] if affine else inverse
    deviation *= (2 * to_variance - factor * inverse * along) * share
    deviation += (to_mean - factor * total) * share
    deviation += g * factor
    return (deviation, along, total)[: 1 + len(affine)]


KERNELS: dict[str, Callable[..., Any]] = {
    "layer_norm": partial(_norm, centred=True),
    "rms_norm": partial(_norm, centred=False),
    "layer_norm_vjp": partial(_norm_vjp, centred=True),
    "rms_norm_vjp": partial(_norm_vjp, centred=False),
    "moments": moments,
    "normalize": normalize,
    "normalize_vjp": normalize_vjp,
    "batch_norm": batch_norm,
    "batch_norm_vjp": batch_norm_vjp,
}
