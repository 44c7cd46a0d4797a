"""Softmax, cross-entropy and norms over the last axis: a block of threads for each row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad_cupy.running import (
    ELEMENTS,
    THREADS,
    Runner,
    addition_dtype,
    composed,
    name_of,
    threads_for_row,
)

Array = Any

_MOST_BLOCKS = 2**31 - 1  # along the first axis of a grid
_LOAD_BYTES = 16  # of a row that each thread reads at once
# Where columns are summed, rows are cut into as many parts as make so many blocks: each thread has
# two loads under way, and a device wants megabytes.
_COLUMN_BLOCKS = 2048
_FEWEST_ROWS = 16  # of a part: enough to be worth its line of sums


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of operations over rows.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "softmax": partial(_mapped, run, "softmax"),
        "log_softmax": partial(_mapped, run, "log_softmax"),
        "softmax_vjp": partial(_softmax_vjp, run),
        "label_cross_entropy": partial(_cross_entropy, run),
        "label_cross_entropy_vjp": partial(_cross_entropy_vjp, run),
        "layer_norm": partial(_norm, run, "layer_norm", centred=True),
        "rms_norm": partial(_norm, run, "rms_norm", centred=False),
        "layer_norm_vjp": partial(_norm_vjp, run, "layer_norm_vjp", centred=True),
        "rms_norm_vjp": partial(_norm_vjp, run, "rms_norm_vjp", centred=False),
    }


def _takes(*arrays: Array) -> bool:
    """Return whether kernels take these arrays: of one floating dtype, with elements in rows."""
    first = arrays[0]
    return (
        name_of(first.dtype) in ELEMENTS
        and first.ndim > 0
        and first.size > 0
        and all(each.dtype == first.dtype for each in arrays)
    )


def _lengths(x: Array) -> tuple[np.int64, np.int64]:
    """Return how many rows there are, and how many elements each has."""
    return np.int64(prod(x.shape[:-1])), np.int64(x.shape[-1])


def _launch(run: Runner, source: str, name: str, x: Array, *arguments: Any) -> None:
    """Start a kernel that has a block for each row of x."""
    grid = (min(prod(x.shape[:-1]), _MOST_BLOCKS),)
    threads = threads_for_row(x.shape[-1], _LOAD_BYTES // x.dtype.itemsize)
    run.launch(source, name, name_of(x.dtype), grid, threads, arguments)


# --- softmax --------------------------------------------------------------------------------------


def _mapped(run: Runner, name: str, x: Array, axis: int) -> Array:
    if not (_takes(x) and axis in (-1, x.ndim - 1)):
        return composed(run, name, x, axis=axis)
    own = run.module.ascontiguousarray(x)
    out = run.module.empty(x.shape, x.dtype)
    _launch(run, "softmax", name, own, own, out, *_lengths(x))
    return out


def _softmax_vjp(run: Runner, g: Array, y: Array, axis: int) -> Array:
    if not (_takes(g, y) and g.shape == y.shape and axis in (-1, g.ndim - 1)):
        return composed(run, "softmax_vjp", g, y, axis=axis)
    given, weights = map(run.module.ascontiguousarray, (g, y))
    out = run.module.empty(g.shape, g.dtype)
    _launch(run, "softmax", "softmax_vjp", given, given, weights, out, *_lengths(g))
    return out


def _cross_entropy(run: Runner, logits: Array, labels: Array) -> Array:
    if not _takes(logits):
        return composed(run, "label_cross_entropy", logits, labels)
    own = run.module.ascontiguousarray(logits)
    picks = run.module.ascontiguousarray(labels.astype(np.int64, copy=False))
    out = run.module.empty(labels.shape, logits.dtype)
    _launch(run, "softmax", "label_cross_entropy", own, own, picks, out, *_lengths(own))
    return out


def _cross_entropy_vjp(run: Runner, g: Array, logits: Array, labels: Array) -> Array:
    if not _takes(logits, g):
        return composed(run, "label_cross_entropy_vjp", g, logits, labels)
    own, given = map(run.module.ascontiguousarray, (logits, g))
    picks = run.module.ascontiguousarray(labels.astype(np.int64, copy=False))
    out = run.module.empty(logits.shape, logits.dtype)
    arguments = (given, own, picks, out, *_lengths(own))
    _launch(run, "softmax", "label_cross_entropy_vjp", own, *arguments)
    return out


# --- norms ----------------------------------------------------------------------------------------


def _norm(run: Runner, name: str, x: Array, *affine: Array, epsilon: float, centred: bool) -> Array:
    if not _takes(x, *affine):
        return composed(run, name, x, *affine, epsilon=epsilon)
    own, *rest = map(run.module.ascontiguousarray, (x, *affine))
    scale, shift = (*rest, None, None)[:2]
    out = run.module.empty(x.shape, x.dtype)
    how = (np.int32(centred), np.float64(epsilon))
    _launch(run, "norms", "row_norm", own, own, scale, shift, out, *_lengths(x), *how)
    return out


def _norm_vjp(
    run: Runner, name: str, g: Array, x: Array, *affine: Array, epsilon: float, centred: bool
) -> tuple[Array, ...]:
    if not (_takes(x, g, *affine) and g.shape == x.shape):
        pulled: tuple[Array, ...] = composed(run, name, g, x, *affine, epsilon=epsilon)
        return pulled
    module = run.module
    given, own, *rest = map(module.ascontiguousarray, (g, x, *affine))
    rows, width = _lengths(x)
    added = addition_dtype(name_of(x.dtype))
    means, inverses = module.empty(int(rows), added), module.empty(int(rows), added)
    out = module.empty(x.shape, x.dtype)
    how = (rows, width, np.int32(centred), np.float64(epsilon))
    scale = rest[0] if rest else None
    _launch(run, "norms", "row_norm_vjp", own, given, own, scale, out, means, inverses, *how)
    if not affine:
        return (out,)
    across = -(-int(width) // THREADS)
    length = max(_FEWEST_ROWS, -(-int(rows) // max(_COLUMN_BLOCKS // across, 1)))
    parts = -(-int(rows) // length)
    sums = module.empty((2, parts, int(width)), added)
    grid = (across, parts)
    arguments = (given, own, means, inverses, sums[0], sums[1], rows, width, np.int64(length))
    run.launch("norms", "norm_columns", name_of(x.dtype), grid, THREADS, arguments)
    totals = sums.sum(axis=1).astype(x.dtype, copy=False)
    return (out, *(totals[place] for place in range(len(affine))))
