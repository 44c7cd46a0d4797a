"""NumPy's own functions on tensors: the values that NumPy gives, with derivatives."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing import check_gradients

from .cases import CALLS, A, V


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


@pytest.mark.parametrize("name", CALLS)
def test_numpys_function_of_tensors_gives_numpys_values(name):
    function, arrays = CALLS[name]
    given = flat(function(*(dg.asarray(array) for array in arrays)))
    expected = flat(function(*arrays))
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        assert isinstance(one, dg.Tensor)
        assert one.shape == np.shape(other)
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_numpys_function_has_right_derivatives_to_second_order(name):
    function, arrays = CALLS[name]
    if any(np.isnan(array).any() for array in arrays):
        known = [~np.isnan(array) for array in arrays]
        spots = [np.flatnonzero(k) for k in known]
        whole = arrays
        arrays = tuple(array[k] for array, k in zip(arrays, known, strict=True))

        def function(*numbers, inner=function):
            filled = [
                dg.reshape(dg.asarray(w.ravel()).at[s].set(n), w.shape)
                for n, s, w in zip(numbers, spots, whole, strict=True)
            ]
            return inner(*filled)

    check_gradients(lambda *given: flat(function(*given)), arrays, order=2)


def test_variables_are_taken_as_tensors_are():
    x = dg.Variable(A)
    with dg.GradientTape() as tape:
        y = np.sum(np.concatenate([x, np.square(x)]))
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), 1 + 2 * A, rtol=1e-12)


def test_a_function_without_derivative_cuts_and_explain_says_so():
    x = dg.Variable(V)
    with dg.GradientTape(persistent=True) as tape:
        order = np.argpartition(x, 2)
        y = dg.astype(order, "float64") * 2.0
    assert order.numpy().tolist() == np.argpartition(V, 2).tolist()
    assert tape.gradient(y, x) is None
    assert "argpartition" in str(tape.explain(y, x))


def test_a_function_whose_derivative_is_not_known_is_refused_where_a_tape_watches():
    x = dg.Variable(V)
    with dg.GradientTape(), pytest.raises(TypeError, match=r"np\.i0.*dg\.stop_gradient"):
        np.i0(x * 1.0)


def test_a_function_whose_derivative_is_not_known_is_computed_where_nobody_watches():
    given = np.i0(dg.asarray(V))
    np.testing.assert_allclose(given.numpy(), np.i0(V))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: np.sum(t, out=np.zeros(())), "sum: out= is not taken"),
        (lambda t: np.sin(t, out=np.zeros(5)), "sin: out= is not taken"),
        (lambda t: np.put(t, [0], 1.0), r"put: tensors do not change.*\.at\[indices\]"),
        (lambda t: np.add.at(t, [0], 1.0), r"add\.at: tensors do not change"),
        (lambda t: np.sin(t, where=[True] * 5), "where= is not taken"),
        (np.hypot.reduce, r"np\.hypot\.reduce is not known"),
    ],
)
def test_what_would_change_an_array_is_refused_with_the_remedy(call, message):
    with pytest.raises(TypeError, match=message):
        call(dg.asarray(V))


def test_shape_size_and_ndim_are_plain_numbers():
    x = dg.asarray(A)
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 1)) == ((3, 4), 2, 12, 4)


def test_predicates_give_what_numpy_gives():
    x = dg.asarray(A)
    assert np.allclose(x, A) is True
    assert np.array_equal(x, A) is True
    assert np.iscomplexobj(x) is False


def test_full_like_and_trim_zeros_give_what_numpy_gives():
    x = dg.asarray(A)
    np.testing.assert_array_equal(np.full_like(x, 2.5).numpy(), np.full_like(A, 2.5))
    padded = np.array([0.0, 0.0, 1.2, 0.0, -0.5, 0.0])
    watched = dg.Variable(padded)
    with dg.GradientTape() as tape:
        kept = np.trim_zeros(watched)
    assert kept.numpy().tolist() == [1.2, 0.0, -0.5]
    assert tape.gradient(kept, watched).numpy().tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
