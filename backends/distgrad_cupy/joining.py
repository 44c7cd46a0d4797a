"""Join arrays without the table of addresses that CuPy's function copies from the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad_cupy.running import Runner

Array = Any


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernel that joins arrays.

    Parameters
    ----------
    run : Runner
        Of the arrays.
    """
    return {"concat": partial(_concat, run)}


def _concat(run: Runner, *arrays: Array, axis: int) -> Array:
    """Return arrays joined along an axis, each copied by a launch: a graph can hold that."""
    first, module = arrays[0], run.module
    if axis < 0:
        axis += first.ndim
    sides = {(*each.shape[:axis], *each.shape[axis + 1 :]) for each in arrays}
    if len(sides) > 1:
        raise ValueError(
            f"concat: arrays that differ along axis {axis} alone expected, got shapes "
            f"{[each.shape for each in arrays]}"
        )
    lengths = [each.shape[axis] for each in arrays]
    shape = (*first.shape[:axis], sum(lengths), *first.shape[axis + 1 :])
    joined = module.empty(shape, np.result_type(*(each.dtype for each in arrays)))
    start = 0
    for each, length in zip(arrays, lengths, strict=True):
        joined[(slice(None),) * axis + (slice(start, start + length),)] = each
        start += length
    return joined
