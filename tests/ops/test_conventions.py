"""What is documented where a derivative is not unique, or numbers reach the edge of their range."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.gradients import check_gradients

INF = float("inf")


def gradient(function, *values, dtype="float64"):
    """Return the gradients of a function's sum, as NumPy arrays; a single one bare."""
    sources = [dg.Variable(value, dtype=dtype) for value in values]
    with dg.GradientTape() as tape:
        y = function(*sources)
    gradients = [g.numpy() for g in tape.gradient(y, sources)]
    return gradients[0] if len(gradients) == 1 else gradients


# --- kinks ---------------------------------------------------------------------------------------


def test_slope_of_abs_at_zero_is_zero():
    np.testing.assert_array_equal(gradient(dg.abs, [0.0, -0.0, -3.0, 2.0]), [0, 0, -1, 1])


def test_slope_of_complex_abs_and_sign_at_zero_is_zero():
    z = dg.Variable([0j, 3 + 4j], dtype="complex128")

    with dg.GradientTape(persistent=True) as tape:
        length, direction = dg.abs(z), dg.sign(z)

    np.testing.assert_allclose(tape.gradient(length, z).numpy(), [0, 0.6 + 0.8j])
    assert tape.gradient(direction, z).numpy()[0] == 0


def test_slope_of_sign_is_zero():
    np.testing.assert_array_equal(gradient(dg.sign, [0.0, -3.0, 2.0]), [0, 0, 0])


def test_slope_of_relu_at_zero_is_zero():
    np.testing.assert_array_equal(gradient(dg.relu, [0.0, -1.0, 1.0]), [0, 0, 1])


@pytest.mark.parametrize("function", [dg.maximum, dg.minimum])
def test_tie_of_maximum_and_minimum_goes_to_the_first(function):
    first, second = gradient(function, [1.0, 2.0], [1.0, 2.0])

    np.testing.assert_array_equal(first, [1, 1])
    np.testing.assert_array_equal(second, [0, 0])


@pytest.mark.parametrize("function", [dg.max, dg.min])
def test_tie_of_max_and_min_is_split_equally(function):
    x = [[2.0, 2.0, 2.0], [1.0, 1.0, 5.0]]
    expected = {dg.max: [[1 / 3] * 3, [0, 0, 1]], dg.min: [[1 / 3] * 3, [0.5, 0.5, 0]]}

    given = gradient(lambda x: function(x, axis=1), x)

    np.testing.assert_allclose(given, expected[function])


def test_bounds_of_clip_are_inclusive():
    given = gradient(lambda x: dg.clip(x, -1.0, 1.0), [-2.0, -1.0, 0.0, 1.0, 2.0])

    np.testing.assert_array_equal(given, [0, 1, 1, 1, 0])


def test_remainder_has_slope_one_and_minus_the_quotient():
    first, second = gradient(dg.remainder, [7.0, -7.0], [3.0, 3.0])

    np.testing.assert_array_equal(first, [1, 1])
    np.testing.assert_array_equal(second, [-2, 3])


@pytest.mark.parametrize(
    "deviation",
    [dg.std, np.std, np.nanstd, lambda x, axis: np.std(x, axis=axis, ddof=1)],
)
def test_slope_of_the_deviation_of_equal_numbers_is_zero(deviation):
    x = np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 6.0]])
    constant, spread = gradient(lambda x: deviation(x, axis=1), x)
    slope = dg.grad(lambda x: dg.sum(deviation(x, axis=1)))

    np.testing.assert_array_equal(constant, 0)
    np.testing.assert_allclose(spread, gradient(lambda x: deviation(x, axis=0), x[1]))
    assert np.isfinite(dg.jvp(slope, (x,), (np.ones_like(x),))[1]).all()


def test_slope_of_the_deviation_of_equal_numbers_is_zero_in_a_traced_function():
    np.testing.assert_array_equal(gradient(dg.function(dg.std), [2.0, 2.0, 2.0]), 0)


