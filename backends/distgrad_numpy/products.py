"""Products of matrices: by a compiled kernel where that is quicker, otherwise by NumPy's BLAS."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.core.destinations import destination
from distgrad_numpy.compiled.products import product

Array = np.ndarray[Any, Any]

FEW = 1 << 19  # products of terms; with fewer, nothing is gained by asking
_by_blas: Any = np.matmul
_HALF = np.dtype(np.float16)


def matmul(a: Any, b: Any) -> Any:
    """Return the matrix product; rows that lie in a stack are those of one matrix."""
    if a.__class__ is not np.ndarray or b.__class__ is not np.ndarray:
        return _by_blas(a, b)
    # One number seen as many, as the cotangent of a sum: BLAS takes no such arrays.
    if 0 in a.strides:
        a = a.copy()
    if 0 in b.strides:
        b = b.copy()
    if b.ndim == 2 and a.dtype is not _HALF and a.size * b.shape[1] >= FEW and a.ndim > 1:
        if a.ndim == 2:
            quick = product(a, b)
            return _large(a, b) if quick is None else quick
        if a.flags.c_contiguous and a.shape[-1] == b.shape[0]:
            rows = a.reshape(prod(a.shape[:-1]), a.shape[-1])
            return matmul(rows, b).reshape(*a.shape[:-1], b.shape[1])
    if a.ndim > 1 < b.ndim and a.shape[-1] == 1 == b.shape[-2]:
        return np.multiply(a, b)  # of one term each: NumPy's loop takes five times as long
    if a.dtype is _HALF and b.dtype is _HALF:
        # BLAS knows no such numbers, and NumPy's own loops take hundreds of times as long.
        return matmul(a.astype(np.float32), b.astype(np.float32)).astype(_HALF)
    return _by_blas(a, b)


def _large(a: Array, b: Array) -> Any:
    """Return the product of two matrices, where somebody waits for it if that is known."""
    place = destination((a.shape[0], b.shape[1]), a.dtype) if a.dtype == b.dtype else None
    return _by_blas(a, b) if place is None else _by_blas(a, b, out=place)


KERNELS: dict[str, Callable[..., Any]] = {"matmul": matmul}
