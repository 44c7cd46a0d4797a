"""Add rows up by position on the device, such as an embedding's gradient, always in one order.

CuPy's `add.at` adds by atomics, whose order, and so whose rounding, differs from run to run. Here
positions are sorted first, stably, and each run of equal ones is added up by a thread for each
column: a position that occurs n times takes n steps, one after the other. So it is always, not only
where somebody asks for it: the same training gives the same bits, and atomics on few rows are slow.
Indices of several axes and positions that lie on the host are CuPy's, and so are integers, whose
sums are the same in every order. It adds neither complex numbers, here added by parts, nor what is
narrower than it has atomics for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.core.op import Placeholder
from distgrad.dtypes import as_dtype
from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for, is_bfloat16, name_of

Array = Any

_ROWS = (Placeholder.ARRAY,)  # the index that picks along the first axis


# Up to so many positions are put in order by counting, which a graph can hold; more are sorted.
_COUNTED = 1 << 14


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernel of sums into rows.

    Parameters
    ----------
    run : Runner
        What starts it.
    """
    return {"scatter_add": partial(_scatter_add, run)}


def _scatter_add(run: Runner, values: Array, *arrays: Array, index: Any, shape: Any) -> Array:
    has_kernel = name_of(values.dtype) in ELEMENTS
    if not has_kernel:
        scatter = partial(_scatter_add, run, index=index, shape=shape)
        dtype, kind = values.dtype, as_dtype(values.dtype).kind
        if kind == "c":
            result = run.module.empty(shape, dtype)
            result.real, result.imag = scatter(values.real, *arrays), scatter(values.imag, *arrays)
            return result
        if dtype.itemsize < 4:
            wide = np.int32 if kind in "biu" else np.float32
            return scatter(values.astype(wide), *arrays).astype(dtype)
    fits = has_kernel and index == _ROWS and arrays[0].dtype.kind in "iu" and arrays[0].size > 0
    if not fits or not prod(shape):
        if is_bfloat16(values) and any(each.dtype.kind != "b" for each in arrays):
            return NotImplemented  # CuPy has no atomics for it
        by_cupy = ADAPTERS["scatter_add"]
        return by_cupy(run.namespace().backend, values, *arrays, index=index, shape=shape)
    result = run.module.zeros(shape, values.dtype)
    rows = run.module.broadcast_to(values, (*arrays[0].shape, *shape[1:]))
    _add_runs(run, rows, arrays[0], result, onto=False)
    return result


def add_rows(run: Runner, array: Array, indices: Array, rows: Array) -> bool:
    """Add rows to an array in place, those of one position in their order.

    Parameters
    ----------
    run : Runner
        What starts the kernel.
    array, indices, rows : array
        As a backend's `add_rows` takes them. Positions outside of the array are passed over.

    Returns
    -------
    bool
        False where no kernel can; nothing is changed then.
    """
    fits = indices.dtype.kind in "iu" and name_of(array.dtype) in ELEMENTS
    if not fits or rows.dtype != array.dtype or not array.flags.c_contiguous:
        return False
    if indices.size and array.size:
        whole = run.module.broadcast_to(rows, (*indices.shape, *array.shape[1:]))
        _add_runs(run, whole, indices, array, onto=True)
    return True


def _add_runs(run: Runner, rows: Array, indices: Array, result: Array, *, onto: bool) -> None:
    module, width = run.module, prod(result.shape[1:])
    positions = module.ascontiguousarray(indices.reshape(-1).astype(np.int64, copy=False))
    # Negative positions are the same places as those that they stand for.
    positions = module.where(positions < 0, positions + result.shape[0], positions)
    count = positions.size
    lengths = (np.int64(count), np.int64(result.shape[0]), np.int64(width), np.int32(onto))
    own = module.ascontiguousarray(rows)
    arguments = (own, positions, _order(run, positions), result, *lengths)
    grid = (blocks_for(count * width),)
    run.launch("segments", "add_runs", name_of(result.dtype), grid, THREADS, arguments)


def _order(run: Runner, positions: Array) -> Array:
    """Return the stable order of positions."""
    count = positions.size
    if count > _COUNTED:
        return run.module.argsort(positions, kind="stable").astype(np.int64, copy=False)
    order = run.module.empty(positions.shape, np.int64)
    grid = (blocks_for(count),)
    arguments = (positions, order, np.int64(count))
    run.launch("segments", "order_of_positions", "float32", grid, THREADS, arguments)
    return order
