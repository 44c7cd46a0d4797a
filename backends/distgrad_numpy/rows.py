"""What is picked by positions, rows mostly, and what is added up at positions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters.host import HOST
from distgrad.backend.adapters.indexing import explained, scatter
from distgrad.backend.adapters.indexing import getitem as by_subscript
from distgrad.core.op import Placeholder, Slice
from distgrad_numpy.compiled import along
from distgrad_numpy.halves import HALF

Array = np.ndarray[Any, Any]

_SMALL = 2048  # elements; below, sorting takes longer than `np.add.at`
_TURNS = 8  # how many rows of one position are added by whole-array steps
_ROWS = (Placeholder.ARRAY,)  # the index that picks along the first axis
_WHOLE = Slice(None, None, None)


def gather(params: Array, indices: Array) -> Array:
    """Return the rows at positions."""
    if indices.dtype == np.uint64:  # the one integer dtype that `take` refuses
        indices = indices.astype(np.intp)
    try:
        return params.take(indices, axis=0)  # a third of the time that a subscript takes
    except IndexError as error:
        raise explained("gather", error, params.shape) from error


def getitem(x: Array, *arrays: Array, index: tuple[Any, ...]) -> Any:
    """Return what a subscript picks; along an axis that is not the first, by a compiled kernel."""
    if len(arrays) == 1 and x.size >= _SMALL:
        axis = _axis_of(index, x.ndim)
        if axis is not None and (found := along.pick(x, arrays[0], axis)) is not None:
            return found
    return by_subscript(HOST, x, *arrays, index=index)


def _axis_of(index: tuple[Any, ...], ndim: int) -> int | None:
    """Return the axis along which alone a subscript picks, by positions in an array."""
    if Placeholder.ARRAY not in index:
        return None
    place = index.index(Placeholder.ARRAY)
    if any(part not in (_WHOLE, Ellipsis) for part in index[:place] + index[place + 1 :]):
        return None
    if Ellipsis in index[:place]:
        return ndim - (len(index) - place)
    return place


def add_rows(array: Array, indices: Array, rows: Array) -> Array:
    """Return an array with rows added in place, those of one position one after the other.

    Parameters
    ----------
    array : numpy.ndarray of shape (m, ...)
        What is changed.
    indices : integer array of shape (n,)
        Positions along the first axis; negative ones count from the end.
    rows : numpy.ndarray of shape (n, ...)
        The rows.

    Raises
    ------
    PositionError
        If a position lies outside; nothing is changed then.

    Notes
    -----
    What `np.add.at` does, which takes 40 ns an element where it does not add plain numbers; here
    the first rows of all positions are added at once, then the second ones, and so on: 4 ns an
    element (4096 rows of 128 float32, one core). A compiled kernel does it in one pass, in order.
    """
    if rows.size < _SMALL or rows.ndim == 1:
        try:
            np.add.at(array, (indices,), rows)
        except IndexError as error:
            raise explained("add_rows", error, array.shape) from error
        return array
    length = len(array)
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < -length or highest >= length:
        wrong = IndexError(f"index {lowest if lowest < -length else highest} is out of bounds")
        raise explained("add_rows", wrong, array.shape)
    if along.add(array, indices, rows, 0):
        return array
    places = indices.astype(np.intp)
    if lowest < 0:
        places = np.where(places < 0, places + length, places)
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    if len(starts) == len(order):  # each position once
        array[places] += rows
        return array
    if array.dtype == HALF:
        sums = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float32)
        array[ascending[starts]] = array[ascending[starts]] + sums
        return array
    counts = np.diff(starts, append=len(order))
    for turn in range(min(int(counts.max()), _TURNS)):
        chosen = order[starts[counts > turn] + turn]
        array[places[chosen]] += rows[chosen]
    many = counts > _TURNS
    for start, count in zip(starts[many], counts[many], strict=True):
        rest = order[start + _TURNS : start + count]
        array[ascending[start]] += rows[rest].sum(axis=0)
    return array


def scatter_add(
    values: Array, *arrays: Array, index: tuple[Any, ...], shape: tuple[int, ...]
) -> Array:
    """Return zeros with values added at the places of a subscript."""
    if index == _ROWS and arrays[0].dtype.kind != "b" and values.ndim > arrays[0].ndim:
        width = shape[1:]
        rows = values.reshape(-1, *width) if arrays[0].ndim != 1 and values.size else values
        if rows.ndim == len(shape):
            result = np.zeros(shape, values.dtype)
            return add_rows(result, arrays[0].reshape(-1), rows)
    if len(arrays) == 1 and values.size >= _SMALL:
        axis = _axis_of(index, len(shape))
        if axis is not None:
            result = np.zeros(shape, values.dtype)
            if along.add(result, arrays[0], np.ascontiguousarray(values), axis):
                return result
    if index == _ROWS * len(shape) and len(shape) > 1 and values.size >= _SMALL:
        places = _in_one_line(arrays, shape)
        if places is not None and places.shape == values.shape:
            # Of one axis NumPy adds in an eighth of the time.
            line = np.zeros(prod(shape), values.dtype)
            np.add.at(line, places.reshape(-1), values.reshape(-1))
            return line.reshape(shape)
    found: Array = scatter("add", HOST, values, *arrays, index=index, shape=shape)
    return found


def _in_one_line(positions: tuple[Array, ...], shape: tuple[int, ...]) -> Array | None:
    """Return where positions along all axes lie in an array's memory; None if one is outside."""
    places: Any = 0
    for each, length in zip(positions, shape, strict=True):
        if each.dtype.kind == "b":
            return None
        lowest, highest = int(each.min()), int(each.max())
        if lowest < -length or highest >= length:
            return None
        own = each.astype(np.intp, copy=False)
        if lowest < 0:
            own = np.where(own < 0, own + length, own)
        places = places * length + own
    found: Array = places
    return found


KERNELS: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "getitem": getitem,
    "scatter_add": scatter_add,
}
