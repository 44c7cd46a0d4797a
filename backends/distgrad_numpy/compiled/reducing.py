"""Sums, means, largest and smallest over neighbouring axes, by lines or by columns.

NumPy's loops wait for one number after the other, or write every row's results to memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, sums
from distgrad_numpy.compiled.library import address

Array = np.ndarray[Any, Any]

_FEW = 1 << 14  # numbers; below, NumPy is done before this is prepared
_SHARED = 1 << 18  # numbers from which on threads share the lines
_GROUP = 64  # columns that threads take, or a multiple of these
_LONGEST = 1 << 12  # of a line, whose largest number NumPy finds as quickly from there on

_ARGUMENTS = (*[ctypes.c_longlong] * 3, ctypes.c_double, *[ctypes.c_void_p] * 2)


def sum_over(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the sums over neighbouring axes; None for other axes, dtypes and layouts."""
    columns = sums.sum_over(x, axis, keepdims)
    return _reduced("sum", x, axis, keepdims) if columns is None else columns


def mean_over(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the means over neighbouring axes; None for other axes, dtypes and layouts."""
    columns = sums.mean_over(x, axis, keepdims)
    return _reduced("mean", x, axis, keepdims) if columns is None else columns


def _reduced(name: str, x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    if x.__class__ is not np.ndarray or x.size < _FEW or x.dtype not in (np.float32, np.float64):
        return None
    plan = sums.lines_of(x.shape, axis, keepdims)
    if plan is None:
        return None
    outer, rows, columns, shape = plan
    if not any(x.strides):  # one number seen as many, as the cotangent of a sum
        one = x[(0,) * x.ndim]
        return np.full(shape, one * x.dtype.type(rows) if name == "sum" else one)
    if not x.flags.c_contiguous:
        return None
    if columns == 1 and rows > _LONGEST and name in ("max", "min"):
        return None
    kernel = "sum" if name == "mean" else name
    run = crew.shared("reducing", f"{kernel}_{x.dtype.name}", _ARGUMENTS)
    if run is None:
        return None
    out = np.empty(shape, x.dtype)
    lines = outer if columns == 1 else columns
    sharing = crew.workers() if x.size >= _SHARED else 1
    each = -(-lines // sharing)
    each = each if columns == 1 else -(-each // _GROUP) * _GROUP
    divisor = rows if name == "mean" else 1
    run(lines, each, outer, rows, columns, divisor, address(x), address(out))
    return out


OFFERS: dict[str, Callable[..., Any]] = {
    "sum": sum_over,
    "mean": mean_over,
    "max": partial(_reduced, "max"),
    "min": partial(_reduced, "min"),
}
