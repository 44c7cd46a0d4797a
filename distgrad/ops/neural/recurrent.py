"""Recurrent networks over a whole sequence, LSTM and GRU, each as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Namespace, Slice, Spec
from distgrad.core.seam import apply
from distgrad.ops.neural.sequences import arranged, initial_states, prepared
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.rules.fused import fused
from distgrad.ops.shaping.structure import flip
from distgrad.shapes import shape_given

_EVERYTHING = Slice(None, None, None)


def _step(xp: Namespace, x: Array, t: int) -> Array:
    """Return one step of a sequence, whose first axis is time."""
    return xp.getitem(x, index=(t,))


def _part(xp: Namespace, x: Array, place: int, units: int) -> Array:
    """Return the part of stacked gates that belongs to one of them."""
    return xp.getitem(x, index=(Ellipsis, Slice(place * units, (place + 1) * units, None)))


def _stacked(xp: Namespace, steps: Sequence[Array]) -> Array:
    return xp.concat(*(xp.expand_dims(step, axis=0) for step in steps), axis=0)


def _projected(xp: Namespace, x: Array, kernel: Array) -> Array:
    """Return x @ kernel for all steps, as one product of matrices."""
    steps, batch, width = x.shape
    flat = xp.reshape(x, shape=(steps * batch, width))
    return xp.reshape(xp.matmul(flat, kernel), shape=(steps, batch, kernel.shape[1]))


def _weight_cotangent(xp: Namespace, x: Array, g: Array) -> Array:
    """Return the sum over all steps of x^T g, as one product of matrices."""
    flat_x = xp.reshape(x, shape=(x.shape[0] * x.shape[1], x.shape[2]))
    flat_g = xp.reshape(g, shape=(g.shape[0] * g.shape[1], g.shape[2]))
    return xp.matmul(xp.matrix_transpose(flat_x), flat_g)


def _one_before(xp: Namespace, first: Array, states: Array) -> Array:
    """Return for each step the state before it."""
    start = xp.expand_dims(first, axis=0)
    if states.shape[0] == 1:
        return start
    return xp.concat(start, xp.getitem(states, index=(Slice(None, -1, None),)), axis=0)


# --- LSTM ---------------------------------------------------------------------------------------


def _lstm_spec(x: Spec, h: Spec, c: Spec, kernel: Spec, recurrent: Spec, bias: Spec) -> Any:
    steps, batch, _ = x.shape
    units = recurrent.shape[0]
    states = Spec((steps, batch, units), x.dtype)
    return states, states, Spec((steps, batch, 4 * units), x.dtype)


def _lstm_compose(
    xp: Namespace, x: Array, h: Array, c: Array, kernel: Array, recurrent: Array, bias: Array
) -> tuple[Array, Array, Array]:
    units = recurrent.shape[0]
    inputs = _projected(xp, x, kernel) + bias
    outputs, cells, gates = [], [], []
    for t in range(x.shape[0]):
        sums = _step(xp, inputs, t) + xp.matmul(h, recurrent)
        i, f, g, o = (_part(xp, sums, place, units) for place in range(4))
        i, f, g, o = xp.sigmoid(i), xp.sigmoid(f), xp.tanh(g), xp.sigmoid(o)
        c = f * c + i * g
        h = o * xp.tanh(c)
        outputs.append(h)
        cells.append(c)
        gates.append(xp.concat(i, f, g, o, axis=-1))
    return _stacked(xp, outputs), _stacked(xp, cells), _stacked(xp, gates)


def _lstm_pull(
    xp: Namespace, inputs: Sequence[Array], cotangents: Sequence[Array]
) -> tuple[Array, ...]:
    x, h, c, kernel, recurrent, _ = inputs
    units = recurrent.shape[0]
    outputs, cells, gates = _lstm_compose(xp, *inputs)
    before = _one_before(xp, c, cells)
    turned = xp.matrix_transpose(recurrent)
    to_sums: list[Array] = []
    to_h = to_c = None
    for t in reversed(range(x.shape[0])):
        g_h, g_c, g_gates = (_step(xp, each, t) for each in cotangents)
        i, f, g, o = (_part(xp, _step(xp, gates, t), place, units) for place in range(4))
        g_i, g_f, g_g, g_o = (_part(xp, g_gates, place, units) for place in range(4))
        squashed = xp.tanh(_step(xp, cells, t))
        h_cotangent = g_h if to_h is None else g_h + to_h
        c_cotangent = g_c if to_c is None else g_c + to_c
        c_cotangent = c_cotangent + h_cotangent * o * (1 - squashed * squashed)
        row = xp.concat(
            (c_cotangent * g + g_i) * i * (1 - i),
            (c_cotangent * _step(xp, before, t) + g_f) * f * (1 - f),
            (c_cotangent * i + g_g) * (1 - g * g),
            (h_cotangent * squashed + g_o) * o * (1 - o),
            axis=-1,
        )
        to_h, to_c = xp.matmul(row, turned), c_cotangent * f
        to_sums.append(row)
    sums = _stacked(xp, to_sums[::-1])
    return (
        _projected(xp, sums, xp.matrix_transpose(kernel)),
        to_h,
        to_c,
        _weight_cotangent(xp, x, sums),
        _weight_cotangent(xp, _one_before(xp, h, outputs), sums),
        xp.sum(sums, axis=(0, 1)),
    )


LSTM, LSTM_VJP = fused("lstm", _lstm_spec, _lstm_compose, _lstm_pull, outputs=3)


def lstm(
    x: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    /,
    *,
    initial_state: tuple[Any, Any] | None = None,
    time_major: bool = False,
    reverse: bool = False,
) -> tuple[Any, tuple[Any, Any]]:
    """Run a long short-term memory over a sequence.

    Parameters
    ----------
    x : Tensor, Variable or array, shape (B, T, I), or (T, B, I) with `time_major`
        The sequence, real floating, of one step or more.
    kernel : Tensor, Variable or array, shape (I, 4 U)
        What the inputs are multiplied by: side by side for input gate, forget gate, candidate and
        output gate, the order of Keras and PyTorch (whose matrices are transposed).
    recurrent_kernel : Tensor, Variable or array, shape (U, 4 U)
        What the output of the step before is multiplied by.
    bias : Tensor, Variable or array, shape (4 U,), optional
        Zero unless given.
    initial_state : tuple of array, each of shape (B, U), optional
        Output and cell before the first step; zeros unless given.
    time_major : bool
        Whether the first axis of `x`, and of the outputs, is time.
    reverse : bool
        Whether to go from the last step to the first; outputs stand at their inputs' steps.

    Returns
    -------
    outputs : Tensor, shape (B, T, U), or (T, B, U) with `time_major`
        The output of every step.
    state : tuple of Tensor, each of shape (B, U)
        Output and cell after the last step that was computed.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If an operand is not real floating.

    Notes
    -----
    ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``, where i, f, g, o are
    the parts of ``x kernel + h recurrent_kernel + bias``. The products with `kernel` are one for
    all steps, forward and backward. Kept for the backward pass: outputs, cells and gates, 6 U
    numbers for each step and example.

    References
    ----------
    Hochreiter and Schmidhuber (1997), Long short-term memory. Gers, Schmidhuber and Cummins (2000),
    Learning to forget.
    """
    sequence, weights = prepared("lstm", 4, x, (kernel, recurrent_kernel, bias), time_major)
    units = shape_given(weights[1])[0]
    states = initial_states("lstm", ("output", "cell"), initial_state, sequence, units)
    turned = flip(sequence, axis=0) if reverse else sequence
    outputs, cells, _ = apply(LSTM, turned, *states, *weights)
    state = (getitem(outputs, -1), getitem(cells, -1))
    return arranged(outputs, time_major, reverse), state


# --- GRU ----------------------------------------------------------------------------------------


def _gru_spec(
    x: Spec, h: Spec, kernel: Spec, recurrent: Spec, bias: Spec, recurrent_bias: Spec
) -> Any:
    steps, batch, _ = x.shape
    units = recurrent.shape[0]
    return Spec((steps, batch, units), x.dtype), Spec((steps, batch, 4 * units), x.dtype)


def _gru_compose(
    xp: Namespace,
    x: Array,
    h: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    recurrent_bias: Array,
) -> tuple[Array, Array]:
    units = recurrent.shape[0]
    inputs = _projected(xp, x, kernel) + bias
    outputs, gates = [], []
    for t in range(x.shape[0]):
        own = _step(xp, inputs, t)
        past = xp.matmul(h, recurrent) + recurrent_bias
        r = xp.sigmoid(_part(xp, own, 0, units) + _part(xp, past, 0, units))
        z = xp.sigmoid(_part(xp, own, 1, units) + _part(xp, past, 1, units))
        memory = _part(xp, past, 2, units)
        n = xp.tanh(_part(xp, own, 2, units) + r * memory)
        h = n + z * (h - n)
        outputs.append(h)
        gates.append(xp.concat(r, z, n, memory, axis=-1))
    return _stacked(xp, outputs), _stacked(xp, gates)


def _gru_pull(
    xp: Namespace, inputs: Sequence[Array], cotangents: Sequence[Array]
) -> tuple[Array, ...]:
    x, h, kernel, recurrent, _, _ = inputs
    units = recurrent.shape[0]
    outputs, gates = _gru_compose(xp, *inputs)
    before = _one_before(xp, h, outputs)
    turned = xp.matrix_transpose(recurrent)
    to_own: list[Array] = []
    to_past: list[Array] = []
    to_h = None
    for t in reversed(range(x.shape[0])):
        g_h, g_gates = (_step(xp, each, t) for each in cotangents)
        r, z, n, memory = (_part(xp, _step(xp, gates, t), place, units) for place in range(4))
        g_r, g_z, g_n, g_memory = (_part(xp, g_gates, place, units) for place in range(4))
        g_out = g_h if to_h is None else g_h + to_h
        to_n = (g_out * (1 - z) + g_n) * (1 - n * n)
        to_r = (to_n * memory + g_r) * r * (1 - r)
        to_z = (g_out * (_step(xp, before, t) - n) + g_z) * z * (1 - z)
        past = xp.concat(to_r, to_z, to_n * r + g_memory, axis=-1)
        to_h = g_out * z + xp.matmul(past, turned)
        to_own.append(xp.concat(to_r, to_z, to_n, axis=-1))
        to_past.append(past)
    own, past = _stacked(xp, to_own[::-1]), _stacked(xp, to_past[::-1])
    return (
        _projected(xp, own, xp.matrix_transpose(kernel)),
        to_h,
        _weight_cotangent(xp, x, own),
        _weight_cotangent(xp, before, past),
        xp.sum(own, axis=(0, 1)),
        xp.sum(past, axis=(0, 1)),
    )


GRU, GRU_VJP = fused("gru", _gru_spec, _gru_compose, _gru_pull, outputs=2)


def gru(
    x: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    recurrent_bias: Any = None,
    /,
    *,
    initial_state: Any = None,
    time_major: bool = False,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Run a gated recurrent unit over a sequence.

    Parameters
    ----------
    x : Tensor, Variable or array, shape (B, T, I), or (T, B, I) with `time_major`
        The sequence, real floating, of one step or more.
    kernel : Tensor, Variable or array, shape (I, 3 U)
        What the inputs are multiplied by: side by side for reset gate, update gate and candidate,
        PyTorch's order (its matrices are transposed; Keras has the update gate first).
    recurrent_kernel : Tensor, Variable or array, shape (U, 3 U)
        What the output of the step before is multiplied by.
    bias, recurrent_bias : Tensor, Variable or array, shape (3 U,), optional
        Added to the one and to the other product; zero unless given.
    initial_state : array, shape (B, U), optional
        The output before the first step; zeros unless given.
    time_major : bool
        Whether the first axis of `x`, and of the outputs, is time.
    reverse : bool
        Whether to go from the last step to the first; outputs stand at their inputs' steps.

    Returns
    -------
    outputs : Tensor, shape (B, T, U), or (T, B, U) with `time_major`
        The output of every step.
    state : Tensor, shape (B, U)
        The output of the last step that was computed.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If an operand is not real floating.

    Notes
    -----
    With u = x kernel + bias and v = h recurrent_kernel + recurrent_bias, each in three parts:
    ``r = sigmoid(u_r + v_r)``, ``z = sigmoid(u_z + v_z)``, ``n = tanh(u_n + r v_n)``,
    ``h' = (1 - z) n + z h``. The reset gate stands after the product, as in cuDNN, PyTorch and
    Keras' ``reset_after=True``; Cho et al. have it before.

    References
    ----------
    Cho et al. (2014), Learning phrase representations using RNN encoder-decoder.
    """
    given = (kernel, recurrent_kernel, bias, recurrent_bias)
    sequence, weights = prepared("gru", 3, x, given, time_major)
    units = shape_given(weights[1])[0]
    single = None if initial_state is None else (initial_state,)
    (state,) = initial_states("gru", ("output",), single, sequence, units)
    turned = flip(sequence, axis=0) if reverse else sequence
    outputs, _ = apply(GRU, turned, state, *weights)
    return arranged(outputs, time_major, reverse), getitem(outputs, -1)


OPS = (LSTM, LSTM_VJP, GRU, GRU_VJP)
