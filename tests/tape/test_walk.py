"""The walk itself: contributions add up right on every graph, in every dtype, on every backend."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as dg
from distgrad.core import Keep, Kind, Op, Spec, apply

# --- contributions --------------------------------------------------------------------------------


def test_a_value_used_many_times_collects_every_contribution():
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        y = x * 1.0
        z = dg.sum(y + y + y * y + y)

    assert tape.gradient(z, x).numpy().tolist() == [5.0, 7.0, 9.0]


def test_adding_up_in_place_changes_no_cotangent_that_others_read():
    # add hands one buffer to both inputs; a is used again before it, b is not.
    a, b = dg.Variable([1.0, 2.0]), dg.Variable([3.0, 4.0])
    with dg.GradientTape() as tape:
        y = a + b
        z = dg.sum(y * a + a * a + a * 5.0)
    to_a, to_b, to_y = tape.gradient(z, [a, b, y])

    assert to_a.numpy().tolist() == [12.0, 17.0]  # y + a + 2 a + 5
    assert to_b.numpy().tolist() == [1.0, 2.0]
    assert to_y.numpy().tolist() == [1.0, 2.0]


def test_adding_up_in_place_changes_no_output_gradient_of_the_caller():
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        y = x + x + x + x
    weights = dg.asarray(np.array([1.0, 10.0], "float32"))
    gradient = tape.gradient([y, y], x, output_gradients=[weights, weights])

    assert gradient.numpy().tolist() == [8.0, 80.0]
    assert weights.numpy().tolist() == [1.0, 10.0]


def test_gradients_given_before_are_not_changed_by_a_later_walk():
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape(persistent=True) as tape:
        y = x * x
        z = dg.sum(y + y + y)
    first = tape.gradient(z, [x, y])
    before = [g.numpy() for g in first]
    tape.gradient(z, [x, y])
    tape.gradient(first, x)

    for gradient, values in zip(first, before, strict=True):
        assert gradient.numpy().tolist() == values.tolist()


def test_a_branch_that_does_not_lead_to_a_source_is_not_walked():
    calls = []

    def vjp(xp, g, y, xs, params, needs):
        calls.append(tuple(bool(need) for need in needs))
        return g, g

    def compose(xp, a, b):
        return a + b

    probe = Op("probe", Kind.ELEMENTWISE, lambda a, b: a, vjp, keep=Keep.SHAPES, compose=compose)
    x, w, lost = dg.Variable(1.0), dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        left = apply(probe, x, w)
        right = apply(probe, lost, lost)
        y = apply(probe, left, right)
    gradient = tape.gradient(y, x)

    assert float(gradient) == 1.0
    assert calls == [(True, False), (True, False)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_graphs_have_the_gradients_that_differences_show(data):
    # Every value may be used any number of times, by operations that keep different things.
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    steps = data.draw(
        st.lists(
            st.tuples(st.sampled_from("+-*stm."), st.integers(0, 9), st.integers(0, 9)),
            min_size=1,
            max_size=9,
        ),
        label="steps",
    )
    inputs = [generator.normal(size=shape) for shape in [(3, 4), (4,), (3, 1)]]
    direction = [generator.normal(size=x.shape) for x in inputs]

    def program(values, sin, tanh, maximum, total):
        values = list(values)
        operations = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b * 0.5,
            "s": lambda a, b: sin(a),
            "t": lambda a, b: tanh(b),
            "m": maximum,
            ".": lambda a, b: a * 0.3 + a,
        }
        for kind, i, j in steps:
            values.append(operations[kind](values[i % len(values)], values[j % len(values)]))
        result = values[-1]
        for value in values:  # every branch ends in the result
            result = result + value
        return total(tanh(result))

    variables = [dg.Variable(x) for x in inputs]
    with dg.GradientTape() as tape:
        y = program(variables, dg.sin, dg.tanh, dg.maximum, dg.sum)
    gradients = tape.gradient(y, variables)

    def along(t):
        shifted = [x + t * d for x, d in zip(inputs, direction, strict=True)]
        return program(shifted, np.sin, np.tanh, np.maximum, np.sum)

    assert float(y) == pytest.approx(along(0.0), rel=1e-12)
    # Central differences of order h^2 in float64: 1e-6 leaves about 1e-9 of rounding. At a kink of
    # maximum (equal arguments) the two sides differ; there the mean of the slopes is what it shows.
    by_difference = (along(1e-6) - along(-1e-6)) / 2e-6
    by_tape = sum(np.sum(g.numpy() * d) for g, d in zip(gradients, direction, strict=True))
    assert by_tape == pytest.approx(by_difference, rel=1e-5, abs=1e-6)


# --- operations with several outputs --------------------------------------------------------------


def _double_and_sine_vjp(xp, g, y, xs, params, needs):
    (x,) = xs
    first, second = g
    return (first * 2.0 + second * xp.cos(x),)


DOUBLE_AND_SINE = Op(
    "double_and_sine",
    Kind.OPAQUE,
    lambda x: (x, x),
    _double_and_sine_vjp,
    compose=lambda xp, x: (x * 2.0, xp.sin(x)),
    outputs=2,
)


def test_an_operation_with_several_outputs_collects_all_their_cotangents():
    x = dg.Variable(np.array([0.3, 0.4, 0.5]))
    with dg.GradientTape() as tape:
        double, sine = apply(DOUBLE_AND_SINE, x)
        y = dg.sum(double * sine)

    expected = 2 * np.sin(x.numpy()) + 2 * x.numpy() * np.cos(x.numpy())
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), expected, rtol=1e-12)


def test_an_output_that_is_not_used_counts_as_zero():
    x = dg.Variable(np.array([0.3, 0.4, 0.5]))
    with dg.GradientTape(persistent=True) as tape:
        double, sine = apply(DOUBLE_AND_SINE, x)

    np.testing.assert_allclose(tape.gradient(double, x).numpy(), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(tape.gradient(sine, x).numpy(), np.cos(x.numpy()), rtol=1e-12)
    assert tape.gradient(double, sine) is None


def test_outputs_of_one_operation_can_be_sources():
    x = dg.Variable(np.array([0.3, 0.4, 0.5]))
    with dg.GradientTape() as tape:
        double, sine = apply(DOUBLE_AND_SINE, x)
        y = dg.sum(double * sine)
    to_double, to_sine = tape.gradient(y, [double, sine])

    np.testing.assert_allclose(to_double.numpy(), np.sin(x.numpy()), rtol=1e-12)
    np.testing.assert_allclose(to_sine.numpy(), 2 * x.numpy(), rtol=1e-12)


@pytest.mark.parametrize("persistent", [False, True])
def test_second_derivatives_go_through_an_operation_with_several_outputs(persistent):
    x = dg.Variable(np.array([0.3, 0.4, 0.5]))
    with dg.GradientTape() as outer:
        with dg.GradientTape(persistent=persistent) as inner:
            _, sine = apply(DOUBLE_AND_SINE, x)
        slope = inner.gradient(sine, x)

    np.testing.assert_allclose(outer.gradient(slope, x).numpy(), -np.sin(x.numpy()), rtol=1e-12)


def test_a_vjp_may_say_that_an_input_gets_nothing():
    first_alone = Op(
        "first_alone",
        Kind.ELEMENTWISE,
        lambda a, b: Spec((), a.dtype),
        lambda xp, g, y, xs, params, needs: (g, None),
        keep=Keep.SHAPES,
        compose=lambda xp, a, b: a + b,
    )
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        z = apply(first_alone, x, y)
    gradients = tape.gradient(z, [x, y])

    assert float(gradients[0]) == 1.0
    assert gradients[1] is None


# --- dtypes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_a_gradient_has_the_dtype_of_its_source(dtype):
    x = dg.Variable(np.ones(3), dtype=dtype)
    with dg.GradientTape() as tape:
        y = dg.sum(x * 2.0)

    assert tape.gradient(y, x).dtype == dtype


def test_mixed_precisions_promote_and_each_gradient_comes_back_in_its_own():
    half = dg.Variable(np.full(3, 2.0, "float16"))
    single = dg.Variable(np.full(3, 3.0, "float32"))
    double = dg.Variable(np.full(3, 5.0))
    with dg.GradientTape() as tape:
        y = half * single * double + half
    gradients = tape.gradient(y, [half, single, double])

    assert y.dtype == np.float64
    assert [g.dtype.name for g in gradients] == ["float16", "float32", "float64"]
    assert [float(g[0]) for g in gradients] == [16.0, 10.0, 6.0]


def test_a_real_source_of_a_complex_computation_gets_a_real_gradient():
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape() as tape:
        z = x * np.array([3.0 + 4.0j, 1.0 - 1.0j], "complex64")
        y = dg.sum(dg.real(z * z))  # x^2 Re(c^2)

    gradient = tape.gradient(y, x)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient.numpy(), [2 * 1 * (9 - 16), 0.0], atol=1e-6)


# --- complex numbers ------------------------------------------------------------------------------


def test_the_gradient_of_the_squared_modulus_points_in_the_direction_of_steepest_ascent():
    z = dg.Variable(3.0 + 4.0j)
    with dg.GradientTape() as tape:
        y = dg.real(z * dg.conj(z))

    assert complex(tape.gradient(y, z)) == 6.0 + 8.0j


def test_the_gradient_of_the_modulus_has_length_one():
    z = dg.Variable(3.0 + 4.0j, dtype="complex128")
    with dg.GradientTape() as tape:
        y = dg.abs(z)

    assert complex(tape.gradient(y, z)) == pytest.approx(0.6 + 0.8j)


def test_a_holomorphic_function_gives_the_conjugate_of_its_derivative():
    z = dg.Variable(3.0 + 4.0j)
    with dg.GradientTape() as tape:
        y = z * z

    assert complex(tape.gradient(y, z)) == np.conj(2 * (3.0 + 4.0j))


@pytest.mark.parametrize(
    "loss",
    [
        lambda xp, z, w: xp.real(xp.abs(z) * w),
        lambda xp, z, w: xp.real(xp.real(z) * w * w),
        lambda xp, z, w: xp.imag(xp.imag(z) * w * z),
        lambda xp, z, w: xp.real(xp.abs(z) + w * xp.conj(z) * xp.exp(z)),
        lambda xp, z, w: xp.abs(xp.sin(z) / w),
    ],
    ids=["abs * w", "real * w w", "imag * w z", "abs + w conj exp", "abs sin / w"],
)
def test_complex_gradients_are_the_slopes_along_the_real_and_the_imaginary_axis(loss):
    # A real value within a complex product must not collect an imaginary cotangent.
    at, w = np.complex128(0.6 + 0.8j), np.complex128(1.5 - 0.7j)
    z = dg.Variable(at)
    with dg.GradientTape() as tape:
        y = loss(dg, z, dg.asarray(w))

    h = 1e-6
    slope_x = (loss(np, at + h, w) - loss(np, at - h, w)) / (2 * h)
    slope_y = (loss(np, at + 1j * h, w) - loss(np, at - 1j * h, w)) / (2 * h)
    assert complex(tape.gradient(y, z)) == pytest.approx(slope_x + 1j * slope_y, rel=1e-8)


def test_second_derivatives_of_complex_functions():
    # f = |z|^2 has the gradient 2 z; the sum of its real part's derivatives along z is 2.
    z = dg.Variable(3.0 + 4.0j)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = dg.real(z * dg.conj(z))
        slope = inner.gradient(y, z)
        loss = dg.real(slope * dg.conj(slope))  # 4 |z|^2

    assert complex(outer.gradient(loss, z)) == pytest.approx(8 * (3.0 + 4.0j))


# --- backends -------------------------------------------------------------------------------------


def test_a_tape_walks_the_arrays_of_another_backend(strict):
    x = dg.Variable(np.array([0.3, 0.4, 0.5]), backend=strict)
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(dg.sin(x) * x + dg.maximum(x, 0.4))
    first = tape.gradient(y, x)
    second = tape.gradient(first, x)

    v = np.array([0.3, 0.4, 0.5])
    assert first.backend is strict
    np.testing.assert_allclose(first.numpy(), np.cos(v) * v + np.sin(v) + (v >= 0.4), rtol=1e-12)
    np.testing.assert_allclose(second.numpy(), 2 * np.cos(v) - v * np.sin(v), rtol=1e-12)


def test_the_gradient_crosses_backends_and_comes_back(strict):
    x = dg.Variable(np.array([0.3, 0.4, 0.5]))
    with dg.GradientTape(persistent=True) as tape:
        there = (x * x).to(backend=strict)
        back = dg.sin(there).to(backend="numpy")
        y = dg.sum(back * x)
    to_x, to_there = tape.gradient(y, [x, there])
    second = tape.gradient(to_x, x)

    v = x.numpy()
    assert (there.backend, back.backend.name) == (strict, "numpy")
    assert (to_x.backend.name, to_there.backend) == ("numpy", strict)
    np.testing.assert_allclose(to_x.numpy(), np.sin(v**2) + 2 * v**2 * np.cos(v**2), rtol=1e-12)
    np.testing.assert_allclose(to_there.numpy(), v * np.cos(v**2), rtol=1e-12)
    np.testing.assert_allclose(
        second.numpy(), 6 * v * np.cos(v**2) - 4 * v**3 * np.sin(v**2), rtol=1e-12
    )


def test_complex_numbers_differentiate_twice_on_another_backend(strict):
    z = dg.Variable(np.complex128(3.0 + 4.0j), backend=strict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with dg.GradientTape() as outer:
            with dg.GradientTape() as inner:
                y = dg.imag(z) * dg.imag(z) + dg.real(z * dg.conj(z))
            slope = inner.gradient(y, z)
            loss = dg.real(slope * dg.conj(slope))  # |2 x + 4 i y|^2
        gradient = outer.gradient(loss, z)

    assert complex(slope) == pytest.approx(6.0 + 16.0j)
    assert complex(gradient) == pytest.approx(8 * 3.0 + 32j * 4.0)
