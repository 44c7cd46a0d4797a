"""NumPy's own functions on tensors: the values that NumPy gives, with derivatives."""

import tracemalloc

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


@pytest.mark.parametrize("value", [2.5, [2.5, -0.5]])
def test_what_is_computed_on_the_host_is_a_tensor_for_a_single_number_too(value):
    x = dg.Variable(value)
    with dg.GradientTape(persistent=True) as tape:
        y = np.spacing(x)

    assert isinstance(y, dg.Tensor)
    np.testing.assert_array_equal(y.numpy(), np.spacing(x.numpy()))
    assert tape.gradient(y, x) is None
    assert "numpy.spacing" in str(tape.explain(y, x))


def test_a_function_whose_derivative_is_not_known_is_refused_where_a_tape_watches():
    x = dg.Variable(V)
    with dg.GradientTape(), pytest.raises(TypeError, match=r"np\.emath\.sqrt.*dg\.stop_gr"):
        np.emath.sqrt(x * 1.0)


def test_a_function_whose_derivative_is_not_known_is_computed_where_nobody_watches():
    given = np.emath.sqrt(dg.asarray(V))
    np.testing.assert_allclose(given.numpy(), np.emath.sqrt(V))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: np.sum(t, out=np.zeros(())), "sum: out= is not taken"),
        (lambda t: np.sin(t, out=np.zeros(5)), "sin: out= is not taken"),
        (lambda t: np.put(t, [0], 1.0), r"put: tensors do not change.*\.at\[indices\]"),
        (lambda t: np.add.at(t, [0], 1.0), r"add\.at: tensors do not change"),
        (lambda t: np.sin(t, where=[True] * 5), "where= is not taken"),
        (lambda t: np.hypot.reduce(t, where=[True] * 5), r"np\.hypot\.reduce: where= is not taken"),
        (lambda t: np.hypot.accumulate(t, out=np.zeros(5)), r"hypot\.accumulate: out= is not"),
        (lambda t: np.copyto(t, 1.0), r"copyto: tensors do not change"),
    ],
)
def test_what_would_change_an_array_is_refused_with_the_remedy(call, message):
    with pytest.raises(TypeError, match=message):
        call(dg.asarray(V))


def test_an_array_is_changed_in_place_by_a_tensor_that_nobody_watches():
    weights = np.array([1.0, 2.0, 4.0])
    given = weights
    slope = dg.grad(lambda w: dg.sum(w**2))(weights)

    given -= 0.5 * slope
    given[:2] += dg.asarray(np.array([3.0, 5.0]))

    assert given is weights
    assert weights.tolist() == [3.0, 5.0, 0.0]


def test_an_array_is_not_changed_in_place_by_a_tensor_that_a_tape_watches():
    x = dg.Variable(V)
    total = np.zeros_like(V)

    with dg.GradientTape(), pytest.raises(TypeError, match=r"np\.add: in place.*a = a \+ t"):
        total += x * 2.0

    np.testing.assert_array_equal(total, 0)


def test_an_array_of_integers_is_not_changed_in_place_by_a_floating_tensor():
    counts = np.zeros(5, np.int64)

    with pytest.raises(TypeError, match="same_kind"):
        counts += dg.asarray(V)


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


def test_methods_of_ufuncs_that_numpy_refuses_are_refused():
    x = dg.asarray(A)
    with pytest.raises(ValueError, match="not reorderable"):
        np.subtract.reduce(x, axis=(0, 1))
    with pytest.raises(ValueError, match="without identity"):
        np.hypot.reduce(dg.asarray(np.zeros((0, 3))))


