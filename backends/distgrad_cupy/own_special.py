"""Special functions that CuPy lacks, in CUDA: each element by itself, in double precision.

What is here neither waits for the device nor copies to the host, so it can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.adapters.special import computing_dtype
from distgrad_cupy.running import ELEMENTS, THREADS, Runner, blocks_for

Array = Any

HIGHEST = 4  # order of a derivative in gamma's shape parameter, as in `gamma_slopes.cu`

# Kernels by their source: of one argument, or of an order and an argument.
NAMES = {
    "special": "dawsn erfi fresnel_sin fresnel_cos spence ellipe wrightomega ndtri_exp".split(),
    "bessel": "jv yv".split(),
    "modified_bessel": "iv ive kv kve".split(),
}


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of special functions.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "gammainc_ratio": partial(_gamma_slopes, run),
        **{
            name: partial(_special, run, source, name)
            for source, names in NAMES.items()
            for name in names
        },
    }


def _gamma_slopes(run: Runner, a: Any, x: Any, *, order: int) -> Array:
    if order > HIGHEST:
        return ADAPTERS["gammainc_ratio"](run.namespace().backend, a, x, order=order)
    return _computed(run, "gamma_slopes", "gammainc_ratio", (a, x), np.int32(order))


def _special(run: Runner, source: str, name: str, *operands: Any) -> Array:
    return _computed(run, source, name, operands)


def _computed(
    run: Runner, source: str, name: str, operands: tuple[Any, ...], *particulars: Any
) -> Array:
    """Return a function of each element of operands, which are broadcast.

    Notes
    -----
    Operands of one dtype are read as they are, and numbers in that dtype unless it is narrower
    than float32; all others are converted to float64.
    """
    module = run.module
    result, wide = computing_dtype(name, operands)
    arrays = [each for each in operands if isinstance(each, module.ndarray)]
    numbers = len(arrays) < len(operands)
    as_they_are = all(each.dtype == result for each in arrays) and result.name in ELEMENTS
    own = result if as_they_are and not (numbers and wide != result) else np.dtype(np.float64)
    shape = np.broadcast_shapes(*(each.shape for each in arrays))
    out = module.empty(shape, own)
    if out.size:
        given = [_spread(module, each, shape, own) for each in operands]
        arguments = (*given, out, np.int64(prod(shape)), *particulars)
        grid = (blocks_for(out.size),)
        run.launch(source, name, own.name, grid, THREADS, arguments)
    return out if own == result else out.astype(result)


def _spread(module: Any, operand: Any, shape: tuple[int, ...], own: Any) -> Array:
    """Return an operand in one line of memory; a number is filled in by the device."""
    if not isinstance(operand, module.ndarray):
        return module.full(shape, operand, own)
    wide = operand.astype(own, copy=False)
    return module.ascontiguousarray(module.broadcast_to(wide, shape))
