"""Attention of one head after the other in one call, by products of panels that stay in the cache.

A head's scores are computed by blocks, from which the greatest score so far is taken off, see
`sources/attention.cpp`; the backward pass computes them again. Threads share the heads, whose
results do not depend on each other.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.panels import aligned

Array = np.ndarray[Any, Any]

_FEW = 8  # query rows; for fewer, keys are not worth arranging
_PIECE = 1 << 23  # products of two numbers that a thread takes at once, at least

_COUNT, _ARRAY, _NUMBER = ctypes.c_longlong, ctypes.c_void_p, ctypes.c_float
_SHAPE = (*[_COUNT] * 6, _NUMBER, _ARRAY, *[_COUNT] * 4, _ARRAY)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "attention": (*_SHAPE, *[_ARRAY] * 6),
    "attention_vjp": (*_SHAPE, *[_ARRAY] * 11),
}


def _in_rows(*arrays: Array) -> list[Array] | None:
    """Return arrays of which the kernel finds the rows; None unless all are float32 with elements.

    Rows have no gaps within; heads and rows may lie in either order, as those of projections do,
    whose heads lie side by side. What lies otherwise is copied.
    """
    if not all(each.dtype == np.float32 and each.size for each in arrays):
        return None
    return [each if _has_rows(each) else np.ascontiguousarray(each) for each in arrays]


def _has_rows(array: Array) -> bool:
    if array.flags.c_contiguous:
        return True
    *lead, last = array.strides
    if last != array.itemsize or any(step % last or step < 0 for step in lead):
        return False
    outer = _outer(array)  # axes that are to be one in memory
    pairs = pairwise(outer)
    return all(step == following * length for (_, step), (length, following) in pairs)


def _outer(array: Array) -> list[tuple[int, int]]:
    """Return lengths and strides of the axes before the heads."""
    axes = zip(array.shape[:-3], array.strides[:-3], strict=True)
    return [(length, step) for length, step in axes if length > 1]


def _steps(array: Array) -> tuple[int, int, int]:
    """Return how many numbers problems, heads and rows are apart."""
    outer, size, strides = _outer(array), array.itemsize, array.strides
    problem = outer[-1][1] // size if outer else 0
    return problem, strides[-3] // size if array.ndim > 2 else 0, strides[-2] // size


def _beside(array: Array, width: int) -> Array:
    """Return memory for a result whose rows lie as those of an array."""
    shape = (*array.shape[:-1], width)
    if array.flags.c_contiguous or array.ndim < 3:
        return np.empty(shape, np.float32)
    turned = (*shape[:-3], shape[-2], shape[-3], width)  # heads side by side
    return np.empty(turned, np.float32).swapaxes(-3, -2)


class _Mask(NamedTuple):
    """A mask as compiled kernels take it: with all keys, and either one for all heads or each."""

    array: Array | None
    kind: int  # as in the source: none, a choice by bytes, numbers to be added
    head_step: int
    row_step: int


def _mask_of(mask: tuple[Array, ...], lead: tuple[int, ...], keys: int) -> _Mask | None:
    """Return the mask; None where it is of a dtype that no compiled kernel takes."""
    if not mask:
        return _Mask(None, 0, 0, 0)
    given = mask[0]
    if given.dtype not in (np.bool_, np.float32):
        return None
    rows = given.shape[-2]
    shared = given.size == rows * given.shape[-1]  # then it is not repeated in memory
    shape = (1, rows, keys) if shared else (*lead, rows, keys)
    source = given.reshape(1, *given.shape[-2:]) if shared else given
    full = np.ascontiguousarray(np.broadcast_to(source, shape))
    kind = 1 if given.dtype == np.bool_ else 2
    return _Mask(full, kind, 0 if shared else rows * keys, keys if rows > 1 else 0)


def _run(
    name: str,
    shape: tuple[int, int, int, int, int],
    params: dict[str, Any],
    mask: _Mask,
    inputs: Sequence[Any],
    outputs: Sequence[Array],
) -> bool:
    """Call a function for all heads, some on each thread; return False where there is none."""
    run = crew.shared("attention", name, _ARGUMENTS[name])
    source = library.from_file("attention")
    if run is None or source is None:
        return False
    room: Any = source.room
    room.argtypes, room.restype = [_COUNT] * 3, _COUNT
    heads, rows, keys, width, out_width = shape
    ndim = inputs[0].ndim
    needed = room(keys, width, out_width)
    offset = params["offset"]
    numbers = (*shape[1:], offset is not None, offset or 0, params["scale"])
    seen = None if mask.array is None else address(mask.array)
    given = [None if each is None else address(each) for each in inputs]
    ends = [address(each) for each in outputs]
    matrices = [each for each in (*inputs, *outputs) if each is not None and each.ndim == ndim]
    places = np.array([_steps(each) for each in matrices], np.int64)
    inner = inputs[0].shape[-3] if ndim > 2 else 1
    memory = aligned("attention", crew.workers() * needed)
    each_piece = max(_PIECE // (rows * keys * (width + out_width)), 1)
    lying = inner, address(places)
    run(heads, each_piece, *numbers, seen, *mask[1:], *lying, *given, address(memory), *ends)
    return True


def _shape_of(query: Array, key: Array, value: Array) -> tuple[int, int, int, int, int]:
    heads = math.prod(query.shape[:-2])
    return heads, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]


def attention(query: Array, key: Array, value: Array, *mask: Array, **params: Any) -> Any:
    """Return attention's output, and of each row the logarithm of its exponentials' sum."""
    inputs = _in_rows(query, key, value)
    made = _mask_of(mask, query.shape[:-2], key.shape[-2])
    if inputs is None or made is None or query.shape[-2] < _FEW:
        return None
    outputs = [
        _beside(query, value.shape[-1]),
        np.empty(query.shape[:-1], np.float32),
    ]
    if not _run("attention", _shape_of(query, key, value), params, made, inputs, outputs):
        return None
    return tuple(outputs)


def attention_vjp(*arrays: Array, **params: Any) -> Any:
    """Return the cotangents of query, key, value and mask."""
    *inputs, output, sums, g, g_sums = arrays
    query, key, value, *mask = inputs
    matrices = _in_rows(query, key, value, output, g)
    if matrices is None or query.shape[-2] < _FEW:
        return None
    if sums.dtype != np.float32 or g_sums.dtype != np.float32:
        return None
    # The cotangent of numbers that are added is left to the own kernel: a sum over heads.
    if mask and mask[0].dtype != np.bool_:
        return None
    made = _mask_of(tuple(mask), query.shape[:-2], key.shape[-2])
    if made is None:
        return None
    zero = not any(g_sums.strides) and not g_sums.flat[0]
    own_sums = np.ascontiguousarray(sums), None if zero else np.ascontiguousarray(g_sums)
    given = [*matrices[:4], own_sums[0], matrices[4], own_sums[1]]
    outputs = [_beside(each, each.shape[-1]) for each in (query, key, value)]
    if not _run("attention_vjp", _shape_of(query, key, value), params, made, given, outputs):
        return None
    return (*outputs, *(np.zeros_like(each) for each in mask))


OFFERS: dict[str, Callable[..., Any]] = {"attention": attention, "attention_vjp": attention_vjp}
