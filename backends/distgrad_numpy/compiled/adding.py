"""Rows added at places of an array: one pass, in the order of the rows, as of an embedding."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address

Array = np.ndarray[Any, Any]

_MANY = 1 << 17  # numbers; with fewer, one thread is done before a second has begun
_NARROWEST = 32  # columns that a thread takes, at least: whole lines of the cache

_ARGUMENTS = (*[ctypes.c_longlong] * 2, *[ctypes.c_void_p] * 3)


def add_rows(array: Array, places: Array, rows: Array) -> bool:
    """Add rows at places along the first axis; return False where no compiled kernel can.

    Parameters
    ----------
    array : numpy.ndarray of shape (m, ...)
        What is changed.
    places : numpy.ndarray of shape (n,) and dtype intp
        Positions from 0 to m - 1: they are not checked again.
    rows : numpy.ndarray of shape (n, ...)
        The rows.

    Notes
    -----
    Threads share the columns, so that every number is added up in the order of the rows, whatever
    the number of threads.
    """
    name = array.dtype.name
    if name not in ("float32", "float64") or rows.dtype != array.dtype or not library.is_on():
        return False
    if rows.shape != (len(places), *array.shape[1:]) or places.dtype != np.int64:
        return False
    if not all(each.flags.c_contiguous for each in (array, places, rows)):
        return False
    run = crew.shared("adding", f"add_{name}", _ARGUMENTS)
    if run is None:
        return False
    width = prod(array.shape[1:])
    given = [address(each) for each in (places, rows, array)]
    sharing = crew.workers() if rows.size >= _MANY else 1
    run(width, max(-(-width // sharing), _NARROWEST), width, len(places), *given)
    return True
