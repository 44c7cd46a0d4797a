"""Formulas of every elementwise operation, with inputs and what its kernel and its rule compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.scalar_code import Formula, NoScalarCode, forward, pullback
from distgrad.backends_in_force import kernels_of
from distgrad.core.op import Keep, Kind, Op
from distgrad.dtypes import is_real_floating
from distgrad.ops import VOCABULARY
from distgrad.testing.samples import samples


class Case(NamedTuple):
    """A formula, arrays for its inputs, and the right outputs.

    Attributes
    ----------
    formula : Formula
        Of an operation or its pullback.
    inputs : list of numpy.ndarray
        All of one shape.
    expected : list of numpy.ndarray
        What the NumPy backend computes.
    """

    formula: Formula
    inputs: list[Any]
    expected: list[Any]


def cases(dtypes: Sequence[str]) -> Iterator[Case]:
    """Yield a case for each elementwise sample of real numbers, forward and back.

    Parameters
    ----------
    dtypes : sequence of str
        The floating dtypes.
    """
    kernels = kernels_of("numpy")
    for sample in samples():
        op = VOCABULARY[sample.operation]
        arrays = [np.asarray(each) for each in sample.operands]
        if op.kind is not Kind.ELEMENTWISE or any(a.dtype.kind not in "fb" for a in arrays):
            continue
        for dtype in dtypes:
            own = [a if a.dtype.kind == "b" else a.astype(dtype) for a in arrays]
            try:
                formula = forward(op, VOCABULARY, [a.dtype for a in own], sample.params)
            except NoScalarCode:
                continue
            with np.errstate(all="ignore"):
                y = np.asarray(getattr(kernels, op.name)(*own, **sample.params))
            whole = [np.array(np.broadcast_to(a, y.shape), order="C") for a in own]
            yield Case(formula, whole, [y])
            yield from _back(op, kernels, whole, y, sample.params)


def _back(
    op: Op, kernels: Any, arrays: list[Any], y: Any, params: dict[str, Any]
) -> Iterator[Case]:
    """Yield the case of a pullback, where the VJP reads arrays."""
    if op.vjp is None or not is_real_floating(y.dtype):
        return
    g = np.cos(np.arange(y.size)).astype(y.dtype).reshape(y.shape)
    needs = [is_real_floating(a.dtype) for a in arrays]
    if isinstance(op.keep, tuple):
        read = {p for need, reads in zip(needs, op.keep, strict=True) if need for p in reads}
    else:
        read = set(range(len(arrays)) if op.keep in (Keep.INPUTS, Keep.BOTH) else ())
    xs = [a if place in read else None for place, a in enumerate(arrays)]
    kept = y if op.keep in (Keep.OUTPUT, Keep.BOTH) else None
    own = None if kept is None else kept.dtype
    try:
        reads = [None if a is None else a.dtype for a in xs]
        formula = pullback(op, VOCABULARY, reads, own, g.dtype, params, needs)
    except NoScalarCode:
        return
    with np.errstate(all="ignore"):
        terms = op.vjp(kernels, g, kept, tuple(xs) if read else None, params, needs)
    inputs = [np.array(each, order="C") for each in (g, kept, *xs) if each is not None]
    expected = [t for t, need in zip(terms, needs, strict=True) if need and t is not None]
    yield Case(formula, inputs, [np.broadcast_to(np.asarray(t), y.shape) for t in expected])
