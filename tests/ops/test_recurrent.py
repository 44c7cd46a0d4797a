"""LSTM and GRU over a sequence: values, states, directions, batching and refusals."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(x, kernel, recurrent, bias, h, c):
    outputs = []
    for step in np.swapaxes(x, 0, 1):
        i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1), h, c


def gru_by_hand(x, kernel, recurrent, bias, recurrent_bias, h):
    outputs = []
    for step in np.swapaxes(x, 0, 1):
        ur, uz, un = np.split(step @ kernel + bias, 3, axis=-1)
        vr, vz, vn = np.split(h @ recurrent + recurrent_bias, 3, axis=-1)
        r, z = sigmoid(ur + vr), sigmoid(uz + vz)
        h = (1 - z) * np.tanh(un + r * vn) + z * h
        outputs.append(h)
    return np.stack(outputs, 1), h


LSTM = (draw(3, 20), draw(5, 20, seed=1), draw(20, seed=2))
GRU = (draw(3, 15), draw(5, 15, seed=1), draw(15, seed=2), draw(15, seed=3))


def test_the_lstm_computes_its_recurrence_from_the_state_given():
    x, h, c = draw(2, 4, 3), draw(2, 5, seed=4), draw(2, 5, seed=5)
    outputs, (last, cell) = dg.nn.lstm(x, *LSTM, initial_state=(h, c))
    for given, expected in zip((outputs, last, cell), lstm_by_hand(x, *LSTM, h, c), strict=True):
        np.testing.assert_allclose(given.numpy(), expected, rtol=1e-10)


def test_the_gru_computes_its_recurrence_from_the_state_given():
    x, h = draw(2, 4, 3), draw(2, 5, seed=4)
    outputs, last = dg.nn.gru(x, *GRU, initial_state=h)
    for given, expected in zip((outputs, last), gru_by_hand(x, *GRU, h), strict=True):
        np.testing.assert_allclose(given.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("network", "weights"), [(dg.nn.lstm, LSTM), (dg.nn.gru, GRU)])
def test_a_sequence_cut_in_two_and_joined_by_the_state_gives_the_same(network, weights):
    x = draw(2, 6, 3)
    whole, _ = network(x, *weights)
    first, state = network(x[:, :2], *weights)
    second, _ = network(x[:, 2:], *weights, initial_state=state)
    joined = np.concatenate([first.numpy(), second.numpy()], axis=1)
    np.testing.assert_allclose(joined, whole.numpy(), rtol=1e-10)


@pytest.mark.parametrize(("network", "weights"), [(dg.nn.lstm, LSTM), (dg.nn.gru, GRU)])
def test_time_may_come_first_and_may_run_backwards(network, weights):
    x = draw(2, 6, 3)
    whole, _ = network(x, *weights)
    turned, _ = network(x.transpose(1, 0, 2), *weights, time_major=True)
    np.testing.assert_allclose(turned.numpy().transpose(1, 0, 2), whole.numpy(), rtol=1e-12)
    backwards, _ = network(x[:, ::-1], *weights, reverse=True)
    np.testing.assert_allclose(backwards.numpy()[:, ::-1], whole.numpy(), rtol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("network", "weights"), [(dg.nn.lstm, LSTM), (dg.nn.gru, GRU)])
def test_gradients_of_each_example_come_without_a_loop_over_examples(network, weights):
    kernel, *rest = (dg.asarray(each) for each in weights)
    x = dg.asarray(draw(4, 1, 3, 3))

    def loss(kernel, x):
        return dg.sum(network(x, kernel, *rest)[0] ** 2)

    at_once = dg.vmap(dg.grad(loss), in_axes=(None, 0))(kernel, x)
    for place in range(4):
        single = dg.grad(loss)(kernel, x[place])
        np.testing.assert_allclose(at_once.numpy()[place], single.numpy(), rtol=1e-9)


def test_saturated_gates_neither_overflow_nor_warn():
    x = np.full((1, 3, 3), 1e4, np.float32)
    weights = [each.astype(np.float32) for each in LSTM]
    outputs, _ = dg.nn.lstm(x, *weights)
    assert np.isfinite(outputs.numpy()).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((2, 3))}, "x has shape"),
        ({"kernel": np.zeros((3, 16))}, "kernel has shape"),
        ({"recurrent": np.zeros((5, 5))}, "recurrent_kernel has shape"),
        ({"bias": np.zeros(5)}, "a bias has shape"),
        ({"x": np.zeros((2, 0, 3))}, "one step or more"),
        ({"state": (np.zeros((2, 5)),)}, "initial_state has 1 parts"),
        ({"state": (np.zeros((2, 4)), np.zeros((2, 5)))}, "initial output has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changed, message):
    given = {"x": np.zeros((2, 4, 3)), "kernel": LSTM[0], "recurrent": LSTM[1], "bias": LSTM[2]}
    given |= {"state": None} | changed
    with pytest.raises(ShapeError, match=message):
        dg.nn.lstm(
            given["x"],
            given["kernel"],
            given["recurrent"],
            given["bias"],
            initial_state=given["state"],
        )


def test_integers_are_refused():
    with pytest.raises(DTypeError, match="int64"):
        dg.nn.lstm(np.zeros((2, 4, 3), np.int64), *LSTM)
