"""LSTM and GRU on numpy.ndarray: one product for all inputs, then steps computed in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _sigmoid(x: Array) -> None:
    """Replace x by 1 / (1 + exp(-x)), by tanh, which cannot overflow."""
    x *= 0.5
    np.tanh(x, out=x)
    x *= 0.5
    x += 0.5


def _flat(x: Array) -> Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _projected(x: Array, kernel: Array, bias: Array) -> Array:
    steps, batch, _ = x.shape
    result: Array = np.matmul(x.reshape(steps * batch, x.shape[2]), kernel)
    result += bias
    return result.reshape(steps, batch, kernel.shape[1])


def _is_zero(x: Array) -> bool:
    """Return whether an array is one zero seen many times: the cotangent of an unused output."""
    return x.size == 0 or (not any(x.strides) and not x.flat[0])


def _before(first: Array, states: Array) -> Array:
    return np.concatenate((first[None], states[:-1]))


# --- LSTM ---------------------------------------------------------------------------------------


def lstm(
    x: Array, h: Array, c: Array, kernel: Array, recurrent: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """Return outputs, cells and gates of every step."""
    units = recurrent.shape[0]
    # sigmoid(a) = tanh(a / 2) / 2 + 1/2: with half the weights, one tanh serves all four gates.
    half = np.full(4 * units, 0.5, kernel.dtype)
    half[2 * units : 3 * units] = 1
    shift = 1 - half
    recurrent = recurrent * half
    gates = _projected(x, kernel * half, bias * half)
    outputs, cells = (np.empty((*x.shape[:2], units), gates.dtype) for _ in range(2))
    product = np.empty(gates.shape[1:], gates.dtype)
    scratch = np.empty((x.shape[1], units), gates.dtype)
    # Of the batch's size: one long loop takes half the time of a short one for each example.
    halves, shifts = (np.repeat(each[None], x.shape[1], axis=0) for each in (half, shift))
    parts = (gates[..., place * units : (place + 1) * units] for place in range(4))
    for row, i, f, g, o, cell, output in zip(gates, *parts, cells, outputs, strict=True):
        np.matmul(h, recurrent, out=product)
        np.add(row, product, out=row)
        np.tanh(row, out=row)
        np.multiply(row, halves, out=row)
        np.add(row, shifts, out=row)
        np.multiply(f, c, out=cell)
        np.multiply(i, g, out=scratch)
        np.add(cell, scratch, out=cell)
        np.tanh(cell, out=output)
        np.multiply(output, o, out=output)
        h, c = output, cell
    return outputs, cells, gates


def lstm_vjp(
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
    """Return the cotangents of the six inputs."""
    to_sums, from_output = _lstm_slopes(gates, cells, c)
    units = recurrent.shape[0]
    turned = np.ascontiguousarray(recurrent.T)
    to_h = np.zeros((x.shape[1], units), gates.dtype)
    to_c, scratch = np.zeros_like(to_h), np.empty_like(to_h)
    extra = None if _is_zero(g_gates) else g_gates * _squash_slopes(gates)
    cells_count = not _is_zero(g_cells)
    for t in range(x.shape[0] - 1, -1, -1):
        row = to_sums[t]
        to_h += g_outputs[t]
        if cells_count:
            to_c += g_cells[t]
        # c also has the cotangent that comes by way of h = o tanh(c).
        np.multiply(to_h, from_output[t], out=scratch)
        to_c += scratch
        row[:, :3] *= to_c[:, None]
        row[:, 3] *= to_h
        sums = row.reshape(row.shape[0], 4 * units)
        if extra is not None:
            sums += extra[t]
        np.matmul(sums, turned, out=to_h)
        to_c *= gates[t][:, units : 2 * units]
    sums = to_sums.reshape(x.shape[0] * x.shape[1], 4 * units)
    return (
        np.matmul(sums, kernel.T).reshape(x.shape),
        to_h,
        to_c,
        np.matmul(_flat(x).T, sums),
        np.matmul(_flat(_before(h, outputs)).T, sums),
        sums.sum(axis=0),
    )


def _squash_slopes(gates: Array) -> Array:
    """Return the slopes of the gates' own functions, from their values."""
    units = gates.shape[-1] // 4
    slopes: Array = gates * (1 - gates)
    candidate = gates[..., 2 * units : 3 * units]
    slopes[..., 2 * units : 3 * units] = 1 - candidate * candidate
    return slopes


