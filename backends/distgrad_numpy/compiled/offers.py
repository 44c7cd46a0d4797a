"""Which kernels are compiled, for which arrays, and the own kernel for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, cast

import numpy as np

from distgrad_numpy.compiled import library

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]

# The C types of sources that are written for both, see sources/real.hpp.
REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

_FEW = 1 << 7  # elements; below, the call costs more than it saves


def preferred(kernels: Mapping[str, Kernel], offers: Mapping[str, Kernel]) -> dict[str, Kernel]:
    """Return kernels of which some ask a compiled one first.

    Parameters
    ----------
    kernels : mapping of str to callable
        The kernels by their operations' names.
    offers : mapping of str to callable
        For some of these names a function of the same arguments; it returns None where there is no
        compiled kernel for them.
    """
    return {
        name: _asking(offers[name], kernel) if name in offers else kernel
        for name, kernel in kernels.items()
    }


def _asking(offer: Kernel, own: Kernel) -> Kernel:
    @wraps(own)
    def kernel(first: Any, *others: Any, **params: Any) -> Any:
        # The first may be a cotangent of rows, and the second what has all their elements.
        size = first.size
        if size < _FEW and others:
            size = getattr(others[0], "size", 0)
        if size >= _FEW and library.is_on():
            result = offer(first, *others, **params)
            if result is not None:
                return result
        return own(first, *others, **params)

    return kernel


def real_of(*arrays: Any) -> str | None:
    """Return the C type of dense arrays, not empty, that are all of one; None of others.

    Returns
    -------
    {"float", "double"} or None
        For float32 and float64.
    """
    dtype = arrays[0].dtype
    for each in arrays:
        if not isinstance(each, np.ndarray) or each.dtype != dtype:
            return None
        if not each.flags.c_contiguous or not each.size:
            return None
    return REALS.get(dtype)


def dense(g: Array) -> Array:
    """Return a cotangent with all its elements; that of a sum is one number, seen as many."""
    return g.copy() if g.ndim and not any(g.strides) else g


def function(
    file: str, name: str, arguments: Sequence[Any], real: str = "float"
) -> Callable[..., None] | None:
    """Return a function of a source file, compiled; None where there is no compiler.

    Parameters
    ----------
    file : str
        The name of the file in the folder of sources, without its ending.
    name : str
        Of the function; it returns nothing.
    arguments : sequence
        The types of its arguments, of `ctypes`.
    real : {"float", "double"}, optional
        The numbers of a source that is written for both.
    """
    found = library.from_file(file, real)
    if found is None:
        return None
    run = getattr(found, name)
    if run.argtypes is None:
        run.restype, run.argtypes = None, arguments
    return cast("Callable[..., None]", run)
