"""Traced functions as CUDA graphs, on a module that stands for CuPy: they give what NumPy gives."""

import importlib.util
import logging

import numpy as np
import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

import distgrad as dg


@pytest.fixture
def device(cupy_stand_in):
    """The module that stands for CuPy."""
    return cupy_stand_in.Device()


@pytest.fixture
def deferred(cupy_stand_in, device, monkeypatch):
    """A backend whose traced functions become graphs of the module that stands for CuPy."""
    monkeypatch.delenv("DISTGRAD_CUDA_GRAPHS", raising=False)
    return cupy_stand_in.DeferredBackend(device)


def ways_of(f):
    return [trace.way for trace in f.explain().traces]


def trained(backend):
    """Return weights after steps of a small network on data that change, and how steps ran."""
    with dg.use_backend(backend):
        rng = np.random.default_rng(0)
        w, b = dg.Variable(rng.standard_normal((4, 3))), dg.Variable(np.zeros(3))

        @dg.function
        def gradients(x, labels):
            with dg.GradientTape() as tape:
                hidden = dg.tanh(x @ w + b)
                loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=hidden))
            return loss, tape.gradient(loss, (w, b))

        losses = []
        for _ in range(8):
            x, labels = dg.asarray(rng.standard_normal((5, 4))), dg.asarray(rng.integers(0, 3, 5))
            loss, (to_w, to_b) = gradients(x, labels)
            w.assign_sub(0.3 * to_w)
            b.assign_sub(0.3 * to_b)
            losses.append(loss)
        return [*map(float, losses)], w.numpy(), b.numpy(), ways_of(gradients)


def test_a_traced_step_of_training_is_a_graph_that_trains_as_numpy_does(deferred, device):
    *found, ways = trained(deferred)
    *expected, _ = trained("numpy")

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert ways == ["as one CUDA graph"]
    # Each assignment puts another array in a variable's place: twice that is not expected.
    *moved, graph = device.cuda.graphs
    assert [len(each.launches) for each in moved] == [1, 1]
    assert len(graph.launches) == 1 + 3


def test_a_traced_function_under_a_tape_is_a_graph_forward_and_another_back(deferred, device):
    w = dg.Variable(np.linspace(-1, 1, 12).reshape(4, 3), backend=deferred)
    f = dg.function(lambda x: dg.sum(dg.tanh(x @ w) ** 2))

    for number in range(6):
        x = dg.asarray(np.full((2, 4), 0.1 * number), backend=deferred)
        with dg.GradientTape() as tape:
            y = f(x)
        gradient = tape.gradient(y, w).numpy()
        hidden = np.tanh(x.numpy() @ w.numpy())
        expected = x.numpy().T @ (2 * hidden * (1 - hidden**2))
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)

    assert [len(graph.launches) for graph in device.cuda.graphs] == [1 + 3, 1 + 3]


def test_variables_that_a_traced_function_assigns_keep_their_values(deferred):
    count = dg.Variable(np.zeros(2), backend=deferred)

    @dg.function
    def step(x):
        count.assign_add(x)
        return count * 2

    seen = [step(dg.asarray([1.0, 10.0], backend=deferred)) for _ in range(6)]

    np.testing.assert_array_equal(count.numpy(), [6, 60])
    assert [float(each[0]) for each in seen] == [2, 4, 6, 8, 10, 12]
    assert ways_of(step) == ["as one CUDA graph"]


def test_random_numbers_of_a_captured_step_are_new_each_time_or_not_captured(deferred):
    with dg.use_backend(deferred):
        draws = dg.random.Generator(3)
        f = dg.function(lambda x: draws.uniform((3,)) + x)
        seen = [f(dg.zeros(3)).numpy() for _ in range(6)]

    assert len({tuple(each) for each in seen}) == 6


def test_a_kernel_that_reads_its_operand_on_the_host_keeps_its_function_from_being_captured(
    deferred, caplog
):
    f = dg.function(lambda x: dg.special.betaincc(2.0, 3.0, x) + 1)

    with caplog.at_level(logging.DEBUG, "distgrad"):
        for number in range(5):
            x = np.array([0.5, number / 5])
            np.testing.assert_allclose(
                f(dg.asarray(x, backend=deferred)).numpy(),
                dg.special.betaincc(2.0, 3.0, dg.asarray(x)).numpy() + 1,
            )

    assert ways_of(f)[0].startswith("operation by operation; no CUDA graph: UncapturableError")
    assert len(caplog.records) == 1