def test_deviation_of_nan_is_nan():
    assert np.isnan(dg.std([1.0, np.nan]).numpy())


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_slope_of_a_quotient_by_a_number_zero_is_that_of_an_array_of_zeros(zero):
    x = np.array([2.0, -3.0])
    expected = gradient(lambda x: x / np.full(2, float(zero)), x)

    np.testing.assert_array_equal(gradient(lambda x: x / zero, x), expected)
    np.testing.assert_array_equal(gradient(dg.function(lambda x: x / zero), x), expected)
    np.testing.assert_array_equal(dg.jvp(lambda x: x / zero, (x,), (np.ones(2),))[1], expected)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_slope_of_a_quotient_by_a_complex_zero_is_nan():
    assert np.isnan(gradient(lambda z: z / 0j, [1 + 2j], dtype="complex128")).all()


# --- powers --------------------------------------------------------------------------------------


def test_zero_to_the_power_of_zero_has_finite_derivatives():
    in_base, in_exponent = gradient(dg.pow, [0.0], [0.0])

    np.testing.assert_array_equal(in_base, [0])
    np.testing.assert_array_equal(in_exponent, [0])


def test_power_of_a_negative_base_has_its_derivative_in_the_base_and_none_in_the_exponent():
    in_base, in_exponent = gradient(dg.pow, [-2.0, -2.0, 2.0], [3.0, 2.0, 3.0])

    np.testing.assert_allclose(in_base, [12, -4, 12])
    np.testing.assert_allclose(in_exponent, [0, 0, 8 * np.log(2)])


@pytest.mark.parametrize("base", [-2.0, 0.0, -2, 0])
def test_scalar_base_without_logarithm_gives_the_exponent_no_slope(base):
    np.testing.assert_array_equal(gradient(lambda x: base**x, [2.0, 3.0]), [0, 0])


def test_power_of_a_negative_base_with_a_complex_exponent_has_a_derivative():
    base = dg.asarray([-2.0, 1.5], dtype="float64")
    exponent = dg.asarray([0.5 + 0.3j, 1.2 - 0.4j], dtype="complex128")

    check_gradients(dg.pow, [base, exponent])
    check_gradients(lambda x: dg.pow(-2.0 + 0j, x), [exponent])


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1.5])
def test_power_with_a_scalar_exponent_to_second_order(exponent):
    check_gradients(lambda x: x**exponent, [dg.asarray([0.7, 1.3, 2.1], dtype="float64")])


def test_the_hessian_of_a_power_is_symmetric_where_the_exponent_is_zero():
    hessian = dg.hessian(lambda v: v[0] ** v[1])(dg.asarray([2.0, 0.0], dtype="float64"))

    np.testing.assert_allclose(hessian.numpy(), [[0, 0.5], [0.5, np.log(2) ** 2]], rtol=1e-15)


def test_the_slope_of_a_power_moves_with_an_exponent_at_zero_to_second_order():
    base, exponent = dg.asarray([0.7, 2.0], dtype="float64"), dg.zeros(2, dtype="float64")

    check_gradients(dg.pow, [base, exponent])


@pytest.mark.parametrize("base", [0.0, -1.0, float("nan")])
def test_a_power_of_exponent_zero_is_flat_in_any_base(base):
    first, _ = gradient(dg.pow, [base], [0.0])

    np.testing.assert_array_equal(first, [0])


# --- products with zeros --------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_product_with_zeros_is_right_to_third_order(zeros):
    x = np.array([2.0, 0.5, 3.0, -1.5])
    x[:zeros] = 0

    check_gradients(dg.prod, [dg.asarray(x)], order=3)


# --- infinities and large logits ------------------------------------------------------------------


def test_logsumexp_of_nothing_but_minus_infinity_is_minus_infinity_without_slope():
    x = [[-INF, -INF], [0.0, -INF]]

    value = dg.logsumexp(dg.asarray(x), axis=1).numpy()
    slope = gradient(lambda x: dg.logsumexp(x, axis=1), x)

    np.testing.assert_array_equal(value, [-INF, 0])
    np.testing.assert_array_equal(slope, [[0, 0], [1, 0]])


def test_logsumexp_of_infinity_is_infinity():
    value = dg.logsumexp(dg.asarray([INF, 1000.0, -INF]))

    assert float(value) == INF


