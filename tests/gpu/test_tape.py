"""A tape on the device: a network trains as on the CPU, values and gradients cross over."""

import numpy as np
import pytest

import distgrad as dg
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
