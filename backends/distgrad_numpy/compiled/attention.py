"""Attention of one head after the other in one call, by products of panels that stay in the cache.

A head's scores are computed by blocks, from which the greatest score so far is taken off, see
`sources/attention.cpp`; the backward pass computes them again. Threads share the heads, whose
results do not depend on each other.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.compiled import library
from distgrad_numpy.compiled.offers import function, in_pieces
from distgrad_numpy.compiled.panels import aligned, dense

Array = np.ndarray[Any, Any]

_FEW = 8  # query rows; for fewer, keys are not worth arranging
_PIECE = 1 << 23  # products of two numbers that a thread takes at once, at least

_COUNT, _ARRAY, _NUMBER = ctypes.c_longlong, ctypes.c_void_p, ctypes.c_float
_SHAPE = (*[_COUNT] * 8, _NUMBER, _ARRAY, *[_COUNT] * 3)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "attention": (*_SHAPE, *[_ARRAY] * 6),
    "attention_vjp": (*_SHAPE, *[_ARRAY] * 11),
}


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
    inputs: list[Array],
    outputs: list[Array],
) -> bool:
    """Call a function for all heads, some on each thread; return False where there is none."""
    run = function("attention", name, _ARGUMENTS[name])
    source = library.from_file("attention")
    if run is None or source is None:
        return False
    room: Any = source.room
    room.argtypes, room.restype = [_COUNT] * 3, _COUNT
    heads, rows, keys, width, out_width = shape
    needed = room(keys, width, out_width)
    offset = params["offset"]
    numbers = (*shape[1:], offset is not None, offset or 0, params["scale"])
    seen = None if mask.array is None else mask.array.ctypes.data
    given = [None if each is None else each.ctypes.data for each in inputs]
    places = [each.ctypes.data for each in outputs]

    def work(_: int, begin: int, end: int) -> None:
        memory = aligned("attention", needed).ctypes.data
        run(begin, end, *numbers, seen, *mask[1:], *given, memory, *places)

    in_pieces(heads, max(_PIECE // (rows * keys * (width + out_width)), 1), work)
    return True


def _shape_of(query: Array, key: Array, value: Array) -> tuple[int, int, int, int, int]:
    heads = math.prod(query.shape[:-2])
    return heads, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]


def attention(query: Array, key: Array, value: Array, *mask: Array, **params: Any) -> Any:
    """Return attention's output, and of each row the logarithm of its exponentials' sum."""
    inputs = dense(query, key, value)
    made = _mask_of(mask, query.shape[:-2], key.shape[-2])
    if inputs is None or made is None or query.shape[-2] < _FEW:
        return None
    outputs = [
        np.empty((*query.shape[:-1], value.shape[-1]), np.float32),
        np.empty(query.shape[:-1], np.float32),
    ]
    if not _run("attention", _shape_of(query, key, value), params, made, inputs, outputs):
        return None
    return tuple(outputs)


def attention_vjp(*arrays: Array, **params: Any) -> Any:
    """Return the cotangents of query, key, value and mask."""
    *inputs, output, sums, g, g_sums = arrays
    query, key, value, *mask = inputs
    given = dense(query, key, value, output, sums, g)
    if given is None or g_sums.dtype != np.float32 or query.shape[-2] < _FEW:
        return None
    # The cotangent of numbers that are added is left to the own kernel: a sum over heads.
    if mask and mask[0].dtype != np.bool_:
        return None
    made = _mask_of(tuple(mask), query.shape[:-2], key.shape[-2])
    if made is None:
        return None
    zero = not any(g_sums.strides) and not g_sums.flat[0]
    given.append(None if zero else np.ascontiguousarray(g_sums))
    outputs = [np.empty(each.shape, np.float32) for each in (query, key, value)]
    if not _run("attention_vjp", _shape_of(query, key, value), params, made, given, outputs):
        return None
    return (*outputs, *(np.zeros_like(each) for each in mask))


OFFERS: dict[str, Callable[..., Any]] = {"attention": attention, "attention_vjp": attention_vjp}
