"""Derivatives of derivatives: nested tapes, persistent tapes, and mixtures of both."""

import itertools

import numpy as np
import pytest

import distgrad as dg

PERSISTENT = [False, True]


def derivatives(function, x, order):
    """Return a function's value and derivatives at x, by tapes nested as deep as the order."""
    if order == 0:
        return [function(x)]
    with dg.GradientTape() as tape:
        values = derivatives(function, x, order - 1)
    return [*values, tape.gradient(values[-1], x)]


# --- nested tapes ---------------------------------------------------------------------------------


def test_tapes_nest_to_any_order():
    x = dg.Variable(np.float64(0.7))
    values = derivatives(lambda v: dg.sin(v * v), x, 4)

    s, c, t = np.sin(0.49), np.cos(0.49), 0.7
    expected = [
        s,
        2 * t * c,
        2 * c - 4 * t**2 * s,
        -12 * t * s - 8 * t**3 * c,
        -12 * s - 48 * t**2 * c + 16 * t**4 * s,
    ]
    np.testing.assert_allclose([float(v) for v in values], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: (x + 0.0) * (x + 0.0) * (x + 0.0), 4.2),
        (lambda x: dg.sin(x) * dg.sin(x) * dg.sin(x), None),
    ],
    ids=["cube of a reused value", "cube of a sine"],
)
def test_an_intermediate_value_used_several_times_counts_each_time(function, expected):
    x = dg.Variable(np.float64(0.7))
    second = float(derivatives(function, x, 2)[2])

    if expected is None:
        expected = 6 * np.sin(0.7) * np.cos(0.7) ** 2 - 3 * np.sin(0.7) ** 3
    assert second == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(PERSISTENT, PERSISTENT)))
def test_every_mixture_of_plain_and_persistent_tapes_gives_the_second_derivative(outer, inner):
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=outer) as outside:
        with dg.GradientTape(persistent=inner) as inside:
            y = x * x * x
        first = inside.gradient(y, x)

    assert float(outside.gradient(first, x)) == 18.0


@pytest.mark.parametrize(
    "persistences", list(itertools.product(PERSISTENT, PERSISTENT, PERSISTENT))
)
def test_every_mixture_of_three_tapes_gives_the_third_derivative(persistences):
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=persistences[0]) as outer:
        with dg.GradientTape(persistent=persistences[1]) as middle:
            with dg.GradientTape(persistent=persistences[2]) as inner:
                y = x**5
            first = inner.gradient(y, x)
        second = middle.gradient(first, x)

    assert float(first) == 405.0
    assert float(second) == 540.0
    assert float(outer.gradient(second, x)) == 540.0


def test_the_gradient_of_a_function_of_a_gradient():
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = dg.sum(x * x * x)
        slope = inner.gradient(y, x)
        penalty = dg.sum(slope * slope)  # sum of 9 x^4

    np.testing.assert_allclose(outer.gradient(penalty, x).numpy(), 36 * np.array([1.0, 8.0, 27.0]))


def test_a_gradient_penalty_reaches_the_parameters_of_the_model():
    # The slope of the model in its input is w1 w2 (1 - tanh(w1 x)^2); its square is a loss.
    x, w1, w2 = (np.float64(v) for v in (0.3, 0.8, -1.1))
    first, second = dg.Variable(w1), dg.Variable(w2)
    point = dg.asarray(x)
    with dg.GradientTape() as outer:
        with dg.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(point)
            output = second * dg.tanh(first * point)
        slope = inner.gradient(output, point)
        loss = slope * slope
    to_first, to_second = outer.gradient(loss, [first, second])

    def penalty(a, b):
        return (a * b * (1 - np.tanh(a * x) ** 2)) ** 2

    step = 1e-6
    by_difference = (penalty(w1 + step, w2) - penalty(w1 - step, w2)) / (2 * step)
    assert float(to_first) == pytest.approx(by_difference, rel=1e-8)
    assert float(to_second) == pytest.approx(2 * penalty(w1, w2) / w2, rel=1e-12)


def test_the_inner_gradient_is_recorded_on_every_tape_around_it():
    x = dg.Variable(3.0)
    with dg.GradientTape() as first, dg.GradientTape() as second:
        with dg.GradientTape() as inner:
            y = x * x * x
        slope = inner.gradient(y, x)

    assert float(first.gradient(slope, x)) == 18.0
    assert float(second.gradient(slope, x)) == 18.0


def test_an_outer_tape_differentiates_with_respect_to_what_the_inner_one_does_not_watch():
    x, w = dg.asarray(3.0), dg.asarray(2.0)
    with dg.GradientTape() as outer:
        outer.watch(w)
        with dg.GradientTape() as inner:
            inner.watch(x)
            y = w * w * x * x
        slope = inner.gradient(y, x)  # 2 w^2 x

    assert float(outer.gradient(slope, w)) == 24.0


