"""Products of matrices: by a compiled kernel where that is quicker, otherwise by NumPy's BLAS."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad_numpy.compiled.products import product

Array = np.ndarray[Any, Any]

_FEW = 1 << 19  # products of terms; with fewer, nothing is gained by asking
_by_blas: Any = np.matmul


def matmul(a: Any, b: Any) -> Any:
    """Return the matrix product; rows that lie in a stack are those of one matrix."""
    if (
        a.__class__ is np.ndarray
        and b.__class__ is np.ndarray
        and b.ndim == 2
        and a.size * b.shape[1] >= _FEW
        and a.ndim > 1
    ):
        if a.ndim == 2:
            quick = product(a, b)
            return _by_blas(a, b) if quick is None else quick
        if a.flags.c_contiguous and a.shape[-1] == b.shape[0]:
            rows = a.reshape(prod(a.shape[:-1]), a.shape[-1])
            return matmul(rows, b).reshape(*a.shape[:-1], b.shape[1])
    return _by_blas(a, b)


def linear(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Return x kernel + bias; the bias is added where the product was written."""
    if x.ndim != 2:
        return _linear_of_stack(x, kernel, bias)
    if bias is None:
        product_alone: Array = matmul(x, kernel)
        return product_alone
    columns = kernel.shape[-1]
    if bias.shape != (columns,):
        raise ValueError("a bias for each column of the kernel expected")
    if x.size * columns >= _FEW and kernel.ndim == 2:
        quick = product(x, kernel, bias)
        if quick is not None:
            return quick
    y: Array = _by_blas(x, kernel)
    if y.dtype == bias.dtype or np.result_type(y, bias) == y.dtype:
        y += bias
        return y
    return y + bias


def _linear_of_stack(x: Array, kernel: Array, bias: Array | None) -> Array:
    if not x.ndim or kernel.ndim != 2:
        raise ValueError("x (..., n) and a kernel (n, m) expected")
    rows = linear(x.reshape(prod(x.shape[:-1]), x.shape[-1]), kernel, bias)
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


KERNELS: dict[str, Callable[..., Any]] = {"matmul": matmul, "linear": linear}
