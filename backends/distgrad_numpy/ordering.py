"""Orders in which equal elements stay as they stand, by the quicker of NumPy's sorts.

Its default sort takes vectors of the processor, and for 10^5 numbers a seventh of the time of the
stable one. All that it may get wrong is the order within runs of equal elements, which is put right
where they are few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.adapters.host import HOST
from distgrad.backend.adapters.ordering import argsort as general

Array = np.ndarray[Any, Any]

_LONG = 1 << 11  # elements of a line; below, the stable sort is as quick
_FEW = 8  # one of so many elements may be equal to another one


def argsort(x: Array, *, axis: int, descending: bool, stable: bool) -> Array:
    """Return the positions in the order that sorts the elements along an axis."""
    # Integers are labels, mostly, of which many are equal.
    if stable and x.dtype.kind == "f" and x.shape[axis] >= _LONG:
        order = _stable_order(np.flip(x, axis=axis) if descending else x, axis)
        if order is not None:
            return x.shape[axis] - 1 - np.flip(order, axis=axis) if descending else order
    found: Array = general(HOST, x, axis=axis, descending=descending, stable=stable)
    return found


def _stable_order(x: Array, axis: int) -> Array | None:
    """Return the positions that sort each line, equal ones ascending; None if those are many."""
    lines = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    order = np.argsort(lines, axis=-1)
    ascending = np.take_along_axis(lines, order, -1)
    as_before = np.zeros(lines.shape, bool)
    np.equal(ascending[..., 1:], ascending[..., :-1], out=as_before[..., 1:])
    if np.isnan(ascending[..., -1]).any():  # they come last, and equal nothing
        as_before[..., 1:] |= np.isnan(ascending[..., :-1])
    if np.count_nonzero(as_before) > lines.size // _FEW:
        return None
    _put_runs_in_order(order.reshape(-1), as_before.reshape(-1))
    return np.moveaxis(order, -1, axis).astype(np.int64, copy=False)


def _put_runs_in_order(order: Array, as_before: Array) -> None:
    """Sort, in place, the positions in each run of elements that are as the one before."""
    in_run = as_before.copy()
    in_run[:-1] |= as_before[1:]
    places = np.flatnonzero(in_run)
    runs, values = np.cumsum(~as_before[places]), order[places]
    order[places] = values[np.lexsort((values, runs))]


KERNELS: dict[str, Callable[..., Any]] = {"argsort": argsort}
