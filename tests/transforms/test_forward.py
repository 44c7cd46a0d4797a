"""Forward mode: tangents of values, in every order of nesting with tapes and other accumulators."""

import gc
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError, UnconnectedError


def test_a_tangent_is_the_derivative_in_a_direction():
    x = dg.Variable([1.0, 2.0, 3.0], dtype="float64")
    with dg.ForwardAccumulator(x, [1.0, 0.0, -1.0]) as accumulator:
        y = dg.sum(x**3)

    assert float(accumulator.jvp(y)) == pytest.approx(3 * 1 - 3 * 9)


def test_nested_accumulators_are_right_where_an_intermediate_is_used_twice():
    # TensorFlow 2.21 gives 2.4 here.
    x = dg.Variable(0.7, dtype="float64")
    with dg.ForwardAccumulator(x, 1.0) as outer:
        with dg.ForwardAccumulator(x, 1.0) as inner:
            m = dg.positive(x)
            y = (m * m) * m
        first = inner.jvp(y)

    assert float(outer.jvp(first)) == pytest.approx(4.2)


def test_an_inner_accumulator_does_not_see_the_tangents_of_an_outer_one():
    x = dg.Variable(0.7)
    with dg.ForwardAccumulator(x, 1.0) as outer, dg.ForwardAccumulator(x, 1.0) as inner:
        y = x**3

    assert inner.jvp(outer.jvp(y)) is None


SIN_CUBED_TWICE = 6 * np.sin(0.7) * np.cos(0.7) ** 2 - 3 * np.sin(0.7) ** 3


def test_reverse_over_forward():
    x = dg.Variable(0.7, dtype="float64")
    with dg.GradientTape() as tape:
        with dg.ForwardAccumulator(x, 1.0) as accumulator:
            y = dg.sin(x) ** 3
        first = accumulator.jvp(y)

    assert float(tape.gradient(first, x)) == pytest.approx(SIN_CUBED_TWICE)


def test_forward_over_reverse():
    x = dg.Variable(0.7, dtype="float64")
    with dg.ForwardAccumulator(x, 1.0) as accumulator:
        with dg.GradientTape() as tape:
            y = dg.sin(x) ** 3
        first = tape.gradient(y, x)

    assert float(accumulator.jvp(first)) == pytest.approx(SIN_CUBED_TWICE)


def test_third_order_through_two_accumulators_and_a_tape():
    x = dg.Variable(0.7, dtype="float64")
    with dg.ForwardAccumulator(x, 1.0) as outer:
        with dg.ForwardAccumulator(x, 1.0) as inner:
            with dg.GradientTape() as tape:
                y = x**4
            first = tape.gradient(y, x)
        second = inner.jvp(first)

    assert float(outer.jvp(second)) == pytest.approx(24 * 0.7)


def test_a_tangent_stays_with_a_variable_that_is_assigned():
    x = dg.Variable(2.0)
    with dg.ForwardAccumulator(x, 1.0) as accumulator:
        x.assign(5.0)
        y = x * x

    assert float(accumulator.jvp(y)) == 10.0


def test_tangents_die_with_their_values_by_reference_counting():
    gc.disable()
    try:
        x = dg.Variable(np.ones(5))
        with dg.ForwardAccumulator(x, np.ones(5)) as accumulator:
            y = dg.sin(x)
            tangent = weakref.ref(accumulator.jvp(y).array)
            held = tangent() is not None
            del y
        gone = tangent() is None
    finally:
        gc.enable()

    assert held
    assert gone


def test_unconnected_values_follow_the_policy():
    x, other = dg.Variable(1.0), dg.Variable([1.0, 2.0])
    with dg.ForwardAccumulator(x, 1.0) as accumulator:
        y = other * 2

    assert accumulator.jvp(y) is None
    np.testing.assert_array_equal(accumulator.jvp(y, "zero").numpy(), [0, 0])
    with pytest.raises(UnconnectedError, match="does not depend on the primals"):
        accumulator.jvp(y, "error")
    with pytest.raises(ValueError, match="Unknown value for unconnected_gradients: 'nonsense'"):
        accumulator.jvp(y, "nonsense")


def test_the_tangent_has_the_structure_of_the_target():
    x = dg.Variable(2.0)
    with dg.ForwardAccumulator(x, 1.0) as accumulator:
        values = {"a": x * x, "b": [x * 3, None]}

    tangents = accumulator.jvp(values)

    assert float(tangents["a"]) == 4.0
    assert float(tangents["b"][0]) == 3.0
    assert tangents["b"][1] is None


@pytest.mark.parametrize(
    ("primals", "tangents", "error", "message"),
    [
        ("twice", [1.0, 1.0], ValueError, "multiple times"),
        ("one", [1.0, 2.0], ShapeError, r"shape \(2,\), its primal \(\)"),
        ("nest", [1.0], ValueError, "same nested structure"),
        ("float", 1.0, TypeError, "expected a Tensor or a Variable"),
    ],
)
def test_wrong_primals_and_tangents_are_refused(primals, tangents, error, message):
    x, y = dg.Variable(1.0), dg.Variable(2.0)
    given = {"twice": [x, x], "one": x, "nest": [x, y], "float": 1.0}[primals]

    with pytest.raises(error, match=message):
        dg.ForwardAccumulator(given, tangents)


def test_entering_an_active_accumulator_is_refused():
    x = dg.Variable(1.0)
    accumulator = dg.ForwardAccumulator(x, 1.0)
    with accumulator, pytest.raises(ValueError, match="already recording"):
        accumulator.__enter__()
    with accumulator:
        y = x * 2

    assert float(accumulator.jvp(y)) == 2.0


def test_a_primal_of_integers_warns_and_has_no_tangent():
    n = dg.asarray([1, 2])
    with pytest.warns(UserWarning, match="primal 0 has dtype int64; expected a floating dtype"):
        accumulator = dg.ForwardAccumulator(n, n)
    with accumulator:
        y = n * 2

    assert accumulator.jvp(y) is None


@pytest.mark.parametrize("name", ["primals", "tangents"])
def test_none_is_no_nest_of_primals_or_tangents(name):
    given = {"primals": dg.asarray(1.0), "tangents": 1.0, name: None}

    with pytest.raises(TypeError, match=f"ForwardAccumulator: {name} is None; expected"):
        dg.ForwardAccumulator(**given)


def test_integers_that_a_traced_function_returns_have_no_tangent():
    ordered = dg.function(lambda x: (2.0 * x, dg.argsort(x)))
    table = dg.asarray([10.0, 20.0, 30.0])
    x = dg.asarray([0.5, -1.0, 2.0])

    def picked(x):
        doubled, places = ordered(x)
        return table[places] * doubled

    tangent = dg.jvp(picked, (x,), (dg.ones(3),))[1]

    np.testing.assert_array_equal(tangent.numpy(), [40.0, 20.0, 60.0])
