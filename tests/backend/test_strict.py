"""A stranger's backend runs the whole vocabulary, and a tape from end to end."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import Backend
from distgrad.errors import DTypeError, MixedBackendError
from distgrad.testing import rules
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples

# Moves name the backends or devices they run between: `test_values_and_gradients_change_backends`.
MOVES = ("transfer", "to_device")
PORTABLE = [sample for sample in samples() if sample.operation not in MOVES]
COMPLEX = [sample.rotated() for sample in PORTABLE if sample.sources and sample.takes_complex]


def test_it_speaks_the_protocol(strict):
    assert isinstance(strict, Backend)


@pytest.mark.parametrize("sample", PORTABLE, ids=str)
def test_kernel_and_rules_give_what_they_give_on_numpy(sample, strict):
    rules.check_agreement(sample, strict)


@pytest.mark.parametrize("sample", COMPLEX, ids=str)
def test_complex_kernel_and_rules_give_what_they_give_on_numpy(sample, strict):
    rules.check_agreement(sample, strict)


def network(x, labels, weights, bias):
    hidden = dg.tanh(x @ weights + bias)
    return dg.mean(dg.softmax_cross_entropy(labels=labels, logits=hidden))


def trained(backend):
    """Return the losses and the weights of a small network after some steps on a backend."""
    losses = []
    with dg.use_backend(backend):
        x = dg.asarray(values((5, 4), -1.0, 1.2))
        labels = dg.asarray([0, 2, 1, 1, 0])
        weights = dg.Variable(values((4, 3), -0.5, 0.6), name="weights")
        bias = dg.Variable(np.zeros(3), name="bias")
        for _ in range(5):
            with dg.GradientTape() as tape:
                loss = network(x, labels, weights, bias)
            gradients = tape.gradient(loss, [weights, bias])
            for variable, gradient in zip([weights, bias], gradients, strict=True):
                variable.assign_sub(0.5 * gradient)
            losses.append(float(loss))
    assert weights.backend is dg.eager.load(backend)
    return losses, weights.numpy()


def test_a_network_trains_as_on_numpy(strict):
    losses, weights = trained(strict)
    expected_losses, expected_weights = trained("numpy")

    np.testing.assert_allclose(losses, expected_losses, rtol=1e-13)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-12)
    assert losses[-1] < losses[0]


def test_results_and_gradients_are_arrays_of_the_module(strict):
    with dg.use_backend(strict):
        x = dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        y = x * x

    assert isinstance(y.array, type(array_api_strict.asarray(0.0)))
    assert isinstance(tape.gradient(y, x).array, type(y.array))


def test_its_arrays_are_recognized_without_being_announced(strict):
    with dg.use_backend(strict):
        dg.asarray(0.0)

    tensor = dg.asarray(array_api_strict.asarray([1.0, 2.0]))

    assert tensor.backend.name != "numpy"
    assert isinstance(tensor.array, type(array_api_strict.asarray(0.0)))


def test_derivatives_of_second_order_agree_with_differences(strict):
    with dg.use_backend(strict):
        weights = dg.asarray(values((4, 3), -0.5, 0.6))
        bias = dg.asarray(values((3,), -0.5, 0.6))
        x = dg.asarray(values((5, 4), -1.0, 1.2))
        labels = dg.asarray([0, 2, 1, 1, 0])

    check_gradients(lambda w, b: network(x, labels, w, b), [weights, bias])


def test_lists_go_to_the_backend_of_what_they_meet(strict):
    with dg.use_backend(strict):
        x = dg.asarray(values((3, 4), -1.0, 1.2))

    assert dg.take(x, [0, 2], axis=1).backend is strict
    assert x[[0, 2]].backend is strict
    assert x[:, []].shape == (3, 0)
    assert dg.take(x, [], axis=0).shape == (0, 4)
    assert dg.softmax_cross_entropy(labels=[1, 0, 3], logits=x).backend is strict


def test_values_and_gradients_change_backends(strict):
    x = dg.Variable(values((3, 4), -1.0, 1.2))

    with dg.GradientTape() as tape:
        there = dg.sin(x).to(backend=strict)
        back = (there * there).to(backend="numpy")
    gradient = tape.gradient(back, x)

    assert (there.backend.name, back.backend.name) == ("strict", "numpy")
    assert gradient.backend.name == "numpy"
    np.testing.assert_allclose(gradient.numpy(), np.sin(2 * x.numpy()), rtol=1e-12)


def test_mixing_backends_names_both_and_the_way_across(strict):
    here = dg.asarray([1.0, 2.0])
    with dg.use_backend(strict):
        there = dg.asarray([1.0, 2.0])

    with pytest.raises(MixedBackendError, match=r"add: .*'numpy' and 'strict'.*\.to\(backend="):
        here + there
    with pytest.raises(MixedBackendError, match=r"multiply: .*'strict'"):
        there * np.array([1.0, 2.0])


def test_a_dtype_that_the_module_lacks_is_named(strict):
    with pytest.raises(DTypeError, match="'strict' has no dtype float16"):
        dg.asarray([1.0], dtype="float16", backend=strict)


def test_labels_outside_give_nan_where_the_device_cannot_raise(strict):
    with dg.use_backend(strict):
        logits = dg.asarray(values((3, 4), -1.0, 1.2))

    loss = dg.softmax_cross_entropy(labels=[1, 4, -1], logits=logits).numpy()

    np.testing.assert_array_equal(np.isnan(loss), [False, True, True])


def on_no_host(array, *args, **options):
    """Refuse to become an array of NumPy's, as arrays of CuPy's do."""
    raise TypeError("Implicit conversion to a NumPy array is not allowed.")


@pytest.mark.parametrize("transformed", [dg.function, dg.vmap])
def test_a_transformed_function_reads_arrays_of_the_module_where_they_lie(
    transformed, strict, monkeypatch
):
    raw = array_api_strict.asarray([1.0, 2.0, 3.0])
    with dg.use_backend(strict):
        x = dg.ones((3, 3), dtype="float64")
    monkeypatch.setattr(type(raw), "__array__", on_no_host)

    y = transformed(lambda x: x * raw)(x)

    assert y.backend is strict
    np.testing.assert_array_equal(np.from_dlpack(y.array), [[1.0, 2.0, 3.0]] * 3)
