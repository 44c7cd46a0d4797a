"""The memory that a tape holds, in bytes: the sum of what rules keep, and not more with time."""

import gc
import sys
import tracemalloc

import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.usefixtures("only_references_count")

# What Python itself needs for a record: tuples, identities, an empty array's header (measured:
# 0.6 kB on CPython 3.11). Arrays are made so large that it does not count.
PER_RECORD = 2_000


def held_by(record):
    """Return the bytes that a tape holds when `record(tape)` is over, and the tape."""
    tape = dg.GradientTape()
    gc.collect()
    tracemalloc.start()
    try:
        with tape:
            target = record(tape)
        return tracemalloc.get_traced_memory()[0], tape, target
    finally:
        tracemalloc.stop()


def test_deep_chain_holds_the_outputs_that_its_rules_read():
    # tanh keeps its output; + and * with a number keep nothing.
    size, depth = 50_000, 100
    x = dg.Variable(np.ones(size, "float32"))

    def record(tape):
        y = x
        for _ in range(depth):
            y = dg.tanh(y * 0.5 + 0.25)
        return y

    held, tape, _ = held_by(record)

    theory = depth * size * 4
    assert tape.summary().nbytes == theory
    assert theory <= held <= theory + 3 * depth * PER_RECORD


def rnn(weights, inputs, steps):
    """Return the last state of a plain recurrent network, h = tanh(x @ u + h @ w)."""
    u, w = weights
    state = dg.zeros((inputs.shape[0], w.shape[0]))
    for _ in range(steps):
        state = dg.tanh(inputs @ u + state @ w)
    return state


def test_unrolled_network_holds_its_states_and_each_weight_once():
    batch, features, hidden, steps = 300, 7, 50, 40
    rng = np.random.default_rng(0)
    u = dg.Variable(rng.normal(size=(features, hidden)).astype("float32"))
    w = dg.Variable(rng.normal(size=(hidden, hidden)).astype("float32") / 10)
    inputs = dg.asarray(rng.normal(size=(batch, features)).astype("float32"))

    held, tape, state = held_by(lambda tape: rnn((u, w), inputs, steps))

    # tanh keeps each state, which the next product reads as well. inputs @ u keeps the inputs for
    # the gradient of u; state @ w keeps the state before and w, the first state being zeros.
    states = (steps + 1) * batch * hidden * 4
    assert tape.summary().nbytes == states + w.nbytes + inputs.nbytes
    assert states <= held <= states + 5 * steps * PER_RECORD  # the others were there before
    del state


def test_backward_pass_releases_as_it_goes():
    # At its peak it holds what the tape held, and a few cotangents: not a second copy of it all.
    size, depth = 50_000, 100
    x = dg.Variable(np.ones(size, "float32"))
    tracemalloc.start()
    try:
        with dg.GradientTape() as tape:
            y = x
            for _ in range(depth):
                y = dg.tanh(y)
        tracemalloc.reset_peak()
        gradient = tape.gradient(y, x)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    one = size * 4
    assert peak <= (depth + 6) * one + depth * PER_RECORD
    assert after <= 3 * one + PER_RECORD * 10  # y and the gradient
    assert gradient.shape == (size,)


@pytest.mark.parametrize("method", ["gradient", "jacobian"])
def test_ten_thousand_derivatives_of_a_persistent_tape_keep_memory_flat(method):
    x = dg.Variable(np.ones(3, "float32"))
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sin(x) * x
    derivative = getattr(tape, method)
    count = 9_000 if method == "gradient" else 1_000
    for _ in range(1_000):  # until the free lists of Python and NumPy are full
        found = derivative(y, x)
    before = sys.getallocatedblocks()
    for _ in range(count):
        found = derivative(y, x)
    after = sys.getallocatedblocks()

    assert after - before < count / 10  # a record alone takes several blocks
    assert tape.summary().records <= 2 + 2
    assert tape.gradient(found, x) is not None


def test_derivatives_that_somebody_holds_stay_differentiable():
    x = dg.Variable(np.float64(2.0))
    with dg.GradientTape(persistent=True) as tape:
        y = x**4
    held = [tape.gradient(y, x) for _ in range(30)]
    seconds = [tape.gradient(each, x) for each in held]
    del held
    thirds = [tape.gradient(each, x) for each in seconds]

    assert [float(each) for each in seconds] == [48.0] * 30
    assert [float(each) for each in thirds] == [48.0] * 30


def test_derivative_that_only_a_later_one_reads_stays():
    x = dg.Variable(np.float64(2.0))
    with dg.GradientTape(persistent=True) as tape:
        y = x**4
    second = tape.gradient(tape.gradient(y, x), x)
    for _ in range(5):
        tape.gradient(y, x)

    assert float(tape.gradient(tape.gradient(second, x), x)) == 24.0
    pulled = tape.gradient(y, x, output_gradients=tape.gradient(y, x))  # 4x³ squared
    for _ in range(5):
        tape.gradient(y, x)
    assert float(tape.gradient(pulled, x)) == 6 * 16 * 2.0**5


def test_derivative_computed_with_in_the_block_stays_though_it_was_dropped():
    x = dg.Variable(np.float64(2.0))
    with dg.GradientTape(persistent=True) as tape:
        y = x**4
        squared = tape.gradient(y, x) ** 2
        for _ in range(5):
            tape.gradient(y, x)

    assert float(tape.gradient(squared, x)) == 6 * 16 * 2.0**5
