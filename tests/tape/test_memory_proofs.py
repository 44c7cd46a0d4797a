"""Memory proved by reference counting alone: peaks beside the theory, long runs, long tapes.

The theory is the sum of what the rules of the operations read; see `Keep`. Resident memory is
what the operating system says, so that a leak outside of Python's objects would show as well.
"""

import gc
import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.usefixtures("only_references_count")

# What Python itself needs for a record: tuples, identities, an empty array's header (measured:
# 0.6 kB on CPython 3.11). Arrays are made so large that it does not count for much.
PER_RECORD = 1_000
FREE_LISTS = 800_000  # at most 2000 tuples of each length (measured: 0.4 to 0.6 MB)


def peaks(forward, variables):
    """Return the bytes held after the forward pass, the peak of both passes, and the summary."""
    gc.collect()
    tracemalloc.start()
    try:
        with dg.GradientTape() as tape:
            loss = forward()
        held = tracemalloc.get_traced_memory()[0]
        summary = tape.summary()
        tracemalloc.reset_peak()
        gradients = tape.gradient(loss, variables)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    gradient_bytes = sum(g.nbytes for g in gradients)
    assert all(g.shape == v.shape for g, v in zip(gradients, variables, strict=True))
    # Nothing stays but the results, and the tuples and numbers that Python keeps for reuse.
    assert after <= gradient_bytes + loss.nbytes + FREE_LISTS
    return held, peak, summary


def test_deep_chain_peaks_at_the_outputs_that_its_rules_read():
    # sin keeps its input, sigmoid its output; x * 0.9 and + 0.1 keep nothing.
    size, depth = 20_000, 300
    x = dg.Variable(np.linspace(-1, 1, size, dtype="float32"))

    def forward(depth=depth):
        y = x
        for _ in range(depth):
            y = dg.sigmoid(dg.sin(y * 0.9 + 0.1))
        return y

    peaks(lambda: forward(1), [x])  # kernels are compiled and loaded, which takes memory, too
    held, peak, summary = peaks(forward, [x])

    theory = depth * 2 * size * 4
    assert summary.nbytes == theory
    assert summary.records == 4 * depth
    assert theory <= held <= theory + summary.records * PER_RECORD
    assert peak <= theory + 5 * size * 4 + summary.records * PER_RECORD


def lstm(variables, inputs, steps):
    """Return the last hidden state of a long short-term memory (Hochreiter, Schmidhuber 1997)."""
    u, w, b = variables
    hidden = w.shape[0]
    state = cell = dg.zeros((inputs.shape[0], hidden))
    for _ in range(steps):
        gates = inputs @ u + state @ w + b
        take = dg.sigmoid(gates[:, :hidden])
        forget = dg.sigmoid(gates[:, hidden : 2 * hidden])
        give = dg.sigmoid(gates[:, 2 * hidden : 3 * hidden])
        new = dg.tanh(gates[:, 3 * hidden :])
        cell = forget * cell + take * new
        state = give * dg.tanh(cell)
    return state


def test_lstm_over_five_hundred_steps_peaks_at_seven_arrays_a_step():
    batch, features, hidden, steps = 128, 5, 48, 500
    rng = np.random.default_rng(0)
    u = dg.Variable(rng.normal(size=(features, 4 * hidden)).astype("float32") / 10)
    w = dg.Variable(rng.normal(size=(hidden, 4 * hidden)).astype("float32") / 10)
    b = dg.Variable(np.zeros(4 * hidden, "float32"))
    inputs = dg.asarray(rng.normal(size=(batch, features)).astype("float32"))
    with dg.GradientTape() as tape:  # what kernels keep for themselves, they keep once
        first = lstm((u, w, b), inputs, 2)
    tape.gradient(first, [u, w, b])

    held, peak, summary = peaks(lambda: lstm((u, w, b), inputs, steps), [u, w, b])

    # Each step keeps three sigmoids and two tanh by their outputs, for the products the cell before
    # it, and for the matrix product the state before it: seven arrays. The zeros of the first step
    # are one array for both. The weights and the inputs are kept once.
    states = (7 * steps - 1) * batch * hidden * 4
    assert summary.nbytes == states + w.nbytes + inputs.nbytes
    assert states <= held <= states + summary.records * PER_RECORD
    # The backward pass adds the cotangents of one step: gates, their parts, and the gradients.
    one_step = 16 * batch * hidden * 4 + 3 * (u.nbytes + w.nbytes)
    assert peak <= states + one_step + summary.records * PER_RECORD


# --- long runs ------------------------------------------------------------------------------------


def resident():
    """Return the memory of this process in bytes, as the operating system counts it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this operating system does not tell a process's resident memory")
    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def a_tape_for_each_step(x, steps):
    for _ in range(steps):
        with dg.GradientTape(persistent=True) as tape:
            y = dg.sin(x) * x
        tape.gradient(y, x)


def one_tape_that_is_reset(x, steps):
    with dg.GradientTape(persistent=True) as tape:
        for _ in range(steps):
            y = dg.sin(x) * x
            tape.gradient(y, x)
            tape.reset()


def one_tape_that_is_entered_anew(x, steps):
    tape = dg.GradientTape()
    for _ in range(steps):
        with tape:
            y = dg.sin(x) * x
        tape.gradient(y, x)


@pytest.mark.parametrize(
    "loop", [a_tape_for_each_step, one_tape_that_is_reset, one_tape_that_is_entered_anew]
)
def test_resident_memory_is_flat_over_a_hundred_thousand_steps(loop):
    x = dg.Variable(np.ones(100, "float64"))
    loop(x, 5_000)  # until Python's and NumPy's free lists are full
    before = resident()
    loop(x, 100_000)

    # A step's arrays alone are 2 kB: if one step in fifty leaked them, this would be 4 MB.
    assert resident() - before < 2_000_000


def test_resident_memory_is_flat_over_second_derivatives():
    x = dg.Variable(np.ones(100, "float64"))

    def steps(count):
        for _ in range(count):
            with dg.GradientTape(persistent=True) as tape:
                y = dg.sum(dg.sin(x) * x)
            tape.gradient(tape.gradient(y, x), x)

    steps(500)
    before = resident()
    steps(5_000)

    assert resident() - before < 2_000_000


# --- long tapes -----------------------------------------------------------------------------------


def test_million_records_are_walked_and_dropped_without_recursion():
    x = dg.Variable(np.float64(0.5))
    length = 1_000_000
    with dg.GradientTape() as tape:
        y = x
        for _ in range(length // 2):
            y = y * 1.0
            y = y + 1.0
        assert tape.summary().records == length

    assert float(tape.gradient(y, x)) == 1.0


def test_a_long_persistent_tape_is_walked_and_dropped_without_recursion():
    x = dg.Variable(np.float64(0.1))
    with dg.GradientTape(persistent=True) as tape:
        y = x
        for _ in range(20_000):
            y = y * 1.0
        z = y * y
    first = tape.gradient(z, x)

    assert float(tape.gradient(first, x)) == 2.0
    del tape, first
