"""Affine maps on the device: a product by cuBLAS, then bias and relu by one kernel.

Products of half precision come in single, so that what the bias cancels is not rounded before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for, composed, name_of

Array = Any

_LOAD_BYTES = 16  # that each thread reads and writes at once
_LARGEST = 2**31 - 1  # elements: the kernel counts them, and its strides, by 32 bits


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
