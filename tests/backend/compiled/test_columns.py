"""Compiled moments and what they normalize: any axes, any number of columns, no lost digits."""

from functools import partial

import numpy as np
import pytest

from distgrad_numpy.compiled import columns
from distgrad_numpy.compiled.columns import OFFERS

pytestmark = pytest.mark.needs_compiler


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(columns, "_SMALL", 0)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def draw(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=dtype)


@pytest.mark.parametrize("width", [1, 3, 7, 17, 33, 127, 128, 130])
@pytest.mark.parametrize("rows", [128, 129, 1000, 70001])
def test_any_number_of_rows_and_columns(rows, width, dtype):
    x = draw(rows, width, dtype=dtype) * 2 + 7

    mean, variance = OFFERS["moments"](x, axes=(0,))

    exact = x.astype(np.longdouble)
    assert mean.dtype == variance.dtype == dtype
    units = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, exact.mean(0, keepdims=True), rtol=8 * units)
    np.testing.assert_allclose(variance, exact.var(0, keepdims=True), rtol=16 * units)


def test_moments_far_from_zero_are_not_lost(dtype):
    x = draw(70000, 3, dtype=dtype) + np.array([1000, -4000, 0], dtype)

    mean, variance = OFFERS["moments"](x, axes=(0,))

    exact = x.astype(np.longdouble)
    least = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(mean[0], exact.mean(0), rtol=least, atol=least)
    np.testing.assert_allclose(variance[0], exact.var(0), rtol=max(least, 1e-13))


def test_a_column_of_one_number_has_no_variance():
    mean, variance = OFFERS["moments"](np.full((70001, 3), 0.1, np.float32), axes=(0,))

    np.testing.assert_allclose(mean, np.full((1, 3), np.float32(0.1)), rtol=1e-7)
    assert (variance >= 0).all()
    assert (variance < 1e-15).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2), (1, 2, 4), (2, 0), (-1, 1), (0, 1, 2, 3, 4)])
def test_moments_over_any_axes_with_rows_among_them(axes):
    x = draw(4, 19, 21, 3, 6) * 3 - 2

    mean, variance = OFFERS["moments"](x, axes=axes)

    exact = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, exact.mean(axes, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axes, keepdims=True), rtol=1e-5)


SHAPES = {
    "batch": ((1, 1, 1, 3, 6), (1, 1, 1, 3, 6)),
    "instance": ((4, 1, 1, 3, 6), (3, 6)),
    "group": ((4, 1, 1, 3, 1), (3, 6)),
    "scalar": ((1, 1, 1, 1, 1), ()),
    "other axes": ((1, 19, 1, 3, 1), (4, 1, 1, 1, 6)),
}


