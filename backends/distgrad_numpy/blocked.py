"""Elementwise compositions on blocks that fit the cache: one pass over memory, not one a step.

NumPy writes every intermediate result of a formula to memory. On a block of 64 KiB they stay in the
core's own cache, and large arrays are computed by several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distgrad.backends_in_force import kernels_of
from distgrad.ops.elementwise import error_function
from distgrad.ops.neural import activations, dropping, kinks
from distgrad.ops.neural.softmax import SIGMOID
from distgrad_numpy import gaussian, threads

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 16  # bytes of each operand at a time; measured best of 2^14 to 2^19
_PIECE = 8  # blocks that a thread takes at once


@cache
def vocabulary() -> Any:
    """Return NumPy's kernels, by which compositions compute."""
    return kernels_of("numpy")


def elementwise(
    compose: Callable[..., Array], in_float32: Callable[..., Array] | None = None
) -> Callable[..., Array]:
    """Return the kernel of an elementwise operation that is composed of others.

    Parameters
    ----------
    compose : callable
        ``compose(xp, *arrays, **params)``; by blocks where all operands have one shape.
    in_float32 : callable, optional
        Takes its place for large arrays of float32.
    """

    def kernel(*arrays: Any, **params: Any) -> Any:
        xp = vocabulary()
        first = arrays[0]
        size = first.size
        if size * first.itemsize <= _BLOCK or any(a.shape != first.shape for a in arrays[1:]):
            return compose(xp, *arrays, **params)
        formula = compose
        if in_float32 is not None and all(a.dtype == np.float32 for a in arrays):
            formula = in_float32
        # A transposed array is as good as a plain one, if all are transposed alike.
        turned = not first.flags.c_contiguous and first.flags.f_contiguous
        flat = [(a.T if turned else a).reshape(-1) for a in arrays]
        step = max(_BLOCK // first.itemsize, 1)
        start = formula(xp, *(f[:step] for f in flat), **params)
        out = np.empty(size, start.dtype)
        out[:step] = start

        def work(begin: int) -> None:
            for low in range(begin, min(begin + _PIECE * step, size), step):
                high = min(low + step, size)
                out[low:high] = formula(xp, *(f[low:high] for f in flat), **params)

        threads.run(work, range(step, size, _PIECE * step))
        return out.reshape(first.shape[::-1]).T if turned else out.reshape(first.shape)

    return kernel


def _softplus(xp: Any, x: Array) -> Array:
    # NumPy's logaddexp takes five times as long.
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


KERNELS: dict[str, Callable[..., Any]] = {
    op.name: elementwise(op.compose, gaussian.IN_FLOAT32.get(op.name))
    for op in (*activations.OPS, *kinks.OPS, *error_function.OPS, *dropping.OPS, SIGMOID)
    if op.compose is not None and op is not kinks.RELU  # which is one pass already
}
KERNELS["softplus"] = elementwise(_softplus)
