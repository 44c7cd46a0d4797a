"""LSTM and GRU with a whole recurrence in one call: weights are arranged once for all its steps.

Products of the steps are computed with the weights laid out in panels, see `sources/products.hpp`:
for so few rows that is up to twice as quick as BLAS, which arranges them anew in every step. An
example's results do not depend on those beside it, so threads may share the examples in any way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled.library import address
from distgrad_numpy.compiled.offers import function
from distgrad_numpy.compiled.panels import aligned, dense
from distgrad_numpy.products import matmul

Array = np.ndarray[Any, Any]

_LEAST = 16  # rows of all steps; for fewer the weights are not worth arranging
_NEAR = 1 << 19  # bytes of the inputs' weights that stay in a core's cache from step to step
_ROWS = 480  # of products with the inputs' weights that a thread computes at once
_EXAMPLE = 1 << 14  # numbers of an example, all steps; with fewer, threads take several

_COUNT, _ARRAY = ctypes.c_longlong, ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "arrange_gates": (*[_COUNT] * 3, *[_ARRAY] * 2),
    "arrange_turned": (*[_COUNT] * 2, *[_ARRAY] * 2),
}
_SHARED: dict[str, tuple[Any, ...]] = {
    "rows_product": (*[_COUNT] * 2, *[_ARRAY] * 3),
    "lstm": (*[_COUNT] * 4, *[_ARRAY] * 10),
    "lstm_vjp": (*[_COUNT] * 3, *[_ARRAY] * 9),
    "gru": (*[_COUNT] * 4, *[_ARRAY] * 9),
    "gru_vjp": (*[_COUNT] * 3, *[_ARRAY] * 8),
}


def _function(name: str) -> Callable[..., None] | None:
    return function("recurrent", name, _ARGUMENTS[name])


def _shared(name: str) -> Callable[..., None] | None:
    """Return a function that threads do in pieces of examples or rows."""
    return crew.shared("recurrent", name, _SHARED[name])


def _columns(kind: str, units: int) -> int:
    """Return how many columns some units have when arranged."""
    count: Any = getattr(library.from_file("recurrent"), kind)
    count.argtypes, count.restype = (_COUNT,), _COUNT
    return int(count(units))


def _arranged_gates(purpose: str, weights: Array, gates: int) -> Array:
    depth, width = weights.shape
    units = width // gates
    to = aligned(purpose, depth * gates * _columns("gate_columns", units))
    arrange: Any = _function("arrange_gates")
    arrange(depth, units, gates, address(weights), address(to))
    return to


def _arranged_turned(purpose: str, weights: Array) -> Array:
    units, width = weights.shape
    to = aligned(purpose, width * _columns("turned_columns", units))
    arrange: Any = _function("arrange_turned")
    arrange(units, width, address(weights), address(to))
    return to


def _over_examples(x: Array, units: int, run: Callable[..., None], *arguments: Any) -> None:
    """Call a function for all examples, some on each thread."""
    steps, batch = x.shape[:2]
    pieces = min(crew.workers(), steps * batch * units // _EXAMPLE)
    places = [address(each) if isinstance(each, np.ndarray) else each for each in arguments]
    run(batch, -(-batch // max(pieces, 1)), steps, batch, *places)


def _product(x: Array, kernel: Array) -> Array:
    """Return x @ kernel for all steps."""
    flat: Array = matmul(x.reshape(-1, x.shape[-1]), kernel)
    return flat.reshape(*x.shape[:2], kernel.shape[1])


def _is_zero(x: Array) -> bool:
    """Return whether an array is one zero seen many times: the cotangent of an unused output."""
    return not any(x.strides) and not x.flat[0]


def _input_cotangent(x: Array, kernel: Array, own: Array) -> Array:
    """Return the cotangent of the inputs, from that of the sums that they go into."""
    if kernel.nbytes > _NEAR:
        return _product(own, kernel.T)
    width, depth = kernel.shape
    weights = _arranged_turned("kernel", kernel)
    to = np.empty((*x.shape[:2], _columns("turned_columns", width)), np.float32)
    run: Any = _shared("rows_product")
    run(x.shape[0] * x.shape[1], _ROWS, depth, width, *map(address, (own, weights, to)))
    return np.ascontiguousarray(to[..., :width])


def _weight_cotangents(x: Array, h: Array, outputs: Array, own: Array, past: Array) -> list[Array]:
    """Return the cotangents of both kernels, from those of the sums that they go into."""
    flat_own, flat_past = (each.reshape(-1, each.shape[-1]) for each in (own, past))
    batch, units = h.shape
    to_recurrent = matmul(outputs[:-1].reshape(-1, units).T, flat_past[batch:])
    if h.any():
        to_recurrent += matmul(h.T, flat_past[:batch])
    return [matmul(x.reshape(-1, x.shape[-1]).T, flat_own), to_recurrent]


# --- LSTM -----------------------------------------------------------------------------------------


def lstm(x: Array, h: Array, c: Array, kernel: Array, recurrent: Array, bias: Array) -> Any:
    """Return outputs, cells and gates of every step."""
    found = dense(x, h, c, kernel, recurrent, bias)
    run = _shared("lstm")
    if found is None or run is None or x.shape[0] * x.shape[1] < _LEAST:
        return None
    x, h, c, kernel, recurrent, bias = found
    units = h.shape[1]
    near = kernel.nbytes <= _NEAR
    outputs, cells = (np.empty((*x.shape[:2], units), np.float32) for _ in range(2))
    gates = np.empty((*x.shape[:2], 4 * units), np.float32)
    inputs = (x, None) if near else (None, _product(x, kernel))
    weights = (
        _arranged_gates("kernel", kernel, 4) if near else None,
        _arranged_gates("recurrent weights", recurrent, 4),
        _arranged_gates("bias", bias[None], 4),
    )
    results = (gates, outputs, cells)
    _over_examples(x, units, run, x.shape[2], units, *inputs, h, c, *weights, *results)
    return outputs, cells, gates


def lstm_vjp(*arrays: Array) -> Any:
    """Return the cotangents of the six inputs."""
    *given, g_outputs, g_cells, g_gates = arrays
    found = dense(*given, g_outputs)
    run = _shared("lstm_vjp")
    # Cotangents of gates come of second derivatives alone.
    if found is None or run is None or g_cells.dtype != np.float32 or not _is_zero(g_gates):
        return None
    x, h, c, kernel, recurrent, _, outputs, cells, gates, g_outputs = found
    units = h.shape[1]
    if x.shape[0] * x.shape[1] < _LEAST:
        return None
    to_cells = None if _is_zero(g_cells) else np.ascontiguousarray(g_cells)
    to_h = np.zeros((x.shape[1], _columns("turned_columns", units)), np.float32)
    to_c = np.zeros(h.shape, np.float32)
    sums = np.empty_like(gates)
    weights = _arranged_turned("recurrent weights", recurrent)
    kept = (units, c, weights, cells, gates, g_outputs, to_cells)
    _over_examples(x, units, run, *kept, to_h, to_c, sums)
    return (
        _input_cotangent(x, kernel, sums),
        np.ascontiguousarray(to_h[:, :units]),
        to_c,
        *_weight_cotangents(x, h, outputs, sums, sums),
        sums.sum(axis=(0, 1)),
    )


# --- GRU ------------------------------------------------------------------------------------------


def gru(
    x: Array, h: Array, kernel: Array, recurrent: Array, bias: Array, recurrent_bias: Array
) -> Any:
    """Return the outputs and, side by side, both gates, candidate and memory of every step."""
    found = dense(x, h, kernel, recurrent, bias, recurrent_bias)
    run = _shared("gru")
    if found is None or run is None or x.shape[0] * x.shape[1] < _LEAST:
        return None
    x, h, kernel, recurrent, bias, recurrent_bias = found
    units = h.shape[1]
    near = kernel.nbytes <= _NEAR
    outputs = np.empty((*x.shape[:2], units), np.float32)
    gates = np.empty((*x.shape[:2], 4 * units), np.float32)
    inputs = (x, None) if near else (None, _product(x, kernel))
    weights = (
        _arranged_gates("kernel", kernel, 3) if near else None,
        _arranged_gates("recurrent weights", recurrent, 3),
        _arranged_gates("bias", bias[None], 3),
        _arranged_gates("recurrent bias", recurrent_bias[None], 3),
    )
    _over_examples(x, units, run, x.shape[2], units, *inputs, h, *weights, gates, outputs)
    return outputs, gates


def gru_vjp(*arrays: Array) -> Any:
    """Return the cotangents of the six inputs."""
    *given, g_outputs, g_gates = arrays
    found = dense(*given, g_outputs)
    run = _shared("gru_vjp")
    if found is None or run is None or not _is_zero(g_gates):
        return None
    x, h, kernel, recurrent, _, _, outputs, gates, g_outputs = found
    units = h.shape[1]
    if x.shape[0] * x.shape[1] < _LEAST:
        return None
    to_h = np.zeros((x.shape[1], _columns("turned_columns", units)), np.float32)
    own, past = (np.empty((*x.shape[:2], 3 * units), np.float32) for _ in range(2))
    weights = _arranged_turned("recurrent weights", recurrent)
    _over_examples(x, units, run, units, h, weights, outputs, gates, g_outputs, to_h, own, past)
    return (
        _input_cotangent(x, kernel, own),
        np.ascontiguousarray(to_h[:, :units]),
        *_weight_cotangents(x, h, outputs, own, past),
        own.sum(axis=(0, 1)),
        past.sum(axis=(0, 1)),
    )


OFFERS: dict[str, Callable[..., Any]] = {
    "lstm": lstm,
    "lstm_vjp": lstm_vjp,
    "gru": gru,
    "gru_vjp": gru_vjp,
}
