"""Random numbers drawn on the device, the bits equal to the host's.

The words of a stream are read where they lie, so that drawing waits for nothing. What draws keys
(`random_split`, `random_fold`), permutations, gamma and Poisson numbers are the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad_cupy.running import THREADS, Runner, blocks_for

Array = Any


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
    if kind.name not in ("float32", "float64"):
        how = {"shape": shape, "start": start, "dtype": dtype, "low": low, "high": high}
        return _on_the_host(run, "random_uniform", streams, **how)
    first, last = kind.type(low), kind.type(high)
    bounds = (first, last - first, np.nextafter(last, first))
    scaled = np.int32((low, high) != (0.0, 1.0))
    return _drawn(run, "uniform", kind.name, streams, shape, start, kind, scaled, *bounds)


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
