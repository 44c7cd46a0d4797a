"""Elementwise kernels on blocks that fit the cache: one pass over memory, not one a step.

NumPy writes every intermediate result of a formula to memory. On a block of 128 KiB they stay in
the core's own cache, and large arrays are computed by several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from distgrad.backends_in_force import kernels_of
from distgrad.core.op import Op
from distgrad.ops.elementwise import error_function
from distgrad.ops.neural import activations as smooth
from distgrad.ops.neural import dropping, kinks
from distgrad.ops.neural.softmax import SIGMOID
from distgrad.ops.special import information
from distgrad.ops.special.normal import LOGIT
from distgrad_numpy import activations, gaussian, threads

Array = np.ndarray[Any, Any]
Formula = Callable[..., None]

_BLOCK = 1 << 17  # bytes of each operand at a time; measured best of 2^13 to 2^18
_PIECE = 4  # blocks that a thread takes at once
_FEW = 1 << 12  # elements; below, a composition has less overhead than a formula in place

_SINGLE = (np.dtype(np.float32),)
_FLOATING = (*_SINGLE, np.dtype(np.float64))


@cache
def vocabulary() -> Any:
    """Return NumPy's kernels, by which compositions compute."""
    return kernels_of("numpy")


def composed(op: Op, *arrays: Array, **params: Any) -> Any:
    """Return an operation of arrays that no kernel takes, in terms of other operations."""
    compose: Any = op.compose
    return compose(vocabulary(), *arrays, **params)


def elementwise(
    compose: Callable[..., Array],
    in_place: Formula | None = None,
    dtypes: tuple[np.dtype[Any], ...] = _FLOATING,
) -> Callable[..., Array]:
    """Return the kernel of an elementwise operation that is composed of others.

    Parameters
    ----------
    compose : callable
        ``compose(xp, *arrays, **params)``; by blocks where all operands have one shape.
    in_place : callable, optional
        ``in_place(out, *arrays, **params)`` writes what the composition returns, for operands of
        one axis, one shape and one of `dtypes`, but for conditions.
    dtypes : tuple of dtype
        Those that the formula in place is good for.
    """

    def kernel(*arrays: Any, **params: Any) -> Any:
        first = arrays[0]
        size = getattr(first, "size", 1)  # of a number
        if size <= _FEW or any(getattr(a, "shape", ()) != first.shape for a in arrays[1:]):
            return compose(vocabulary(), *arrays, **params)
        formula = in_place
        if formula is None or not _fits(arrays, dtypes):
            if size * first.itemsize <= _BLOCK:
                return compose(vocabulary(), *arrays, **params)
            formula = _by_composition(compose)
        # A transposed array is as good as a plain one, if all are transposed alike.
        turned = not first.flags.c_contiguous and first.flags.f_contiguous
        flat = [(a.T if turned else a).reshape(-1) for a in arrays]
        step = max(_BLOCK // first.itemsize, 1)
        if formula is in_place:
            out = np.empty(size, first.dtype)
            begun = 0
        else:
            start = compose(vocabulary(), *(f[:step] for f in flat), **params)
            out = np.empty(size, start.dtype)
            out[:step] = start
            begun = step

        def work(begin: int) -> None:
            for low in range(begin, min(begin + _PIECE * step, size), step):
                part = slice(low, min(low + step, size))
                formula(out[part], *(f[part] for f in flat), **params)

        threads.run(work, range(begun, size, _PIECE * step))
        return out.reshape(first.shape[::-1]).T if turned else out.reshape(first.shape)

    return kernel


def _fits(arrays: tuple[Array, ...], dtypes: tuple[np.dtype[Any], ...]) -> bool:
    dtype = arrays[0].dtype
    return dtype in dtypes and all(a.dtype in (dtype, np.bool_) for a in arrays[1:])


def _by_composition(compose: Callable[..., Array]) -> Formula:
    def formula(out: Array, *arrays: Array, **params: Any) -> None:
        out[...] = compose(vocabulary(), *arrays, **params)

    return formula


def _softplus(xp: Any, x: Array) -> Array:
    # NumPy's logaddexp takes five times as long.
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(xp: Any, x: Array) -> Array:
    if x.dtype not in _FLOATING:
        result: Array = composed(SIGMOID, x)
        return result
    # Half as many calls as the composition.
    e: Array = np.exp(np.minimum(x, activations.SATURATED))
    result = e / (1 + e)
    return result


def _kernel_of(name: str, compose: Callable[..., Array]) -> Callable[..., Array]:
    if name in gaussian.IN_FLOAT32:
        return elementwise(compose, gaussian.IN_FLOAT32[name], _SINGLE)
    return elementwise(compose, activations.IN_PLACE.get(name))


KERNELS: dict[str, Callable[..., Any]] = {
    op.name: _kernel_of(op.name, op.compose)
    for ops in (smooth.OPS, kinks.OPS, error_function.OPS, dropping.OPS, information.OPS, (LOGIT,))
    for op in ops
    if op.compose is not None
}
KERNELS["softplus"] = elementwise(_softplus)
KERNELS["sigmoid"] = elementwise(_sigmoid, activations.sigmoid)
_large_relu, _large_relu_vjp = KERNELS["relu"], KERNELS["relu_vjp"]


def _relu(x: Any) -> Any:
    # The commonest of all, on small arrays too: no call more than it needs.
    return np.maximum(x, 0) if x.size <= _FEW else _large_relu(x)


def _relu_vjp(g: Any, y: Any) -> Any:
    few = y.size <= _FEW and g.dtype in _FLOATING
    return np.where(y > 0, g, 0) if few else _large_relu_vjp(g, y)


KERNELS["relu"], KERNELS["relu_vjp"] = _relu, _relu_vjp
