"""Add rows up by position on the device, such as an embedding's gradient, always in one order.

CuPy's `add.at` adds by atomics, whose order, and so whose rounding, differs from run to run. Here
positions are sorted first, stably, and each run of equal ones is added up by a thread for each
column: a position that occurs n times takes n steps, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.core.op import Placeholder
from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for

Array = Any

_ROWS = (Placeholder.ARRAY,)  # the index that picks along the first axis


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernel of sums into rows.

    Parameters
    ----------
    run : Runner
        What starts it.
    """
    return {"scatter_add": partial(_scatter_add, run)}


def _scatter_add(run: Runner, values: Array, *arrays: Array, index: Any, shape: Any) -> Array:
    fits = index == _ROWS and arrays[0].dtype.kind in "iu" and arrays[0].size > 0
    if not fits or values.dtype.name not in ELEMENTS or not prod(shape):
        scatter = ADAPTERS["scatter_add"]
        return scatter(run.namespace().backend, values, *arrays, index=index, shape=shape)
    module, width = run.module, prod(shape[1:])
    positions = module.ascontiguousarray(arrays[0].reshape(-1).astype(np.int64, copy=False))
    # Negative positions are the same places as those that they stand for.
    positions = module.where(positions < 0, positions + shape[0], positions)
    order = module.argsort(positions, kind="stable").astype(np.int64, copy=False)
    own = module.ascontiguousarray(module.broadcast_to(values, (*arrays[0].shape, *shape[1:])))
    result = module.zeros(shape, values.dtype)
    count = positions.size
    lengths = (np.int64(count), np.int64(shape[0]), np.int64(width))
    arguments = (own, positions, order, result, *lengths)
    grid = (blocks_for(count * width),)
    run.launch("segments", "add_runs", values.dtype.name, grid, THREADS, arguments)
    return result