def test_logaddexp_of_minus_infinities_has_no_slope():
    first, second = gradient(dg.logaddexp, [-INF, -INF], [-INF, 1.0])

    np.testing.assert_array_equal(first, [0, 0])
    np.testing.assert_array_equal(second, [0, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, 5000])
def test_erf_keeps_the_sign_of_zero(dtype, length):
    y = dg.special.erf(dg.asarray(np.full(length, -0.0, dtype))).numpy()

    assert np.all(y == 0)
    assert np.all(np.signbit(y))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_cross_entropy_of_extreme_logits_neither_overflows_nor_warns(dtype):
    size = 1e4
    logits = dg.Variable([[size, -size, 0.0], [-size, size, -size]], dtype=dtype)
    labels = [1, 1]

    with dg.GradientTape() as tape:
        loss = dg.softmax_cross_entropy(labels=labels, logits=logits)

    np.testing.assert_array_equal(loss.numpy(), np.array([2 * size, 0], dtype))
    expected = [[1, -1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(tape.gradient(loss, logits).numpy(), expected)


def test_cross_entropy_leaves_out_classes_that_are_ruled_out():
    logits = [[-INF, 1.0, 1.0]]

    loss = dg.softmax_cross_entropy(labels=[1], logits=dg.asarray(logits, dtype="float64"))
    slope = gradient(lambda x: dg.softmax_cross_entropy(labels=[1], logits=x), logits)

    np.testing.assert_allclose(loss.numpy(), [np.log(2)])
    np.testing.assert_allclose(slope, [[0, -0.5, 0.5]])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid", "softplus", "tanh"])
def test_functions_of_extreme_arguments_neither_overflow_nor_warn(name):
    x = dg.Variable([1e4, -1e4, 0.0], dtype="float64")

    with dg.GradientTape() as tape:
        y = getattr(dg, name)(x)

    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(tape.gradient(y, x).numpy()).all()


# 3000: by blocks, in place; 3: by its formula.
@pytest.mark.parametrize("repeats", [1, 1000])
@pytest.mark.parametrize(("dtype", "far"), [("float16", -9), ("float32", -80), ("float64", -700)])
@pytest.mark.parametrize("traced", [False, True])
def test_the_sigmoid_is_exact_in_its_tail_and_so_is_its_logarithm(dtype, far, repeats, traced):
    x = dg.asarray([far, far / 2, far / 4] * repeats, dtype=dtype)
    sigmoid = dg.function(dg.sigmoid) if traced else dg.sigmoid

    value, pullback = dg.vjp(sigmoid, x)

    expected = np.exp(x.numpy().astype("float64"))
    expected /= 1 + expected
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(value.numpy(), expected, rtol=tolerance, atol=0)
    slope = pullback(dg.ones_like(x))[0].numpy()
    np.testing.assert_allclose(slope, expected * (1 - expected), rtol=tolerance, atol=0)


@pytest.mark.parametrize("repeats", [1, 10000])
@pytest.mark.parametrize(("dtype", "far"), [("float32", -80), ("float64", -700)])
def test_silu_is_exact_in_its_tail(dtype, far, repeats):
    x = dg.asarray([far, far / 2, far / 4] * repeats, dtype=dtype)

    value, pullback = dg.vjp(dg.nn.silu, x)

    wide = x.numpy().astype("float64")
    sigmoid = np.exp(wide) / (1 + np.exp(wide))
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(value.numpy(), wide * sigmoid, rtol=tolerance, atol=0)
    slope = pullback(dg.ones_like(x))[0].numpy()
    expected = sigmoid * (1 + wide * (1 - sigmoid))
    np.testing.assert_allclose(slope, expected, rtol=tolerance, atol=0)


def test_silu_of_complex_numbers_has_the_derivatives_of_its_two_factors():
    z = dg.asarray([0.3, 1.5 + 0.2j, -2.0 - 0.3j], dtype="complex128")

    def bent(f):
        def height(v):
            return dg.sum(dg.real(f(v) * (1 + 2j)))

        slope = dg.grad(height)
        return slope(z).numpy(), dg.grad(lambda v: dg.sum(dg.real(slope(v) ** 2)))(z).numpy()

    for found, expected in zip(bent(dg.nn.silu), bent(lambda v: v * dg.sigmoid(v)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_sigmoid_cross_entropy_has_slope_half_minus_label_at_zero(label):
    slope = gradient(lambda x: dg.sigmoid_cross_entropy(labels=label, logits=x), [0.0])

    np.testing.assert_allclose(slope, [0.5 - label])


def test_sigmoid_cross_entropy_of_extreme_logits_neither_overflows_nor_warns():
    labels = dg.asarray([1.0, 0.0, 1.0, 0.0], dtype="float64")

    slope = gradient(
        lambda x: dg.sigmoid_cross_entropy(labels=labels, logits=x), [1e4, 1e4, -1e4, -1e4]
    )

    np.testing.assert_allclose(slope, [0, 1, -1, 0])


def test_quotient_by_a_large_number_does_not_overflow_in_its_derivative():
    in_divisor = gradient(lambda x: 1000.0 / x, [1000.0], dtype="float16")

    np.testing.assert_allclose(in_divisor, [-1e-3], rtol=1e-2)


def test_labels_of_a_narrow_dtype_may_name_many_classes():
    labels = dg.asarray(np.array([0, 255], np.uint8))

    hot = dg.one_hot(labels, 300).numpy()

    np.testing.assert_array_equal(hot.sum(axis=1), [1, 1])
    np.testing.assert_array_equal(hot.argmax(axis=1), [0, 255])


# --- nothing at all ------------------------------------------------------------------------------


def test_mean_of_nothing_is_nan_with_an_empty_gradient():
    x = dg.Variable(np.zeros((0, 3)))

    with dg.GradientTape() as tape:
        y = dg.mean(x, axis=0)

    assert np.isnan(y.numpy()).all()
    assert tape.gradient(y, x).shape == (0, 3)


def test_variance_without_a_degree_of_freedom_is_nan():
    assert np.isnan(float(dg.var(dg.asarray([2.0]), correction=1)))
    assert np.isnan(float(dg.var(dg.zeros((0,)))))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_no_examples_or_no_classes_is_empty(name, shape):
    x = dg.Variable(np.zeros(shape))

    with dg.GradientTape() as tape:
        y = getattr(dg, name)(x)

    assert y.shape == shape
    assert tape.gradient(y, x).shape == shape


def test_logsumexp_of_nothing_is_the_logarithm_of_zero():
    x = dg.Variable(np.zeros((3, 0)))

    with dg.GradientTape() as tape:
        y = dg.logsumexp(x, axis=1)

    np.testing.assert_array_equal(y.numpy(), [-INF] * 3)
    assert tape.gradient(y, x).shape == (3, 0)
    assert float(dg.logsumexp(x)) == -INF
    tangent = dg.jvp(lambda x: dg.logsumexp(x, axis=1), [x.value()], [dg.zeros((3, 0))])[1]
    np.testing.assert_array_equal(tangent.numpy(), [0, 0, 0])


def test_logsumexp_of_no_terms_with_factors_has_no_sign():
    value, sign = dg.special.logsumexp(dg.zeros((2, 0)), axis=1, b=dg.ones(0), return_sign=True)

    np.testing.assert_array_equal(value.numpy(), [-INF, -INF])
    np.testing.assert_array_equal(sign.numpy(), [0, 0])


def test_cross_entropy_of_no_classes_is_a_sum_of_no_terms():
    none = dg.zeros((3, 0))

    np.testing.assert_array_equal(
        dg.softmax_cross_entropy(labels=none, logits=none).numpy(), [0, 0, 0]
    )
    labels = dg.zeros((0,), dtype="int64")
    assert dg.softmax_cross_entropy(labels=labels, logits=dg.zeros((0, 0))).shape == (0,)


@pytest.mark.parametrize(
    "rectified",
    [dg.relu, lambda x: dg.nn.linear(x, dg.eye(3), dg.zeros(3), activation="relu")],
    ids=["relu", "linear_relu"],
)
def test_a_rectified_line_is_bent_by_zero_and_not_by_none(rectified):
    x = dg.Variable([[-1.0, 0.5, 2.0]])
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = rectified(x)
        slope = inner.gradient(y, x)

    bend = outer.gradient(slope, x)

    assert bend is not None
    np.testing.assert_array_equal(bend.numpy(), np.zeros((1, 3)))
