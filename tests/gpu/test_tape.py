"""A tape on the device: a network trains as on the CPU, values and gradients cross over."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import widening
from distgrad.errors import MixedBackendError
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values


def network(x, labels, weights, bias):
    hidden = dg.tanh(x @ weights + bias)
    return dg.mean(dg.softmax_cross_entropy(labels=labels, logits=hidden))


def trained(backend):
    """Return the losses and the weights of a small network after some steps on a backend."""
    losses = []
    with dg.use_backend(backend):
        x = dg.asarray(values((5, 4), -1.0, 1.2))
        labels = dg.asarray([0, 2, 1, 1, 0])
        weights = dg.Variable(values((4, 3), -0.5, 0.6))
        bias = dg.Variable(np.zeros(3))
        for _ in range(5):
            with dg.GradientTape() as tape:
                loss = network(x, labels, weights, bias)
            for variable, gradient in zip(
                (weights, bias), tape.gradient(loss, (weights, bias)), strict=True
            ):
                variable.assign_sub(0.5 * gradient)
            losses.append(float(loss))
    return losses, weights.numpy()


def test_a_network_trains_as_on_the_cpu(cupy_backend):
    losses, weights = trained(cupy_backend)
    expected_losses, expected_weights = trained("numpy")

    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-11)


def halved(layer, shape, backend):
    """Return the loss and the gradients of a model within `autocast`, on a backend."""
    with dg.use_backend(backend):
        x = dg.asarray(values(shape, -1.0, 1.2).astype(np.float32))
        labels = dg.asarray([0, 2, 1])
        model = layer().build(x, seed=0)
        with dg.autocast("bfloat16"), dg.GradientTape() as tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
        return [each.numpy() for each in (loss, *tape.gradient(loss, model.trainable_variables))]


class Encoder(dg.nn.Module):
    """A block of a transformer, and a classifier."""

    def __init__(self):
        self.before, self.after = dg.nn.LayerNorm(), dg.nn.RMSNorm()
        self.attention = dg.nn.MultiHeadAttention(2)
        self.wide, self.narrow = dg.nn.Dense(16, activation=dg.nn.gelu), dg.nn.Dense(8)
        self.logits = dg.nn.Dense(4)

    def call(self, x):
        x = x + self.attention(self.before(x))
        x = x + self.narrow(self.wide(self.after(x)))
        return self.logits(dg.mean(x, axis=1))


def convolutional():
    layers = [dg.nn.Conv(5, 3, padding="same", activation=dg.nn.relu), dg.nn.MaxPool(2)]
    return dg.nn.Sequential(*layers, dg.nn.Conv(6, 3), dg.nn.Flatten(), dg.nn.Dense(4))


HALVED = {
    "dense": (lambda: dg.nn.Sequential(dg.nn.Dense(7, dg.nn.relu), dg.nn.Dense(4)), (3, 5)),
    "convolutions": (convolutional, (3, 8, 9, 2)),
    "LSTM": (lambda: dg.nn.Sequential(dg.nn.LSTM(6), dg.nn.Dense(4)), (3, 5, 4)),
    "transformer": (Encoder, (3, 5, 8)),
}


@pytest.mark.parametrize(("layer", "shape"), HALVED.values(), ids=HALVED)
def test_models_in_bfloat16_are_computed_in_it_as_near_as_on_the_cpu(
    layer, shape, cupy_backend, monkeypatch
):
    pytest.importorskip("ml_dtypes")
    widened, rounded = [], widening._rounded
    expected = halved(layer, shape, "numpy")
    monkeypatch.setattr(
        widening, "_rounded", lambda *given: widened.append(given[0]) or rounded(*given)
    )

    found = halved(layer, shape, cupy_backend)

    assert widened == []  # nothing was computed in single and rounded
    # Some gradients are differences that nearly vanish, such as that of the keys' bias.
    scale = max(np.abs(each).max() for each in expected[1:])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.03 * scale)


def test_gradients_stay_on_the_device(cupy_backend):
    x = dg.Variable([1.0, 2.0], backend="cupy")

    with dg.GradientTape() as tape:
        y = x * x
    gradient = tape.gradient(y, x)

    assert gradient.device.startswith("cuda:")
    assert gradient.backend is cupy_backend
    np.testing.assert_array_equal(gradient.numpy(), [2, 4])


def test_values_and_gradients_cross_between_device_and_host(cupy_backend):
    x = dg.Variable(values((3, 4), -1.0, 1.2))

    with dg.GradientTape() as tape:
        there = dg.sin(x).to(backend=cupy_backend)
        y = dg.sum((there * there).to(backend="numpy"))

    assert there.device.startswith("cuda:")
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), np.sin(2 * x.numpy()), rtol=1e-12)


def test_second_derivatives_agree_with_differences(cupy_backend):
    with dg.use_backend(cupy_backend):
        weights, bias = dg.asarray(values((4, 3), -0.5, 0.6)), dg.asarray(values((3,), -0.5, 0.6))
        x, labels = dg.asarray(values((5, 4), -1.0, 1.2)), dg.asarray([0, 2, 1, 1, 0])

    check_gradients(lambda w, b: network(x, labels, w, b), [weights, bias])


def test_cupy_arrays_are_recognized_and_keep_their_dtype(cupy_backend):
    raw = cupy_backend.asarray(np.ones(3, np.float16))

    tensor = dg.asarray(raw)

    assert tensor.array is raw
    assert tensor.dtype == np.float16


def test_lists_go_to_the_device_of_what_they_meet(cupy_backend):
    x = dg.asarray(values((3, 4), -1.0, 1.2), backend=cupy_backend)

    assert dg.take(x, [0, 2], axis=1).backend is cupy_backend
    assert x[[0, 2]].backend is cupy_backend
    assert dg.softmax_cross_entropy(labels=[1, 0, 3], logits=x).backend is cupy_backend


def test_host_and_device_arrays_do_not_mix_silently(cupy_backend):
    x = dg.asarray([1.0, 2.0], backend=cupy_backend)

    with pytest.raises(MixedBackendError, match=r"'cupy' and 'numpy'"):
        x * np.array([1.0, 2.0])


def test_a_label_that_is_no_class_gives_nan(cupy_backend):
    logits = dg.asarray(values((3, 4), -1.0, 1.2), backend=cupy_backend)

    loss = dg.softmax_cross_entropy(labels=[1, 4, -1], logits=logits).numpy()

    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])


def test_work_is_done_after_synchronize(cupy_backend):
    x = dg.asarray(np.ones((300, 300)), backend=cupy_backend)
    for _ in range(5):
        x = x @ x / 300

    cupy_backend.synchronize()

    np.testing.assert_allclose(x.numpy(), np.ones((300, 300)))
