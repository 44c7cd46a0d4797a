"""Orders on NumPy are the stable ones, whichever sort finds them."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.inputs import values
from distgrad_numpy import ordering

LENGTH = ordering._LONG


def lines(kind):
    """Return long lines: of distinct numbers, and with what a sort may confuse."""
    x = np.random.default_rng(0).permutation(3 * LENGTH).astype(np.float64).reshape(3, LENGTH)
    if kind == "equal":
        x[1, 5] = x[1, LENGTH // 2] = x[1, -1]
    if kind == "runs":
        x[:2, ::20] = np.floor(x[:2, ::20] / 500)
    if kind == "zeros":
        x[0, [3, 700, 900]] = 0.0, -0.0, 0.0
    if kind == "nan":
        x[2, [1, 1000]] = np.nan
    if kind == "one nan":
        x[2, 1] = np.nan
    if kind == "infinite":
        x[2, [1, 1000]] = np.inf
    return x


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "kind", ["distinct", "equal", "runs", "zeros", "nan", "one nan", "infinite"]
)
def test_equal_elements_stay_as_they_stand(kind, dtype, descending):
    with np.errstate(over="ignore"):
        x = lines(kind).astype(dtype)
    given = np.flip(x, axis=-1) if descending else x
    expected = np.argsort(given, axis=-1, kind="stable")
    if descending:
        expected = LENGTH - 1 - np.flip(expected, axis=-1)

    order = dg.argsort(dg.asarray(x), descending=descending)

    assert order.dtype == dg.int64
    np.testing.assert_array_equal(order.numpy(), expected)
    across = dg.argsort(dg.asarray(x.T), axis=0, descending=descending)
    np.testing.assert_array_equal(across.numpy(), expected.T)


def test_many_equal_elements_are_left_to_the_stable_sort():
    few, many = lines("equal"), np.floor(lines("distinct") / 9)

    assert ordering._stable_order(few, -1) is not None
    assert ordering._stable_order(many, -1) is None
    order = dg.argsort(dg.asarray(many))
    np.testing.assert_array_equal(order.numpy(), np.argsort(many, axis=-1, kind="stable"))


def test_a_cotangent_goes_through_a_long_sort():
    x, weights = lines("equal")[1], values((LENGTH,), -1.0, 1.0)

    gradient = dg.grad(lambda x: dg.sum(dg.sort(x) * weights))(x)

    expected = np.empty(LENGTH)
    expected[np.argsort(x, kind="stable")] = weights
    np.testing.assert_array_equal(gradient.numpy(), expected)
