"""Traced functions on the device become CUDA graphs, and give what the executor gives."""

import gc
import logging

import numpy as np
import pytest

import distgrad as dg
from distgrad.optimizers.in_place import Change
from distgrad.testing.inputs import values
from distgrad_cupy.transfers import UncapturableError

pytestmark = pytest.mark.usefixtures("order_of_work")


def way_of(f):
    """Return how each trace of a function runs, in words."""
    return [trace.way for trace in f.explain().traces]


def array(shape, low=-1.0, high=1.2):
    return dg.asarray(values(shape, low, high).astype(np.float32), backend="cupy")


class Said(logging.Handler):
    """Holds what is said of graphs; `caplog.records` in a fixture are those of the set-up alone."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.messages = []

    def emit(self, record):
        if "CUDA graph" in record.getMessage():
            self.messages.append(record.getMessage())


@pytest.fixture
def said(caplog):
    """What is said of plans that are not captured."""
    caplog.set_level(logging.DEBUG, "distgrad")
    handler = Said()
    logging.getLogger("distgrad").addHandler(handler)
    yield handler.messages
    logging.getLogger("distgrad").removeHandler(handler)


def test_elementwise_operations_and_reductions_are_captured(cupy_backend, said):
    f = dg.function(lambda x: dg.sum(dg.sin(x)))

    for number in range(6):
        x = array((3, 5)) + float(number)
        np.testing.assert_allclose(f(x).numpy(), np.sin(x.numpy()).sum(), rtol=1e-5)

    assert way_of(f) == ["as one CUDA graph"]
    assert said == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_products_are_captured(dtype, cupy_backend, said):
    f = dg.function(lambda a, b: dg.matmul(a, b) + dg.matmul(a, b))
    shapes = (4, 33, 65), (4, 65, 17)

    for number in range(6):
        a, b = (dg.asarray(values(s, -1, 1 + number).astype(dtype), backend="cupy") for s in shapes)
        found = f(a, b).numpy().astype(np.float64)
        expected = 2 * (a.numpy().astype(np.float64) @ b.numpy().astype(np.float64))
        tolerance = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-12}[dtype]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 30)

    assert way_of(f) == ["as one CUDA graph"]
    assert said == []


def make_mlp():
    return dg.nn.Sequential(dg.nn.Dense(32, dg.nn.relu), dg.nn.Dense(5))


def make_cnn():
    layers = [dg.nn.Conv(8, 3, padding="same", activation=dg.nn.relu), dg.nn.MaxPool(2)]
    return dg.nn.Sequential(*layers, dg.nn.Flatten(), dg.nn.Dense(5))


def make_lstm():
    return dg.nn.Sequential(dg.nn.LSTM(16), dg.nn.Dense(5))


class Attending(dg.nn.Module):
    """Attention, a norm, and an embedding whose gradient adds up rows."""

    def __init__(self):
        self.embedding, self.norm = dg.nn.Embedding(11, 16), dg.nn.LayerNorm()
        self.attention, self.logits = dg.nn.MultiHeadAttention(4), dg.nn.Dense(5)

    def call(self, x):
        """Return logits."""
        x = self.embedding(x)
        return self.logits(dg.mean(x + self.attention(self.norm(x)), axis=1))


MODELS = {
    "MLP": (make_mlp, (8, 12)),
    "CNN": (make_cnn, (4, 8, 8, 3)),
    "LSTM": (make_lstm, (4, 6, 12)),
    "attention": (Attending, (4, 7)),
}


def trained(make, shape, backend, *, compiled):
    """Return the weights after some steps, and how the step ran."""
    with dg.use_backend(backend):
        rng = np.random.default_rng(0)
        draw = rng.integers(0, 11, shape) if len(shape) == 2 and make is Attending else None
        x = dg.asarray(rng.standard_normal(shape).astype(np.float32) if draw is None else draw)
        labels = dg.asarray(rng.integers(0, 5, shape[0]))
        model = make().build(x, seed=0)
        optimizer = dg.optimizers.SGD(0.1)

        @dg.function(compiled=compiled)
        def gradients(x, labels):
            with dg.GradientTape() as tape:
                loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
            return tape.gradient(loss, model.trainable_variables)

        for _ in range(8):
            optimizer.apply(gradients(x, labels), model.trainable_variables)
        return [variable.numpy() for variable in model.trainable_variables], way_of(gradients)


@pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)
def test_steps_of_training_are_captured_and_train_as_the_executor_does(
    make, shape, cupy_backend, said
):
    found, ways = trained(make, shape, cupy_backend, compiled=True)
    expected, _ = trained(make, shape, cupy_backend, compiled=False)
    host, _ = trained(make, shape, "numpy", compiled=False)

    for one, other, third in zip(found, expected, host, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one, third, rtol=5e-3, atol=5e-4)
    assert said == []
    assert ways == ["as one CUDA graph"]


def test_forward_and_backward_of_a_traced_function_are_graphs_each(cupy_backend, said):
    w = dg.Variable(values((6, 4), -0.5, 0.6).astype(np.float32), backend="cupy")
    f = dg.function(lambda x: dg.sum(dg.tanh(x @ w) ** 2))

    for number in range(6):
        x = array((3, 6)) + 0.1 * number
        with dg.GradientTape() as tape:
            y = f(x)
        gradient = tape.gradient(y, w)
        hidden = np.tanh(x.numpy() @ w.numpy())
        expected = x.numpy().T @ (2 * hidden * (1 - hidden**2))
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-5)

    assert said == []


def test_results_stay_what_they_are_when_the_graph_runs_again(cupy_backend):
    f = dg.function(lambda x: dg.sin(x) * 2)
    given = [array((1000,)) + float(number) for number in range(8)]

    found = [f(x) for x in given]

    for x, y in zip(given, found, strict=True):
        np.testing.assert_allclose(y.numpy(), 2 * np.sin(x.numpy()), rtol=1e-5, atol=1e-6)


def test_a_launch_on_another_stream_comes_after_the_last_one(cupy_backend):
    f = dg.function(lambda x: dg.sin(x) * 2)
    stream = cupy_backend.module.cuda.Stream(non_blocking=True)
    given = [array((1000,)) + float(number) for number in range(6)]
    cupy_backend.synchronize()

    found = [f(x) for x in given[:4]]
    with stream:
        aside = f(given[4])
    last = f(given[5])
    stream.synchronize()

    for x, y in zip(given, [*found, aside, last], strict=True):
        np.testing.assert_allclose(y.numpy(), 2 * np.sin(x.numpy()), rtol=1e-5, atol=1e-6)


def test_what_waits_for_the_device_goes_on_by_the_executor(cupy_backend, said):
    f = dg.function(lambda x, shift: dg.linalg.inv(x @ x.T + shift))
    x, eye = array((3, 5)), dg.asarray(np.eye(3, dtype=np.float32), backend="cupy")

    for _ in range(5):
        found = f(x, eye).numpy()

    np.testing.assert_allclose(found, np.linalg.inv(x.numpy() @ x.numpy().T + np.eye(3)), rtol=1e-3)
    # Whether cuSOLVER can be captured is its own affair; a function that is not says so once.
    captured = way_of(f) == ["as one CUDA graph"]
    assert len(said) == (0 if captured else 1)
    assert all("not captured as a CUDA graph" in message for message in said)


def test_host_arrays_may_come_and_go_after_a_capture(cupy_backend):
    f = dg.function(lambda x, y: dg.concat([x, y], axis=0) * 2)
    x, y = array((30, 5)), array((20, 5))

    for number in range(40):
        host = np.full((400, 300), number, np.float32)  # staged where earlier transfers were
        there = dg.asarray(host, backend="cupy")
        found = f(x, y)
        np.testing.assert_array_equal(there.numpy(), host)
        np.testing.assert_allclose(found.numpy(), 2 * np.concatenate([x.numpy(), y.numpy()]))


def test_numbers_found_by_rejection_are_captured(cupy_backend, said):
    with dg.use_backend(cupy_backend):
        words, rates = dg.random.Generator(3), array((200,), 0.5, 60.0)
        f = dg.function(lambda a: words.gamma(a) + dg.astype(words.poisson(a), "float32"))
        found = [f(rates).numpy() for _ in range(6)]

    assert way_of(f) == ["as one CUDA graph"]
    assert said == []
    assert len({each.tobytes() for each in found}) == 6


def test_gradients_of_gamma_numbers_are_captured(cupy_backend, said):
    with dg.use_backend(cupy_backend):
        words, shapes = dg.random.Generator(3), array((200,), 0.5, 60.0)
        f = dg.function(dg.grad(lambda a: dg.sum(words.gamma(a))))
        found = [f(shapes).numpy() for _ in range(6)]

    assert way_of(f) == ["as one CUDA graph"]
    assert said == []
    assert len({each.tobytes() for each in found}) == 6


def test_a_step_of_an_optimizer_is_refused_while_the_user_captures(cupy_backend):
    import cupy

    x = dg.Variable(np.ones(5, np.float32), backend=cupy_backend)
    g, optimizer = dg.asarray(np.ones(5, np.float32), backend=cupy_backend), dg.optimizers.SGD(0.1)
    optimizer.apply(g, x)
    change = Change(x.array, g.array, (), None)

    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            with pytest.raises(UncapturableError, match="captured in a CUDA graph"):
                cupy_backend.change_in_place(optimizer, [change], optimizer.numbers(2))
        finally:
            stream.end_capture()


def test_random_numbers_of_traced_steps_differ_and_are_the_hosts(cupy_backend):
    def drawn(backend, compiled):
        with dg.use_backend(backend):
            words = dg.random.Generator(3)
            f = dg.function(lambda x: words.uniform((5,), dtype="float32") + x, compiled=compiled)
            return [f(dg.zeros(5, dtype="float32")).numpy() for _ in range(6)]

    found, expected = drawn(cupy_backend, True), drawn(cupy_backend, False)

    np.testing.assert_array_equal(found, expected)


def test_memory_of_graphs_that_go_away_is_given_back(cupy_backend, monkeypatch):
    cuda, held = cupy_backend.module.cuda, []

    class Noted(cuda.Memory):  # what the device has left, other processes change too
        def __init__(self, nbytes):
            super().__init__(nbytes)
            held.append(nbytes)

        def __del__(self):
            held.remove(self.size)

    monkeypatch.setattr(cuda, "Memory", Noted)
    x = array((1 << 20,))

    for _ in range(3):
        f = dg.function(lambda x: dg.sin(x) * dg.cos(x) + dg.exp(x))
        for _ in range(4):
            f(x)
        assert way_of(f) == ["as one CUDA graph"]
        assert sum(held) >= 1 << 22
        del f
        gc.collect()
        assert held == []


def test_transforms_in_a_graph_outlive_the_plans_that_cupy_keeps(cupy_backend):
    f = dg.function(lambda x: dg.real(dg.fft.ifft(dg.fft.fft(x) * 2)))
    x = array((4, 96))
    for _ in range(4):
        f(x)

    others = [dg.fft.fft(array((3, length))) for length in range(100, 140)]  # keeps sixteen

    for number in range(3):
        np.testing.assert_allclose(f(x + number).numpy(), 2 * (x + number).numpy(), atol=1e-4)
    for length, other in zip(range(100, 140), others, strict=True):
        expected = np.fft.fft(array((3, length)).numpy())
        np.testing.assert_allclose(other.numpy(), expected, atol=1e-3)


def test_a_graph_is_not_launched_while_a_stream_is_captured(cupy_backend):
    import cupy

    f = dg.function(lambda x: dg.sin(x) + 1)
    x = array((3, 5))
    for _ in range(4):
        f(x)

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        f(x)  # whatever is made for the first call on a stream
        stream.begin_capture()
        found = f(x)
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()

    np.testing.assert_allclose(found.numpy(), np.sin(x.numpy()) + 1, rtol=1e-6)
    np.testing.assert_allclose(f(x).numpy(), np.sin(x.numpy()) + 1, rtol=1e-6)


# --- where variables lie --------------------------------------------------------------------------


def stepping(backend, *, whole, compiled, change=lambda model, step: None):
    """Return losses, weights, where these lay, and how a step ran: all of it, or its gradients."""
    with dg.use_backend(backend):
        rng = np.random.default_rng(0)
        x = dg.asarray(rng.standard_normal((8, 12)).astype(np.float32))
        labels = dg.asarray(rng.integers(0, 5, 8))
        model = make_mlp().build(x, seed=0)
        optimizer = dg.optimizers.Adam(0.01)

        def gradients(x, labels):
            with dg.GradientTape() as tape:
                loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
            return loss, tape.gradient(loss, model.trainable_variables)

        def step(x, labels):
            loss, found = gradients(x, labels)
            optimizer.apply(found, model.trainable_variables)
            return loss

        traced = dg.function(step if whole else gradients, compiled=compiled)
        losses, places = [], []
        for number in range(10):
            if whole:
                loss = traced(x, labels)
            else:
                loss, found = traced(x, labels)
                optimizer.apply(found, model.trainable_variables)
            change(model, number)
            losses.append(float(loss))
            places.append([id(v.array) for v in model.trainable_variables])
        return losses, [v.numpy() for v in model.variables], places, way_of(traced)


@pytest.mark.parametrize("whole", [False, True], ids=["gradients", "whole step"])
def test_variables_stay_where_they_are_and_train_as_on_the_cpu(whole, cupy_backend, said):
    losses, weights, places, ways = stepping("cupy", whole=whole, compiled=True)
    expected, right, *_ = stepping("numpy", whole=whole, compiled=False)

    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(weights, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert ways == ["as one CUDA graph"]
    # They could not be changed in place if the graph held the arrays.
    assert all(each == places[-1] for each in places[-4:])
    assert said == []


@pytest.mark.parametrize("whole", [False, True], ids=["gradients", "whole step"])
def test_variables_assigned_between_steps_are_read_where_they_lie_then(whole, cupy_backend):
    def change(model, step):
        if step in (4, 6, 7):
            for variable in model.trainable_variables:
                variable.assign(0.5 * variable.numpy())

    losses, *_, ways = stepping("cupy", whole=whole, compiled=True, change=change)
    expected, *_ = stepping("numpy", whole=whole, compiled=False, change=change)

    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert ways == ["as one CUDA graph"]


def test_values_that_were_read_stay_when_a_traced_step_assigns_their_variable(cupy_backend):
    v = dg.Variable(np.zeros(2000, np.float32), backend="cupy")
    one = array((2000,)) * 0 + 1.0

    @dg.function
    def step(x):
        before = v.value()
        v.assign_add(x)
        return before

    read, before = [], []
    for number in range(8):
        before.append(step(one))
        if number % 2:
            read.append(v.read())  # the variable's own array

    assert way_of(step) == ["as one CUDA graph"]
    assert [float(each[0]) for each in before] == list(range(8))
    assert [float(each[0]) for each in read] == [2, 4, 6, 8]


def test_steps_of_an_optimizer_may_be_traced_in_between(cupy_backend):
    def trained(backend):
        with dg.use_backend(backend):
            v = dg.Variable(np.ones(3, np.float32))
            optimizer = dg.optimizers.Adam(0.1)

            def step(g):
                optimizer.apply([g], [v])

            traced = dg.function(step)
            for number in range(12):
                g = dg.asarray(np.full(3, 1.0 + number, np.float32))
                (step if number in (0, 1, 7, 8, 11) else traced)(g)
            return v.numpy()

    np.testing.assert_allclose(trained("cupy"), trained("numpy"), rtol=1e-4)
