"""Powers by small whole numbers: products, for arrays and in C++."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import powers
from distgrad.backend.scalar_code import forward
from distgrad.ops import VOCABULARY

EXPONENTS = [-4, -3, -2, -1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [*EXPONENTS, 3.0, -2.0])
def test_products_are_powers(exponent, dtype):
    x = np.random.default_rng(3).uniform(-3, 3, 5000).astype(dtype)
    x[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]

    with np.errstate(all="ignore"):
        found = (dg.asarray(x) ** exponent).numpy()
        exact = x.astype(np.longdouble) ** exponent
        expected = np.power(x, exponent)

    assert found.dtype == dtype
    assert np.array_equal(found[:6], expected[:6], equal_nan=True)
    assert np.array_equal(np.signbit(found[:4]), np.signbit(expected[:4]))
    units = np.abs(found[6:] - exact[6:]) / np.spacing(np.abs(expected[6:]))
    assert units.max() <= abs(exponent) + 1


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_traced_powers_have_the_bits_of_eager_ones(exponent):
    x = dg.asarray(np.random.default_rng(4).uniform(-3, 3, 5000))
    f = dg.function(lambda x: (x**exponent) * 3.0)

    assert np.array_equal(f(x).numpy(), ((x**exponent) * 3.0).numpy())


@pytest.mark.parametrize("exponent", [0, 1, 9, -5, 2.5, True, np.nan, np.inf, np.float64(3), "3"])
def test_other_powers_are_no_products(exponent):
    assert not powers.is_product(exponent)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_code_of_powers_has_no_function(exponent):
    formula = forward(VOCABULARY["pow"], VOCABULARY, [np.dtype(np.float32), exponent], {})

    assert "pow" not in formula.body


@pytest.mark.parametrize("exponent", [-3, 3, 4, 8])
def test_derivatives_of_powers(exponent):
    x = np.array([[0.7, -1.3], [2.0, -0.4]])

    dg.testing.check_gradients(lambda x: x**exponent, [x], order=2)


def test_powers_of_halves_and_integers_are_those_of_numpy():
    x = np.linspace(-2, 2, 50)
    for dtype in ("float16", "int32"):
        own = x.astype(dtype)
        assert np.array_equal((dg.asarray(own) ** 3).numpy(), own**3)
