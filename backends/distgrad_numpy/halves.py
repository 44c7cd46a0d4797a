"""float16: what adds up many numbers does so in float32, and rounds once.

NumPy adds half precision up in half precision, but along an axis whose elements lie side by side:
sums of ones stop at 2048, those of greater numbers are infinite though their total is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
HALF = np.dtype(np.float16)


def reduction(ufunc: np.ufunc) -> Callable[..., Any]:
    """Return a kernel that accumulates with a ufunc."""

    def kernel(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
        if x.dtype != HALF:
            return ufunc.reduce(x, axis=axis, keepdims=keepdims)
        return ufunc.reduce(x, axis=axis, dtype=np.float32, keepdims=keepdims).astype(HALF)

    return kernel


def in_single(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that computes in float32 where its first operand is in float16."""

    def widened(*operands: Array, **params: Any) -> Any:
        if operands[0].dtype != HALF:
            return kernel(*operands, **params)
        found = kernel(*(_wide(each) for each in operands), **params)
        return tuple(map(_rounded, found)) if isinstance(found, tuple) else _rounded(found)

    return widened


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == HALF else x


def _rounded(x: Array) -> Array:
    return x.astype(HALF) if x.dtype == np.float32 else x