def test_of_equal_elements_unique_passes_the_gradient_to_the_first():
    x = dg.Variable(np.array([3.0, 1.0, 3.0, 2.0, 1.0, 0.5]))
    with dg.GradientTape() as tape:
        values, counts = np.unique(x, return_counts=True)
        total = dg.sum(values * dg.astype(counts, "float64"))
    assert values.numpy().tolist() == [0.5, 1.0, 2.0, 3.0]
    assert counts.numpy().tolist() == [1, 2, 1, 2]
    assert tape.gradient(total, x).numpy().tolist() == [2.0, 2.0, 0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "arrays"),
    [
        (np.sort, [np.array([1 + 2j, 1 + 1j, -1j])]),
        (np.argsort, [np.array([1 + 2j, 1 + 1j, -1j])]),
        (np.nan_to_num, [np.array([complex(1, np.nan), complex(np.inf, 1)])]),
        (np.frexp, [np.array([5e-324, 3.0, -1e308, 0.0, 8.0, np.nextafter(8.0, 0.0)])]),
        (np.fmod, [np.array([-7, 7, 5]), np.array([3, -3, 2])]),
        (np.fmod, [np.array([-1.0, 5.5]), np.array([np.inf, -2.0])]),
        (np.median, [np.array([1, 2, 4])]),
        (np.polymul, [np.array([0, 0, 1.0]), np.array([0, 2.0, 3])]),
        (np.polydiv, [np.array([1.0, -3.0, 2.0]), np.array([1.0, -1.0])]),
        (np.polyint, [np.array([3, 2, 1])]),
        (np.polyder, [np.array([3, 2, 1])]),
        (np.poly, [np.array([1 + 1j, 1 - 1j])]),
        (np.digitize, [V, np.array([1.0, 0.0, -1.0])]),
        (np.interp, [V, np.array([0.3]), np.array([2.0])]),
        (np.maximum.accumulate, [np.array([1.0, np.nan, 3.0])]),
        (np.nanargmin, [np.array([np.nan, 2.0, 1.0])]),
        (np.argwhere, [A > 0]),
        (np.unique, [np.array([2, 1, 2])]),
    ],
)
def test_values_without_a_derivative_to_check_are_numpys_too(call, arrays):
    given, expected = flat(call(*map(dg.asarray, arrays))), flat(call(*arrays))

    for one, other in zip(given, expected, strict=True):
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)


def test_eigenvalues_are_real_where_numpys_are_and_complex_in_a_trace():
    real, turning = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])
    for matrix in (real, turning):
        expected = np.linalg.eig(matrix)
        given = np.linalg.eig(dg.asarray(matrix))
        assert given.eigenvalues.dtype == expected.eigenvalues.dtype
        assert given.eigenvectors.dtype == expected.eigenvectors.dtype
        assert np.linalg.eigvals(dg.asarray(matrix)).dtype == expected.eigenvalues.dtype
    assert dg.function(np.linalg.eigvals)(dg.asarray(real)).dtype == np.complex128


def test_all_nan_has_no_least_element():
    x = dg.asarray(np.array([np.nan, np.nan]))
    with pytest.raises(ValueError, match="All-NaN slice"):
        np.nanargmin(x)
    assert dg.function(np.nanargmin)(x).item() == -1
    assert np.isnan(np.nanmedian(x).item())


def test_a_spacing_or_a_filling_that_is_watched_is_not_cut_without_a_word():
    h, c = dg.Variable(0.5), dg.Variable([[1.0, 2.0]])
    with dg.GradientTape() as tape:
        total = np.sum(np.gradient(dg.asarray([0.0, 1.0, 4.0]), h))
        total = total + np.sum(np.pad(dg.asarray([0.0]), 1, constant_values=c))
    by_spacing, by_filling = tape.gradient(total, [h, c])
    assert by_spacing.item() == pytest.approx(-24.0)
    assert by_filling.numpy().tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float64", 1e-13)])
def test_slopes_of_sinc_are_precise_near_its_centre(dtype, rtol):
    x = dg.asarray(np.array([-1e-3, 0.0, 1e-20, 1e-8, 1e-5, 0.02], dtype))
    first = dg.grad(lambda x: np.sum(np.sinc(x)))
    second = dg.grad(lambda x: np.sum(first(x)))

    # The series of sin(z) / z, differentiated twice.
    z = np.pi * x.numpy().astype("float64")
    slope = np.pi * z * (-1 / 3 + z**2 / 30 - z**4 / 840 + z**6 / 45360)
    curvature = np.pi**2 * (-1 / 3 + z**2 / 10 - z**4 / 168 + z**6 / 6480)
    np.testing.assert_allclose(first(x).numpy(), slope, rtol=rtol)
    np.testing.assert_allclose(second(x).numpy(), curvature, rtol=rtol)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_a_convolution_and_its_gradient_take_memory_by_the_sum_of_the_lengths(mode):
    signal, response = np.sin(np.arange(4000.0)), np.cos(np.arange(1000.0))

    tracemalloc.start()
    dg.grad(lambda x, k: np.sum(np.convolve(x, k, mode) ** 2), (0, 1))(signal, response)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # 100 rows of 5000 numbers; their product would be 800.
    assert peak < 100 * 5000 * 8


@pytest.mark.parametrize("of", [np.convolve, np.correlate])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "complex64"])
def test_sliding_sums_have_numpys_dtype(of, dtype):
    a, v = np.array([1, 0, 1, 2]).astype(dtype), np.array([1, 1, 3]).astype(dtype)

    found = of(dg.asarray(a), dg.asarray(v), "same")

    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), of(a, v, "same"))
