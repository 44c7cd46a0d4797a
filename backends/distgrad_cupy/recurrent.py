"""LSTM and GRU on the device: one product for all inputs, then a product and a kernel a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distgrad_cupy.running import (
    ELEMENTS,
    THREADS,
    Runner,
    addition_dtype,
    blocks_for,
    composed,
    name_of,
)

Array = Any


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of recurrent networks.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    own: dict[str, Callable[..., Any]]
    own = {"lstm": _lstm, "lstm_vjp": _lstm_vjp, "gru": _gru, "gru_vjp": _gru_vjp}
    return {name: partial(_taken, run, name, kernel) for name, kernel in own.items()}


def _taken(run: Runner, name: str, kernel: Callable[..., Any], *arrays: Array) -> Any:
    """Run a kernel on contiguous arrays of one floating dtype, and the composition on others."""
    first = arrays[0]
    alike = name_of(first.dtype) in ELEMENTS and all(each.dtype == first.dtype for each in arrays)
    if not alike or not first.size:
        return composed(run, name, *arrays)
    return kernel(run, *map(run.module.ascontiguousarray, arrays))


def _stepping(run: Runner, name: str, like: Array) -> Callable[..., None]:
    """Return what starts a kernel for a step; `like` has an element for each unit of an example."""
    batch, units = (np.int64(length) for length in like.shape)
    how = "recurrent", name, name_of(like.dtype), (blocks_for(like.size),), THREADS

    def start(step: int, *arrays: Array) -> None:
        run.launch(*how, (*arrays, np.int64(step), batch, units))

    return start


def _flat(x: Array) -> Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _summed(rows: Array) -> Array:
    """Return the sum of rows, added up as elements are."""
    total: Array = rows.sum(axis=0, dtype=addition_dtype(name_of(rows.dtype)))
    return total.astype(rows.dtype, copy=False)


def _projected(run: Runner, x: Array, kernel: Array) -> Array:
    return run.matmul(_flat(x), kernel).reshape(*x.shape[:2], kernel.shape[1])


def _before(run: Runner, first: Array, states: Array) -> Array:
    """Return for each step the state before it."""
    before = run.module.empty(states.shape, states.dtype)
    before[0], before[1:] = first, states[:-1]
    return before


def _lstm(
    run: Runner, x: Array, h: Array, c: Array, kernel: Array, recurrent: Array, bias: Array
) -> tuple[Array, Array, Array]:
    gates = _projected(run, x, kernel)
    gates += bias
    shape = (*x.shape[:2], recurrent.shape[0])
    outputs, cells = run.module.empty(shape, x.dtype), run.module.empty(shape, x.dtype)
    start = _stepping(run, "lstm_step", h)
    for t in range(x.shape[0]):
        product = run.matmul(outputs[t - 1] if t else h, recurrent)
        start(t, gates, product, c, cells, outputs)
    return outputs, cells, gates


def _lstm_vjp(
    run: Runner,
    x: Array,
    h: Array,
    c: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    outputs: Array,
    cells: Array,
    gates: Array,
    g_outputs: Array,
    g_cells: Array,
    g_gates: Array,
) -> tuple[Array, ...]:
    sums = run.module.empty(gates.shape, gates.dtype)
    to_h, to_c = run.module.zeros(h.shape, h.dtype), run.module.zeros(c.shape, c.dtype)
    start, turned = _stepping(run, "lstm_step_vjp", h), recurrent.T
    for t in range(x.shape[0] - 1, -1, -1):
        start(t, gates, cells, c, g_outputs, g_cells, g_gates, to_h, to_c, sums)
        to_h = run.matmul(sums[t], turned)
    flat = _flat(sums)
    return (
        run.matmul(flat, kernel.T).reshape(x.shape),
        to_h,
        to_c,
        run.matmul(_flat(x).T, flat),
        run.matmul(_flat(_before(run, h, outputs)).T, flat),
        _summed(flat),
    )


def _gru(
    run: Runner,
    x: Array,
    h: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    recurrent_bias: Array,
) -> tuple[Array, Array]:
    inputs = _projected(run, x, kernel)
    inputs += bias
    units = recurrent.shape[0]
    outputs = run.module.empty((*x.shape[:2], units), x.dtype)
    gates = run.module.empty((*x.shape[:2], 4 * units), x.dtype)
    start = _stepping(run, "gru_step", h)
    for t in range(x.shape[0]):
        product = run.matmul(outputs[t - 1] if t else h, recurrent)
        start(t, inputs, product, recurrent_bias, h, gates, outputs)
    return outputs, gates


def _gru_vjp(
    run: Runner,
    x: Array,
    h: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    recurrent_bias: Array,
    outputs: Array,
    gates: Array,
    g_outputs: Array,
    g_gates: Array,
) -> tuple[Array, ...]:
    shape = (*x.shape[:2], 3 * recurrent.shape[0])
    own, past = run.module.empty(shape, x.dtype), run.module.empty(shape, x.dtype)
    to_h, product = run.module.zeros(h.shape, h.dtype), None
    start, turned = _stepping(run, "gru_step_vjp", h), recurrent.T
    for t in range(x.shape[0] - 1, -1, -1):
        start(t, gates, h, outputs, g_outputs, g_gates, product, to_h, own, past)
        product = run.matmul(past[t], turned)
    to_own, to_past = _flat(own), _flat(past)
    return (
        run.matmul(to_own, kernel.T).reshape(x.shape),
        to_h + product,
        run.matmul(_flat(x).T, to_own),
        run.matmul(_flat(_before(run, h, outputs)).T, to_past),
        _summed(to_own),
        _summed(to_past),
    )
