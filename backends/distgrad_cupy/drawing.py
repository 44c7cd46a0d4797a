"""Random numbers drawn on the device, the bits equal to the host's.

The words of a stream are read where they lie, so that drawing waits for nothing. Numbers that are
found by rejection, gamma and Poisson numbers, are those of `distgrad_cupy.variates`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.philox import FOLDED, SPLIT
from distgrad_cupy.running import HALVES, THREADS, Runner, blocks_for

Array = Any

_BITS = {"float16": 11, "bfloat16": 8}  # the digits of each, the leading one included


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels that draw numbers.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "random_bits": partial(_bits, run),
        "random_uniform": partial(_uniform, run),
        "random_normal": partial(_normal, run),
        "random_bernoulli": partial(_bernoulli, run),
        "random_integers": partial(_integers, run),
        "random_permutation": partial(_permutation, run),
        "random_fold": partial(_fold, run),
        "random_split": partial(_split, run),
    }


def _drawn(
    run: Runner,
    name: str,
    elements: str,
    streams: Array,
    shape: Any,
    start: int,
    dtype: Any,
    *particulars: Any,
) -> Array:
    """Return numbers of a kernel, for each stream of an array of them."""
    own = run.module.ascontiguousarray(streams)
    lead, count = streams.shape[:-1], prod(shape)
    out = run.module.empty((*lead, *shape), dtype)
    if out.size:
        arguments = (own, out, np.int64(prod(lead)), np.int64(start), np.int64(count), *particulars)
        grid = (blocks_for(-(-count // 4) * prod(lead)),)
        run.launch("philox", name, elements, grid, THREADS, arguments)
    return out


def _on_the_host(run: Runner, name: str, streams: Array, **params: Any) -> Array:
    return ADAPTERS[name](run.namespace().backend, streams, **params)


def _bits(run: Runner, streams: Array, *, shape: Any, start: int, dtype: Any) -> Array:
    own = np.dtype(dtype)
    if own.itemsize not in (4, 8):
        return _on_the_host(run, "random_bits", streams, shape=shape, start=start, dtype=dtype)
    wide = own.itemsize == 8
    word = np.uint64 if wide else np.uint32
    name = "bits64" if wide else "bits32"
    return _drawn(run, name, "float32", streams, shape, start, word)


def _uniform(
    run: Runner, streams: Array, *, shape: Any, start: int, dtype: Any, low: float, high: float
) -> Array:
    kind = np.dtype(dtype)
    if kind.name in HALVES:
        return _half_uniform(run, streams, shape, start, kind, low, high)
    if kind.name not in ("float32", "float64"):
        how = {"shape": shape, "start": start, "dtype": dtype, "low": low, "high": high}
        return _on_the_host(run, "random_uniform", streams, **how)
    first, last = kind.type(low), kind.type(high)
    bounds = (first, last - first, np.nextafter(last, first))
    scaled = np.int32((low, high) != (0.0, 1.0))
    return _drawn(run, "uniform", kind.name, streams, shape, start, kind, scaled, *bounds)


def _half_uniform(
    run: Runner, streams: Array, shape: Any, start: int, kind: Any, low: float, high: float
) -> Array:
    """Return uniform numbers of half precision: the upper bits of words of 32, as many as fit."""
    words = _bits(run, streams, shape=shape, start=start, dtype=np.dtype(np.uint32))
    bits = _BITS[kind.name]
    upper = (words >> np.uint32(32 - bits)).astype(np.float32)
    u = (upper * np.float32(2.0**-bits)).astype(kind)
    if (low, high) == (0.0, 1.0):
        return u
    # Each step rounded by itself, as on the host.
    first, last = kind.type(low), kind.type(high)
    u = u * (last - first) + first
    return run.module.minimum(u, np.nextafter(last, first)) if low < high else u


def _normal(run: Runner, streams: Array, *, shape: Any, start: int, dtype: Any) -> Array:
    kind = np.dtype(dtype)
    # As on the host, narrower numbers are those of float32, rounded.
    elements = "float64" if kind == np.float64 else "float32"
    made = _drawn(run, "normal", elements, streams, shape, start, np.dtype(elements))
    return made.astype(kind, copy=False)


def _bernoulli(run: Runner, streams: Array, *, shape: Any, start: int, p: float) -> Array:
    threshold = np.uint64(min(max(round(p * 2.0**32), 0), 2**32))
    return _drawn(run, "bernoulli", "float32", streams, shape, start, np.bool_, threshold)


def _integers(
    run: Runner, streams: Array, *, shape: Any, start: int, dtype: Any, low: int, high: int
) -> Array:
    words = np.uint64(low % 2**64), np.uint64((high - low) % 2**64)
    made = _drawn(run, "integers", "float32", streams, shape, start, np.uint64, *words)
    return (made.view(np.int64) if low < 0 else made).astype(dtype, copy=False)


def _permutation(run: Runner, streams: Array, *, length: int) -> Array:
    words = _bits(run, streams, shape=(length,), start=0, dtype=np.dtype(np.uint64))
    # Stably: two words may be equal.
    return run.module.argsort(words, axis=-1, kind="stable").astype(np.int64, copy=False)


# --- streams made of streams ----------------------------------------------------------------------


def _fold(run: Runner, streams: Array, index: Any) -> Array:
    module = run.module
    if isinstance(index, int):
        places = module.full(streams.shape[:-1], np.uint64(index % 2**64))
    else:
        lead = np.broadcast_shapes(streams.shape[:-1], index.shape)
        places = module.broadcast_to(index.astype(np.uint64), lead)
    own = module.broadcast_to(streams, (*places.shape, 3))
    return _new_streams(run, own, places, (*places.shape, 3), 1, FOLDED)


def _split(run: Runner, streams: Array, *, count: int) -> Array:
    return _new_streams(run, streams, None, (*streams.shape[:-1], count, 3), count, SPLIT)


def _new_streams(
    run: Runner, streams: Array, indices: Array | None, shape: Any, each: int, domain: int
) -> Array:
    module = run.module
    out = module.empty(shape, np.uint64)
    if out.size:
        own = module.ascontiguousarray(streams)
        places = None if indices is None else module.ascontiguousarray(indices)
        number = out.size // 3
        arguments = (own, places, out, np.int64(number), np.int64(each), np.int32(domain))
        run.launch("philox", "new_streams", "float32", (blocks_for(number),), THREADS, arguments)
    return out
