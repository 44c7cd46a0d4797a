"""Gamma numbers and their kin move with their parameters as their quantiles do."""

import numpy as np
import pytest
import scipy.special

import distgrad as dg
from distgrad.backend import incomplete_gamma
from distgrad.errors import ShapeError
from distgrad.random import Generator
from distgrad.testing import check_gradients
from distgrad.testing.gradients import difference

SIZE = 20_000
SHAPES = np.array([0.03, 0.3, 0.999, 1.0, 1.7, 6.0, 150.0, 4e4])


def slope_of(draw, parameter):
    """Return what a draw gives, and the gradient of the sum of it."""
    with dg.GradientTape() as tape:
        tape.watch(parameter)
        y = draw(parameter)
    return y.numpy(), tape.gradient(y, parameter).numpy()


@pytest.mark.parametrize("wrap", [lambda f: f, dg.function], ids=["eager", "traced"])
def test_the_slope_of_a_number_is_that_of_its_quantile(wrap):
    shapes = np.tile(SHAPES, 20)

    numbers, slopes = slope_of(wrap(lambda a: Generator(7).gamma(a)), dg.asarray(shapes))
    quantiles = scipy.special.gammainc(shapes, numbers)
    step = 1e-3 * shapes
    moved = difference(lambda h: scipy.special.gammaincinv(shapes + h * step, quantiles), 1.0)

    tested = (numbers > 1e-290) & (quantiles < 0.999)  # beyond, SciPy's inverse has few digits
    assert tested.mean() > 0.9
    np.testing.assert_allclose(slopes[tested], (moved / step)[tested], rtol=2e-5)


def test_watching_changes_no_number_and_one_that_is_too_small_has_slope_0():
    shapes = dg.asarray([1e-5, 2.5], dtype="float64")

    numbers, slopes = slope_of(lambda a: Generator(1).gamma(a), shapes)

    assert np.array_equal(numbers, Generator(1).gamma([1e-5, 2.5], dtype="float64").numpy())
    assert numbers[0] == slopes[0] == 0
    assert slopes[1] > 0.5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_integrals_agree_with_differences_of_the_distribution_function(order):
    a = np.repeat([0.4, 1.0, 3.5, 20.0], 5)
    x = scipy.special.gammaincinv(a, np.tile([1e-4, 0.2, 0.5, 0.8, 0.9999], 4))
    density = np.exp((a - 1) * np.log(x) - x - scipy.special.gammaln(a))
    # Of the order before: for 1 the distribution function itself.
    lower = (
        (lambda h: -scipy.special.gammainc(a + h, x))
        if order == 1
        else (lambda h: incomplete_gamma.ratio(order - 1, a + h, x) * density_at(a + h, x))
    )

    found = incomplete_gamma.ratio(order, a, x)

    np.testing.assert_allclose(found * density, difference(lower, 1e-3), rtol=1e-8, atol=1e-9)


def density_at(a, x):
    return np.exp((a - 1) * np.log(x) - x - scipy.special.gammaln(a))


def test_integrals_outside_of_the_distribution_are_0_or_nan():
    a = np.array([2.0, 0.5, -1.0, np.nan, 2.0, 2.0])
    x = np.array([0.0, 0.0, 1.0, 1.0, np.inf, -1.0])

    assert np.array_equal(
        incomplete_gamma.ratio(1, a, x), [0, 0, np.nan, np.nan, np.nan, np.nan], equal_nan=True
    )


# What is drawn, a function of it, and how its expectation moves with the parameter.
EXPECTATIONS = {
    "mean of gamma": (lambda g, a, n: g.gamma(a, n), 1.0),
    "logarithm of gamma": (
        lambda g, a, n: dg.log(g.gamma(a, n)),
        lambda a: scipy.special.polygamma(1, a),
    ),
    "mean of chi_square": (lambda g, a, n: g.chi_square(a, n), 1.0),
    "square of student_t": (
        lambda g, a, n: g.student_t(a + 8, n) ** 2,
        lambda a: -2 / (a + 6) ** 2,
    ),
    "mean of beta": (lambda g, a, n: g.beta(a, 2.0, n), lambda a: 2 / (a + 2) ** 2),
    "second parameter of beta": (lambda g, a, n: g.beta(2.0, a, n), lambda a: -2 / (a + 2) ** 2),
    "logarithm of beta": (
        lambda g, a, n: dg.log(g.beta(a, 2.0, n)),
        lambda a: scipy.special.polygamma(1, a) - scipy.special.polygamma(1, a + 2),
    ),
    "mean of dirichlet": (
        lambda g, a, n: g.dirichlet(dg.stack([a, a * 0 + 1, a * 0 + 2]), n)[:, 0],
        lambda a: 3 / (a + 3) ** 2,
    ),
}