def _lstm_slopes(gates: Array, cells: Array, c: Array) -> tuple[Array, Array]:
    """Return the slope of the next cell or output in each gate's sum, and of the output in c.

    Of all steps at once: what is left for the loop over time are products with cotangents.
    """
    steps, batch, width = gates.shape
    units = width // 4
    i, g, o = (gates[..., place * units : (place + 1) * units] for place in (0, 2, 3))
    slopes = _squash_slopes(gates).reshape(steps, batch, 4, units)
    squashed = np.tanh(cells)
    slopes[:, :, 0] *= g
    slopes[:1, :, 1] *= c
    slopes[1:, :, 1] *= cells[:-1]
    slopes[:, :, 2] *= i
    slopes[:, :, 3] *= squashed
    squashed *= squashed
    np.subtract(1, squashed, out=squashed)
    squashed *= o
    return slopes, squashed


# --- GRU ----------------------------------------------------------------------------------------


def gru(
    x: Array, h: Array, kernel: Array, recurrent: Array, bias: Array, recurrent_bias: Array
) -> tuple[Array, Array]:
    """Return the outputs and, side by side, both gates, candidate and memory of every step."""
    units = recurrent.shape[0]
    inputs = _projected(x, kernel, bias)
    outputs = np.empty((*x.shape[:2], units), inputs.dtype)
    gates = np.empty((*x.shape[:2], 4 * units), inputs.dtype)
    past = np.empty(inputs.shape[1:], inputs.dtype)
    for t, own in enumerate(inputs):
        np.matmul(h, recurrent, out=past)
        past += recurrent_bias
        row, output = gates[t], outputs[t]
        both, n, memory = row[:, : 2 * units], row[:, 2 * units : 3 * units], row[:, 3 * units :]
        np.add(own[:, : 2 * units], past[:, : 2 * units], out=both)
        _sigmoid(both)
        memory[...] = past[:, 2 * units :]
        np.multiply(both[:, :units], memory, out=n)
        n += own[:, 2 * units :]
        np.tanh(n, out=n)
        np.subtract(h, n, out=output)
        output *= both[:, units:]
        output += n
        h = output
    return outputs, gates


def gru_vjp(
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
    """Return the cotangents of the six inputs."""
    units = recurrent.shape[0]
    to_own = np.empty((*x.shape[:2], 3 * units), gates.dtype)
    to_past = np.empty_like(to_own)
    turned = np.ascontiguousarray(recurrent.T)
    to_h = np.zeros((x.shape[1], units), gates.dtype)
    product, slope = np.empty_like(to_h), np.empty_like(to_h)
    gates_count = not _is_zero(g_gates)
    for t in range(x.shape[0] - 1, -1, -1):
        r, z, n, memory = (gates[t][:, p * units : (p + 1) * units] for p in range(4))
        to_r, to_z, to_n = (to_own[t][:, p * units : (p + 1) * units] for p in range(3))
        to_h += g_outputs[t]
        np.subtract(1, z, out=slope)
        np.multiply(to_h, slope, out=to_n)
        np.subtract(outputs[t - 1] if t else h, n, out=to_z)
        to_z *= to_h
        if gates_count:
            to_n += g_gates[t][:, 2 * units : 3 * units]
            to_z += g_gates[t][:, units : 2 * units]
        np.multiply(n, n, out=product)
        np.subtract(1, product, out=product)
        to_n *= product
        np.multiply(to_n, memory, out=to_r)
        if gates_count:
            to_r += g_gates[t][:, :units]
        slope *= z
        to_z *= slope
        np.subtract(1, r, out=slope)
        slope *= r
        to_r *= slope
        past = to_past[t]
        past[:, : 2 * units] = to_own[t][:, : 2 * units]
        np.multiply(to_n, r, out=past[:, 2 * units :])
        if gates_count:
            past[:, 2 * units :] += g_gates[t][:, 3 * units :]
        to_h *= z
        np.matmul(past, turned, out=product)
        to_h += product
    own, earlier = _flat(to_own), _flat(to_past)
    return (
        np.matmul(own, kernel.T).reshape(x.shape),
        to_h,
        np.matmul(_flat(x).T, own),
        np.matmul(_flat(_before(h, outputs)).T, earlier),
        own.sum(axis=0),
        earlier.sum(axis=0),
    )


KERNELS: dict[str, Callable[..., Any]] = {
    "lstm": lstm,
    "lstm_vjp": lstm_vjp,
    "gru": gru,
    "gru_vjp": gru_vjp,
}
