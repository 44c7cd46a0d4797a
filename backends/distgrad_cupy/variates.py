"""Gamma and Poisson numbers drawn on the device: each element rejects and tries again by itself.

Words and decisions are the host's, see `distgrad.backend.philox` and `distgrad.backend.counts`, so
that the numbers are, but for the rounding of logarithms and powers in their last digits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.adapters.special import computing_dtype
from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for, composed, name_of

Array = Any


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels that draw numbers by rejection.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "random_gamma": partial(_gamma, run),
        "random_poisson": partial(_poisson, run),
        "gamma_carried": partial(_carried, run),
    }


def _gamma(run: Runner, streams: Array, concentration: Array, *, start: int) -> Array:
    given = _floating(concentration)
    if given is None:
        return _on_the_host(run, "random_gamma", streams, concentration, start=start)
    own = run.module.ascontiguousarray(given)
    out = run.module.empty(given.shape, own.dtype)
    if out.size:
        _launch(run, "gamma_numbers", streams, own, (out,), start)
    return out


def _carried(run: Runner, number: Any, before: Any, a: Any) -> Array:
    """Return the numbers at the quantiles that others have of another concentration.

    Notes
    -----
    A drawn number carries its derivative so, from a concentration to that very one: nothing is
    computed then. Elsewhere elements of equal concentrations are chosen, as no one waits to see
    whether there are others.
    """
    module, operands = run.module, (number, before, a)
    arrays = [isinstance(each, module.ndarray) for each in operands]
    if not (arrays[0] and any(arrays[1:])):
        return _on_the_host(run, "gamma_carried", *operands)
    result, _ = computing_dtype("gamma_carried", operands)
    shape = np.broadcast_shapes(*(each.shape for each in operands if hasattr(each, "shape")))
    same = module.broadcast_to(number, shape).astype(result)
    if before is a or not same.size:
        return same
    moved = composed(run, "gamma_carried", *operands)
    return module.where(before == a, same, moved).astype(result, copy=False)


def _poisson(run: Runner, streams: Array, rate: Array, *, start: int, dtype: Any) -> Array:
    chosen, given, module = np.dtype(dtype), _floating(rate), run.module
    if given is None or not (chosen.kind in "iu" or chosen.name in ELEMENTS):
        return _on_the_host(run, "random_poisson", streams, rate, start=start, dtype=dtype)
    own = module.ascontiguousarray(given)
    whole = chosen.kind in "iu"
    made = module.empty(given.shape, np.int64 if whole else np.float64)
    if not made.size:
        return made.astype(chosen, copy=False)
    wrong = module.zeros(1, np.int32)
    results = (made, None) if whole else (None, made)
    # Of rates up to 2^62 no count is above the largest int64, which uint64 holds.
    largest = np.int64(min(np.iinfo(chosen).max, np.iinfo(np.int64).max) if whole else 0)
    _launch(run, "poisson_numbers", streams, own, (*results, wrong), start, largest)
    if not run.is_capturing and int(wrong[0]):
        # It raises, with the rate.
        return _on_the_host(run, "random_poisson", streams, rate, start=start, dtype=dtype)
    return made.astype(chosen, copy=False)


def _launch(
    run: Runner, name: str, streams: Array, given: Array, results: tuple[Any, ...], *numbers: Any
) -> None:
    """Start a kernel that makes a number of each element, from the first number of the draw on."""
    start, *particulars = numbers
    lead = prod(streams.shape[:-1])
    sizes = (np.int64(lead), np.int64(start), np.int64(given.size // lead))
    own = run.module.ascontiguousarray(streams)
    arguments = (own, given, *results, *sizes, *particulars)
    grid = (blocks_for(given.size),)
    run.launch("variates", name, name_of(given.dtype), grid, THREADS, arguments)


def _floating(given: Array) -> Array | None:
    """Return parameters in a dtype that kernels take; None where there is none."""
    if given.dtype.kind in "biu":
        return given.astype(np.float64)
    return given if name_of(given.dtype) in ELEMENTS else None


def _on_the_host(run: Runner, name: str, *operands: Array, **params: Any) -> Array:
    return ADAPTERS[name](run.namespace().backend, *operands, **params)
