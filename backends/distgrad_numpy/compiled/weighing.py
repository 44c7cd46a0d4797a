"""Sums of two weighed arrays that come into the place of both: one pass over each."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from distgrad_numpy.compiled import library
from distgrad_numpy.compiled.library import SOURCES, address

Array = np.ndarray[Any, Any]

_SCALARS = {"float32": ctypes.c_float, "float64": ctypes.c_double}


def add_weighed(first: Array, second: Array, factors: tuple[float, float]) -> bool:
    """Put the sum into both arrays; return False where no compiled kernel can.

    Parameters
    ----------
    first, second : numpy.ndarray of shape (n,)
        Contiguous, of the same dtype, no memory in common.
    factors : tuple of float
        By which they are multiplied before; rounded by themselves, as NumPy does.
    """
    name = first.dtype.name
    scalar = _SCALARS.get(name)
    if scalar is None or not library.is_on():
        return False
    source = _source()
    found = library.from_source("weighing", source, exact=True)
    if found is None:
        return False
    run = getattr(found, f"add_weighed_{name}")
    if run.argtypes is None:
        run.restype = None
        run.argtypes = (ctypes.c_longlong, scalar, scalar, ctypes.c_void_p, ctypes.c_void_p)
    run(first.size, *factors, address(first), address(second))
    return True


@cache
def _source() -> str:
    return (SOURCES / "weighing.cpp").read_text(encoding="utf-8")