@pytest.mark.parametrize("a", [0.4, 3.0])
@pytest.mark.parametrize("name", EXPECTATIONS)
def test_expectations_move_as_they_should(name, a):
    draw, expected = EXPECTATIONS[name]
    expected = expected(a) if callable(expected) else expected
    point = dg.asarray(a, dtype="float64")

    with dg.ForwardAccumulator(point, dg.ones_like(point)) as pushed:
        y = draw(Generator(11), point, SIZE)
    slopes = pushed.jvp(y).numpy()

    deviation = slopes.std() / np.sqrt(SIZE)
    assert abs(slopes.mean() - expected) < 4.5 * deviation


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_both_modes_and_second_orders_agree_with_each_other(name):
    # A number that is drawn anew for another parameter may jump, where another try is taken; what a
    # gradient follows is the quantile. So orders are compared with each other, not by differences.
    draw, _ = EXPECTATIONS[name]
    a = dg.asarray(1.6, dtype="float64")

    def f(a):
        return dg.sum(draw(Generator(3), a, 20))

    reverse, forward = dg.grad(f)(a), dg.jvp(f, (a,), (dg.ones_like(a),))[1]
    both = dg.jvp(dg.grad(f), (a,), (dg.ones_like(a),))[1]

    np.testing.assert_allclose(reverse.numpy(), forward.numpy(), rtol=1e-12)
    np.testing.assert_allclose(dg.grad(dg.grad(f))(a).numpy(), both.numpy(), rtol=1e-10)


def test_the_second_derivative_is_that_of_the_quantile():
    number = Generator(3).gamma(dg.asarray(1.6, dtype="float64"))
    a = dg.asarray(1.6, dtype="float64")
    quantile = dg.asarray(scipy.special.gammainc(1.6, number.numpy()))

    found = dg.grad(dg.grad(lambda a: Generator(3).gamma(a)))(a)

    expected = difference(lambda h: dg.grad(dg.special.gammaincinv)(a + h, quantile).numpy(), 1e-3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


def test_small_concentrations_leave_probabilities_and_their_slopes_finite():
    a = dg.asarray(np.full((50, 3), 1e-3, np.float32))

    for draw in (lambda a: Generator(2).dirichlet(a), lambda a: Generator(2).beta(a, a)):
        numbers, slopes = slope_of(draw, a)

        assert numbers.dtype == slopes.dtype == np.float32
        assert np.isfinite(numbers).all()
        assert np.isfinite(slopes).all()
    np.testing.assert_allclose(Generator(2).dirichlet(a).numpy().sum(-1), 1, rtol=1e-6)


def test_mapped_draws_have_their_own_slopes():
    a = dg.asarray([0.4, 2.0, 9.0], dtype="float64")

    def slope(place, a):
        return dg.grad(lambda a: Generator(3).fold_in(place).gamma(a))(a)

    mapped = dg.vmap(slope)(dg.arange(3), a).numpy()

    np.testing.assert_allclose(mapped, [slope(i, a[i]).numpy() for i in range(3)], rtol=1e-12)


def test_the_incomplete_integrals_are_differentiated_in_their_shape():
    a, x = (
        dg.asarray([0.5, 2.0, 7.0], dtype="float64"),
        dg.asarray([0.6, 1.5, 9.0], dtype="float64"),
    )

    for function in (dg.special.gammainc, dg.special.gammaincc):
        check_gradients(function, [a, x])
    for function in (dg.special.gammaincinv, dg.special.gammainccinv):
        check_gradients(function, [a, dg.asarray([0.3, 0.5, 0.7], dtype="float64")])


def test_a_probability_of_no_classes_is_refused():
    with pytest.raises(ShapeError, match="dirichlet: the concentration has no axis"):
        Generator(0).dirichlet(2.0)
