"""NumPy's functions on tensors of a backend that is not NumPy: values, gradients, and mixtures."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.entering import HOME, kernels_owning
from distgrad.errors import MixedBackendError
from distgrad.numpy_functions import dispatch

from .cases import CALLS, MASK, A, B, V, W


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def on(backend, array):
    with dg.use_backend(backend):
        return dg.asarray(array)


def results_and_gradients(function, tensors):
    """Return the results, and the gradients of the sum of their squares."""
    sources = [dg.Variable(t) for t in tensors if t.dtype.kind == "f"]
    rest = iter(sources)
    given = [next(rest) if t.dtype.kind == "f" else t for t in tensors]
    with dg.GradientTape() as tape:
        results = flat(function(*given))
        total = sum(dg.sum(dg.square(each)) for each in results)
    return results, tape.gradient(total, sources)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_those_on_numpy(name, strict):
    function, arrays = CALLS[name]
    expected, wanted = results_and_gradients(function, [dg.asarray(a) for a in arrays])

    given, gradients = results_and_gradients(function, [on(strict, a) for a in arrays])

    assert len(given) == len(expected)
    assert len(gradients) == len(wanted)
    for one, other in zip(given, expected, strict=True):
        assert one.backend is strict
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-9, atol=1e-11)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.backend is strict
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.where(MASK, t, 0),
        lambda t: np.interp(t, np.array([-2.0, 0.0, 2.0]), np.array([1.0, 5.0, 2.0])),
        lambda t: np.average(t, axis=0, weights=np.array([1.0, 2.0, 0.5])),
        lambda t: np.take(t, np.array([2, 0]), axis=1),
        lambda t: np.repeat(t, np.array([1, 0, 2]), axis=0),
        lambda t: np.quantile(t, np.array([0.2, 0.7])),
        lambda t: np.pad(t, np.array([[1, 0], [0, 2]])),
        lambda t: np.array_split(t, np.array([1, 3]), axis=1)[1],
        lambda t: np.select([MASK, ~MASK], [t, 2 * t]),
        lambda t: np.clip(t, np.array([-1.0, 0.0, -0.5, 0.1]), 1.0),
        lambda t: np.sum(t, where=MASK),
        lambda t: np.searchsorted(np.array([-1.0, 0.0, 1.0]), t),
        lambda t: np.digitize(t, np.array([-1.0, 0.0, 1.0])),
        lambda t: np.trapezoid(t, np.array([0.0, 0.3, 1.0, 1.1])),
        lambda t: np.gradient(t, np.array([0.0, 0.3, 1.0, 1.1]), axis=1),
        lambda t: np.cov(t, aweights=np.array([1.0, 2.0, 0.5, 1.5])),
        lambda t: np.insert(t, np.array([0, 2]), 7.0, axis=1),
        lambda t: np.concatenate([t, [[1.0, 2.0, 3.0, 4.0]]]),
    ],
)
def test_arrays_beside_the_operands_are_moved(call, strict):
    given = call(on(strict, A))

    assert given.backend is strict
    np.testing.assert_allclose(given.numpy(), call(A), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "function"),
    [
        (lambda t: np.concatenate([t, B]), "concatenate"),
        (lambda t: np.where(MASK, t, B), "where"),
        (lambda t: np.dot(t, B.T), "dot"),
        (lambda t: np.fmod(t, B), "fmod"),
        (lambda t: np.linalg.lstsq(t, np.ones(3)), "linalg.lstsq"),
        (lambda t: np.hypot.outer(t, B), "hypot"),
    ],
)
def test_an_operand_of_another_backend_is_refused_by_the_functions_name(call, function, strict):
    with pytest.raises(MixedBackendError, match=rf"np\.{function}: .*dg\.asarray\(a, backend="):
        call(on(strict, A))


@pytest.mark.parametrize(
    "call", [lambda t: t + B, lambda t: np.add(t, B), lambda t: dg.where(MASK, t, t)]
)
def test_outside_of_numpys_functions_arrays_do_not_move(call, strict):
    with pytest.raises(MixedBackendError):
        call(on(strict, A))


def test_an_array_is_not_changed_in_place_by_a_tensor_of_another_backend(strict):
    total = np.zeros_like(A)

    with pytest.raises(MixedBackendError):
        total += on(strict, A)


def test_a_function_of_the_users_does_not_mix_backends_either(strict):
    t = on(strict, A)

    with pytest.raises(MixedBackendError):
        np.apply_along_axis(lambda line: line * np.arange(3.0), 0, t)
    with pytest.raises(MixedBackendError):
        np.piecewise(t, [MASK], [lambda x: x * B])


def test_after_a_failure_arrays_do_not_move(strict):
    t = on(strict, V)
    with pytest.raises(ValueError, match="edge_order"):
        np.gradient(t, edge_order=3)

    with pytest.raises(MixedBackendError):
        t + W


def test_constants_follow_the_tensors_and_not_the_backend_in_force(strict):
    with dg.use_backend(strict):
        given = np.convolve(dg.asarray(V, backend="numpy"), [1.0, 2.0])

    assert given.backend.name == "numpy"


@pytest.mark.parametrize("function", [np.take, np.add.outer])
def test_arguments_that_cannot_enter_leave_nothing_in_force(function, monkeypatch):
    def refuse(arguments):
        raise ValueError("no such array")

    monkeypatch.setattr(dispatch, "arrays_entered", refuse)

    with pytest.raises(ValueError, match="no such array"):
        function(dg.ones(3), 1)

    assert HOME.get() is None


def test_a_dtype_among_the_arguments_is_no_array():
    assert kernels_owning([np.dtype(np.float32)]) is None
    assert np.add(dg.ones(3), 1, dtype=np.dtype(np.float64)).dtype == np.float64