@pytest.mark.parametrize("operands", [0, 1, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_normalized_by_moments_of_any_shape(kind, operands, dtype):
    drawn = partial(draw, dtype=dtype)
    x, g = drawn(4, 19, 21, 3, 6), drawn(4, 19, 21, 6, 3).reshape(4, 19, 21, 3, 6)
    by, affine = SHAPES[kind]
    given = [drawn(*by), drawn(*by) ** 2 + dtype(0.5)]
    given += [drawn(*affine), drawn(*affine) + dtype(1)][:operands]

    found = OFFERS["normalize"](x, *given, epsilon=1e-3)
    pulled = OFFERS["normalize_vjp"](g, x, *given, epsilon=1e-3)

    exact = [each.astype(np.longdouble) for each in (g, x, *given)]
    expected, terms = derived(*exact)
    units = np.finfo(dtype).eps
    np.testing.assert_allclose(found, expected, rtol=100 * units, atol=100 * units)
    assert len(pulled) == len(terms)
    for mine, term, each in zip(pulled, terms, (x, *given), strict=True):
        own = summed(term, each.shape)
        assert mine.shape == each.shape
        assert mine.dtype == dtype
        atol = 100 * units * np.abs(own).max()
        np.testing.assert_allclose(mine, own, rtol=1000 * units, atol=atol)


def derived(g, x, mean, variance, scale=None, shift=None):
    """Return scale (x - mean) / sqrt(variance + 0.001) + shift, and all terms of its cotangents."""
    deviation, root = x - mean, np.sqrt(variance + 1e-3)
    factor = 1.0 if scale is None else scale
    y = factor * deviation / root + (0.0 if shift is None else shift)
    terms = [
        g * factor / root,
        -g * factor / root,
        -0.5 * g * factor * deviation / root**3,
        g * deviation / root,
        g,
    ]
    return y, terms[: 3 + (scale is not None) + (shift is not None)]


def summed(term, shape):
    wide = (1,) * (term.ndim - len(shape)) + shape
    axes = tuple(axis for axis, n in enumerate(wide) if n == 1)
    return term.sum(axes, keepdims=True).reshape(shape)


def test_a_nan_stays_in_its_column(dtype):
    x = draw(1000, 5, dtype=dtype)
    clean = OFFERS["moments"](x, axes=(0,))
    x[77, 3] = np.nan

    for spoilt, plain in zip(OFFERS["moments"](x, axes=(0,)), clean, strict=True):
        assert np.isnan(spoilt[0, 3])
        np.testing.assert_array_equal(np.delete(spoilt, 3, 1), np.delete(plain, 3, 1))


def test_an_infinity_is_the_mean_of_its_column(dtype):
    x = draw(1000, 5, dtype=dtype)
    x[77, 3] = np.inf

    mean, variance = OFFERS["moments"](x, axes=(0,))

    assert mean[0, 3] == np.inf
    assert np.isnan(variance[0, 3])


def test_without_rows_among_the_axes_nothing_is_offered():
    x = draw(30, 40, 8)

    assert OFFERS["moments"](x, axes=(2,)) is None
    assert OFFERS["moments"](x, axes=()) is None
    assert OFFERS["normalize"](x, draw(30, 40, 1), draw(30, 40, 1) ** 2, epsilon=1e-5) is None


LAYOUTS = {
    "rows": ((1000, 33), (0,)),
    "images": ((4, 19, 21, 7), (0, 1, 2)),
    "channels first": ((4, 7, 19, 21), (0, 2, 3)),
    "each image": ((4, 19, 21, 7), (1, 2)),
    "negative": ((40, 21, 3), (-3, -2)),
    "few columns": ((70001, 3), (0,)),
}


@pytest.mark.parametrize("operands", [0, 1, 2])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_columns_normalized_by_their_own_moments_have_right_cotangents(kind, operands, dtype):
    drawn = partial(draw, dtype=dtype)
    shape, axes = LAYOUTS[kind]
    x, g = drawn(*shape) * 2 + 5, drawn(*shape)[::-1].copy() + 1
    column = x.mean(axes, keepdims=True).shape
    given = [drawn(*column), drawn(*column)[::-1] * 3]
    affine = [drawn(*column) - 2, drawn(*column)][:operands]

    y, *moments = OFFERS["batch_norm"](x, *affine, axes=axes, epsilon=1e-3)
    pulled = OFFERS["batch_norm_vjp"](g, *given, x, *moments, *affine, axes=axes, epsilon=1e-3)

    expected, *terms = by_hand(
        axes, *(each.astype(np.longdouble) for each in (g, *given, x, *affine))
    )
    units = np.finfo(dtype).eps
    np.testing.assert_allclose(y, expected, rtol=100 * units, atol=300 * units)
    assert len(pulled) == 1 + operands
    # Sums of 70,000 numbers that cancel each other: those of float32 are taken in double.
    least = 100 if dtype == np.float32 else 1000
    for mine, own in zip(pulled, terms, strict=False):
        assert mine.dtype == dtype
        atol = least * units * np.abs(own).max()
        np.testing.assert_allclose(mine, own, rtol=1000 * units, atol=atol)


def by_hand(axes, g, to_mean, to_variance, x, scale=1.0, shift=0.0):
    """Return the output, and the cotangents of x, scale and shift."""

    def mean(a):
        return a.mean(axes, keepdims=True)

    inverse = 1 / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    deviation = x - mean(x)
    h, count = deviation * inverse, x.size / mean(x).size
    to_x = scale * inverse * (g - mean(g) - h * mean(g * h))
    to_x = to_x + to_mean / count + 2 * to_variance * deviation / count
    return scale * h + shift, to_x, (g * h).sum(axes, keepdims=True), g.sum(axes, keepdims=True)


def test_a_scale_of_another_shape_is_left_to_the_own_kernel():
    x, column = draw(100, 9), draw(1, 9)
    given = (x, column, column, x, column, column**2)

    assert OFFERS["batch_norm_vjp"](*given, column, axes=(0,), epsilon=1e-3) is not None
    assert OFFERS["batch_norm_vjp"](*given, column[0], axes=(0,), epsilon=1e-3) is None


@pytest.mark.parametrize("apart", [1, 16, 64, 120])
def test_first_lines_far_from_the_rest_cost_no_digits(apart):
    x = draw(1000, 512)
    x[:apart] += 1000  # a block's centre is taken from its first lines

    mean, variance = OFFERS["moments"](x, axes=(0,))

    exact = x.astype(np.longdouble)
    np.testing.assert_allclose(mean[0], exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance[0], exact.var(0), rtol=1e-5)