def test_mixed_partial_derivatives_agree_in_either_order():
    x, y = dg.Variable(np.float64(0.4)), dg.Variable(np.float64(1.3))

    def mixed(first, then):
        with dg.GradientTape() as outer:
            with dg.GradientTape() as inner:
                z = dg.sin(x * y) * dg.exp(x)
            slope = inner.gradient(z, first)
        return float(outer.gradient(slope, then))

    assert mixed(x, y) == pytest.approx(mixed(y, x), rel=1e-12)


# --- one persistent tape --------------------------------------------------------------------------


def test_one_persistent_tape_gives_any_order_after_its_block():
    x = dg.Variable(np.float64(0.7))
    with dg.GradientTape(persistent=True) as tape:
        value = dg.sin(x)
    found = []
    for _ in range(5):
        value = tape.gradient(value, x)
        found.append(float(value))

    s, c = np.sin(0.7), np.cos(0.7)
    np.testing.assert_allclose(found, [c, -s, -c, s, c], rtol=1e-12)


def test_one_persistent_tape_gives_any_order_inside_its_block():
    x = dg.Variable(np.float64(0.7))
    with dg.GradientTape(persistent=True) as tape:
        first = tape.gradient(dg.exp(2.0 * x), x)
        second = tape.gradient(first, x)
        product = second * x
        third = tape.gradient(product, x)

    e = np.exp(1.4)
    np.testing.assert_allclose(
        [float(first), float(second), float(third)], [2 * e, 4 * e, 4 * e + 8 * 0.7 * e], rtol=1e-12
    )


def test_a_hessian_comes_from_one_persistent_tape_row_by_row():
    matrix = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 4.0]])
    x = dg.Variable(np.array([0.3, -0.2, 0.9]))
    with dg.GradientTape(persistent=True) as tape:
        y = 0.5 * dg.sum(x * (matrix @ x)) + dg.sum(dg.sin(x))
        slope = tape.gradient(y, x)
        parts = [slope[i] for i in range(3)]
    rows = [tape.gradient(part, x).numpy() for part in parts]

    expected = matrix + np.diag(-np.sin(x.numpy()))
    np.testing.assert_allclose(rows, expected, rtol=1e-12)


def test_a_gradient_taken_after_the_block_can_be_weighed_with_output_gradients():
    # The Hessian times a vector: the gradient of the gradient with the vector as its cotangent.
    x = dg.Variable(np.array([0.3, -0.2, 0.9]))
    vector = np.array([1.0, 2.0, -1.0])
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(x * x * x) + x[0] * x[1]
    slope = tape.gradient(y, x)
    product = tape.gradient(slope, x, output_gradients=vector)

    hessian = np.diag(6 * x.numpy())
    hessian[0, 1] += 1
    hessian[1, 0] += 1
    np.testing.assert_allclose(product.numpy(), hessian @ vector, rtol=1e-12)


@pytest.mark.parametrize("where", ["inside", "after"])
def test_a_gradient_is_linear_in_the_output_gradients_it_was_given(where):
    # So its derivative in a watched cotangent v is the derivative of the target itself.
    x = dg.Variable(np.array([0.3, -0.2, 0.9]))
    v = dg.Variable(np.array([1.0, 2.0, -1.0]))
    with dg.GradientTape(persistent=True) as tape:
        y = x * x * x
        weights = 2.0 * v
        if where == "inside":
            slope = tape.gradient(y, x, output_gradients=weights)
    if where == "after":
        slope = tape.gradient(y, x, output_gradients=weights)
    to_v, to_weights, to_x = tape.gradient(slope, [v, weights, x])

    np.testing.assert_allclose(to_weights.numpy(), 3 * x.numpy() ** 2, rtol=1e-12)
    np.testing.assert_allclose(to_v.numpy(), 6 * x.numpy() ** 2, rtol=1e-12)
    np.testing.assert_allclose(to_x.numpy(), 6 * x.numpy() * 2 * v.numpy(), rtol=1e-12)


def test_a_variable_given_as_output_gradient_is_differentiated_if_the_tape_watches_it():
    x = dg.Variable(np.array([0.3, -0.2, 0.9]))
    v = dg.Variable(np.array([1.0, 2.0, -1.0]))
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(v)
        y = x * x
    slope = tape.gradient([y, y], x, output_gradients=[v, v])

    np.testing.assert_allclose(tape.gradient(slope, v).numpy(), 4 * x.numpy(), rtol=1e-12)


