"""What computes bfloat16 itself on the device: products, our own CUDA, and what moves elements.

Everything else is computed in float32 and rounded by `distgrad.backend.widening`, whose two copies
move three times the bytes that the operation itself does. A kernel of this list returns
`NotImplemented` for operands that it does not take after all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad.core.op import Kind
from distgrad.ops import VOCABULARY
from distgrad_cupy import (
    affine,
    attention,
    channels,
    convolution,
    elementwise,
    pooling,
    recurrent,
    rows,
    segments,
)
from distgrad_cupy.running import Runner, is_bfloat16

Kernel = Callable[..., Any]

_SUBJECTS = (affine, attention, channels, convolution, pooling, recurrent, rows, segments)
# They compute nothing, and CuPy has them for elements of any sort.
_MOVING = ("concat", "getitem", "take_along_axis", "index_set", "zeros_like")
# Composed of these, of products and of sums, each of which rounds.
_COMPOSED = ("contract", "gather")
# How many operands have to be of bfloat16, where CuPy does not promote; all others may be integers.
_ALIKE = {"matmul": 2, "contract": None, "concat": None, "index_set": 2}
# Filled with numbers that each call gives: nothing follows from a formula.
_WITHOUT_FORMULA = ("astype", "full_like", "to_device")


def bfloat16_kernels(run: Runner, kernel: Callable[[str], Kernel | None]) -> dict[str, Kernel]:
    """Return kernels by the names of their operations.

    Parameters
    ----------
    run : Runner
        What starts them.
    kernel : callable
        Returns the backend's kernel of a name, which is for all dtypes.
    """
    own = {name for subject in _SUBJECTS for name in subject.kernels(run)}
    general = {name: kernel(name) for name in (*own, *_MOVING, "matmul")}
    of_elements = (op for op in VOCABULARY.values() if op.kind is Kind.ELEMENTWISE)
    found: dict[str, Kernel] = {
        **{
            op.name: elementwise.ByFormula(op, run)
            for op in of_elements
            if op.name not in _WITHOUT_FORMULA
        },
        **{name: found for name, found in general.items() if found is not None},
        **{name: partial(_composed, run, name) for name in _COMPOSED},
        "sum": partial(_sum, run),
    }
    alike = {name: partial(_of_bfloat16, found[name], count) for name, count in _ALIKE.items()}
    return found | alike


def _of_bfloat16(kernel: Kernel, count: int | None, *operands: Any, **how: Any) -> Any:
    """Run a kernel if the first operands are of bfloat16, so many, or all."""
    if not all(map(is_bfloat16, operands[:count])):
        return NotImplemented
    return kernel(*operands, **how)


def _composed(run: Runner, name: str, *arrays: Any, **how: Any) -> Any:
    """Return an operation as it is composed of others, each of which takes bfloat16 itself."""
    compose: Any = VOCABULARY[name].compose
    return compose(run.namespace(), *arrays, **how)


def _sum(run: Runner, x: Any, **how: Any) -> Any:
    """Return sums that are added up in float32, without a copy of the array in it."""
    if how.get("dtype") is not None:
        return NotImplemented
    return run.module.sum(x, **{**how, "dtype": np.float32}).astype(x.dtype)
