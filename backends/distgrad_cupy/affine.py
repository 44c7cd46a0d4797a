"""Affine maps on the device: a product by cuBLAS, then bias and relu by one kernel.

Products of half precision come in single, so that what the bias cancels is not rounded before. Back
through relu, one pass over the rows gives those that go on, and the cotangent of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad_cupy.running import (
    ELEMENTS,
    THREADS,
    Runner,
    addition_dtype,
    blocks_for,
    composed,
    name_of,
)

Array = Any

_LOAD_BYTES = 16  # that each thread reads and writes at once
_LARGEST = 2**31 - 1  # elements: the kernel counts them, and its strides, by 32 bits

# Of the sums of columns; these are the source's, too.
_AT_ONCE = 8
_JOINED = 32

_BLOCKS = 1024  # that go through the rows: some for each multiprocessor of any device
_TURNS = 4  # of a thread with rows at once, before a part is worth being one
_MOST_PARTS = 65_535  # along the second axis of a grid


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of affine maps.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "linear": partial(_linear, run, "linear"),
        "linear_relu": partial(_linear, run, "linear_relu"),
    }


def _linear(run: Runner, name: str, x: Array, kernel: Array, *bias: Array) -> Array:
    elements, is_rectified = name_of(x.dtype), name == "linear_relu"
    alike = all(each.dtype == x.dtype for each in (kernel, *bias))
    if elements not in ELEMENTS or not alike or prod(x.shape[:-1]) * kernel.shape[-1] > _LARGEST:
        return composed(run, name, x, kernel, *bias)
    if kernel.ndim != 2 or any(each.shape != kernel.shape[1:] for each in bias):
        raise ValueError(
            f"linear: a kernel (inputs, outputs) and a bias (outputs,) expected, got shapes "
            f"{[each.shape for each in (kernel, *bias)]}"
        )
    module = run.module
    lead, width = x.shape[:-1], kernel.shape[1]
    rows = x if x.ndim < 3 else x.reshape(prod(lead), x.shape[-1])
    if not (bias or is_rectified):
        return run.matmul(rows, kernel).reshape(*lead, width)
    y = module.ascontiguousarray(run.wide_matmul(rows, kernel))
    out = y if y.dtype == x.dtype else module.empty(y.shape, x.dtype)
    if y.size:
        own = module.ascontiguousarray(bias[0]) if bias else None
        arguments = (y, own, out, np.uint32(y.size), np.uint32(width), np.int32(is_rectified))
        grid = (blocks_for(-(-y.size * x.dtype.itemsize // _LOAD_BYTES)),)
        run.launch("affine", "add_bias", elements, grid, THREADS, arguments)
    return out.reshape(*lead, width)


# --- cotangents -----------------------------------------------------------------------------------


def pullbacks(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the pullbacks of affine maps, see `distgrad.backend.pullbacks.Pullbacks`.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    """
    return {
        "linear": partial(_pullback, run, False),
        "linear_relu": partial(_pullback, run, True),
    }


def _pullback(
    run: Runner, is_rectified: bool, g: Array, y: Any, xs: Any, params: Any, needs: Sequence[Any]
) -> list[Any] | None:
    """Return what the rule does; None where an array is not there, or of another kind."""
    x, kernel = xs[:2]
    to_x = to_kernel = None
    read = [each for each, need in ((kernel, needs[0]), (x, needs[1])) if need]
    read += [y] if is_rectified else []
    if g.ndim < 2 or not g.size or name_of(g.dtype) not in ELEMENTS:
        return None
    for each in read:  # what a tape keeps may be a spec, or lie elsewhere
        if not isinstance(each, run.module.ndarray) or each.dtype != g.dtype:
            return None
    rows, lead = run.module.ascontiguousarray(g).reshape(-1, g.shape[-1]), g.shape[:-1]
    sums = None
    if is_rectified or (len(needs) > 2 and needs[2]):
        rows, sums = _column_sums(run, rows, y if is_rectified else None)
    if needs[0]:
        to_x = run.matmul(rows, kernel.T).reshape(*lead, kernel.shape[0])
    if needs[1]:
        to_kernel = run.matmul(x.reshape(prod(lead), x.shape[-1]).T, rows)
    return [to_x, to_kernel, sums][: len(needs)]


def _column_sums(run: Runner, rows: Array, y: Array | None) -> tuple[Array, Array]:
    """Return rows, without what relu holds back if its result is given, and their sum."""
    module, elements = run.module, name_of(rows.dtype)
    count, width = rows.shape
    lanes = 1 << (min(width, THREADS) - 1).bit_length()
    across = -(-width // lanes)
    least = THREADS // lanes * _AT_ONCE * _TURNS
    parts = min(max(_BLOCKS // across, 1), -(-count // least), _MOST_PARTS)
    length = -(-count // parts)
    parts = -(-count // length)
    masked = rows if y is None else module.empty(rows.shape, rows.dtype)
    sums = module.empty(width, rows.dtype)
    held = module.empty((parts, width), addition_dtype(elements)) if parts > 1 else None
    arrays = (rows, None if y is None else module.ascontiguousarray(y), masked, held, sums)
    how = (np.int64(count), np.int64(width), np.int64(length), np.int32(lanes))
    run.launch("affine", "sum_columns", elements, (across, parts), THREADS, (*arrays, *how))
    if parts > 1:
        arguments = (held, sums, np.int64(width), np.int32(parts))
        grid = (-(-width // _JOINED),)
        run.launch("affine", "join_columns", elements, grid, THREADS, arguments)
    return masked, sums