def test_several_gradients_of_one_call_are_differentiated_together():
    x, y = dg.Variable(np.float64(2.0)), dg.Variable(np.float64(3.0))
    with dg.GradientTape(persistent=True) as tape:
        z = x**2 * y**3
        to_x, to_y = tape.gradient(z, [x, y])
        mixture = to_x * to_y  # 6 x^3 y^5
    second = tape.gradient(mixture, [x, y])

    np.testing.assert_allclose([float(g) for g in second], [18 * 4 * 243, 30 * 8 * 81], rtol=1e-12)


def test_one_of_several_gradients_can_be_differentiated_alone():
    x, y = dg.Variable(np.float64(2.0)), dg.Variable(np.float64(3.0))
    with dg.GradientTape(persistent=True) as tape:
        z = x**2 * y**3
    to_x, to_y = tape.gradient(z, [x, y])

    assert float(tape.gradient(to_x, y)) == pytest.approx(2 * 2 * 3 * 9)
    assert float(tape.gradient(to_y, y)) == pytest.approx(4 * 6 * 3)
    assert float(tape.gradient([to_x, to_y], x)) == pytest.approx(2 * 27 + 2 * 2 * 3 * 9)


def test_gradients_that_are_the_same_value_all_count():
    x, y = dg.Variable(np.float64(2.0)), dg.Variable(np.float64(3.0))
    with dg.GradientTape(persistent=True) as tape:
        z = (x + y) ** 2
    to_x, to_y, again = tape.gradient(z, [x, y, x])  # 2 (x + y), each of them
    second = tape.gradient([to_x, to_y, again], x, output_gradients=[1.0, 10.0, 100.0])

    assert float(second) == 2 * 111.0


def test_a_gradient_with_respect_to_an_intermediate_value_is_differentiable():
    x = dg.Variable(np.float64(2.0))
    with dg.GradientTape(persistent=True) as tape:
        y = x * x
        z = y * y * y
    to_y = tape.gradient(z, y)  # 3 y^2 = 3 x^4

    assert float(tape.gradient(to_y, y)) == pytest.approx(24.0)
    assert float(tape.gradient(to_y, x)) == pytest.approx(12 * 8.0)


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_a_gradient_that_does_not_depend_on_the_source_is_unconnected():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = 4.0 * x
    first = tape.gradient(y, x)

    assert float(first) == 4.0
    assert tape.gradient(first, x) is None
    assert float(tape.gradient(first, x, unconnected_gradients="zero")) == 0.0


def test_second_derivatives_in_a_persistent_tape_see_the_values_of_their_time():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x * x
    x.assign(100.0)
    first = tape.gradient(y, x)

    assert float(first) == 27.0
    assert float(tape.gradient(first, x)) == 18.0


def test_an_outer_tape_hears_the_second_derivative_of_a_persistent_inner_one():
    x = dg.Variable(3.0)
    with dg.GradientTape() as outer:
        with dg.GradientTape(persistent=True) as inner:
            y = x**4
        first = inner.gradient(y, x)
        second = inner.gradient(first, x)

    assert float(second) == 108.0
    assert float(outer.gradient(second, x)) == 72.0


def test_a_rule_of_the_users_own_is_differentiated_through_all_that_it_holds():
    @dg.custom_gradient
    def cube(x):
        shifted = x + 1.0  # nothing of this is kept by the tape: only the rule below holds it
        return dg.stop_gradient(
            x * x * x
        ), lambda upstream: upstream * 3.0 * (shifted - 1.0) * (shifted - 1.0)

    x = dg.Variable(np.float64(2.0))
    with dg.GradientTape(persistent=True) as tape:
        y = cube(x) * x
    first = tape.gradient(y, x)

    assert float(first) == 4 * 8.0
    assert float(tape.gradient(first, x)) == 12 * 4.0


@pytest.mark.parametrize("persistent", PERSISTENT)
def test_second_derivatives_of_broadcast_and_reduced_values(persistent):
    x = dg.Variable(np.array([[0.3, -0.2, 0.9]]))
    w = dg.Variable(np.array([[1.5], [0.5], [-1.0], [2.0]]))
    with dg.GradientTape(persistent=True) as outer:
        with dg.GradientTape(persistent=persistent) as inner:
            y = dg.sum(dg.exp(x * w), axis=0)
        slope = inner.gradient(y, w)
        total = dg.sum(slope * slope)
    gradient = outer.gradient(total, x).numpy()

    def value(at):
        return np.sum(np.sum(at * np.exp(at * w.numpy()), axis=1) ** 2)

    by_difference = np.empty_like(gradient)
    for j in range(3):
        step = np.zeros((1, 3))
        step[0, j] = 1e-6
        by_difference[0, j] = (value(x.numpy() + step) - value(x.numpy() - step)) / 2e-6
    np.testing.assert_allclose(gradient, by_difference, rtol=1e-7)
